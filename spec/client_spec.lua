-- The client class against a real broker, and against a scripted server for what no real broker does.

local broker = require("spec.support.broker")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local protocol = require("mqtt.protocol")
local servers = require("spec.support.server")

local packet_type = protocol.packet_type
local unpack = table.unpack or unpack -- luacheck: ignore 143
local client, connect, record, serve = harness.client, harness.connect, harness.record, harness.serve

local VERSIONS = { ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }
local LISTENERS = { plain = client, TLS = harness.tls_client }

-- Calls a function once the broker has accepted a client.
local function once_connected(subject, func)
	subject:on("connect", function(packet)
		assert(packet.rc == 0, packet:reason_string())
		func(packet)
	end)
	return subject
end

describe("a client", function()
	after_each(harness.cleanup)

	-- Subscribes, publishes with every QoS, receives, unsubscribes and disconnects.
	local function converse(subject)
		local topic = harness.topic()
		local events = record(subject, { "error", "close" })
		local payloads, acknowledged = {}, {}
		local function end_if_done()
			if #payloads == 3 and acknowledged[1] and acknowledged[2] then
				assert(subject:disconnect())
			end
		end
		local function publish(qos, payload)
			assert(subject:publish({
				topic = topic .. "/" .. qos,
				payload = payload,
				qos = qos,
				properties = { message_expiry_interval = 3600 },
				user_properties = { hello = "world" },
				callback = function()
					acknowledged[qos] = true
					end_if_done()
				end,
			}))
		end
		once_connected(subject, function()
			assert.is_true(subject:send_pingreq())
			assert(subject:subscribe({ topic = topic .. "/0", callback = function()
				publish(0, "zero")
			end }))
		end)
		subject:on("message", function(message)
			assert.is_true(subject:acknowledge(message))
			payloads[#payloads + 1] = message.payload
			if subject.opts.version == mqtt.v50 then
				assert.equal("world", message.user_properties.hello)
				assert.equal("number", type(message.properties.message_expiry_interval))
			end
			if message.payload == "zero" then
				assert(subject:unsubscribe({ topic = topic .. "/0", callback = function()
					assert(subject:subscribe({ topic = topic .. "/#", qos = 2, callback = function()
						publish(1, "one")
					end }))
				end }))
			elseif message.payload == "one" then
				publish(2, "two")
			end
			end_if_done()
		end)
		return function()
			assert.same({ "zero", "one", "two" }, payloads)
			assert.same({ "close" }, harness.names(events))
			assert.equal("connection closed by client", events[1][2].close_reason)
		end
	end

	for version_name, version in pairs(VERSIONS) do
		for listener_name, make in pairs(LISTENERS) do
			describe("of " .. version_name .. ", " .. listener_name .. ",", function()
				it("converses in the default ioloop", function()
					local subject = make({ version = version })
					local check = converse(subject)
					mqtt.run_ioloop(subject)
					check()
				end)

				it("converses in run_sync", function()
					local subject = make({ version = version })
					local check = converse(subject)
					assert.equal(0, select("#", mqtt.run_sync(subject)))
					check()
				end)
			end)
		end
	end
end)

for version_name, version in pairs(VERSIONS) do
	describe("a client of " .. version_name, function()
		local server

		after_each(function()
			harness.cleanup()
			servers.stop_all()
		end)

		local function new(opts)
			opts = opts or {}
			opts.version = version
			return client(opts)
		end

		local function start_server(on_packet)
			server = servers.start(version, on_packet)
			return server
		end

		-- A client connected to a server of the test.
		local function connected_to(on_packet, opts)
			opts = opts or {}
			opts.uri = start_server(on_packet).uri
			local subject = new(opts)
			serve({ subject, server.serve }, function()
				return subject.connection and subject.connection.connack
			end)
			return subject
		end

		describe("connecting", function()
			it("tells by the connect event, and fills the connection table", function()
				local subject = new({ uri = "127.0.0.1", port = broker.port })
				local events = record(subject)
				connect(subject)
				assert.same({ "connect" }, harness.names(events))
				local _, connack, of = unpack(events[1])
				assert.equal(packet_type.CONNACK, connack.type)
				assert.equal(0, connack.rc)
				assert.is_false(connack.sp)
				assert.equal(subject, of)
				local conn = subject.connection
				assert.equal(connack, conn.connack)
				assert.equal("127.0.0.1", conn.host)
				assert.equal(broker.port, conn.port)
				assert.equal("127.0.0.1", conn.uri)
				assert.is_false(conn.secure)
				assert.is_false(subject.first_connect)
			end)

			it("gives username and password", function()
				connect(new({
					uri = "127.0.0.1",
					port = broker.password_port,
					username = broker.username,
					password = broker.password,
				}))
				connect(new({ uri = "mqtt://user:pass%3Aw%40rd@127.0.0.1:" .. broker.password_port }))
			end)

			it("that is refused gives error, connect and close, in this order", function()
				local subject = new({ uri = "127.0.0.1:" .. broker.password_port, username = "user", password = "wrong" })
				local events = record(subject)
				local err
				subject:on("error", function()
					assert.is_not_nil(subject.connection)
				end)
				serve({ function()
					local wait
					wait, err = subject:step()
					assert.is_true(wait == nil or wait <= 0)
				end }, function()
					return err
				end)
				assert.same({ "error", "connect", "close" }, harness.names(events))
				local message, of, connack = unpack(events[1], 2)
				assert.matches("^CONNECT failed with CONNACK %[rc=%d+%]: .*[Nn]ot authorized", message)
				assert.equal(err, message)
				assert.equal(subject, of)
				assert.not_equal(0, connack.rc)
				assert.same({ "connect", connack, subject }, events[2])
				local conn = events[3][2]
				assert.equal("connection failed", conn.close_reason)
				assert.equal(connack, conn.connack)
				assert.equal(subject, events[3][3])
				assert.is_nil(subject.connection)
				assert.is_false(subject.first_connect)
				assert.is_nil((subject:step()))
			end)

			it("to nobody gives an error event and ends", function()
				start_server():stop()
				local subject = new({ uri = server.uri })
				local events = record(subject)
				harness.serve_to_end(subject)
				assert.same({ "error" }, harness.names(events))
				assert.equal(
					"failed to open network connection: connection to '127.0.0.1:" .. server.port .. "' failed: connection refused",
					events[1][2]
				)
				local wait, err = subject:step()
				assert.is_nil(wait)
				assert.equal("network connection is not opened", err)
			end)

			it("to an unknown host gives an error event", function()
				local subject = new({ uri = "no-such-host.invalid" })
				local events = record(subject)
				harness.serve_to_end(subject)
				assert.matches("^failed to open network connection: host 'no%-such%-host.invalid' not found", events[1][2])
			end)

			it("never blocks a step", function()
				-- The server lives in this thread: a step that waited for it would wait for ever.
				start_server()
				local subject = new({ uri = server.uri })
				assert(subject:step() <= 0)
				local deadline = harness.deadline()
				repeat
					local wait, err = subject:step()
					assert(wait, err)
					assert.is_true(wait <= 0)
					server:poll()
				until subject.connection and subject.connection.connack or harness.now() > deadline
				assert.equal(0, subject.connection.connack.rc)
				assert.equal(-1, subject:step())
			end)

			it("can be done by start_connecting, which waits for the connection", function()
				local subject = new()
				assert.is_true(subject:start_connecting())
				assert.is_not_nil(subject.connection)
				assert.is_nil(subject.connection.connack)
				connect(subject)
			end)

			it("by start_connecting fails with the reason", function()
				start_server():stop()
				local subject = new({ uri = server.uri })
				local events = record(subject)
				local ok, err = subject:start_connecting()
				assert.is_false(ok)
				assert.matches("refused$", err)
				assert.same({ { "error", err, subject } }, events)
				assert.is_false(subject.first_connect)
				assert.is_nil((subject:step()))
			end)

			it("can be done by hand", function()
				local subject = new()
				assert.is_true(subject:open_connection())
				assert.is_not_nil(subject.connection)
				assert.same({ false, "failed to send PINGREQ: PINGREQ: CONNECT must be sent first" }, { subject:send_pingreq() })
				assert.is_true(subject:open_connection())
				assert.is_true(subject:send_connect())
				connect(subject)
			end)

			it("takes the options as they are then", function()
				start_server()
				local subject = new({ uri = server.uri, keep_alive = 5, will = { topic = "old", payload = "" } })
				subject.opts.keep_alive = 7
				subject.opts.will = { topic = "new", payload = "gone", qos = 1, retain = true }
				subject.opts.username = "somebody"
				serve({ subject, server.serve }, function()
					return server.received[1]
				end)
				local packet = server.received[1]
				assert.equal(packet_type.CONNECT, packet.type)
				assert.equal(version, packet.version)
				assert.equal(7, packet.keep_alive)
				assert.equal("somebody", packet.username)
				assert.equal("new", packet.will.topic)
				assert.equal("gone", packet.will.payload)
				assert.equal(1, packet.will.qos)
				assert.is_true(packet.will.retain)
				assert.is_true(packet.clean)
				assert.equal(subject.opts.id, packet.id)
			end)

			it("with an option that has become bad reports it and stays usable", function()
				local subject = new()
				subject.opts.uri = "nonsense://"
				assert.matches("nonsense", harness.failure(subject.step, subject))
				subject.opts.uri = broker.uri
				connect(subject)
			end)

			it("is clean only the first time with clean = 'first'", function()
				start_server()
				local subject = new({ uri = server.uri, clean = "first", reconnect = 0.01 })
				local function connects(count)
					serve({ subject, server.serve }, function()
						return server:count(packet_type.CONNECT) == count and subject.connection and subject.connection.connack
					end)
				end
				connects(1)
				assert.is_true(server.received[1].clean)
				assert.is_false(subject.opts.clean)
				subject:close_connection()
				connects(2)
				assert.is_false(server.received[2].clean)
			end)

			it("stays clean with clean = 'first' until it has succeeded", function()
				start_server(function() end)
				local subject = new({ uri = server.uri, clean = "first" })
				serve({ subject, server.serve }, function()
					return server.received[1]
				end)
				assert.equal("first", subject.opts.clean)
			end)

			it("finds the session of last time with clean = false", function()
				local subject = new({ clean = false, reconnect = 0.01, properties = { session_expiry_interval = 60 } })
				local events = record(subject, { "connect" })
				connect(subject)
				subject:disconnect()
				connect(subject)
				assert.is_false(events[1][2].sp)
				assert.is_true(events[2][2].sp)
				-- leaves nothing behind
				subject.opts.clean, subject.opts.properties = true, nil
				subject:disconnect()
				connect(subject)
			end)
		end)

		describe("that has lost its connection", function()
			it("ends without reconnect", function()
				local subject = connected_to()
				local events = record(subject)
				server:drop()
				harness.serve_to_end(subject)
				assert.same({ "error", "close" }, harness.names(events))
				assert.equal("connection closed by broker", events[1][2])
				assert.equal("connection closed by broker", events[2][2].close_reason)
				local wait, err = subject:step()
				assert.is_nil(wait)
				assert.equal("network connection is not opened", err)
			end)

			it("can connect again in its close handler, and stays in its loop", function()
				local subject = connected_to()
				local events = record(subject, { "connect", "close" })
				subject:on("close", function()
					assert.is_true(subject:start_connecting())
				end)
				server:drop()
				serve({ subject, server.serve }, function()
					return #events == 2
				end)
				assert.same({ "close", "connect" }, harness.names(events))
				assert.equal(2, server.accepted)
			end)

			it("connects again, but not before the time is over since the last attempt", function()
				start_server()
				local subject = new({ uri = server.uri, reconnect = 0.3 })
				local events = record(subject, { "connect", "close" })
				local before = harness.now()
				serve({ subject, server.serve }, function()
					return #events == 1
				end)
				server:drop()
				serve({ subject, server.serve }, function()
					return #events == 2
				end)
				local wait = subject:step()
				assert.is_true(wait > 0 and wait <= 0.3)
				serve({ subject, server.serve }, function()
					return #events == 3
				end)
				assert.is_true(harness.now() - before >= 0.3)
				assert.same({ "connect", "close", "connect" }, harness.names(events))
				assert.equal(2, server.accepted)
			end)

			it("keeps trying while nobody answers", function()
				start_server():stop()
				local subject = new({ uri = server.uri, reconnect = 0.01 })
				local events = record(subject, { "error" })
				local wait, err
				serve({ function()
					wait, err = subject:step()
					assert(wait, err)
					return 0.001
				end }, function()
					return #events == 3
				end)
				assert.equal(0, wait)
				assert.equal(events[3][2], err)
			end)

			it("obeys opts.reconnect as it is then", function()
				start_server():stop()
				local subject = new({ uri = server.uri })
				subject.opts.reconnect = 0.01
				local events = record(subject, { "error" })
				subject:on("error", function()
					if #events == 3 then
						subject.opts.reconnect = false
					end
				end)
				harness.serve_to_end(subject)
				assert.equal(3, #events)
			end)

			it("gives the reason when the broker breaks a rule", function()
				local subject = connected_to()
				local events = record(subject)
				-- QoS 3
				server:send_bytes("\54\3\0\1t")
				harness.serve_to_end(subject)
				assert.same({ "error", "close" }, harness.names(events))
				assert.matches("^PUBLISH: ", events[1][2])
				assert.equal(subject, events[1][3])
				assert.equal("error", events[2][2].close_reason)
			end)

			it("gives the reason when the first packet is no CONNACK", function()
				start_server(function(this)
					this:send({ type = packet_type.PINGRESP })
				end)
				local subject = new({ uri = server.uri })
				local events = record(subject)
				local err
				serve({ server.serve, function()
					local _
					_, err = subject:step()
				end }, function()
					return err
				end)
				assert.equal("expecting CONNACK but received 13", err)
				assert.same({ "error", "close" }, harness.names(events))
			end)

			it("gives the reason when the broker is silent", function()
				local subject = connected_to(nil, { keep_alive = 1 })
				local events = record(subject)
				serve({ subject, server.serve }, function()
					return #events == 2
				end)
				assert.same({ "error", "close" }, harness.names(events))
				assert.equal("failed to receive PINGRESP within 1 seconds: timeout", events[1][2])
				assert.equal("error", events[2][2].close_reason)
				assert.equal(1, server:count(packet_type.PINGREQ))
			end)
		end)

		describe("closing its connection", function()
			local subject, events

			before_each(function()
				subject = connect(new())
				events = record(subject)
			end)

			local function closed_with(reason)
				-- An end that the program has not asked for is an error too.
				local names = reason:find("broker", 1, true) and { "error", "close" } or { "close" }
				assert.same(names, harness.names(events))
				assert.equal(reason, events[#events][2].close_reason)
				assert.equal(subject, events[#events][3])
				assert.is_nil(subject.connection)
			end

			it("by disconnect says so", function()
				local conn = subject.connection
				assert.is_true(subject:disconnect())
				closed_with("connection closed by client")
				assert.equal(conn, events[1][2])
			end)

			it("by close_connection gives its reason", function()
				assert.is_true(subject:close_connection("tired"))
				closed_with("tired")
			end)

			it("by close_connection without a reason gives one", function()
				assert.is_true(subject:close_connection())
				closed_with("unspecified")
			end)

			it("is told when another client takes its place", function()
				connect(new({ id = subject.opts.id }))
				serve({ subject }, function()
					return #events > 1
				end)
				-- In MQTT 5.0 mosquitto 2.1 sends a DISCONNECT; mosquitto 2.0 only closes the connection.
				local told = "disconnect received from broker: Session taken over [0x8E]"
				local is_told = version == mqtt.v50 and events[#events][2].close_reason == told
				closed_with(is_told and told or "connection closed by broker")
			end)

			it("ends in a loop", function()
				subject:disconnect()
				harness.serve_to_end(subject)
				assert.equal(1, #events)
			end)

			it("can connect again by hand", function()
				subject:disconnect()
				assert.is_true(subject:start_connecting())
				connect(subject)
				assert.same({ "close", "connect" }, harness.names(events))
			end)

			it("shuts down once and for all", function()
				subject.opts.reconnect = 0.01
				assert.is_true(subject:shutdown())
				assert.same({ "close", "shutdown" }, harness.names(events))
				assert.equal("connection closed by client", events[1][2].close_reason)
				assert.same({ "shutdown", subject }, events[2])
				assert.is_false(subject.opts.reconnect)
				assert.is_nil((subject:step()))
			end)

			it("inside a handler is fine", function()
				local topic = harness.topic()
				harness.subscribe(subject, topic)
				subject:on("message", function()
					subject:shutdown()
				end)
				for _ = 1, 3 do
					subject:publish({ topic = topic })
				end
				harness.serve_to_end(subject)
				assert.same({ "subscribe", "message", "close", "shutdown" }, harness.names(events))
			end)
		end)

		describe("that is not connected", function()
			local NOT_OPENED = { false, "network connection is not opened" }

			it("sends nothing", function()
				local subject = new()
				local events = record(subject)
				local message = setmetatable({ type = packet_type.PUBLISH, qos = 1, packet_id = 1 }, protocol.packet_mt)
				assert.same(NOT_OPENED, { subject:subscribe({ topic = "t" }) })
				assert.same(NOT_OPENED, { subject:unsubscribe({ topic = "t" }) })
				assert.same(NOT_OPENED, { subject:publish({ topic = "t" }) })
				assert.same(NOT_OPENED, { subject:publish({ topic = "t", qos = 1 }) })
				assert.same(NOT_OPENED, { subject:acknowledge(message) })
				assert.same(NOT_OPENED, { subject:disconnect() })
				assert.same(NOT_OPENED, { subject:send_pingreq() })
				assert.same(NOT_OPENED, { subject:send_connect() })
				if version == mqtt.v50 then
					assert.same(NOT_OPENED, { subject:auth() })
				end
				assert.is_true(subject:close_connection())
				assert.same({}, events)
			end)

			it("shuts down before it has ever connected", function()
				local subject = new({ reconnect = 1 })
				local events = record(subject)
				assert.is_true(subject:shutdown())
				assert.same({ { "shutdown", subject } }, events)
				assert.is_nil((subject:step()))
			end)

			it("shuts down while it connects", function()
				start_server()
				local subject = new({ uri = server.uri, reconnect = 1 })
				assert(subject:step() <= 0)
				assert.is_true(subject:shutdown())
				harness.serve_to_end(subject)
				assert.is_nil(subject.connection)
			end)

			it("has nothing to keep alive", function()
				assert.same({ 5, "network connection is not opened" }, { new({ keep_alive = 5 }):check_keep_alive() })
				assert.same({ 60, "network connection is not opened" }, { new({ keep_alive = 0 }):check_keep_alive() })
			end)
		end)

		describe("keeping its connection alive", function()
			it("says when it must do so next", function()
				local subject = connect(new({ keep_alive = 20 }))
				local wait, err = subject:check_keep_alive()
				assert.is_nil(err)
				assert.is_true(wait > 0 and wait <= 20)
			end)

			it("need not without keep_alive", function()
				assert.same({ 60 }, { connected_to(nil, { keep_alive = 0 }):check_keep_alive() })
			end)

			it("sends PINGREQ by itself when nothing else is sent", function()
				local subject = connected_to(function(this, packet)
					servers.accept(this, packet)
					if packet.type == packet_type.PINGREQ then
						this:send({ type = packet_type.PINGRESP })
					end
				end, { keep_alive = 1 })
				serve({ subject, server.serve }, function()
					return server:count(packet_type.PINGREQ) == 1
				end)
			end)

			it("can be done by send_pingreq", function()
				local subject = connected_to()
				assert.is_true(subject:send_pingreq())
				serve({ subject, server.serve }, function()
					return server:count(packet_type.PINGREQ) == 1
				end)
			end)
		end)

		describe("publishing", function()
			local subject, topic

			before_each(function()
				subject, topic = connect(new()), harness.topic()
			end)

			it("returns true, or packet identifiers that start at 1", function()
				assert.is_true(subject:publish({ topic = topic }))
				assert.equal(1, subject:publish({ topic = topic, qos = 1 }))
				assert.equal(2, subject:publish({ topic = topic, qos = 2 }))
				assert.equal(3, subject:subscribe({ topic = topic }))
				local answered
				assert.equal(4, subject:unsubscribe({ topic = topic, callback = function()
					answered = true
				end }))
				serve({ subject }, function()
					return answered and subject:stats().in_flight == 0
				end)
				subject.opts.reconnect = 0.01
				subject:disconnect()
				connect(subject)
				assert.equal(1, subject:publish({ topic = topic, qos = 1 }))
				-- One that is in use is not handed out again.
				subject:close_connection()
				connect(subject)
				assert.equal(2, subject:publish({ topic = topic, qos = 1 }))
			end)

			it("with QoS 0 calls back before it returns, with a string", function()
				local arguments
				assert.is_true(subject:publish({ topic = topic, callback = function(...)
					arguments = { ... }
				end }))
				assert.equal("string", type(arguments[1]))
				assert.equal(subject, arguments[2])
			end)

			for qos, name in pairs({ "PUBACK", "PUBREC" }) do
				it("with QoS " .. qos .. " calls back with the " .. name .. ", after the acknowledge event", function()
					local events = record(subject)
					local id = subject:publish({ topic = topic, qos = qos, callback = function(...)
						events[#events + 1] = { "callback", ... }
					end })
					assert.equal(0, #events)
					serve({ subject }, function()
						return #events == 2
					end)
					assert.same({ "acknowledge", "callback" }, harness.names(events))
					for _, event in ipairs(events) do
						assert.equal(packet_type[name], event[2].type)
						assert.equal(id, event[2].packet_id)
						assert.equal(subject, event[3])
					end
				end)
			end

			it("brings payload, retain flag and QoS to whoever subscribed", function()
				local other = connect(new())
				local events = record(other, { "message" })
				harness.subscribe(other, topic .. "/#")
				local binary = ("\0\1\254\255"):rep(1000)
				assert(subject:publish({ topic = topic .. "/binary", payload = binary, qos = 2 }))
				assert(subject:publish({ topic = topic .. "/empty" }))
				assert(subject:publish({ topic = topic .. "/retained", payload = "kept", qos = 1, retain = true }))
				serve({ subject, other }, function()
					return #events == 3
				end)
				local received = {}
				for _, event in ipairs(events) do
					local message = event[2]
					assert.equal(packet_type.PUBLISH, message.type)
					assert.equal(other, event[3])
					received[message.topic:sub(#topic + 2)] = message
				end
				assert.equal(binary, received.binary.payload)
				assert.equal(2, received.binary.qos)
				assert.is_nil(received.empty.payload)
				assert.equal(0, received.empty.qos)
				assert.is_nil(received.empty.packet_id)
				assert.equal("kept", received.retained.payload)
				assert.is_false(received.retained.retain)

				events = record(other, { "message" })
				assert(other:subscribe({ topic = topic .. "/retained", qos = 1 }))
				serve({ other }, function()
					return #events == 1
				end)
				assert.is_true(events[1][2].retain)
				-- leaves nothing behind
				assert(subject:publish({ topic = topic .. "/retained", retain = true }))
				harness.flush(subject)
			end)

			it("takes what a table of options inherits", function()
				local answered
				local defaults = { topic = topic, qos = 1, callback = function(ack)
					answered = ack.packet_id
				end }
				assert.equal(1, subject:publish(setmetatable({ payload = "own" }, { __index = defaults })))
				serve({ subject }, function()
					return answered == 1
				end)
			end)

			it("remembers when something was sent", function()
				assert.is_true(os.time() - subject.send_time <= 1)
				subject.send_time = 0
				assert(subject:publish({ topic = topic }))
				assert.is_true(os.time() - subject.send_time <= 1)
			end)

			it("refuses what MQTT does not allow, in the name of the caller", function()
				for text, opts in pairs({
					["PUBLISH: .*wildcard"] = { topic = "a/#" },
					["PUBLISH: .*topic"] = { topic = "" },
					["topic must be well%-formed UTF%-8"] = { topic = "\255" },
				}) do
					local err = harness.failure(subject.publish, subject, opts)
					assert.matches("spec.*: .*" .. text, err)
				end
				harness.flush(subject)
			end)
		end)

		describe("subscribing", function()
			it("calls back with the SUBACK and the UNSUBACK, after their events", function()
				local subject, topic = connect(new()), harness.topic()
				local events = record(subject)
				local function callback(...)
					events[#events + 1] = { "callback", ... }
				end
				assert.equal(1, subject:subscribe({ topic = topic, qos = 1, callback = callback }))
				serve({ subject }, function()
					return #events == 2
				end)
				assert.equal(2, subject:unsubscribe({ topic = topic, callback = callback }))
				serve({ subject }, function()
					return #events == 4
				end)
				assert.same({ "subscribe", "callback", "unsubscribe", "callback" }, harness.names(events))
				for i, name in ipairs({ "SUBACK", "SUBACK", "UNSUBACK", "UNSUBACK" }) do
					assert.equal(packet_type[name], events[i][2].type)
					assert.equal(subject, events[i][3])
				end
				assert.same({ 1 }, events[1][2].rc)
				assert.same({ version == mqtt.v50 and "Granted QoS 1" or "Success - Maximum QoS 1" }, events[1][2]:reason_strings())
			end)

			it("ends with unsubscribe", function()
				local subject, topic = connect(new()), harness.topic()
				local events = record(subject, { "message" })
				harness.subscribe(subject, topic .. "/a")
				harness.subscribe(subject, topic .. "/b")
				assert(subject:unsubscribe({ topic = topic .. "/a" }))
				assert(subject:publish({ topic = topic .. "/a" }))
				assert(subject:publish({ topic = topic .. "/b" }))
				serve({ subject }, function()
					return #events > 0
				end)
				assert.equal(topic .. "/b", events[1][2].topic)
			end)
		end)

		describe("receiving", function()
			-- A publication of the scripted server.
			local function message(qos, id, dup)
				return { type = packet_type.PUBLISH, topic = "t", payload = "p", qos = qos, packet_id = id, dup = dup or false,
					retain = false }
			end

			it("acknowledges only when told to", function()
				local subject = connected_to()
				local events = record(subject, { "message" })
				server:send(message(1, 7))
				server:send(message(2, 8))
				server:send(message(0))
				serve({ subject, server.serve }, function()
					return #events == 3
				end)
				harness.serve({ subject, server.serve }, function()
					return subject:send_pingreq() and server:count(packet_type.PINGREQ) > 0
				end)
				assert.equal(0, server:count(packet_type.PUBACK) + server:count(packet_type.PUBREC))
				for _, event in ipairs(events) do
					assert.is_true(subject:acknowledge(event[2]))
				end
				serve({ subject, server.serve }, function()
					return server:count(packet_type.PUBACK) == 1 and server:count(packet_type.PUBREC) == 1
				end)
				server:send({ type = packet_type.PUBREL, packet_id = 8, rc = 0 })
				serve({ subject, server.serve }, function()
					return server:count(packet_type.PUBCOMP) == 1
				end)
			end)

			it("gives a QoS 2 message once, however often the broker repeats it", function()
				local subject = connected_to()
				local events = record(subject, { "message" })
				server:send(message(2, 8))
				server:send(message(2, 8, true))
				serve({ subject, server.serve }, function()
					return #events > 0
				end)
				assert.is_true(subject:acknowledge(events[1][2]))
				serve({ subject, server.serve }, function()
					return server:count(packet_type.PUBREC) > 0
				end)
				server:send(message(2, 8, true))
				serve({ subject, server.serve }, function()
					return server:count(packet_type.PUBREC) == 2
				end)
				server:send({ type = packet_type.PUBREL, packet_id = 8, rc = 0 })
				server:send(message(2, 8))
				serve({ subject, server.serve }, function()
					return #events > 1 and server:count(packet_type.PUBCOMP) == 1
				end)
				assert.equal(2, #events)
			end)

			it("may acknowledge much later, and in any order", function()
				local subject = connected_to()
				local events = record(subject, { "message" })
				for id = 1, 3 do
					server:send(message(1, id))
				end
				serve({ subject, server.serve }, function()
					return #events == 3
				end)
				for i = 3, 1, -1 do
					assert.is_true(subject:acknowledge(events[i][2]))
				end
				serve({ subject, server.serve }, function()
					return server:count(packet_type.PUBACK) == 3
				end)
				assert.equal(3, server.received[2].packet_id)
			end)
		end)
	end)
end

describe("handlers", function()
	after_each(harness.cleanup)

	it("add up, and are called in order of registration", function()
		local subject = client()
		local calls = {}
		subject:on("shutdown", function(...)
			calls[#calls + 1] = { "first", ... }
		end)
		subject:on({ shutdown = function(...)
			calls[#calls + 1] = { "second", ... }
		end })
		subject:shutdown()
		assert.same({ { "first", subject }, { "second", subject } }, calls)
	end)

	it("are of known events", function()
		local subject = client()
		harness.blames_caller("invalid event 'nonsense' to handle", subject.on, subject, "nonsense", print)
		harness.blames_caller("invalid event 'nonsense' to handle", subject.on, subject, { nonsense = print })
		harness.blames_caller("invalid event 'nonsense' to handle", subject.off, subject, "nonsense", print)
	end)

	it("are functions", function()
		local subject = client()
		harness.blames_caller("expecting func to be a function", subject.on, subject, "message", "text")
		harness.blames_caller("expecting event to be a string", subject.on, subject, { print })
		harness.failure(subject.on, subject, "message")
	end)

	it("are removed by off", function()
		local subject = client()
		local calls = 0
		local function handler()
			calls = calls + 1
		end
		subject:on("shutdown", handler)
		assert.is_true(subject:off("shutdown", handler))
		subject:shutdown()
		assert.equal(0, calls)
		assert.is_true(subject:off("shutdown", handler))
	end)

	it("that are removed inside a handler still get this event", function()
		local subject = client()
		local calls = {}
		local function second()
			calls[#calls + 1] = "second"
		end
		local function first()
			calls[#calls + 1] = "first"
			subject:off("shutdown", first)
			subject:off("shutdown", second)
		end
		subject:on("shutdown", first)
		subject:on("shutdown", second)
		subject:shutdown()
		subject:shutdown()
		assert.same({ "first", "second" }, calls)
	end)

	it("may be added inside a handler", function()
		local subject = client()
		local calls = 0
		subject:on("shutdown", function()
			subject:on("close", function()
				calls = calls + 1
			end)
		end)
		subject:shutdown()
		assert.equal(1, #subject.handlers.close)
	end)
end)

describe("methods of a client", function()
	after_each(harness.cleanup)

	it("are functions of its class", function()
		local subject, topic = connect(client()), harness.topic()
		assert.equal(1, subject.publish(subject, { topic = topic, qos = 1 }))
		assert.equal(getmetatable(subject).__index.publish, subject.publish)
	end)

	it("may be replaced on the instance", function()
		local subject, topic = connect(client()), harness.topic()
		harness.subscribe(subject, topic)
		local acknowledged, handled = {}, {}
		function subject.acknowledge(self, message)
			acknowledged[#acknowledged + 1] = message.payload
			return getmetatable(self).acknowledge(self, message)
		end
		function subject.handle_received_packet(self, packet)
			handled[#handled + 1] = packet.type
			return getmetatable(self).handle_received_packet(self, packet)
		end
		subject:on("message", function(message)
			assert(subject:acknowledge(message))
		end)
		assert(subject:publish({ topic = topic, payload = "mine", qos = 1 }))
		serve({ subject }, function()
			return #handled == 2
		end)
		assert.same({ "mine" }, acknowledged)
		table.sort(handled)
		assert.same({ packet_type.PUBLISH, packet_type.PUBACK }, handled)
	end)

	it("raise on arguments of a wrong type, in the name of the caller", function()
		local subject = connect(client())
		for text, arguments in pairs({
			["expecting opts to be a table"] = { "publish", "topic" },
			["expecting opts.topic to be a string"] = { "publish", { topic = 1 } },
			["expecting opts.payload to be a string, got a number: use tostring"] = { "publish", { topic = "t", payload = 1 } },
			["expecting opts.qos to be a number"] = { "publish", { topic = "t", qos = "1" } },
			["expecting qos to be a valid QoS value"] = { "publish", { topic = "t", qos = 3 } },
			["expecting opts.retain to be a boolean"] = { "publish", { topic = "t", retain = 1 } },
			["expecting opts.dup to be a boolean"] = { "publish", { topic = "t", dup = 1 } },
			["expecting opts.properties to be a table"] = { "publish", { topic = "t", properties = 1 } },
			["expecting opts.user_properties to be a table"] = { "publish", { topic = "t", user_properties = 1 } },
			["expecting opts.callback to be a function"] = { "publish", { topic = "t", callback = 1 } },
			["expecting msg to be a publish packet"] = { "acknowledge", "message" },
			["expecting rc to be a number"] = { "disconnect", "0" },
			["expecting properties to be a table"] = { "disconnect", 0, 1 },
			["expecting user_properties to be a table"] = { "disconnect", 0, {}, 1 },
			["expecting reason to be a string"] = { "close_connection", 1 },
			["allowed only in MQTT v5.0 protocol"] = { "auth" },
			["expecting valid opts.qos value"] = { "subscribe", { topic = "t", qos = 3 } },
			["expecting opts.no_local to be a boolean"] = { "subscribe", { topic = "t", no_local = 1 } },
			["expecting opts.retain_as_published to be a boolean"] = {
				"subscribe",
				{ topic = "t", retain_as_published = 1 },
			},
			["expecting opts.retain_handling to be 0, 1, 2 or a boolean"] = {
				"subscribe",
				{ topic = "t", retain_handling = 3 },
			},
		}) do
			harness.blames_caller(text, subject[arguments[1]], subject, unpack(arguments, 2))
		end
		for _, method in ipairs({ "subscribe", "unsubscribe" }) do
			harness.blames_caller("expecting opts to be a table", subject[method], subject, "topic")
			harness.blames_caller("expecting opts.topic to be a string", subject[method], subject, {})
			harness.blames_caller("expecting opts.callback to be a function", subject[method], subject,
				{ topic = "t", callback = 1 })
		end
		harness.flush(subject)
	end)

	it("of luamqtt 3.x are there", function()
		local subject = client()
		local loop = mqtt.get_ioloop()
		subject:set_ioloop(loop)
		local connected
		once_connected(subject, function()
			connected = true
		end)
		local deadline = harness.deadline()
		while not connected and harness.now() < deadline do
			assert.is_true(subject:_ioloop_iteration())
		end
		assert.is_true(connected)
		local topic, received = harness.topic(), nil
		assert(subject:subscribe({ topic = topic }))
		assert(subject:publish({ topic = topic }))
		subject:on("message", function(message)
			received = message
		end)
		while not received and harness.now() < deadline do
			assert.is_true(subject:_sync_iteration())
		end
		assert.equal(topic, received.topic)
		subject:disconnect()
		assert.same({ false, "network connection is not opened" }, { subject:_ioloop_iteration() })
	end)
end)

describe("run_sync", function()
	after_each(harness.cleanup)

	it("returns false and the reason when there is nobody", function()
		local server = servers.start(4)
		server:stop()
		local ok, err = mqtt.run_sync(client({ uri = server.uri }))
		assert.is_false(ok)
		assert.matches("refused$", err)
	end)

	it("returns false and the reason when the broker refuses", function()
		local ok, err = mqtt.run_sync(client({ uri = "127.0.0.1:" .. broker.password_port }))
		assert.is_false(ok)
		assert.matches("^CONNECT failed with CONNACK", err)
	end)
end)

describe("a will", function()
	after_each(harness.cleanup)

	local function observed(topic, func)
		local observer = connect(client({ version = mqtt.v50 }))
		local events = record(observer, { "message" })
		harness.subscribe(observer, topic)
		func()
		serve({ observer }, function()
			return #events > 0
		end)
		return events[1][2]
	end

	for version_name, version in pairs(VERSIONS) do
		it("is published when the connection is closed without DISCONNECT, " .. version_name, function()
			local topic = harness.topic()
			local subject = connect(client({ version = version, will = { topic = topic, payload = "gone", qos = 1 } }))
			local message = observed(topic, function()
				subject:close_connection("self-destructed")
			end)
			assert.equal("gone", message.payload)
			assert.equal(1, message.qos)
		end)

		it("is not published after disconnect, " .. version_name, function()
			local topic = harness.topic()
			local subject = connect(client({ version = version, will = { topic = topic, payload = "gone" } }))
			local message = observed(topic, function()
				subject:disconnect()
				harness.flush(connect(client()), topic)
			end)
			assert.is_nil(message.payload)
		end)
	end

	it("has properties in MQTT 5.0", function()
		local topic = harness.topic()
		local subject = connect(client({
			version = mqtt.v50,
			will = {
				topic = topic,
				payload = "gone",
				properties = { content_type = "text/plain", response_topic = "answer" },
				user_properties = { who = "spec" },
			},
		}))
		local message = observed(topic, function()
			subject:close_connection()
		end)
		assert.equal("text/plain", message.properties.content_type)
		assert.equal("answer", message.properties.response_topic)
		assert.same({ who = "spec" }, message.user_properties)
	end)

	it("is published after disconnect with reason code 4 in MQTT 5.0", function()
		local topic = harness.topic()
		local subject = connect(client({ version = mqtt.v50, will = { topic = topic, payload = "gone" } }))
		local message = observed(topic, function()
			assert.is_true(subject:disconnect(4))
		end)
		assert.equal("gone", message.payload)
	end)
end)

describe("in MQTT 5.0", function()
	local server

	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	local function new(opts)
		opts = opts or {}
		opts.version = mqtt.v50
		return client(opts)
	end

	-- What a client receives of a message that it retains and publishes before, and one after it subscribes.
	local function received(subscription)
		local topic = harness.topic()
		local subject = connect(new())
		local events = record(subject, { "message" })
		assert(subject:publish({ topic = topic, payload = "retained", retain = true }))
		harness.flush(subject)
		subscription.topic, subscription.qos = topic, 1
		harness.subscribe(subject, subscription)
		assert(subject:publish({ topic = topic, payload = "live", retain = true }))
		local other = connect(new())
		assert(other:publish({ topic = topic, payload = "other" }))
		serve({ subject, other }, function()
			return #events > 0 and events[#events][2].payload == "other"
		end)
		-- leaves nothing behind
		assert(subject:publish({ topic = topic, retain = true }))
		harness.flush(subject)
		local payloads, live = {}, nil
		for i, event in ipairs(events) do
			if event[2].payload then
				payloads[i] = event[2].payload
			end
			if event[2].payload == "live" then
				live = event[2]
			end
		end
		return payloads, live
	end

	it("a subscription gets everything", function()
		local payloads, live = received({})
		assert.same({ "retained", "live", "other" }, payloads)
		assert.is_false(live.retain)
	end)

	it("a subscription with no_local gets nothing of its own client's", function()
		local payloads = received({ no_local = true, retain_handling = 2 })
		assert.same({ "other" }, payloads)
	end)

	it("a subscription with retain_as_published keeps the flag", function()
		local _, live = received({ retain_as_published = true })
		assert.is_true(live.retain)
	end)

	for retain_handling, expected in pairs({ [0] = true, [1] = true, [2] = false }) do
		it("a subscription with retain_handling = " .. retain_handling .. " says when it gets retained messages", function()
			local payloads = received({ retain_handling = retain_handling })
			assert.equal(expected, payloads[1] == "retained")
		end)
	end

	it("retain_handling may be a boolean, true for 1", function()
		server = servers.start(mqtt.v50)
		local subject = new({ uri = server.uri })
		serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		for _, retain_handling in ipairs({ true, false }) do
			assert(subject:subscribe({ topic = "t", retain_handling = retain_handling }))
		end
		serve({ subject, server.serve }, function()
			return #server.received == 3
		end)
		assert.equal(1, server.received[2].subscriptions[1].retain_handling)
		assert.equal(0, server.received[3].subscriptions[1].retain_handling)
	end)

	it("a subscription has properties", function()
		local subject, topic = connect(new()), harness.topic()
		local events = record(subject, { "message" })
		harness.subscribe(subject, {
			topic = topic,
			properties = { subscription_identifiers = { 42 } },
			user_properties = { a = "b" },
		})
		assert(subject:publish({ topic = topic }))
		serve({ subject }, function()
			return #events > 0
		end)
		assert.same({ 42 }, events[1][2].properties.subscription_identifiers)
	end)

	it("a message has properties", function()
		local subject, topic = connect(new()), harness.topic()
		local events = record(subject, { "message" })
		harness.subscribe(subject, topic)
		assert(subject:publish({
			topic = topic,
			payload = "x",
			properties = { content_type = "text/plain", correlation_data = "\0\1", payload_format_indicator = 1 },
			user_properties = { { "a", "1" }, { "a", "2" }, b = "3" },
		}))
		serve({ subject }, function()
			return #events > 0
		end)
		local message = events[1][2]
		assert.equal("text/plain", message.properties.content_type)
		assert.equal("\0\1", message.properties.correlation_data)
		assert.equal(1, message.properties.payload_format_indicator)
		assert.equal("2", message.user_properties.a)
		assert.equal("3", message.user_properties.b)
		assert.same({ { "a", "1" }, { "a", "2" } }, { message.user_properties[1], message.user_properties[2] })
	end)

	it("a bad property is refused in the name of the caller", function()
		local subject = connect(new())
		local err = harness.failure(subject.publish, subject, { topic = "t", properties = { no_such = 1 } })
		assert.matches("spec.*: .*no_such", err)
		harness.flush(subject)
	end)

	it("reason codes and properties reach the broker", function()
		server = servers.start(mqtt.v50)
		local subject = new({ uri = server.uri })
		local events = record(subject, { "message" })
		serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		server:send({ type = packet_type.PUBLISH, topic = "t", qos = 1, packet_id = 5, retain = false, dup = false })
		serve({ subject, server.serve }, function()
			return #events > 0
		end)
		assert.is_true(subject:acknowledge(events[1][2], 0x83, { reason_string = "no" }, { a = "b" }))
		assert.is_true(subject:disconnect(4, { reason_string = "bye" }, { c = "d" }))
		serve({ server.serve }, function()
			return #server.received == 3
		end)
		local puback, disconnect = server.received[2], server.received[3]
		assert.equal(packet_type.PUBACK, puback.type)
		assert.equal(0x83, puback.rc)
		assert.same({ reason_string = "no" }, puback.properties)
		assert.same({ a = "b" }, puback.user_properties)
		assert.equal(packet_type.DISCONNECT, disconnect.type)
		assert.equal(4, disconnect.rc)
		assert.same({ reason_string = "bye" }, disconnect.properties)
		assert.same({ c = "d" }, disconnect.user_properties)
	end)

	it("an empty id needs a clean session in MQTT 3.1.1 [MQTT-3.1.3-7], which creation tells", function()
		for _, clean in ipairs({ "first", false }) do
			assert.has_error(function()
				mqtt.client({ uri = "127.0.0.1", id = "", clean = clean })
			end, "expecting clean=true with an empty id in MQTT 3.1.1")
			assert.truthy(mqtt.client({ uri = "127.0.0.1", id = "", clean = clean, version = mqtt.v50 }))
		end
		assert.truthy(mqtt.client({ uri = "127.0.0.1", id = "", clean = true }))
	end)

	it("a broker that never stops asking for the next step is given up after connect_timeout", function()
		local function ask(this)
			this:send({ type = packet_type.AUTH, rc = 0x18, properties = { authentication_method = "spec" } })
		end
		server = servers.start(mqtt.v50, function(this)
			ask(this)
		end)
		local other = servers.start(mqtt.v50)
		local subject = new({ uri = { server.uri, other.uri }, properties = { authentication_method = "spec" },
			connect_timeout = 0.3, reconnect = 0.01 })
		local steps, errors = 0, {}
		subject:on({
			auth = function()
				steps = steps + 1
				subject:auth(0x18, { authentication_method = "spec" })
			end,
			error = function(err)
				errors[#errors + 1] = err
			end,
		})
		harness.serve({ subject, server.serve, other.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		assert.is_true(steps > 2)
		assert.equal(1, #errors)
		assert.matches("failed to receive CONNACK within 0%.%d+ seconds: timeout", errors[1])
		other:stop()
	end)

	it("a client authenticates itself in several steps", function()
		server = servers.start(mqtt.v50, function(this, packet)
			if packet.type == packet_type.CONNECT then
				assert(packet.properties.authentication_method == "spec")
				this:send({ type = packet_type.AUTH, rc = 0x18,
					properties = { authentication_method = "spec", authentication_data = "challenge" } })
			elseif packet.type == packet_type.AUTH then
				assert(packet.properties.authentication_data == "answer to challenge")
				this:send({ type = packet_type.CONNACK, sp = false, rc = 0 })
			end
		end)
		local subject = new({ uri = server.uri, properties = { authentication_method = "spec" } })
		local events = record(subject)
		subject:on("auth", function(packet)
			assert.is_true(subject:auth(0x18, {
				authentication_method = "spec",
				authentication_data = "answer to " .. packet.properties.authentication_data,
			}))
		end)
		serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		assert.same({ "auth", "connect" }, harness.names(events))
		assert.equal(packet_type.AUTH, events[1][2].type)
		assert.equal(0x18, events[1][2].rc)
		assert.equal(subject, events[1][3])
	end)

	for name, case in pairs({
		["without an error"] = { disconnect = { rc = 0 }, reason = "disconnect received from broker" },
		["with a reason"] = {
			disconnect = { rc = 0x8B },
			reason = "disconnect received from broker: Server shutting down [0x8B]",
			is_error = true,
		},
		["with a reason in words"] = {
			disconnect = { rc = 0x98, properties = { reason_string = "house keeping" } },
			reason = "disconnect received from broker: Administrative action [0x98]: house keeping",
			is_error = true,
		},
	}) do
		it("a DISCONNECT of the broker " .. name .. " closes the connection", function()
			server = servers.start(mqtt.v50)
			local subject = new({ uri = server.uri })
			local events = record(subject, { "error", "close" })
			serve({ subject, server.serve }, function()
				return subject.connection and subject.connection.connack
			end)
			case.disconnect.type = packet_type.DISCONNECT
			server:send(case.disconnect)
			harness.serve_to_end(subject)
			local close = table.remove(events)
			assert.equal("close", close[1])
			assert.equal(case.reason, close[2].close_reason)
			if case.is_error then
				assert.equal(case.reason, events[1][2])
				assert.equal(subject, events[1][3])
				assert.equal(case.disconnect.rc, events[1][4].rc)
			end
			assert.equal(case.is_error and 1 or 0, #events)
		end)
	end

	it("the CONNACK tells what the broker is able to do", function()
		local subject = connect(new({ id = "" }))
		local connack = subject.connection.connack
		assert.equal("string", type(connack.properties.assigned_client_identifier))
	end)

	it("what the broker does not support is refused with false and the reason", function()
		server = servers.start(mqtt.v50, function(this, packet)
			if packet.type == packet_type.CONNECT then
				this:send({ type = packet_type.CONNACK, sp = false, rc = 0, properties = {
					maximum_qos = 0,
					retain_available = 0,
					maximum_packet_size = 100,
				} })
			end
		end)
		local subject = new({ uri = server.uri })
		serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		for text, opts in pairs({
			["failed to send PUBLISH: .*QoS 0 at most"] = { topic = "t", qos = 1 },
			["failed to send PUBLISH: .*retained"] = { topic = "t", retain = true },
			["failed to send PUBLISH: .*100 bytes"] = { topic = "t", payload = ("x"):rep(100) },
		}) do
			local ok, err = subject:publish(opts)
			assert.is_false(ok)
			assert.matches(text, err)
		end
		assert.is_true(subject:publish({ topic = "t" }))
	end)
end)
