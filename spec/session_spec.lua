-- A session as programs see it, line by line: what CONNECT and DISCONNECT carry, enhanced authentication, keep alive,
-- reason codes, limits, and publishing at any moment. Against a scripted server; native and through connectors.

local copas_support = require("spec.support.copas")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local protocol = require("mqtt.protocol")
local servers = require("spec.support.server")

local types = protocol.packet_type
local serve = harness.serve

local VERSIONS = { ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }
local CONNECTORS = {
	native = require("mqtt.connector.native"),
	luasocket = require("mqtt.connector.luasocket"),
	["luamqtt 3.x"] = require("mqtt.connector.v3").class({
		connect = function(conn)
			local sock, err = require("socket").connect(conn.host, conn.port)
			conn.sock = sock
			return sock ~= nil, err
		end,
		shutdown = function(conn)
			conn.sock:close()
		end,
		send = function(conn, data, i)
			return conn.sock:send(data, i)
		end,
		receive = function(conn, size)
			return conn.sock:receive(size)
		end,
		settimeout = function(conn, timeout)
			conn.sock:settimeout(timeout)
		end,
	}),
}

-- Soon enough not to be waited for.
local SOON = 0.01

describe("a session", function()
	local server

	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	-- A server that accepts, with `server.properties` if there are any, and a client of it.
	local function start(version, connector, opts)
		server = servers.start(version, function(self, packet)
			if packet.type == types.CONNECT then
				self:send({ type = types.CONNACK, sp = self.session or false, rc = 0, properties = self.properties })
			end
		end)
		local all = { uri = server.uri, version = version, connector = connector }
		for key, value in pairs(opts or {}) do
			all[key] = value
		end
		return harness.client(all)
	end

	local function connect(subject)
		serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
	end

	-- Serves until the server has received so many packets of a type. Returns the last one.
	local function await(subject, packet_type, count)
		serve({ subject, server.serve }, function()
			return server:count(packet_type) >= (count or 1)
		end)
		for i = #server.received, 1, -1 do
			if server.received[i].type == packet_type then
				return server.received[i]
			end
		end
	end

	-- The received packets of a type, as what a function returns of each.
	local function received(packet_type, func)
		local list = {}
		for _, packet in ipairs(server.received) do
			if packet.type == packet_type then
				list[#list + 1] = func(packet)
			end
		end
		return list
	end

	for connector_name, connector in pairs(CONNECTORS) do
		for version_name, version in pairs(VERSIONS) do
			local name = ", " .. version_name .. ", " .. connector_name

			it("without keep alive never pings" .. name, function()
				local subject = start(version, connector, { keep_alive = 0 })
				connect(subject)
				assert.equal(0, server.received[1].keep_alive)
				assert.equal(60, (subject:check_keep_alive()))
				local ends = core.now() + 0.05
				serve({ subject, server.serve }, function()
					return core.now() > ends
				end)
				assert.equal(0, server:count(types.PINGREQ))
			end)

			it("with options that have become bad says so, and connects when they are sound again" .. name, function()
				local subject = start(version, connector)
				for text, change in pairs({
					["expecting connect_timeout to be a number"] = { "connect_timeout", "x" },
					["expecting reconnect to be a boolean or number"] = { "reconnect", "x" },
					["expecting queue to be a table"] = { "queue", 5 },
					["queue.max_bytes"] = { "queue", { max_bytes = -1 } },
					["expecting max_packet_size"] = { "max_packet_size", 1 },
					["expecting ping_timeout to be a number"] = { "ping_timeout", {} },
					["expecting keep_alive to be a number"] = { "keep_alive", {} },
					["expecting host to be a string"] = { "host", {} },
					["expecting port to be a number"] = { "port", "x" },
					["expecting id to be a string"] = { "id", 5 },
					["expecting resubscribe to be a boolean"] = { "resubscribe", 1 },
					["expecting will.topic to be a string"] = { "will", {} },
					["expecting version to stay"] = { "version", version == mqtt.v50 and mqtt.v311 or mqtt.v50 },
				}) do
					local key, value = change[1], change[2]
					local before = subject.opts[key]
					subject.opts[key] = value
					for _, method in ipairs({ "step", "start_connecting" }) do
						if not (key == "reconnect" and method == "start_connecting") then
							local err = harness.failure(subject[method], subject)
							assert.equal("string", type(err))
							assert.matches(text, err)
						end
					end
					subject:check_keep_alive()
					subject.opts[key] = before
				end
				subject.opts.of_the_programs_own = true
				connect(subject)
			end)

			it("repeats with clean = 'first' on the session that it then keeps" .. name, function()
				local subject = start(version, connector, { clean = "first", reconnect = SOON })
				assert.is_true(subject.first_connect)
				connect(subject)
				assert.is_false(subject.first_connect)
				local calls = 0
				local id = subject:publish({ topic = "t", payload = "1", qos = 1, callback = function()
					calls = calls + 1
				end })
				await(subject, types.PUBLISH)
				server.session = true
				server:drop()
				assert.is_true(await(subject, types.PUBLISH, 2).dup)
				assert.same({ true, false }, received(types.CONNECT, function(packet)
					return packet.clean
				end))
				server:send({ type = types.PUBACK, packet_id = id, rc = 0 })
				serve({ subject, server.serve }, function()
					return calls > 0
				end)
				assert.equal(1, calls)
			end)

			it("takes packet identifiers of the program's through queue and reconnect" .. name, function()
				local subject = start(version, connector, { reconnect = SOON, queue = {} })
				local answered = {}
				local function publish(packet_id)
					return subject:publish({ topic = "t", qos = 1, packet_id = packet_id, callback = function(packet)
						answered[#answered + 1] = packet.packet_id
					end })
				end
				assert.equal(5, publish(5))
				local ok, err = publish(5)
				assert.is_false(ok)
				assert.matches("packet identifier 5 is in use$", err)
				assert.equal(1, publish())
				connect(subject)
				await(subject, types.PUBLISH, 2)
				server:drop()
				await(subject, types.PUBLISH, 4)
				assert.is_false((publish(5)))
				assert.same({ 5, 1, 5, 1 }, received(types.PUBLISH, function(packet)
					return packet.packet_id
				end))
				for _, id in ipairs({ 1, 5 }) do
					server:send({ type = types.PUBACK, packet_id = id, rc = 0 })
				end
				serve({ subject, server.serve }, function()
					return #answered == 2
				end)
				assert.same({ 1, 5 }, answered)
				assert.equal(5, publish(5))
				for _, bad in ipairs({ 0, -1, 1.5, 65536, "x", {} }) do
					for _, properties in ipairs({ false, {} }) do
						local message = { topic = "t", qos = 1, packet_id = bad, properties = properties or nil }
						local text = harness.failure(subject.publish, subject, message)
						assert.equal("string", type(text))
						assert.matches("expecting %.packet_id to be an integer from 1 to 65535, got", text)
					end
				end
			end)

			it("takes messages from handlers of connect, close and error" .. name, function()
				local subject = start(version, connector, { reconnect = SOON, queue = {} })
				local results = {}
				for _, event in ipairs({ "connect", "close", "error" }) do
					subject:on(event, function()
						if #results < 3 then
							results[#results + 1] = { subject:publish({ topic = event, qos = 1 }) }
						end
					end)
				end
				await(subject, types.PUBLISH)
				-- Breaks a rule.
				server:send_bytes("\0\0")
				await(subject, types.PUBLISH, 4)
				assert.same({ { 1 }, { 2 }, { 3 } }, results)
				assert.same({ "connect", "connect", "error", "close" }, received(types.PUBLISH, function(packet)
					return packet.topic
				end))
			end)

			it("renews subscriptions once, however often the connection breaks" .. name, function()
				local subject = start(version, connector, { reconnect = SOON, resubscribe = true })
				connect(subject)
				subject:subscribe({ topic = "a", qos = 1 })
				server:send({ type = types.SUBACK, packet_id = await(subject, types.SUBSCRIBE).packet_id, rc = { 1 } })
				for _ = 1, 3 do
					local before = #server.received
					server:drop()
					serve({ subject, server.serve }, function()
						return #server.received >= before + 2
					end)
					subject:send_pingreq()
					local pings = server:count(types.PINGREQ)
					await(subject, types.PINGREQ, pings + 1)
					assert.equal(before + 3, #server.received)
				end
			end)

			it("tells callbacks of refusals, which end their exchanges" .. name, function()
				local subject = start(version, connector)
				connect(subject)
				local events = harness.record(subject, { "acknowledge", "subscribe" })
				local v5 = version == mqtt.v50
				for _, case in ipairs({
					{ "publish", { qos = 1 }, types.PUBLISH, v5 and { type = types.PUBACK, rc = 0x87 } },
					{ "publish", { qos = 2 }, types.PUBLISH, v5 and { type = types.PUBREC, rc = 0x97 } },
					{ "subscribe", {}, types.SUBSCRIBE, { type = types.SUBACK, rc = { 0x80 } } },
				}) do
					local method, opts, sent, answer = case[1], case[2], case[3], case[4]
					if answer then
						local got
						opts.topic = "t"
						opts.callback = function(packet)
							got = packet
						end
						answer.packet_id = subject[method](subject, opts)
						await(subject, sent, server:count(sent) + 1)
						server:send(answer)
						serve({ subject, server.serve }, function()
							return got
						end)
						assert.same(answer.rc, got.rc)
						assert.equal(got, table.remove(events)[2])
						assert.equal(0, subject:stats().in_flight)
					end
				end
				assert.equal(0, server:count(types.PUBREL))
			end)
		end

		local v311_name, v5_name = ", MQTT 3.1.1, " .. connector_name, ", MQTT 5.0, " .. connector_name

		it("passes on will delay and session expiry" .. v5_name, function()
			local subject = start(mqtt.v50, connector, {
				will = { topic = "w", payload = "p", properties = { will_delay_interval = 7 } },
				properties = { session_expiry_interval = 60 },
			})
			connect(subject)
			assert.equal(7, server.received[1].will.properties.will_delay_interval)
			assert.equal(60, server.received[1].properties.session_expiry_interval)
			assert.is_true(subject:disconnect(0, { session_expiry_interval = 5 }))
			serve({ server.serve }, function()
				return server.ended
			end)
			local last = server.received[#server.received]
			assert.equal(types.DISCONNECT, last.type)
			assert.equal(5, last.properties.session_expiry_interval)
		end)

		it("that was to end with the connection cannot be prolonged" .. v5_name, function()
			local subject = start(mqtt.v50, connector)
			connect(subject)
			local ok, err = subject:disconnect(0, { session_expiry_interval = 5 })
			assert.is_false(ok)
			assert.matches("session_expiry_interval must be 0", err)
			assert.is_truthy(subject.connection)
			assert.is_true(subject:disconnect())
		end)

		it("is kept alive as the server wants" .. v5_name, function()
			local subject = start(mqtt.v50, connector)
			server.properties = { server_keep_alive = 1 }
			connect(subject)
			assert.is_true(subject:check_keep_alive() <= 1)
			await(subject, types.PINGREQ)
		end)

		it("ends when the server exceeds our receive maximum" .. v5_name, function()
			local subject = start(mqtt.v50, connector, { properties = { receive_maximum = 2 } })
			connect(subject)
			local messages = {}
			subject:on("message", function(message)
				messages[#messages + 1] = message
			end)
			local function send(id)
				server:send({ type = types.PUBLISH, topic = "t", qos = 1, packet_id = id })
			end
			send(1)
			send(2)
			serve({ subject, server.serve }, function()
				return #messages == 2
			end)
			assert.is_true(subject:acknowledge(messages[1]))
			send(3)
			serve({ subject, server.serve }, function()
				return #messages == 3
			end)
			local events = harness.record(subject, { "error", "close" })
			send(4)
			assert.equal(0x93, await(subject, types.DISCONNECT).rc)
			assert.matches("receive maximum", events[1][2])
			assert.equal("close", events[2][1])
		end)

		it("gives a broker of MQTT 3.1.1 as many messages of QoS 2 at a time as the options say" .. v311_name, function()
			local subject = start(mqtt.v311, connector, { server_receive_maximum = 3 })
			connect(subject)
			for _ = 1, 5 do
				assert(subject:publish({ topic = "t", qos = 2 }))
			end
			await(subject, types.PUBLISH, 3)
			server:send({ type = types.PUBREC, packet_id = 1 })
			await(subject, types.PUBLISH, 4)
			local last = server.received[#server.received - 1]
			assert.same({ types.PUBREL, 1 }, { last.type, last.packet_id })
			assert.equal(4, server:count(types.PUBLISH))
		end)

		it("begins with an exchange of AUTH, and may authenticate again" .. v5_name, function()
			local subject = start(mqtt.v50, connector, { properties = { authentication_method = "spec" } })
			server.on_packet = function(self, packet)
				if packet.type == types.CONNECT or packet.type == types.AUTH and packet.rc == 0x19 then
					self:send({ type = types.AUTH, rc = 0x18,
						properties = { authentication_method = "spec", authentication_data = "challenge" } })
				elseif packet.type == types.AUTH and self.authenticated then
					self:send({ type = types.AUTH, rc = 0, properties = { authentication_method = "spec" } })
				elseif packet.type == types.AUTH then
					self.authenticated = true
					self:send({ type = types.CONNACK, sp = false, rc = 0,
						properties = { authentication_method = "spec" } })
				end
			end
			local codes = {}
			subject:on("auth", function(packet)
				codes[#codes + 1] = packet.rc
				if packet.rc == 0x18 then
					-- Before CONNACK nothing but AUTH may be sent.
					assert.equal(#codes > 1, (subject:send_pingreq()))
					assert.is_true(subject:auth(0x18, { authentication_method = "spec",
						authentication_data = "answer to " .. packet.properties.authentication_data }))
				end
			end)
			connect(subject)
			assert.is_true(subject:auth(0x19, { authentication_method = "spec" }))
			serve({ subject, server.serve }, function()
				return #codes == 3
			end)
			assert.same({ 0x18, 0x18, 0 }, codes)
			assert.same({ "answer to challenge", "none", "answer to challenge" }, received(types.AUTH, function(packet)
				return packet.properties.authentication_data or "none"
			end))
		end)

		it("ends with a DISCONNECT of the server" .. v5_name, function()
			local subject = start(mqtt.v50, connector)
			connect(subject)
			local events = harness.record(subject, { "error", "close" })
			server:send({ type = types.DISCONNECT, rc = 0x8B })
			harness.serve_to_end(subject)
			assert.same({ "error", "close" }, harness.names(events))
			assert.equal("disconnect received from broker: Server shutting down [0x8B]", events[2][2].close_reason)
		end)
	end
end)

describe("a transport of the program's own", function()
	for version_name, version in pairs(VERSIONS) do
		it("carries queue, repetitions and renewals from one connection to the next, " .. version_name, function()
			local encode = require("mqtt.protocol" .. version).make_packet
			local subject = mqtt.client({ uri = "own", clean = false, version = version, queue = { max_messages = 2,
				when_full = "drop_oldest" }, resubscribe = true, connector = require("mqtt.connector.bytes") })
			local function feed(packet)
				assert.is_true(subject:feed(tostring(encode(packet))))
			end
			-- The types and payloads or packet identifiers of what is to be sent.
			local function taken()
				local bytes, position, list = subject:take() or "", 1, {}
				while position <= #bytes do
					local packet = require("mqtt.protocol" .. version).parse_packet(function(size)
						position = position + size
						return bytes:sub(position - size, position - 1)
					end)
					list[#list + 1] = packet.type .. " " .. tostring(packet.payload or packet.packet_id or "")
				end
				return list
			end
			local answered = {}
			local function publish(payload)
				return subject:publish({ topic = "t", payload = payload, qos = 1, callback = function()
					answered[#answered + 1] = payload
				end })
			end
			assert.equal(1, publish("a"))
			assert.equal(2, publish("b"))
			assert.equal(3, publish("c"))
			assert.equal(1, subject:stats().dropped)
			assert.is_true(subject:start_connecting())
			assert.same({ "1 " }, taken())
			feed({ type = types.CONNACK, sp = false, rc = 0 })
			assert.same({ "3 b", "3 c" }, taken())
			assert.equal(4, subject:subscribe({ topic = "s" }))
			feed({ type = types.SUBACK, packet_id = 4, rc = { 0 } })
			feed({ type = types.PUBACK, packet_id = 3, rc = 0 })
			assert.same({ "8 4" }, taken())
			subject:close_connection()
			assert.equal(5, publish("d"))
			assert.is_true(subject:start_connecting())
			assert.same({ "1 " }, taken())
			feed({ type = types.CONNACK, sp = false, rc = 0 })
			assert.same({ "8 6", "3 b", "3 d" }, taken())
			feed({ type = types.PUBACK, packet_id = 2, rc = 0 })
			feed({ type = types.PUBACK, packet_id = 5, rc = 0 })
			assert.same({ "c", "b", "d" }, answered)
			subject:close_connection()
		end)
	end
end)

for _, connector in ipairs({ "native", "copas" }) do
	for version_name, version in pairs(VERSIONS) do
		describe(("under Copas, %s, %s,"):format(connector, version_name), function()
			local copas, missing, errors, server

			before_each(function()
				copas, missing, errors = copas_support.load_watched(4)
				package.loaded["mqtt.connector.copas"] = nil
			end)

			after_each(function()
				harness.cleanup()
				servers.stop_all()
				copas_support.unload()
				package.loaded["mqtt.connector.copas"] = nil
				assert.same({}, errors)
			end)

			local function run(done)
				local deadline = harness.deadline()
				while not done() do
					assert(core.now() < deadline, "nothing came of it in time")
					server:poll()
					copas.step(0.002)
				end
			end

			it("threads that publish while connections break are all answered, once", function()
				if not copas then
					pending(missing)
					return
				end
				local each, cuts, packets = 30, 0, 0
				server = servers.start(version, function(self, packet)
					local kind, answer = packet.type, { packet_id = packet.packet_id, rc = 0 }
					if not self.connection then
						-- What was received with the packet at which it was reset.
						return
					elseif kind == types.CONNECT then
						answer = { type = types.CONNACK, sp = self.accepted > 1, rc = 0 }
					elseif kind == types.PUBLISH then
						packets = packets + 1
						answer.type = packet.qos == 1 and types.PUBACK or types.PUBREC
					elseif kind == types.PUBREL then
						answer.type = types.PUBCOMP
					end
					if packets >= 11 and cuts < 8 then
						cuts, packets = cuts + 1, 0
						self:reset()
					elseif answer.type then
						self:send(answer)
					end
				end)
				local subject = harness.client({ uri = server.uri, version = version, clean = false, queue = {},
					reconnect = SOON, connector = require("mqtt.connector." .. connector) })
				local calls, total, twice = {}, 0, 0
				for thread = 1, 2 do
					copas.addthread(function()
						for i = 1, each do
							local name = thread .. "/" .. i
							assert.is_number(subject:publish({ topic = name, qos = 1 + i % 2, callback = function()
								total = total + 1
								twice = twice + (calls[name] and 1 or 0)
								calls[name] = true
							end }))
							if i % 3 == 0 then
								copas.sleep(0.001)
							end
						end
					end)
				end
				assert.is_true(require("mqtt.loop.copas").add(subject))
				run(function()
					return total >= 2 * each and subject:stats().in_flight == 0
				end)
				assert.equal(2 * each, total)
				assert.equal(0, twice)
				assert.is_true(cuts > 0)
			end)

			it("handlers of auth may wait before they answer", function()
				if not copas then
					pending(missing)
					return
				elseif version == mqtt.v311 then
					return
				end
				local challenge = { type = types.AUTH, rc = 0x18, properties = { authentication_method = "spec" } }
				server = servers.start(version, function(self, packet)
					if packet.type == types.CONNECT then
						self:send(challenge)
					elseif packet.type == types.AUTH then
						self:send({ type = types.CONNACK, sp = false, rc = 0 })
					end
				end)
				local subject = harness.client({ uri = server.uri, version = version,
					properties = { authentication_method = "spec" },
					connector = require("mqtt.connector." .. connector) })
				subject:on("auth", function()
					copas.sleep(0.02)
					assert.is_true(subject:auth(0x18, { authentication_method = "spec" }))
				end)
				assert.is_true(require("mqtt.loop.copas").add(subject))
				run(function()
					return subject.connection and subject.connection.connack
				end)
			end)
		end)
	end
end
