-- What programs do that nobody has foreseen: they close a connection before it is one, shut down while nothing goes on,
-- change what they can reach, pass what is no argument. Nothing hangs, nothing is lost, each error names its cause.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local copas_support = require("spec.support.copas")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local log = require("mqtt.log")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

local packet_type = require("mqtt.protocol").packet_type

local AUTHENTICATION = { authentication_method = "spec" }

-- Longer than any test runs, in seconds.
local LONG = 60

-- A broker that answers requests unless `is_mute`, and CONNECT only if `is_open`.
local function answer(server, packet)
	local reply
	if server.is_mute and packet.type ~= packet_type.CONNECT then
		return
	elseif packet.type == packet_type.CONNECT then
		reply = server.is_open and { type = packet_type.CONNACK, sp = false, rc = 0 }
			or { type = packet_type.AUTH, rc = 0x18, properties = AUTHENTICATION }
	elseif packet.type == packet_type.PUBLISH and packet.qos == 1 then
		reply = { type = packet_type.PUBACK, packet_id = packet.packet_id, rc = 0 }
	elseif packet.type == packet_type.SUBSCRIBE then
		reply = { type = packet_type.SUBACK, packet_id = packet.packet_id, rc = { 0 } }
	elseif packet.type == packet_type.UNSUBSCRIBE then
		reply = { type = packet_type.UNSUBACK, packet_id = packet.packet_id, rc = { 0 } }
	end
	if reply then
		server:send(reply)
	end
end

for way, connector in pairs({ native = "mqtt.connector.native", LuaSocket = "mqtt.connector.luasocket" }) do
	describe("a client (" .. way .. ")", function()
		local server

		before_each(function()
			server = servers.start(mqtt.v50, answer)
			server.is_open = true
		end)

		after_each(function()
			harness.cleanup()
			log.set(false)
			server:stop()
		end)

		local function new(opts)
			local own = { uri = server.uri, version = mqtt.v50, connector = require(connector) }
			for key, value in pairs(opts or {}) do
				own[key] = value
			end
			return harness.client(own)
		end

		local function serve(client, done)
			harness.serve({ client, server.serve }, done)
		end

		local function connect(client)
			serve(client, function()
				return client.connection and client.connection.connack
			end)
			return client
		end

		-- Runs a loop with a client until that has left it.
		local function run_to_end(client)
			local loop = ioloop.create({ sleep_max = 0.002 })
			loop:add(client)
			local deadline = harness.deadline()
			while loop.clients[client] do
				server:poll()
				loop:iteration()
				assert.is_true(core.now() < deadline, "the client does not end")
			end
		end

		for _, deed in ipairs({ "close_connection", "disconnect", "shutdown" }) do
			it("ends by " .. deed .. " before the CONNACK, and does not connect again", function()
				server.is_open = false
				local client = new({ properties = AUTHENTICATION })
				client:on("auth", function()
					client[deed](client)
				end)
				run_to_end(client)
				assert.is_nil((client:step()))
				assert.equal(1, server.accepted)
				assert.is_false(client.first_connect)
			end)
		end

		it("ends at once by shutdown while it waits to connect again", function()
			local client = connect(new({ reconnect = LONG }))
			local loop = ioloop.create()
			loop:add(client)
			client:close_connection()
			local calls = 0
			loop:add(function()
				calls = calls + 1
				if calls == 3 then
					client:shutdown()
				end
				return calls < 3 and 0.001 or not loop.clients[client] and loop:remove(loop.clients[1]) and 0 or LONG
			end)
			local begun = core.now()
			while loop.clients[client] do
				loop:iteration()
				assert.is_true(core.now() - begun < 5, "it goes on waiting")
			end
		end)

		for _, again in ipairs({ "start_connecting", "step" }) do
			for _, clean in ipairs({ true, false }) do
				it(("takes the answers to its messages though it connects again by %s, clean = %s"):format(again, tostring(clean)),
					function()
						local client, ids = connect(new({ clean = clean, reconnect = again == "step" and 0 or nil })), {}
						for i = 1, 3 do
							assert(client:publish({ topic = "t", qos = 1, callback = function()
								ids[#ids + 1] = i
							end }))
						end
						local deadline = harness.deadline()
						while server:count(packet_type.PUBLISH) < 3 do
							server:poll()
							assert.is_true(core.now() < deadline)
						end
						if way == "native" then
							-- The driver's thread takes the answers while Lua does something else.
							while client:stats().in_flight > 0 do
								assert.is_true(core.now() < deadline)
							end
						else
							-- A connector reads only when asked.
							serve(client, function()
								return #ids == 3
							end)
						end
						client:close_connection()
						if again == "start_connecting" then
							assert(client:start_connecting())
						end
						connect(client)
						assert.same({ 1, 2, 3 }, ids)
						assert.same({}, client._callbacks)
					end)
			end
		end

		it("calls the callback of a message though a handler has raised an error", function()
			local client, seen = connect(new()), {}
			client:on("acknowledge", function()
				error("first", 0)
			end)
			client:on("acknowledge", function()
				seen[#seen + 1] = "second handler"
				error("second", 0)
			end)
			assert(client:publish({ topic = "t", qos = 1, callback = function()
				seen[#seen + 1] = "callback"
				error("third", 0)
			end }))
			assert.equal("first", harness.failure(serve, client, function() end))
			assert.same({ "second handler", "callback" }, seen)
			assert.same({}, client._callbacks)
			assert.is_not_nil(client.connection)
		end)

		it("ends waiting for the connection though a handler of connect has raised an error", function()
			local client, connack = new(), nil
			client:on("connect", function()
				error("thrown", 0)
			end)
			assert(coroutine.resume(coroutine.create(function()
				connack = client:await("connect")
			end)))
			assert.equal("thrown", harness.failure(serve, client, function() end))
			assert.equal(0, connack.rc)
			assert.is_false(client.first_connect)
		end)

		it("tells that it shuts down though a handler of close has raised an error", function()
			local client, calls = connect(new({ reconnect = 1 })), 0
			client:on("close", function()
				error("thrown", 0)
			end)
			client:on("shutdown", function()
				calls = calls + 1
			end)
			assert.equal("thrown", harness.failure(client.shutdown, client))
			assert.equal(1, calls)
			assert.is_nil((client:step()))
		end)

		it("does not raise what its handlers do when it is collected, nor connects again", function()
			local closes, again = 0, nil
			do
				local client = mqtt.client({ uri = server.uri, clean = true, version = mqtt.v50, connector = require(connector) })
				client:on("close", function(conn, client) -- luacheck: ignore 431
					assert(conn.close_reason == "garbage")
					closes = closes + 1
					again = { client:start_connecting() }
					error("thrown", 0)
				end)
				connect(client)
			end
			local logged
			log.set({ error = function(_, text)
				logged = text
			end })
			-- The loop that has served it must be gone too.
			for _ = 1, 3 do
				collectgarbage()
			end
			assert.equal(1, closes)
			assert.same({ false, "nobody holds this client any more: it has been collected" }, again)
			assert.equal(1, server.accepted)
			assert.is_truthy(logged:find("was collected, and a handler of that raised an error: thrown", 1, true))
		end)

		it("says that it has been collected if somebody has kept it all the same", function()
			local kept, text = nil, "nobody holds this client any more: it has been collected"
			do
				local client = mqtt.client({ uri = server.uri, clean = true, version = mqtt.v50, reconnect = 0.001,
					queue = {}, connector = require(connector) })
				client:on("close", function(_, client) -- luacheck: ignore 431
					kept = client
				end)
				connect(client)
			end
			for _ = 1, 3 do
				collectgarbage()
			end
			assert.same({ nil, text }, { kept:await("connect") })
			assert.same({ nil, text }, { kept:step() })
			assert.same({ false, text }, { kept:start_connecting() })
			assert.same({ false, "failed to send PUBLISH: " .. text }, { kept:publish({ topic = "t", qos = 1 }) })
			assert.same({ false, "failed to send SUBSCRIBE: " .. text }, { kept:subscribe({ topic = "t" }) })
			assert.equal(0, kept:stats().in_flight)
			assert.is_true(kept:close_connection())
			assert.is_true(kept:shutdown())
			assert.equal(1, server.accepted)
		end)

		it("that is collected tells those who wait for an answer", function()
			local results
			do
				local client = mqtt.client({ uri = server.uri, clean = true, version = mqtt.v50, reconnect = 1, queue = {},
					connector = require(connector) })
				assert.is_true(client:request({ topic = "t", callback = function(...)
					results = { ... }
				end }))
			end
			for _ = 1, 3 do
				collectgarbage()
			end
			assert.same({ nil, "nobody holds this client any more: it has been collected" }, results)
		end)

		it("has no connection after shutdown though that has failed before", function()
			local client, closes = connect(new()), 0
			client:on("close", function()
				closes = closes + 1
			end)
			server:send({ type = packet_type.CONNACK, sp = false, rc = 0 })
			local deadline = harness.deadline()
			while way == "native" and not client._link:is_failed() do
				assert.is_true(core.now() < deadline)
				client._link:wait(0.01)
			end
			assert.is_true(client:shutdown())
			assert.is_nil(client.connection)
			assert.equal(1, closes)
		end)

		it("with clean = 'first' takes up what its first connection has left", function()
			local client, answers = connect(new({ clean = "first" })), 0
			server.is_mute = true
			assert.is_number((client:publish({ topic = "t", qos = 2 })))
			assert.is_number((client:publish({ topic = "t", qos = 1, callback = function()
				answers = answers + 1
			end })))
			serve(client, function()
				return server.received[3]
			end)
			client:close_connection()
			server.is_mute = false
			client.first_connect = true
			serve(client, function()
				return answers > 0
			end)
			assert.equal(1, answers)
		end)

		it("has lists of handlers of its own, which the program may change", function()
			local one, other, names, seen = new(), new(), {}, {}
			for name, list in pairs(one.handlers) do
				names[#names + 1] = name
				assert.same({}, list)
				assert.are_not.equal(list, other.handlers[name])
			end
			assert.equal(9, #names)
			table.insert(one.handlers.connect, function()
				seen[#seen + 1] = "inserted"
			end)
			one:on("connect", function()
				seen[#seen + 1] = "added"
			end)
			connect(other)
			assert.same({}, seen)
			connect(one)
			assert.same({ "inserted", "added" }, seen)
		end)

		it("goes on without a list of handlers that the program takes away", function()
			local client = new()
			harness.serve({ client, server.serve }, function()
				return client.connection and client.connection.connack
			end)
			client.handlers.acknowledge, client.handlers.message = nil, nil
			local answered
			assert(client:publish({ topic = "t", qos = 1, callback = function()
				answered = true
			end }))
			harness.serve({ client, server.serve }, function()
				return answered
			end)
			local event
			client:on("acknowledge", function()
				event = true
			end)
			assert(client:publish({ topic = "t", qos = 1 }))
			harness.serve({ client, server.serve }, function()
				return event
			end)
			assert.is_nil(client.handlers.no_event)
			assert.is_nil(client.handlers[nil])
			assert.matches("invalid event 'nil' to handle", harness.failure(client.handle, client, nil))
		end)

		it("is not harmed by a logger that raises errors", function()
			local stderr, said = io.stderr, {}
			local function fail()
				error("the disk is full")
			end
			log.set({ debug = fail, info = fail, warn = fail, error = fail })
			local client = new({ reconnect = 0.1 })
			local events = harness.record(client, { "connect", "close", "shutdown" })
			-- The first error is told.
			io.stderr = { write = function(_, ...) -- luacheck: ignore 122
				said[#said + 1] = table.concat({ ... })
			end }
			-- In a coroutine: Lua 5.1 cannot yield through pcall.
			local ok, err = coroutine.resume(coroutine.create(function()
				harness.serve({ client, server.serve }, function()
					return events[1]
				end)
			end))
			client:close_connection()
			client:shutdown()
			io.stderr = stderr -- luacheck: ignore 122
			assert(ok, err)
			assert.same({ "connect", "close", "shutdown" }, harness.names(events))
		end)

		it("gives up a connection on which nobody sends CONNECT", function()
			local client = new({ connect_timeout = 0.3 })
			local events = harness.record(client, { "error", "close" })
			assert(client:open_connection())
			harness.serve({ client, server.serve }, function()
				return events[2]
			end)
			assert.equal("CONNECT was not sent within 0.3 seconds", events[1][2])
			assert.same({ "error", "close" }, harness.names(events))
			-- But whoever sends it in time has all the time for the CONNACK.
			assert(client:open_connection())
			assert(client:send_connect())
			harness.serve({ client, server.serve }, function()
				return client.connection.connack
			end)
		end)

		it("waits also where a coroutine cannot yield, and leaves that alone later", function()
			-- A real broker, which needs nobody to serve it.
			local client = harness.connect(harness.client({ connector = require(connector) }))
			local answers, resumed = {}, 0
			local thread = coroutine.create(function()
				table.sort({ 2, 1 }, function(a, b)
					local puback, err = client:await("publish", { topic = harness.topic(), qos = 1 })
					answers[#answers + 1] = puback and puback.type or err
					return a < b
				end)
				while true do
					coroutine.yield()
					resumed = resumed + 1
				end
			end)
			assert(coroutine.resume(thread))
			assert.equal(packet_type.PUBACK, answers[1])
			harness.serve({ client }, function()
				return client:stats().in_flight == 0
			end)
			assert.equal(0, resumed)
		end)

		it("calls methods that the program replaces, each time", function()
			local client, steps, handled, packets, acknowledged = connect(new({ auto_ack = true })), 0, 0, {}, 0
			local step, handle, receive_packet, acknowledge = client.step, client.handle, client._receive_packet,
				client.acknowledge
			function client:step()
				steps = steps + 1
				return step(self)
			end
			function client:handle(event, ...)
				handled = handled + (event == "message" and 1 or 0)
				return handle(self, event, ...)
			end
			function client:_receive_packet()
				local packet, err = receive_packet(self)
				packets[#packets + 1] = packet
				return packet, err
			end
			function client:acknowledge(...)
				acknowledged = acknowledged + 1
				return acknowledge(self, ...)
			end
			for i = 1, 63 do
				server:send({ type = packet_type.PUBLISH, topic = "t", payload = "x", qos = 1, packet_id = i })
			end
			serve(client, function()
				return server:count(packet_type.PUBACK) == 63
			end)
			assert.is_true(steps >= 63)
			assert.same({ 63, 63, 63 }, { handled, #packets, acknowledged })
		end)

		it("calls a method that a handler replaces from the next packet on", function()
			local client, steps, messages = connect(new()), 0, 0
			local step = client.step
			client:on("message", function()
				messages = messages + 1
				if messages == 10 then
					function client.step(...)
						steps = steps + 1
						return step(...)
					end
				end
			end)
			for _ = 1, 63 do
				server:send({ type = packet_type.PUBLISH, topic = "t", payload = "x", qos = 0 })
			end
			serve(client, function()
				return messages == 63
			end)
			assert.is_true(steps >= 53)
		end)

		it("returns from check_keep_alive that the PINGRESP is missing", function()
			local client, errors = connect(new({ keep_alive = 1, ping_timeout = 0.05 })), {}
			client:on("error", function(err)
				errors[#errors + 1] = err
			end)
			local deadline = harness.deadline()
			local wait, err
			repeat
				server:poll()
				wait, err = client:check_keep_alive()
				assert.is_true(core.now() < deadline)
			until err
			assert.is_number(wait)
			assert.is_truthy(err:find("failed to receive PINGRESP", 1, true))
			assert.same({ err }, errors)
			assert.is_nil(client.connection)
		end)

		it("gives handlers of error packets with reason_string", function()
			local client, text = new(), nil
			client:on("error", function(_, _, packet)
				text = packet:reason_string()
			end)
			server.on_packet = function(self, packet)
				if packet.type == packet_type.SUBSCRIBE then
					self:send({ type = packet_type.SUBACK, packet_id = packet.packet_id, rc = { 0x87 } })
				else
					answer(self, packet)
				end
			end
			client:on_topic({ topic = "t", subscribe = true, handler = function() end })
			serve(client, function()
				return text
			end)
			assert.equal("Not authorized", text)
		end)

		it("ignores what 3.1.1 does not have, and logs that", function()
			server:stop()
			server = servers.start(mqtt.v311, function(self, packet)
				if packet.type == packet_type.CONNECT then
					self:send({ type = packet_type.CONNACK, sp = false, rc = 0 })
				elseif packet.type == packet_type.SUBSCRIBE then
					self:send({ type = packet_type.SUBACK, packet_id = packet.packet_id, rc = { 1 } })
				end
			end)
			local ignored = {}
			log.set({ debug = function(_, text)
				local name, what = text:match("ignores ([%w_]+) of a (%u+): only MQTT 5.0 has that")
				if name then
					ignored[#ignored + 1] = what .. " " .. name
				end
			end })
			local extra = { properties = { content_type = "x" }, user_properties = { a = "b" } }
			local client = connect(new({ version = mqtt.v311, properties = {}, user_properties = {} }))
			assert.is_number(client:subscribe({ topic = "t", qos = 1, no_local = true, retain_as_published = true,
				retain_handling = 2, properties = extra.properties, user_properties = extra.user_properties }))
			assert.is_number(client:unsubscribe({ topic = "t", properties = {} }))
			assert.is_true(client:publish({ topic = "t", properties = extra.properties }))
			assert.same({
				"CONNECT properties", "CONNECT user_properties",
				"SUBSCRIBE no_local", "SUBSCRIBE retain_as_published", "SUBSCRIBE retain_handling", "SUBSCRIBE properties",
				"SUBSCRIBE user_properties", "UNSUBSCRIBE properties", "PUBLISH properties",
			}, ignored)
			harness.blames_caller("expecting opts.no_local to be a boolean", client.subscribe, client,
				{ topic = "t", no_local = 1 })
			serve(client, function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			assert.same({ { topic = "t", qos = 1 } }, server.received[2].subscriptions)
		end)

		it("forgets requests whose time is over", function()
			local client, timeouts = new({ queue = {} }), 0
			local function requests(count)
				for _ = 1, count do
					assert.is_true(client:request({ topic = "t", timeout = 0.001, callback = function(_, err)
						assert.equal("timeout", err)
						timeouts = timeouts + 1
					end }))
				end
				local begun = timeouts
				local deadline = harness.deadline()
				while timeouts < begun + count do
					client._waits:check()
					assert.is_true(core.now() < deadline)
				end
			end
			requests(100)
			assert.same({}, client._waits.pending)
			for _, listener in pairs(client._rpc.listeners) do
				assert.same({}, listener.requests)
			end
		end)

		it("forgets the callbacks of requests whose time is over, though the broker has not acknowledged them", function()
			local client, callbacks, timeouts = connect(new()), setmetatable({}, { __mode = "k" }), 0
			serve(client, function()
				-- Its topic is granted by the first one.
				return client._rpc or not client:request({ topic = "t", callback = function() end })
			end)
			serve(client, function()
				return server.received[2]
			end)
			server.is_mute = true
			local function request()
				local function callback()
					timeouts = timeouts + 1
				end
				callbacks[callback] = true
				assert.is_true(client:request({ topic = "t", qos = 1, timeout = 0.05, callback = callback }))
			end
			request()
			request()
			serve(client, function()
				return timeouts == 2
			end)
			collectgarbage()
			collectgarbage()
			assert.is_nil((next(callbacks)))
		end)
	end)
end

describe("an argument that is none", function()
	after_each(harness.cleanup)

	it("is an error at the line that gives it", function()
		local function blames(text, ...)
			harness.blames_caller(text, mqtt.client, ...)
		end
		blames("expecting a table of options to create MQTT client, got: nil")
		blames("expecting a table of options to create MQTT client, got: string", "mqtt://127.0.0.1")
		for _, value in ipairs({ -1, -math.huge, math.huge, 0 / 0 }) do
			blames("expecting reconnect to be a number of seconds, not below 0, got: " .. tostring(value),
				{ uri = "127.0.0.1", clean = true, reconnect = value })
		end
		for _, topic in ipairs({ "a/+", "#", "" }) do
			local err = harness.failure(mqtt.client, { uri = "127.0.0.1", clean = true, will = { topic = topic } })
			assert.is_truthy(err:find("will.topic: ", 1, true), err)
		end
		blames("expecting will.payload to be a string", { uri = "127.0.0.1", clean = true, will = { topic = "a" } })
		for name, opts in pairs({
			[".id must be well-formed UTF-8, got bad bytes at 0"] = { id = "\255" },
			[".id must not contain U+0000"] = { id = "a\0b" },
			[".username must be well-formed UTF-8, got bad bytes at 0"] = { username = "\255" },
			["expecting keys of .properties to be names of properties, got: nonsense"] = { properties = { nonsense = 1 } },
			["expecting keys of .will.properties to be names of properties, got: nonsense"] = {
				will = { topic = "a", payload = "", properties = { nonsense = 1 } },
			},
		}) do
			opts.uri, opts.clean, opts.version = "127.0.0.1", true, mqtt.v50
			blames(name, opts)
		end
		local client = harness.client()
		harness.blames_caller("expecting func to be a function", client.on, client, "message", nil)
		harness.blames_caller("expecting event to be a string", client.on, client, nil, print)
		harness.blames_caller("expecting rc to be a number", client.shutdown, client, "now")
		local ok = pcall(client.on, client, { connect = print, massage = print })
		assert.is_false(ok)
		assert.same({}, client.handlers.connect)
	end)
end)

describe("a function that is documented", function()
	after_each(harness.cleanup)

	local function count(...)
		return select("#", ...)
	end

	it("returns what is documented, and nothing more", function()
		local client = harness.client({ version = mqtt.v50, properties = { session_expiry_interval = 0 } })
		assert.equal(1, count(client:start_connecting()))
		assert.equal(1, count(client:await("connect")))
		local ids = {}
		table.insert(ids, client:subscribe({ topic = harness.topic() }))
		table.insert(ids, client:unsubscribe({ topic = harness.topic() }))
		table.insert(ids, client:publish({ topic = harness.topic(), qos = 1 }))
		assert.equal(3, #ids)
		assert.equal(1, count(client:publish({ topic = harness.topic() })))
		assert.equal(1, count(client:await("publish", { topic = harness.topic(), qos = 1 })))
		assert.equal(1, count(client:send_pingreq()))
		assert.equal(1, count(client:check_keep_alive()))
		assert.equal(1, count(client:step()))
		assert.equal(1, count(client:getfd()))
		assert.equal(1, count(client:acknowledge({ type = packet_type.PUBLISH, qos = 0 })))
		assert.equal(1, count(client:on_topic("a", print)))
		assert.equal(1, count(client:off_topic("a")))
		assert.equal(1, count(client:off("message", print)))
		assert.equal(1, count(client:stats()))
		assert.equal(1, count(client:disconnect()))
		assert.equal(1, count(client:shutdown()))
		assert.equal(1, count(client:close_connection()))
		for _, method in ipairs({ "subscribe", "unsubscribe", "publish" }) do
			assert.same({ false, "network connection is not opened", n = 2 },
				{ n = count(client[method](client, { topic = "a" })), client[method](client, { topic = "a" }) })
		end
		for _, method in ipairs({ "auth", "disconnect", "send_pingreq" }) do
			assert.equal(2, count(client[method](client)))
		end
		assert.same({ nil, "network connection is not opened" }, { client:step() })
		assert.equal(2, count(client:check_keep_alive()))
		assert.equal(2, count(client:await("publish", { topic = "a" })))
	end)
end)

describe("a program that loads the library once more", function()
	for name, run in pairs({
		["mqtt.run_ioloop"] = "mqtt.run_ioloop(client)",
		["Copas"] = "require('mqtt.loop').add(client) require('copas').loop()",
	}) do
		it("goes on with its clients in the new library's loop, " .. name, function()
			if name == "Copas" then
				local copas, missing = copas_support.load(4)
				if not copas then
					return pending(missing)
				end
				copas_support.unload()
			end
			local output, status = child.run([[
				package.path = "build/copas/?.lua;" .. package.path
				local COPAS = %q == "Copas" and require("copas")
				local mqtt = require("mqtt")
				local client = mqtt.client({ uri = %q, clean = true })
				client:on("connect", function()
					print("connected")
					client:disconnect()
				end)
				for module in pairs(package.loaded) do
					if module:find("^mqtt") then
						package.loaded[module] = nil
					end
				end
				mqtt = require("mqtt")
				%s
			]], name, broker.uri, run)
			assert.same({ "connected\n", 0 }, { output, status })
		end)
	end
end)
