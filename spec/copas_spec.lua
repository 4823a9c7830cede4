-- The native connection under Copas, the current one and the ancient.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

for _, version in ipairs({ 1, 4 }) do
	describe("under Copas " .. version .. ", a client", function()
		local copas, missing, errors

		before_each(function()
			copas, missing, errors = copas_support.load_watched(version)
		end)

		after_each(function()
			harness.cleanup()
			copas_support.unload()
			assert.same({}, errors)
		end)

		-- A test that Copas is there for; `version` 4 if the ancient one lacks something.
		local function with_copas(name, func, only)
			if only and only ~= version then
				return
			end
			it(name, function()
				if copas then
					func()
				else
					pending(missing)
				end
			end)
		end

		-- Runs Copas until something has happened, or an error has unless these are expected.
		local function drive(done, expects_errors)
			local deadline = harness.deadline()
			while not done() and (expects_errors or not errors[1]) do
				assert(harness.now() < deadline, "nothing came of it in time")
				copas.step(0.05)
			end
		end

		-- Returns how many steps Copas makes in half a second.
		local function steps_while_idle()
			local steps, deadline = 0, harness.now() + 0.5
			while harness.now() < deadline do
				copas.step(0.1)
				steps = steps + 1
			end
			return steps
		end

		-- In Lua 5.1 one that waits for ever may be kept, and with it the client.
		with_copas("leaves no thread behind that waits for ever", function()
			local add, threads = copas.addthread, {}
			function copas.addthread(...)
				local thread = add(...)
				threads[#threads + 1] = thread
				return thread
			end
			local subject = harness.client()
			require("mqtt.loop").add(subject)
			drive(function()
				return subject.connection and subject.connection.connack
			end)
			copas.addthread(function()
				subject:shutdown()
			end)
			drive(copas.finished)
			assert.is_true(#threads > 1)
			for _, thread in ipairs(threads) do
				assert.equal("dead", coroutine.status(thread))
			end
		end, 4)

		-- Has a client publish something to itself and disconnect. Returns a function that says whether it has.
		local function talk_to_itself(subject)
			local topic = harness.topic()
			local received, closed
			subject:on({
				connect = function()
					assert(subject:subscribe({ topic = topic, qos = 1, callback = function()
						assert(subject:publish({ topic = topic, payload = "hello", qos = 1 }))
					end }))
				end,
				message = function(message)
					assert(subject:acknowledge(message))
					received = message.payload
					assert(subject:disconnect())
				end,
				close = function(conn)
					closed = conn.close_reason
				end,
			})
			return function()
				if closed then
					assert.equal("connection closed by client", closed)
					assert.equal("hello", received)
				end
				return closed
			end
		end

		for name, make in pairs({ plain = harness.client, TLS = harness.tls_client }) do
			with_copas("is added by mqtt.loop, " .. name, function()
				assert.equal("copas", require("mqtt.loop.detect")())
				local subject = make({ version = mqtt.v50 })
				local done = talk_to_itself(subject)
				assert.is_true(require("mqtt.loop").add(subject))
				drive(done)
			end)

			with_copas("is stepped in a thread of the program, " .. name, function()
				local subject = make()
				local done = talk_to_itself(subject)
				local ended
				copas.addthread(function()
					repeat
						local wait = subject:step()
					until not wait
					ended = true
				end)
				drive(function()
					return ended
				end)
				assert.is_truthy(done())
			end)

			with_copas("runs in run_sync, " .. name, function()
				local subject = make()
				local done = talk_to_itself(subject)
				local returned
				copas.addthread(function()
					returned = { mqtt.run_sync(subject) }
				end)
				drive(function()
					return returned
				end)
				assert.same({}, returned)
				assert.is_truthy(done())
			end)
		end

		with_copas("connects while other threads run", function()
			local server = servers.start(mqtt.v311, function() end)
			local subject = harness.client({ uri = server.uri })
			local connected
			subject:on("connect", function()
				connected = true
				subject:disconnect()
			end)
			local loop = require("mqtt.loop")
			assert.is_true(loop.add(subject))
			local ok, err = loop.add(subject)
			assert.is_false(ok)
			assert.matches("already added", err)
			-- The server is served by this thread: if the client blocked it, there would be no answer.
			drive(function()
				server:poll()
				return server.received[1]
			end)
			server:send({ type = 2, sp = false, rc = 0 })
			drive(function()
				return connected
			end)
			server:stop()
		end)

		with_copas("can be added again after a handler has ended its thread by an error", function()
			local subject = harness.client({ uri = "mqtt://127.0.0.1:1" })
			subject:on("error", function()
				error("thrown by a handler")
			end)
			local loop = require("mqtt.loop")
			for _ = 1, 2 do
				assert.is_true(loop.add(subject))
				assert.is_false(loop.add(subject))
				drive(function() end)
				assert.matches("thrown by a handler", errors[1])
				errors[1] = nil
				subject.first_connect = true
			end
		end, 4)

		with_copas("leaves Copas when it has ended, and can be added again", function()
			local subject = harness.client()
			local closed = 0
			subject:on({
				connect = function()
					subject:disconnect()
				end,
				close = function()
					closed = closed + 1
				end,
			})
			local loop = require("mqtt.loop")
			loop.add(subject)
			drive(function()
				return closed == 1 and rawget(subject, "handle_received_packet") == nil
			end)
			assert.is_true(loop.add(subject))
		end)

		with_copas("lets copas.loop end when it has ended", function()
			local subject = harness.client()
			local done = talk_to_itself(subject)
			require("mqtt.loop").add(subject)
			drive(copas.finished)
			copas.loop()
			assert.is_truthy(done())
		end, 4)

		with_copas("reconnects", function()
			local subject = harness.client({ reconnect = 0.02 })
			local connects = 0
			subject:on("connect", function()
				connects = connects + 1
				if connects == 3 then
					subject:shutdown()
				else
					subject:close_connection("again")
				end
			end)
			local ended
			subject:on("shutdown", function()
				ended = true
			end)
			require("mqtt.loop").add(subject)
			drive(function()
				return ended
			end)
			assert.equal(3, connects)
		end)

		with_copas("receives while its handlers wait for their own acknowledgements", function()
			local subject, topic = harness.client(), harness.topic()
			local started, finished = {}, {}
			subject:on({
				connect = function()
					local subscribed
					assert(subject:subscribe({ topic = topic, qos = 1, callback = function()
						subscribed = true
					end }))
					-- connect may wait, too
					while not subscribed do
						copas.pause(0.001)
					end
					for i = 1, 20 do
						assert(subject:publish({ topic = topic, payload = tostring(i), qos = 1 }))
					end
				end,
				message = function(message)
					started[#started + 1] = message.payload
					local acknowledged
					assert(subject:publish({ topic = topic .. "/echo", qos = 2, callback = function()
						acknowledged = true
					end }))
					while not acknowledged do
						copas.pause(0.001)
					end
					subject:acknowledge(message)
					finished[#finished + 1] = message.payload
					if #finished == 20 then
						subject:disconnect()
					end
				end,
			})
			require("mqtt.loop").add(subject)
			drive(copas.finished)
			assert.equal(20, #finished)
			for i = 1, 20 do
				assert.equal(tostring(i), started[i])
			end
		end, 4)

		-- Has a client receive so many messages that it publishes to itself, which `handle` gets with their numbers, and
		-- disconnect. Returns when Copas has nothing left to do.
		local function receive_messages(amount, handle)
			local subject, topic = harness.client(), harness.topic()
			local received = 0
			subject:on({
				connect = function()
					assert(subject:subscribe({ topic = topic, callback = function()
						for i = 1, amount do
							assert(subject:publish({ topic = topic, payload = tostring(i) }))
						end
					end }))
				end,
				message = function(message)
					received = received + 1
					handle(tonumber(message.payload), subject)
				end,
			})
			local loop = require("mqtt.loop")
			assert.is_true(loop.add(subject))
			drive(function()
				return received == amount
			end, true)
			subject:disconnect()
			if version == 4 then
				drive(copas.finished, true)
			end
		end

		with_copas("begins to handle packets in order, whichever of them wait", function()
			local started, finished = {}, {}
			receive_messages(60, function(i)
				started[#started + 1] = i
				if i % 3 == 0 then
					copas.pause(i % 2 * 0.002)
				end
				finished[i] = true
			end)
			for i = 1, 60 do
				assert.equal(i, started[i])
				assert.is_true(finished[i])
			end
		end, 4)

		with_copas("handles packets whose handlers do not wait in few threads", function()
			local threads, count = {}, 0
			receive_messages(200, function()
				local thread, is_main = coroutine.running()
				assert.is_truthy(thread)
				assert.is_falsy(is_main)
				if not threads[thread] then
					threads[thread] = true
					count = count + 1
				end
			end)
			assert.is_true(count <= 20, count .. " threads")
		end)

		with_copas("handles a packet in a thread that can do what threads of Copas can", function()
			local woken, timed_out, same, waiting
			receive_messages(3, function(i)
				if i == 2 then
					waiting = coroutine.running()
					copas.timeout(0.01, function(thread)
						timed_out = thread
						copas.wakeup(thread)
					end)
					copas.pauseforever()
					same = coroutine.running() == waiting
				elseif i == 3 then
					woken = copas.getthreadname(waiting)
				end
			end)
			assert.is_string(woken)
			drive(function()
				return same
			end)
			assert.equal(waiting, timed_out)
		end, 4)

		with_copas("goes on after errors in handlers, before and after they wait", function()
			local handled = {}
			receive_messages(9, function(i)
				handled[#handled + 1] = i
				if i % 3 == 0 then
					copas.pause(0.001)
				end
				if i % 2 == 0 or i % 3 == 0 then
					error("thrown for " .. i, 0)
				end
			end)
			assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9 }, handled)
			table.sort(errors)
			assert.same({ "thrown for 2", "thrown for 3", "thrown for 4", "thrown for 6", "thrown for 8", "thrown for 9" },
				errors)
			errors = {}
		end, 4)

		with_copas("lets no handler meet what another has left with Copas in its thread", function()
			local own, fired, threads = {}, {}, {}
			receive_messages(6, function(i)
				threads[i] = coroutine.running()
				if i == 1 or i == 2 then
					copas.timeout(0.01, function(thread)
						fired[#fired + 1] = thread
					end)
				elseif i == 3 then
					copas.seterrorhandler(function(err)
						own[#own + 1] = err
					end)
				elseif i == 4 then
					error("thrown", 0)
				elseif i == 5 then
					copas.seterrorhandler(function(err)
						own[#own + 1] = err
					end)
					error("its own", 0)
				end
			end)
			drive(function()
				return #fired == 2
			end, true)
			assert.same({ [threads[1]] = true, [threads[2]] = true }, { [fired[1]] = true, [fired[2]] = true })
			assert.same({ "its own" }, own)
			assert.same({ "thrown" }, errors)
			errors = {}
		end, 4)

		with_copas("handles no packet after its connection is gone, and raises nothing", function()
			local subject, topic = harness.client(), harness.topic()
			local calls = 0
			subject:on({
				connect = function()
					assert(subject:subscribe({ topic = topic, callback = function()
						for _ = 1, 5 do
							assert(subject:publish({ topic = topic }))
						end
					end }))
				end,
				message = function(message)
					calls = calls + 1
					copas.pause(0.01)
					-- the first closes the connection of the others
					subject:acknowledge(message)
					subject:publish({ topic = topic })
					subject:disconnect()
				end,
			})
			require("mqtt.loop").add(subject)
			drive(copas.finished)
			assert.is_true(calls >= 1)
		end, 4)

		with_copas("publishes more than the connection takes at once, while other threads run", function()
			local subject, topic = harness.client(), harness.topic()
			local payload = ("x"):rep(100000)
			local received = 0
			subject:on({
				connect = function()
					assert(subject:subscribe({ topic = topic, callback = function()
						for _ = 1, 60 do
							assert(subject:publish({ topic = topic, payload = payload }))
						end
					end }))
				end,
				message = function()
					received = received + 1
					if received == 60 then
						subject:disconnect()
					end
				end,
			})
			require("mqtt.loop").add(subject)
			drive(function()
				return received == 60
			end)
		end)

		with_copas("uses no CPU while it waits", function()
			local subject = harness.client()
			local connected
			subject:on("connect", function()
				connected = true
			end)
			require("mqtt.loop").add(subject)
			drive(function()
				return connected
			end)
			assert.is_true(steps_while_idle() < 20)
		end)

		with_copas("uses no CPU while it waits for the rest of a packet", function()
			local server = servers.start(mqtt.v311, function(self)
				self:send_bytes("\32\2\0\0\48\7\0\1t")
			end)
			local subject = harness.client({ uri = server.uri })
			local connected, payload
			subject:on({
				connect = function()
					connected = true
				end,
				message = function(message)
					payload = message.payload
				end,
			})
			require("mqtt.loop").add(subject)
			drive(function()
				server:poll()
				return connected
			end)
			assert.is_true(steps_while_idle() < 20)
			server:send_bytes("rest")
			drive(function()
				return payload
			end)
			assert.equal("rest", payload)
			server:stop()
		end)
	end)
end
