-- Methods that the program replaces on a client: loops call those. And the functions of its connector, which programs
-- for luamqtt 3.x call.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")
local packet_type = require("mqtt.protocol").packet_type
local servers = require("spec.support.server")

-- Counts the calls of a method of a client.
local function count(client, method)
	local calls, original = { count = 0 }, client[method]
	client[method] = function(...)
		calls.count = calls.count + 1
		return original(...)
	end
	return calls
end

-- A client that receives so many messages, and how many it has.
local function listener(many)
	local subject, topic, received = harness.connect(harness.client()), harness.topic(), {}
	harness.subscribe(subject, { topic = topic })
	subject:on("message", function(message)
		received[#received + 1] = message.payload
	end)
	return subject, received, function()
		for i = 1, many do
			assert(subject:publish({ topic = topic, payload = tostring(i) }))
		end
	end
end

describe("a replaced table of handlers", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	it("counts from the next message, also when all have arrived together", function()
		local server = servers.start(mqtt.v311, function(self, packet)
			if packet.type == packet_type.CONNECT then
				self:send({ type = packet_type.CONNACK, sp = false, rc = 0 })
				for i = 1, 60 do
					self:send({ type = packet_type.PUBLISH, qos = 0, topic = "t", payload = tostring(i) })
				end
			end
		end)
		local subject, first, later = harness.client({ uri = server.uri }), 0, 0
		subject:on("message", function()
			first = first + 1
			local handlers = {}
			for event in pairs(subject.handlers) do
				handlers[event] = {}
			end
			handlers.message[1] = function()
				later = later + 1
			end
			subject.handlers = handlers
		end)
		harness.serve({ subject, server.serve }, function()
			return first + later == 60
		end)
		assert.same({ 1, 59 }, { first, later })
	end)
end)

describe("a replaced step", function()
	after_each(harness.cleanup)

	it("is called by the ioloop for each packet", function()
		local subject, received, publish = listener(60)
		local steps = count(subject, "step")
		publish()
		harness.serve({ subject }, function()
			return #received == 60
		end)
		assert.is_true(steps.count >= 60)
	end)

	it("counts from the next step when a handler replaces it, and no more when it is gone", function()
		local subject, received, publish = listener(60)
		local steps
		subject:on("message", function()
			steps = steps or count(subject, "step")
		end)
		publish()
		harness.serve({ subject }, function()
			return #received == 60
		end)
		local first = steps.count
		publish()
		harness.serve({ subject }, function()
			return #received == 120
		end)
		assert.is_true(steps.count - first >= 60)
		subject.step, first = nil, steps.count
		publish()
		harness.serve({ subject }, function()
			return #received == 180
		end)
		assert.equal(first, steps.count)
	end)

	it("may hold packets back: it is asked again", function()
		local subject, received, publish = listener(20)
		local original, refused = subject.step, 0
		function subject:step()
			refused = refused + 1
			if refused % 3 > 0 then
				return refused % 3 == 1 and -1 or 0.001
			end
			return original(self)
		end
		publish()
		harness.serve({ subject }, function()
			return #received == 20
		end)
		assert.is_true(refused >= 60)
	end)

	it("may sleep: an idle one is not asked without end", function()
		local subject = harness.connect(harness.client())
		local steps = count(subject, "step")
		local loop, calls = ioloop.create(), 0
		loop:add(subject)
		loop:add(function()
			calls = calls + 1
			return 0.2
		end)
		while calls < 3 do
			loop:iteration()
		end
		assert.is_true(steps.count < 60)
		loop:remove(subject)
	end)

	it("may end the client", function()
		local subject = harness.connect(harness.client())
		local loop = ioloop.create()
		function subject.step()
			return nil, "enough"
		end
		loop:add(subject)
		assert.same({ nil, "enough" }, { loop:run_until_clients() })
		subject.step = nil
	end)

	it("is called by Copas for each packet", function()
		local copas, missing = copas_support.load(4)
		if not copas then
			return pending(missing)
		end
		local subject, received, publish = listener(60)
		require("mqtt.loop.copas").add(subject)
		local steps = count(subject, "step")
		publish()
		local deadline = harness.deadline()
		while #received < 60 and harness.now() < deadline do
			copas.step(0.02)
		end
		assert.equal(60, #received)
		assert.is_true(steps.count >= 60)
		subject.step = nil
		subject:shutdown()
		while copas.step(0) do -- luacheck: ignore 542
		end
		copas_support.unload()
	end)
end)

describe("handle_received_packet, replaced while the client is in Copas,", function()
	after_each(harness.cleanup)

	it("stays so when the client leaves", function()
		local copas, missing = copas_support.load(4)
		if not copas then
			return pending(missing)
		end
		local subject, received, publish = listener(10)
		local ended
		require("mqtt.loop.copas").add(subject)
		local packets = count(subject, "handle_received_packet")
		local mine = subject.handle_received_packet
		subject:on("shutdown", function()
			ended = true
		end)
		publish()
		local deadline = harness.deadline()
		while not (ended and not copas.step(0)) and harness.now() < deadline do
			copas.step(0.02)
			if #received == 10 and not ended then
				subject:shutdown()
			end
		end
		assert.equal(10, packets.count)
		assert.equal(mine, subject.handle_received_packet)
		copas_support.unload()
	end)
end)

describe("handle_received_packet, called later", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	it("takes no CONNACK for that of the next connection", function()
		local server = servers.start(mqtt.v311)
		local subject, held, accepted = harness.client({ uri = server.uri, reconnect = 0.01 }), {}, 0
		subject:on("connect", function()
			accepted = accepted + 1
		end)
		local original = subject.handle_received_packet
		function subject.handle_received_packet(_, packet)
			held[#held + 1] = packet
			return true
		end
		local function until_held(i)
			harness.serve({ subject, server.serve }, function()
				return held[i]
			end)
		end
		until_held(1)
		server:drop()
		until_held(2)
		assert.is_false(original(subject, held[1]))
		assert.is_nil(subject.connection.connack)
		assert.equal(0, accepted)
		assert.is_true(original(subject, held[2]))
		assert.equal(held[2], subject.connection.connack)
		assert.equal(1, accepted)
	end)
end)

describe("a replaced _receive_packet that keeps packets to itself", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	it("gets those behind them, which have arrived together", function()
		local server = servers.start(mqtt.v311, function(self, packet)
			if packet.type == packet_type.CONNECT then
				self:send({ type = packet_type.CONNACK, sp = false, rc = 0 })
				for i = 1, 20 do
					self:send({ type = packet_type.PUBLISH, qos = 0, topic = "t", payload = tostring(i) })
				end
			end
		end)
		local subject, received = harness.client({ uri = server.uri }), {}
		local original = subject._receive_packet
		function subject:_receive_packet()
			local packet = original(self)
			if packet and packet.type == packet_type.PUBLISH and tonumber(packet.payload) % 2 == 1 then
				return false, self.connection.signal_idle
			end
			return packet
		end
		subject:on("message", function(message)
			received[#received + 1] = message.payload
		end)
		local loop, deadline = ioloop.create({ sleep_max = 0.01 }), harness.deadline()
		loop:add(subject)
		loop:add(server.serve)
		while #received < 10 do
			assert(harness.now() < deadline, #received .. " messages have come")
			loop:iteration()
		end
		loop:remove(server.serve)
		assert.equal("20", received[10])
	end)
end)

describe("of the native connector", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	it("settimeout limits how long a step waits", function()
		local subject = harness.connect(harness.client())
		local connector = subject.args.connector
		connector.settimeout(subject.connection, 0.02)
		local before = harness.now()
		for _ = 1, 3 do
			assert.is_true(subject:_sync_iteration())
			assert.is_true(subject:_ioloop_iteration())
		end
		local limited = harness.now() - before
		connector.settimeout(subject.connection, nil)
		before = harness.now()
		assert.is_true(subject:_sync_iteration())
		assert.is_true(limited < 6 * (harness.now() - before))
		harness.blames_caller("expecting a number of seconds from 0, or nil, got: soon", connector.settimeout,
			subject.connection, "soon")
		harness.blames_caller("expecting a connection, got: nil", connector.settimeout, nil, 1)
	end)

	it("the others say what to do instead", function()
		local subject = harness.client()
		local connector = subject.args.connector
		for name, instead in pairs({ connect = "client:start_connecting()", shutdown = "client:close_connection()",
			send = "client:publish{...}", receive = "client:step()" }) do
			local err = harness.failure(connector[name], subject.connection, "data")
			assert.matches("spec[/\\]", err)
			assert.matches("the native connection has no '" .. name .. "'", err, 1, true)
			assert.matches(instead, err, 1, true)
		end
	end)
end)

describe("of the connector on LuaSocket", function()
	after_each(harness.cleanup)

	it("settimeout is there, and others work as functions", function()
		local subject = harness.client({ connector = require("mqtt.connector.luasocket") })
		assert.is_true(subject:start_connecting())
		local connector = subject.args.connector
		connector.settimeout(subject.connection, 0.02)
		local deadline = harness.deadline()
		while not subject.connection.connack and harness.now() < deadline do
			assert.is_true(subject:_sync_iteration())
		end
		-- A PINGREQ of the program's own.
		assert.is_true(connector.send(subject.connection, "\192\0"))
		connector.shutdown(subject.connection)
	end)
end)
