-- Connectors that raise errors, and threads that end inside them: the connection ends with that error, and nothing that
-- was accepted is lost.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local luasocket = require("mqtt.connector.luasocket")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

-- A class derived from a connector. `faults` has a function for a method that is called first, once.
local function faulty(super, faults)
	local class = setmetatable({ super = super }, super)
	class.__index = class
	for _, method in ipairs({ "connect", "shutdown", "send", "receive", "buffer_clear" }) do
		class[method] = function(self, ...)
			local fault = faults[method]
			if fault then
				faults[method] = nil
				fault(self, ...)
			end
			return super[method](self, ...)
		end
	end
	return class
end

local function raise()
	error("out of order", 0)
end

for version, name in pairs({ [mqtt.v311] = "MQTT 3.1.1", [mqtt.v50] = "MQTT 5.0" }) do
	describe("a connector that fails, " .. name .. ",", function()
		local server, faults, client, events

		before_each(function()
			server = servers.start(version, function(self, packet)
				servers.accept(self, packet)
				if packet.type == 3 and packet.qos == 1 then
					self:send({ type = 4, packet_id = packet.packet_id, rc = 0 })
				end
			end)
			faults = {}
		end)

		after_each(function()
			harness.cleanup()
			servers.stop_all()
		end)

		local function new(opts)
			opts.uri, opts.version = server.uri, version
			opts.connector = opts.connector or faulty(luasocket, faults)
			client = harness.client(opts)
			events = harness.record(client, { "error", "close" })
			return client
		end

		local function connect()
			harness.serve({ client, server.serve }, function()
				return client.connection and client.connection.connack
			end)
		end

		-- Serves the client until a message has been acknowledged.
		local function deliver(opts)
			local done
			opts.callback = function()
				done = true
			end
			local id, err = client:publish(opts)
			harness.serve({ client, server.serve }, function()
				return done
			end)
			return id, err
		end

		for _, method in ipairs({ "send", "receive", "buffer_clear" }) do
			it("in " .. method .. " ends the connection, and what was accepted arrives", function()
				new({ reconnect = 0.01, keep_alive = 0 })
				connect()
				faults[method] = raise
				assert.is_number((deliver({ topic = "t", qos = 1 })))
				assert.same({ "error", "close" }, harness.names(events))
				-- Bytes are let go of when a packet has been received.
				local what = method == "send" and "send" or "receive"
				assert.matches("connector." .. what .. " failed: out of order", events[1][2], 1, true)
				connect()
				assert.is_number((deliver({ topic = "t", qos = 1 })))
				assert.equal(2, server.accepted)
			end)
		end

		it("in connect has tried once, without reconnect", function()
			new({})
			faults.connect = raise
			assert.same({ nil, "failed to open network connection: out of order" }, { client:step() })
			assert.same({ nil, "network connection is not opened" }, { client:step() })
			assert.same({ "error" }, harness.names(events))
		end)

		it("in shutdown has closed the connection all the same", function()
			new({})
			connect()
			faults.shutdown = raise
			assert.is_true(client:disconnect())
			assert.same({ "close" }, harness.names(events))
			assert.is_nil(client.connection)
		end)

		it("in getfd has opened no connection, and goes on to the next", function()
			new({ reconnect = 0.01 })
			local class, shutdowns = client.opts.connector, 0
			local shutdown = class.shutdown
			function class.shutdown(...)
				shutdowns = shutdowns + 1
				return shutdown(...)
			end
			function class.getfd()
				error("no descriptor", 0)
			end
			local err = "failed to open network connection: connector.getfd failed: no descriptor"
			assert.same({ false, err }, { client:start_connecting() })
			assert.equal(err, events[1][2])
			assert.equal(1, shutdowns)
			for _, fd in ipairs({ 0.5, -1, 2 ^ 40, 99999, "fd" }) do
				function class.getfd()
					return fd
				end
				assert.is_true(client:start_connecting())
				client:close_connection()
			end
		end)

		it("and has no buffer_clear is refused", function()
			local class = {}
			for _, method in ipairs({ "connect", "shutdown", "send", "receive", "validate" }) do
				class[method] = function() end
			end
			class.signal_idle, class.signal_closed = {}, {}
			harness.blames_caller("expecting connector.buffer_clear to be a function", mqtt.client,
				{ uri = server.uri, clean = true, connector = class })
		end)

		it("is told of once, though the handler publishes", function()
			new({})
			connect()
			local class = client.opts.connector
			class.send = function()
				return false, "out of order"
			end
			local results = {}
			client:on("error", function()
				results[#results + 1] = { client:publish({ topic = "t" }) }
			end)
			assert.is_false((client:publish({ topic = "t" })))
			local err = "failed to send PUBLISH: connector.send failed: out of order"
			assert.same({ { false, err } }, results)
			assert.same({ "error", "close" }, harness.names(events))
		end)

		it("and whose thread is abandoned in send ends the connection at the next publish", function()
			new({ reconnect = 0.01, keep_alive = 0 })
			connect()
			faults.send = coroutine.yield
			local thread = coroutine.create(function()
				client:publish({ topic = "first", qos = 1 })
			end)
			assert(coroutine.resume(thread))
			thread = nil -- luacheck: ignore 311
			collectgarbage()
			collectgarbage()
			deliver({ topic = "t", qos = 1 })
			assert.same({ "error", "close" }, harness.names(events))
			local topics = {}
			for _, packet in ipairs(server.received) do
				topics[#topics + 1] = packet.type == 3 and packet.topic or nil
			end
			assert.same({ "first", "t" }, topics)
		end)
	end)
end

for way, connector in pairs({ native = "mqtt.connector.native", LuaSocket = "mqtt.connector.luasocket" }) do
	describe("a handler of error that waits, " .. way .. ",", function()
		local server, client, errors

		after_each(function()
			harness.cleanup()
			servers.stop_all()
		end)

		-- Has a coroutine of the program's step the client until the connection is lost; its handler yields. Returns it.
		local function wait_in_handler()
			server = servers.start(4)
			client = harness.client({ uri = server.uri, connector = require(connector) })
			errors = 0
			client:on("error", function()
				errors = errors + 1
				coroutine.yield("waiting")
			end)
			harness.serve({ client, server.serve }, function()
				return client.connection and client.connection.connack
			end)
			server:drop()
			local thread = coroutine.create(function()
				while true do
					client:step()
					coroutine.yield()
				end
			end)
			local deadline = harness.deadline()
			local ok, state
			repeat
				ok, state = coroutine.resume(thread)
				assert(ok, state)
				assert(harness.now() < deadline)
			until state == "waiting"
			return thread
		end

		it("is not called again meanwhile", function()
			local thread = wait_in_handler()
			for _ = 1, 10 do
				assert.equal(-1, client:step())
				client:check_keep_alive()
			end
			assert.equal(1, errors)
			assert.is_truthy(client.connection)
			assert(coroutine.resume(thread))
			assert.is_nil(client.connection)
			assert.equal(1, errors)
		end)

		it("and has closed the first connection lets no other step connect again", function()
			server = servers.start(4, function(self)
				self:send({ type = 2, sp = false, rc = 5 })
			end)
			client = harness.client({ uri = server.uri, connector = require(connector) })
			client:on("error", function()
				client:close_connection()
				coroutine.yield("waiting")
			end)
			local thread = coroutine.create(function()
				while true do
					client:step()
					coroutine.yield()
				end
			end)
			local deadline = harness.deadline()
			local ok, state
			repeat
				server:poll()
				ok, state = coroutine.resume(thread)
				assert(ok, state)
				assert(harness.now() < deadline)
			until state == "waiting"
			assert.same({ nil, "network connection is not opened" }, { client:step() })
			assert(coroutine.resume(thread))
			assert.same({ nil, "network connection is not opened" }, { client:step() })
			assert.equal(1, server.accepted)
		end)

		it("and is abandoned does not keep the client from its end", function()
			wait_in_handler()
			collectgarbage()
			collectgarbage()
			client:step()
			assert.is_nil(client.connection)
			assert.equal(1, errors)
		end)
	end)
end

it("the native connector may be loaded again", function()
	local name = "mqtt.connector.native"
	local before = package.loaded[name]
	package.loaded[name] = nil
	local again = require(name)
	package.loaded[name] = before
	assert.not_equal(before, again)
	local client = harness.client({ connector = again })
	harness.connect(client)
	assert.is_number((client:getfd()))
	harness.cleanup()
end)

for _, version in ipairs({ 1, 4 }) do
	for protocol, name in pairs({ [mqtt.v311] = "MQTT 3.1.1", [mqtt.v50] = "MQTT 5.0" }) do
		for _, method in ipairs({ "send", "receive" }) do
			local what = "the connector of Copas " .. version .. " that raises in " .. method .. " loses nothing, " .. name
			it(what, function()
				local copas, missing, errors = copas_support.load_watched(version)
				finally(function()
					harness.cleanup()
					servers.stop_all()
					package.loaded["mqtt.connector.copas"] = nil
					copas_support.unload()
				end)
				if not copas then
					return pending(missing)
				end
				package.loaded["mqtt.connector.copas"] = nil
				local server = servers.start(protocol, function(self, packet)
					servers.accept(self, packet)
					if packet.type == 3 then
						self:send({ type = 4, packet_id = packet.packet_id, rc = 0 })
					end
				end)
				local faults = {}
				local client = harness.client({ uri = server.uri, version = protocol, reconnect = 0.01, queue = {},
					keep_alive = 0, connector = faulty(require("mqtt.connector.copas"), faults) })
				local events = harness.record(client, { "error", "close" })
				require("mqtt.loop").add(client)
				local deadline = harness.deadline()
				local function run(done)
					while not done() do
						assert.same({}, errors)
						assert(harness.now() < deadline, "nothing came of it in time")
						server:poll()
						copas.step(0.002)
					end
				end
				run(function()
					return client.connection and client.connection.connack
				end)
				faults[method] = raise
				local answers = {}
				for i = 1, 3 do
					copas.addthread(function()
						assert(client:await("publish", { topic = "t", qos = 1 }))
						answers[#answers + 1] = i
					end)
				end
				run(function()
					return #answers == 3
				end)
				assert.same({ "error", "close" }, harness.names(events))
				assert.matches("connector." .. method .. " failed: out of order", events[1][2], 1, true)
				assert.equal(2, server.accepted)
			end)
		end
	end
end

describe("with Copas 4", function()
	local copas, missing

	before_each(function()
		copas, missing = copas_support.load_watched(4)
		package.loaded["mqtt.connector.copas"] = nil
	end)

	after_each(function()
		harness.cleanup()
		servers.stop_all()
		package.loaded["mqtt.connector.copas"] = nil
		copas_support.unload()
	end)

	-- Returns what lets a server and Copas run until something is done.
	local function runner(server)
		local deadline = harness.deadline()
		return function(done)
			while not done() do
				assert(harness.now() < deadline, "nothing came of it in time")
				server:poll()
				copas.step(0.002)
			end
		end
	end

	it("a thread that is removed while it sends ends the connection", function()
		if not copas then
			return pending(missing)
		end
		local server = servers.start(4, function(self, packet)
			servers.accept(self, packet)
			if packet.type == 3 then
				self:send({ type = 4, packet_id = packet.packet_id })
			end
		end)
		local faults = {}
		-- Keep alive may find out first: what is published then waits in the queue.
		local client = harness.client({ uri = server.uri, reconnect = 0.01, keep_alive = 0, queue = { max_messages = 2 },
			connector = faulty(require("mqtt.connector.copas"), faults) })
		local events = harness.record(client, { "error", "close" })
		require("mqtt.loop.copas").add(client)
		local run = runner(server)
		run(function()
			return client.connection and client.connection.connack
		end)
		local is_sending
		function faults.send()
			is_sending = true
			copas.pauseforever()
		end
		local answers = 0
		local function answered()
			answers = answers + 1
		end
		local thread = copas.addthread(function()
			client:publish({ topic = "t", qos = 1, callback = answered })
		end)
		run(function()
			return is_sending
		end)
		copas.removethread(thread)
		copas.addthread(function()
			client:publish({ topic = "t", qos = 1, callback = answered })
		end)
		run(function()
			return answers == 2
		end)
		assert.same({ "error", "close" }, harness.names(events))
		assert.matches("connector.send failed: the thread that sent has been ended", events[1][2], 1, true)
	end)

	it("an answer to a received packet that cannot be sent ends the connection, though nothing more comes", function()
		if not copas then
			return pending(missing)
		end
		local server = servers.start(4, function(self, packet)
			servers.accept(self, packet)
			if packet.type == 3 then
				self:send({ type = 5, packet_id = packet.packet_id })
			end
		end)
		local faults = {}
		local client = harness.client({ uri = server.uri, reconnect = 0.01, keep_alive = 0,
			connector = faulty(require("mqtt.connector.copas"), faults) })
		local events = harness.record(client, { "error", "close" })
		require("mqtt.loop.copas").add(client)
		local run = runner(server)
		run(function()
			return client.connection and client.connection.connack
		end)
		-- After the PUBLISH the PUBREL is sent.
		function faults.send()
			faults.send = raise
		end
		copas.addthread(function()
			client:publish({ topic = "t", qos = 2 })
		end)
		run(function()
			return events[1]
		end)
		assert.matches("connector.send failed: out of order", events[1][2], 1, true)
		run(function()
			return server.accepted == 2
		end)
		assert.same({ "error", "close" }, harness.names(events))
	end)

	it("a thread that is about to wait for a connection finds it closed", function()
		if not copas then
			return pending(missing)
		end
		local server = servers.start(4, servers.accept)
		local client = harness.client({ uri = server.uri, connector = require("mqtt.connector.copas") })
		require("mqtt.loop.copas").add(client)
		local run = runner(server)
		run(function()
			return client.connection and client.connection.connack
		end)
		-- Copas throws dice whether it lets others run before a thread waits.
		local random, is_thrown, is_message_over = math.random, false, false
		client:on("message", function()
			is_message_over = true
		end)
		finally(function()
			rawset(math, "random", random)
		end)
		rawset(math, "random", function(most, ...)
			is_thrown = is_thrown or is_message_over and most == 100
			return most == 100 and most or random(most, ...)
		end)
		copas.addthread(function()
			while not is_thrown do
				copas.pause(0)
			end
			client:shutdown()
		end)
		server:send({ type = 3, topic = "t", payload = "", qos = 0 })
		run(copas.finished)
	end)
end)
