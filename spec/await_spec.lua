-- Requests that wait for their answers: in coroutines of all kinds, and outside of them.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")
local packet_type = require("mqtt.protocol").packet_type
local servers = require("spec.support.server")

-- Runs a function in a coroutine. Returns a table that gets its results, and `done`.
local function start(func, ...)
	local results = {}
	local thread = coroutine.create(function(...)
		local returned = { func(...) }
		for i = 1, 3 do
			results[i] = returned[i]
		end
		results.done = true
	end)
	assert(coroutine.resume(thread, ...))
	return results
end

for way, class in pairs({ natively = "native", ["on LuaSocket"] = "luasocket" }) do
	describe("await, " .. way, function()
		local found, connector = pcall(require, "mqtt.connector." .. class)
		if not found then
			pending("no LuaSocket for this Lua: " .. connector:match("[^\n]*"))
			return
		end

		local server, subject, silent

		-- Answers all but what it is to be silent about; refuses topics that begin with "refused".
		local function answer(self, packet)
			local ptype = packet.type
			if silent == ptype then
				return
			elseif ptype == packet_type.CONNECT then
				self:send({ type = packet_type.CONNACK, sp = false, rc = packet.username == "refused" and 0x87 or 0 })
			elseif ptype == packet_type.SUBSCRIBE or ptype == packet_type.UNSUBSCRIBE then
				local subscription = packet.subscriptions[1]
				local topic = subscription.topic or subscription
				self:send({ type = ptype + 1, packet_id = packet.packet_id, rc = { topic:find("^refused") and 0x87 or 0 } })
			elseif ptype == packet_type.PUBLISH and packet.qos > 0 then
				self:send({ type = packet.qos == 1 and packet_type.PUBACK or packet_type.PUBREC,
					packet_id = packet.packet_id, rc = packet.topic:find("^refused") and 0x87 or 0 })
			end
		end

		local function make(opts)
			opts = opts or {}
			opts.uri, opts.version, opts.connector = server.uri, mqtt.v50, connector
			return harness.client(opts)
		end

		before_each(function()
			silent = nil
			server = servers.start(mqtt.v50, answer)
			subject = make()
		end)

		after_each(function()
			harness.cleanup()
			server:stop()
		end)

		local function serve(done)
			harness.serve({ subject, server.serve }, done)
		end

		-- Awaits in a coroutine. Returns the results.
		local function await(...)
			local results = start(subject.await, subject, ...)
			serve(function()
				return results.done
			end)
			return results[1], results[2], results[3]
		end

		it("returns the answers in a coroutine that nobody else drives", function()
			local connack = await("connect")
			assert.equal(packet_type.CONNACK, connack.type)
			assert.equal(connack, subject:await("connect"))
			local called
			local suback = await("subscribe", { topic = "a", qos = 1, callback = function(packet)
				called = packet
			end })
			assert.equal(packet_type.SUBACK, suback.type)
			assert.equal(suback, called)
			assert.equal(packet_type.UNSUBACK, await("unsubscribe", { topic = "a" }).type)
			assert.equal(packet_type.PUBACK, await("publish", { topic = "a", qos = 1 }).type)
			assert.equal(packet_type.PUBREC, await("publish", { topic = "a", qos = 2 }).type)
			assert.is_true(await("publish", { topic = "a" }))
			assert.same({}, subject._waits.pending)
			assert.same({}, subject._asked)
		end)

		it("gives no coroutine the errors of others that wait for the same", function()
			local over, errors = {}, {}
			for i = 1, 6 do
				start(function()
					assert(subject:await("connect"))
					-- Its answer is there at once.
					assert(subject:await("publish", { topic = "a" }))
					over[#over + 1] = i
					if i % 2 == 0 then
						error("of " .. i, 0)
					end
				end)
			end
			local loop = ioloop.create()
			loop:add(subject)
			loop:add(server.serve)
			local deadline = harness.deadline()
			while not (#over == 6 and errors[1]) do
				assert(harness.now() < deadline, "nothing came of it in time")
				local ok, err = pcall(loop.iteration, loop)
				if not ok then
					errors[#errors + 1] = err
				end
			end
			table.sort(over)
			assert.same({ 1, 2, 3, 4, 5, 6 }, over)
			assert.equal("of 2", errors[1])
		end)

		it("returns what refuses", function()
			await("connect")
			for method, ptype in pairs({ subscribe = "SUBACK", unsubscribe = "UNSUBACK", publish = "PUBACK" }) do
				local ok, err, packet = await(method, { topic = "refused", qos = method ~= "unsubscribe" and 1 or nil })
				assert.is_nil(ok)
				assert.equal("Not authorized", err)
				assert.equal(packet_type[ptype], packet.type)
			end
			for _, reconnect in ipairs({ false, 10 }) do
				subject = make({ username = "refused", reconnect = reconnect })
				local ok, err, connack = await("connect")
				assert.is_nil(ok)
				assert.equal("CONNECT failed with CONNACK [rc=135]: Not authorized", err)
				assert.equal(packet_type.CONNACK, connack.type)
			end
		end)

		it("fails when there will be no other connection", function()
			await("connect")
			silent = packet_type.PUBLISH
			local results = start(subject.await, subject, "publish", { topic = "a", qos = 1 })
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			server:drop()
			harness.serve_to_end(subject)
			assert.same({ nil, "connection closed by broker", done = true }, results)
			assert.same({ nil, "network connection is not opened" }, { subject:await("publish", { topic = "a" }) })

			server:stop()
			subject = harness.client({ uri = server.uri, connector = connector })
			results = start(subject.await, subject, "connect")
			harness.serve_to_end(subject)
			assert.matches("failed to open network connection: ", results[2])
			server = servers.start(mqtt.v50, answer)
		end)

		it("tells the broker's DISCONNECT", function()
			await("connect")
			silent = packet_type.PUBLISH
			local results = start(subject.await, subject, "publish", { topic = "a", qos = 1 })
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			server:send({ type = packet_type.DISCONNECT, rc = 0x8B })
			harness.serve_to_end(subject)
			assert.is_nil(results[1])
			assert.equal("disconnect received from broker: Server shutting down [0x8B]", results[2])
			assert.equal(packet_type.DISCONNECT, results[3].type)
		end)

		it("goes on over a lost connection, and over failed attempts", function()
			subject = make({ reconnect = 0.01 })
			local port = server.port
			silent = packet_type.CONNECT
			local connected = start(subject.await, subject, "connect")
			serve(function()
				return server:count(packet_type.CONNECT) == 1
			end)
			server:drop()
			serve(function()
				return server:count(packet_type.CONNECT) == 2
			end)
			assert.is_nil(connected.done)
			silent = packet_type.PUBLISH
			server:drop()
			serve(function()
				return connected.done
			end)
			local published = start(subject.await, subject, "publish", { topic = "a", qos = 1 })
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			silent = nil
			server:drop()
			serve(function()
				return published.done
			end)
			assert.equal(packet_type.PUBACK, published[1].type)
			assert.equal(port, server.port)
		end)

		it("ends at disconnect, also with reconnect", function()
			subject = make({ reconnect = 10 })
			await("connect")
			silent = packet_type.PUBLISH
			local results = start(subject.await, subject, "publish", { topic = "a", qos = 1 })
			subject:disconnect()
			assert.same({ nil, "connection closed by client", done = true }, results)
			results = start(subject.await, subject, "connect")
			assert.is_false((subject:disconnect()))
			assert.same({ nil, "connection closed by client", done = true }, results)
		end)

		it("ends when the queue drops the message", function()
			subject = make({ reconnect = 10, queue = { max_messages = 1, when_full = "drop_oldest" } })
			local results = start(subject.await, subject, "publish", { topic = "a", qos = 1 })
			assert(subject:publish({ topic = "b", qos = 1 }))
			assert.same({ nil, "it had to make room in the queue", done = true }, results)
		end)

		it("ends after its timeout, connected or not", function()
			silent = packet_type.CONNECT
			local before = harness.now()
			local ok, err = await("connect", { timeout = 0.03 })
			assert.same({ nil, "timeout" }, { ok, err })
			silent = nil
			subject:close_connection()
			await("connect")
			silent = packet_type.PUBLISH
			local late = start(subject.await, subject, "publish", { topic = "a", qos = 1, timeout = 0.06 })
			ok, err = await("publish", { topic = "a", qos = 1, timeout = 0.03 })
			assert.same({ nil, "timeout" }, { ok, err })
			assert.is_nil(late.done)
			serve(function()
				return late.done
			end)
			assert.same({ nil, "timeout", done = true }, late)
			local took = harness.now() - before
			assert.is_true(took > 0.09 and took < 5, took)

			subject = make({ reconnect = 10 })
			silent = nil
			await("connect")
			server:drop()
			serve(function()
				return not subject.connection
			end)
			ok, err = await("connect", { timeout = 0.03 })
			assert.same({ nil, "timeout" }, { ok, err })
		end)

		it("tolerates a scheduler that resumes early", function()
			await("connect")
			local results = {}
			local thread = coroutine.create(function()
				results[1] = subject:await("publish", { topic = "a", qos = 1 })
			end)
			for _ = 1, 3 do
				assert(coroutine.resume(thread))
				assert.same({}, results)
			end
			serve(function()
				return results[1]
			end)
			assert.equal("dead", coroutine.status(thread))
		end)

		it("passes on an error of the coroutine to whoever serves the client, when all have been resumed", function()
			await("connect")
			local others = {}
			silent = packet_type.PUBLISH
			for i = 1, 3 do
				local thread = coroutine.create(function()
					subject:await("publish", { topic = "a", qos = 1 })
					others[#others + 1] = i
					error("thrown " .. i, 0)
				end)
				assert(coroutine.resume(thread))
			end
			assert.equal("thrown 1", harness.failure(subject.disconnect, subject))
			assert.same({ 1, 2, 3 }, others)
		end)

		it("blames its caller", function()
			await("connect")
			harness.blames_caller("expecting 'connect', 'subscribe', 'unsubscribe' or 'publish', got: message",
				subject.await, subject, "message")
			harness.blames_caller("expecting opts to be a table", subject.await, subject, "publish")
			harness.blames_caller("expecting opts.topic to be a string", subject.await, subject, "publish", {})
			harness.blames_caller("expecting opts.timeout to be a number of seconds above 0, got: 0", subject.await, subject,
				"connect", { timeout = 0 })
			for method, opts in pairs({
				publish = { topic = "a/#" },
				subscribe = { topic = "a/#/b" },
				unsubscribe = { topic = "a", properties = { colour = 1 } },
			}) do
				local err = harness.failure(subject.await, subject, method, opts)
				assert.matches("^[^:]*spec[/\\]support[/\\]harness.lua:%d+: ", err)
			end
		end)
	end)
end

describe("await outside of coroutines", function()
	after_each(harness.cleanup)

	for _, connector in ipairs({ "native", "luasocket" }) do
		local found, class = pcall(require, "mqtt.connector." .. connector)

		it("serves the client meanwhile, " .. connector, function()
			if not found then
				return pending("no LuaSocket for this Lua")
			end
			-- busted may run tests in coroutines.
			assert.is_true(select(2, coroutine.running()) ~= false)
			local topic = harness.topic()
			local subject = harness.client({ connector = class })
			assert.equal(0, subject:await("connect").rc)
			local received
			subject:on("message", function(message)
				received = message.payload
			end)
			assert(subject:await("subscribe", { topic = topic, qos = 1 }))
			assert(subject:await("publish", { topic = topic, qos = 1, payload = "hello" }))
			assert(subject:await("publish", { topic = harness.topic(), qos = 1 }))
			assert.equal("hello", received)
			assert(subject:disconnect())
			assert.same({ nil, "network connection is not opened" }, { subject:await("publish", { topic = topic }) })
			assert.equal(0, subject:await("connect", { timeout = 10 }).rc)

			local server = servers.start(mqtt.v311)
			local other = harness.client({ uri = server.uri, connector = class })
			assert.same({ nil, "timeout" }, { other:await("connect", { timeout = 0.05 }) })
			server:stop()
		end)
	end

	it("says that a program that moves the bytes itself cannot wait so", function()
		local subject = harness.client({ uri = "modem", connector = require("mqtt.connector.bytes") })
		assert.same({ nil, "nobody would move the bytes meanwhile: wait in a coroutine" }, { subject:await("connect") })
		local results = start(subject.await, subject, "connect")
		assert(subject:start_connecting())
		assert(subject:feed("\32\2\0\0"))
		assert.equal(0, results[1].rc)
	end)

	it("works in a handler", function()
		local topic = harness.topic()
		local subject = harness.client()
		local done
		subject:on("connect", function()
			done = subject:await("subscribe", { topic = topic })
		end)
		harness.serve({ subject }, function()
			return done
		end)
		assert.equal(packet_type.SUBACK, done.type)
	end)
end)

describe("await in an ioloop with other work", function()
	after_each(harness.cleanup)

	it("lets coroutines of the program take turns", function()
		local clients, done = {}, 0
		local loop = ioloop.create()
		for i = 1, 5 do
			clients[i] = harness.client()
			loop:add(clients[i])
			coroutine.wrap(function()
				local subject = clients[i]
				assert(subject:await("connect"))
				for _ = 1, 10 do
					assert(subject:await("publish", { topic = harness.topic(), qos = 1 }))
				end
				subject:disconnect()
				done = done + 1
			end)()
		end
		loop:run_until_clients()
		assert.equal(5, done)
	end)
end)

for _, version in ipairs({ 1, 4 }) do
	for _, connector in ipairs({ "native", "copas" }) do
		describe(("await under Copas %d, %s,"):format(version, connector), function()
			local copas, missing, errors

			before_each(function()
				copas, missing, errors = copas_support.load_watched(version)
			end)

			after_each(function()
				harness.cleanup()
				copas_support.unload()
				package.loaded["mqtt.connector.copas"] = nil
				assert.same({}, errors)
			end)

			it("yields to other threads", function()
				if not copas or version == 1 and connector == "copas" then
					return pending(missing or "no timers in Copas 1")
				end
				local topic = harness.topic()
				local subject = harness.client({ connector = require("mqtt.connector." .. connector) })
				local received, results, timed_out
				subject:on("message", function(message)
					assert(subject:await("publish", { topic = harness.topic(), qos = 1 }))
					received = message.payload
					subject:disconnect()
				end)
				require("mqtt.loop").add(subject)
				copas.addthread(function()
					assert(subject:await("connect"))
					timed_out = { subject:await("connect", { timeout = 0.001 }) }
					results = { subject:await("subscribe", { topic = topic, qos = 1 }) }
					assert(subject:await("publish", { topic = topic, payload = "hello", qos = 1 }))
				end)
				local deadline = harness.deadline()
				while not (received and not subject.connection) and not errors[1] do
					assert(harness.now() < deadline, "nothing came of it in time")
					copas.step(0.05)
				end
				assert.equal("hello", received)
				assert.equal(packet_type.CONNACK, timed_out[1].type)
				assert.equal(packet_type.SUBACK, results[1].type)
			end)

			it("ends after its timeout", function()
				if not copas or version == 1 and connector == "copas" then
					return pending(missing or "no timers in Copas 1")
				end
				local server = servers.start(mqtt.v311, function() end)
				local subject = harness.client({ uri = server.uri, connector = require("mqtt.connector." .. connector) })
				local results
				require("mqtt.loop").add(subject)
				copas.addthread(function()
					results = { subject:await("connect", { timeout = 0.05 }) }
				end)
				local deadline = harness.deadline()
				while not results and not errors[1] do
					assert(harness.now() < deadline, "nothing came of it in time")
					server:poll()
					copas.step(0.05)
				end
				assert.is_nil(results[1])
				assert.equal("timeout", results[2])
				server:stop()
			end)
		end)
	end
end
