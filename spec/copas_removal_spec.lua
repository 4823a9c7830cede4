-- A program may have Copas remove any thread that it knows: handlers then end where they are, and the client goes on.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

local types = require("mqtt.protocol").packet_type

for name, connector in pairs({ native = "mqtt.connector.native", connector = "mqtt.connector.copas" }) do
	describe("the removal of a handler's thread from Copas 4, " .. name .. ",", function()
		local copas, missing, errors

		local function unload()
			package.loaded["mqtt.connector.copas"] = nil
			copas_support.unload()
		end

		before_each(function()
			copas, missing, errors = copas_support.load_watched(4)
		end)

		after_each(function()
			harness.cleanup()
			servers.stop_all()
			unload()
			assert.same({}, errors)
		end)

		local function with_copas(title, func)
			it(title, function()
				if copas then
					func()
				else
					pending(missing)
				end
			end)
		end

		local function drive(done)
			local deadline = harness.deadline()
			while not done() do
				assert.same({}, errors)
				assert(harness.now() < deadline, "nothing came of it in time")
				copas.step(0.01)
			end
		end

		local function new(opts)
			opts.connector = require(connector)
			local client = harness.client(opts)
			require("mqtt.loop.copas").add(client)
			return client
		end

		-- Has a client of the broker receive three messages, one by one, each handled by a function. Between them Copas
		-- goes round several times, and a function is called.
		local function receive(handle, between)
			local topic, received, client = harness.topic(), 0, new({})
			client:on({
				connect = function()
					assert(client:subscribe({ topic = topic, callback = function()
						assert(client:publish({ topic = topic, payload = "1" }))
					end }))
				end,
				message = function(message)
					received = received + 1
					handle(tonumber(message.payload))
				end,
			})
			for i = 1, 3 do
				drive(function()
					return received == i
				end)
				for _ = 1, 5 do
					copas.step(0.001)
				end
				between(i)
				copas.addthread(function()
					assert(client:publish({ topic = topic, payload = tostring(i + 1) }))
				end)
			end
			drive(function()
				return received == 4
			end)
		end

		local function nothing() end

		with_copas("by a handler that returns", function()
			receive(function()
				copas.removethread(coroutine.running())
			end, nothing)
		end)

		with_copas("by a handler that waits: it ends there", function()
			local ended
			receive(function()
				copas.removethread(coroutine.running())
				copas.pause(0)
				ended = false
			end, nothing)
			assert.is_nil(ended)
		end)

		with_copas("by another thread, while the client is idle", function()
			local threads = {}
			receive(function(i)
				threads[i] = coroutine.running()
			end, function()
				for _, thread in ipairs(threads) do
					copas.removethread(thread)
				end
			end)
		end)

		with_copas("by another thread, while it waits", function()
			local threads, ended = {}, nil
			receive(function(i)
				threads[i] = coroutine.running()
				copas.pause(0.5)
				ended = i <= 3
			end, function(i)
				copas.removethread(threads[i])
			end)
			assert.is_nil(ended)
		end)

		with_copas("by the callback of a subscription: the subscription is renewed all the same", function()
			local server = servers.start(mqtt.v50, function(server, packet)
				servers.accept(server, packet)
				if packet.type == types.SUBSCRIBE then
					server:send({ type = types.SUBACK, packet_id = packet.packet_id, rc = { 0 } })
				end
			end)
			local client, called = new({ uri = server.uri, version = mqtt.v50, reconnect = 0.01 }), 0
			client:on_topic({ topic = "t", subscribe = true, handler = nothing, callback = function()
				called = called + 1
				copas.removethread(coroutine.running())
				copas.pause(0)
			end })
			for i = 1, 3 do
				drive(function()
					server:poll()
					return called == i
				end)
				server:drop()
			end
			assert.equal(3, server:count(types.CONNECT))
		end)

		for outcome, case in pairs({ ["are sent"] = { rc = 1, count = 2 }, ["fail"] = { rc = 0x87, count = 0 } }) do
			with_copas("by a handler of subscribe: requests that wait for their topic " .. outcome, function()
				local server = servers.start(mqtt.v50, function(server, packet)
					servers.accept(server, packet)
					if packet.type == types.SUBSCRIBE then
						server:send({ type = types.SUBACK, packet_id = packet.packet_id, rc = { case.rc } })
					elseif packet.type == types.PUBLISH then
						server:send({ type = types.PUBLISH, topic = packet.properties.response_topic, qos = 0, retain = false,
							dup = false, payload = packet.payload,
							properties = { correlation_data = packet.properties.correlation_data } })
					end
				end)
				local client, results = new({ uri = server.uri, version = mqtt.v50 }), {}
				client:on("subscribe", function()
					copas.removethread(coroutine.running())
					copas.pause(0)
				end)
				client:on("connect", function()
					for i = 1, 2 do
						assert(client:request({ topic = "a", payload = tostring(i), callback = function(response, err)
							results[i] = response and response.payload or err
						end }))
					end
				end)
				drive(function()
					server:poll()
					return results[1] and results[2]
				end)
				assert.equal(case.count, server:count(types.PUBLISH))
				if case.count > 0 then
					assert.same({ "1", "2" }, results)
				else
					assert.same({ "Not authorized", "Not authorized" }, results)
				end
			end)
		end

		with_copas("ends no handler that this thread would have called later", function()
			local finished = {}
			receive(function(i)
				if i % 2 == 1 then
					copas.removethread(coroutine.running())
				else
					copas.pause(0)
					finished[#finished + 1] = i
				end
			end, nothing)
			drive(function()
				return finished[2]
			end)
			assert.same({ 2, 4 }, finished)
		end)

		for _, event in ipairs({ "close", "error", "connect" }) do
			for way, wait in pairs({ returns = false, waits = true }) do
				with_copas(("by a handler of %s that %s: the client connects again"):format(event, way), function()
					local server = servers.start(4)
					local client, accepted = new({ uri = server.uri, reconnect = 0.01 }), 0
					-- The program holds the threads: none of them is collected.
					local threads = {}
					client:on("connect", function()
						accepted = accepted + 1
					end)
					client:on(event, function()
						threads[#threads + 1] = coroutine.running()
						copas.removethread(coroutine.running())
						if wait then
							copas.pause(0)
						end
					end)
					for i = 1, 3 do
						drive(function()
							server:poll()
							return accepted == i
						end)
						server:drop()
					end
				end)
			end
		end
	end)
end
