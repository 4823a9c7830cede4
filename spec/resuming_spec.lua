-- What outlives a connection, as programs see it: unacknowledged messages, the queue for no connection, subscriptions,
-- acknowledgements. Against a scripted server and a real broker; in both versions, native and through a connector.

local broker = require("spec.support.broker")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local protocol = require("mqtt.protocol")
local servers = require("spec.support.server")

local types = protocol.packet_type
local client, serve = harness.client, harness.serve

local VERSIONS = { ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }
local CONNECTORS = { native = require("mqtt.connector.native"), luasocket = require("mqtt.connector.luasocket") }

-- Soon enough not to be waited for.
local SOON = 0.01

-- Calls a function for each version and kind of connection.
local function each(func)
	for version_name, version in pairs(VERSIONS) do
		for connector_name, connector in pairs(CONNECTORS) do
			func(version_name .. ", " .. connector_name, version, connector)
		end
	end
end

describe("with reconnect", function()
	local server

	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	-- A server whose CONNACK says whether it has a session, and a client of it.
	local function start(version, connector, opts, session_present)
		server = servers.start(version, function(self, packet)
			if packet.type == types.CONNECT then
				self:send({ type = types.CONNACK, sp = self.accepted > 1 and session_present or false, rc = 0,
					properties = self.properties })
			end
		end)
		local all = { uri = server.uri, version = version, connector = connector, clean = false, reconnect = SOON }
		for key, value in pairs(opts or {}) do
			all[key] = value
		end
		return client(all)
	end

	local function is_connected(subject)
		return subject.connection and subject.connection.connack
	end

	-- Serves until the server has received so many packets of a type, on all connections.
	local function await(subject, packet_type, count)
		serve({ subject, server.serve }, function()
			return server:count(packet_type) >= count
		end)
	end

	-- The packets of some types that the server has received, as short texts.
	local function received()
		local texts = {}
		for _, packet in ipairs(server.received) do
			if packet.type == types.PUBLISH then
				texts[#texts + 1] = ("PUBLISH %s %d%s"):format(packet.payload, packet.qos, packet.dup and " dup" or "")
			elseif packet.type == types.PUBREL then
				texts[#texts + 1] = "PUBREL " .. packet.packet_id
			elseif packet.type == types.CONNECT then
				texts[#texts + 1] = "CONNECT"
			end
		end
		return texts
	end

	each(function(name, version, connector)
		for _, session_present in ipairs({ true, false }) do
			local case = session_present and "a resumed session" or "a lost one"
			it("unacknowledged messages go out again: " .. case .. ", " .. name, function()
				local subject = start(version, connector, nil, session_present)
				local acknowledged, events = {}, {}
				subject:on("acknowledge", function(packet)
					events[#events + 1] = packet.packet_id
				end)
				serve({ subject, server.serve }, function()
					return is_connected(subject)
				end)
				for i, qos in ipairs({ 1, 2, 2 }) do
					assert.equal(i, subject:publish({ topic = "t", payload = "m" .. i, qos = qos, callback = function(packet)
						acknowledged[#acknowledged + 1] = { i, packet.type }
					end }))
				end
				await(subject, types.PUBLISH, 3)
				server:send({ type = types.PUBREC, packet_id = 2, rc = 0 })
				await(subject, types.PUBREL, 1)
				server:drop()
				await(subject, types.PUBLISH, 5)
				if session_present then
					await(subject, types.PUBREL, 2)
					assert.same({ "CONNECT", "PUBLISH m1 1", "PUBLISH m2 2", "PUBLISH m3 2", "PUBREL 2", "CONNECT",
						"PUBLISH m1 1 dup", "PUBREL 2", "PUBLISH m3 2 dup" }, received())
					server:send({ type = types.PUBCOMP, packet_id = 2, rc = 0 })
				else
					assert.same({ "CONNECT", "PUBLISH m1 1", "PUBLISH m2 2", "PUBLISH m3 2", "PUBREL 2", "CONNECT",
						"PUBLISH m1 1", "PUBLISH m3 2" }, received())
				end
				server:send({ type = types.PUBACK, packet_id = 1, rc = 0 })
				server:send({ type = types.PUBREC, packet_id = 3, rc = 0 })
				await(subject, types.PUBREL, session_present and 3 or 2)
				server:send({ type = types.PUBCOMP, packet_id = 3, rc = 0 })
				serve({ subject, server.serve }, function()
					return subject:stats().in_flight == 0
				end)
				assert.same({ { 2, types.PUBREC }, { 1, types.PUBACK }, { 3, types.PUBREC } }, acknowledged)
				assert.same({ 2, 1, 3 }, events)
				assert.equal(1, subject:stats().reconnects)
			end)
		end

		it("subscribe under way goes out again, " .. name, function()
			local subject = start(version, connector)
			local called = 0
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			assert.equal(1, subject:subscribe({ topic = "a/#", qos = 1, callback = function()
				called = called + 1
			end }))
			await(subject, types.SUBSCRIBE, 1)
			server:drop()
			await(subject, types.SUBSCRIBE, 2)
			server:send({ type = types.SUBACK, packet_id = 1, rc = { 1 } })
			serve({ subject, server.serve }, function()
				return called > 0
			end)
			assert.equal(1, called)
		end)

		it("a clean start keeps messages only with reconnect, " .. name, function()
			local subject = start(version, connector, { clean = true, reconnect = false })
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			assert.equal(1, subject:publish({ topic = "t", payload = "lost", qos = 1 }))
			await(subject, types.PUBLISH, 1)
			subject:close_connection()
			local ok = subject:open_connection() and subject:send_connect()
			assert.is_true(ok)
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			assert.equal(1, subject:publish({ topic = "t", payload = "new", qos = 1 }))
			await(subject, types.PUBLISH, 2)
			assert.same({ "CONNECT", "PUBLISH lost 1", "CONNECT", "PUBLISH new 1" }, received())
		end)

		it("a message of an earlier connection is not acknowledged on the next, " .. name, function()
			local subject = start(version, connector, nil, false)
			local messages = {}
			subject:on("message", function(message)
				messages[#messages + 1] = message
			end)
			local function deliver(qos, count)
				server:send({ type = types.PUBLISH, topic = "t", payload = "m", qos = qos, packet_id = 7 })
				serve({ subject, server.serve }, function()
					return #messages == count
				end)
			end
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			deliver(1, 1)
			server:drop()
			serve({ subject, server.serve }, function()
				return server.accepted == 2 and is_connected(subject)
			end)
			-- Another message by the same identifier, in a session that knows nothing of the first.
			deliver(2, 2)
			assert.same({ false, "the session that this message belongs to is over" },
				{ subject:acknowledge(messages[1]) })
			assert.is_true(subject:acknowledge(messages[2]))
			await(subject, types.PUBREC, 1)
			assert.equal(0, server:count(types.PUBACK))
			assert.equal(tostring(messages[2]), protocol.packet_tostring(messages[2]))
		end)

		it("an acknowledgement that was not looked at yet is told all the same, " .. name, function()
			local subject = start(version, connector, nil, true)
			local acknowledged = {}
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			for i = 1, 2 do
				subject:publish({ topic = "t", payload = "m" .. i, qos = 1, callback = function()
					acknowledged[#acknowledged + 1] = i
					if i == 1 then
						subject:close_connection("enough")
					end
				end })
			end
			await(subject, types.PUBLISH, 2)
			local on_packet = server.on_packet
			function server:on_packet(packet)
				on_packet(self, packet)
				if packet.type == types.PUBLISH then
					-- A connector has not read the second one.
					assert.equal("m2", packet.payload)
					self:send({ type = types.PUBACK, packet_id = 2, rc = 0 })
				end
			end
			server:send_bytes("\64\2\0\1\64\2\0\2")
			serve({ subject, server.serve }, function()
				return #acknowledged == 2 and server.accepted == 2
			end)
			assert.same({ 1, 2 }, acknowledged)
		end)

		it("the queue takes messages while there is no connection, " .. name, function()
			local subject = start(version, connector, { queue = { max_messages = 3 } }, true)
			local called = {}
			local function publish(payload, qos)
				return subject:publish({ topic = "t", payload = payload, qos = qos, callback = function(packet)
					called[#called + 1] = type(packet) == "table" and packet.packet_id or packet
				end })
			end
			assert.equal(1, publish("m1", 1))
			assert.is_true(publish("m2", 0))
			assert.equal(2, publish("m3", 2))
			local ok, err = publish("m4", 1)
			assert.same({ false, "failed to send PUBLISH: the queue is full: it takes 3 messages and 1048576 bytes" },
				{ ok, err })
			assert.equal(3, subject:stats().queued)
			assert.same({ false, "network connection is not opened" }, { subject:unsubscribe({ topic = "t" }) })
			await(subject, types.PUBLISH, 3)
			assert.same({ "CONNECT", "PUBLISH m1 1", "PUBLISH m2 0", "PUBLISH m3 2" }, received())
			server:send({ type = types.PUBACK, packet_id = 1, rc = 0 })
			server:send({ type = types.PUBREC, packet_id = 2, rc = 0 })
			await(subject, types.PUBREL, 1)
			server:send({ type = types.PUBCOMP, packet_id = 2, rc = 0 })
			serve({ subject, server.serve }, function()
				return subject:stats().in_flight == 0
			end)
			assert.same({ "no ack for QoS 0 message", 1, 2 }, called)
		end)

		it("the queue may drop the oldest, " .. name, function()
			local subject = start(version, connector, { queue = { max_messages = 2, when_full = "drop_oldest" } })
			local events = harness.record(subject, { "error" })
			for i = 1, 5 do
				assert.equal(i, subject:publish({ topic = "t", payload = "m" .. i, qos = 1 }))
			end
			assert.equal(3, subject:stats().dropped)
			await(subject, types.PUBLISH, 2)
			assert.same({ "CONNECT", "PUBLISH m4 1", "PUBLISH m5 1" }, received())
			assert.same({}, events)
		end)

		it("only messages wait for the broker's receive maximum, " .. name, function()
			local subject = start(version, connector, { server_receive_maximum = 1 })
			server.properties = version == mqtt.v50 and { receive_maximum = 1 } or nil
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			for i = 1, 2 do
				subject:publish({ topic = "t", payload = "m" .. i, qos = 2 })
			end
			subject:subscribe({ topic = "a" })
			subject:unsubscribe({ topic = "b" })
			await(subject, types.UNSUBSCRIBE, 1)
			assert.equal(1, server:count(types.SUBSCRIBE))
			assert.same({ "CONNECT", "PUBLISH m1 2" }, received())
		end)

		-- Through a connector Lua reads the CONNACK itself.
		for resubscribe_name, resubscribe in pairs(connector == CONNECTORS.native
			and { ["with resubscribe"] = true, ["without resubscribe"] = false } or {})
		do
			it("a lost session counts although Lua has not seen its CONNACK, " .. resubscribe_name .. ", " .. name, function()
				local subject = start(version, connector, { resubscribe = resubscribe })
				local granted, present = 0, {}
				subject:on("connect", function(connack)
					present[#present + 1] = connack.sp
				end)
				subject:on_topic { topic = "a", handler = print, subscribe = true, callback = function()
					granted = granted + 1
				end }
				await(subject, types.SUBSCRIBE, 1)
				server:send({ type = types.SUBACK, packet_id = 1, rc = { 0 } })
				serve({ subject, server.serve }, function()
					return granted == 1
				end)

				-- The second CONNACK comes as far as the session, and the program gives that connection up.
				local accept = server.on_packet
				server.on_packet = function() end
				server:drop()
				await(subject, types.CONNECT, 2)
				server:send({ type = types.CONNACK, sp = false, rc = 0 })
				serve({ server.serve }, function()
					return subject:stats().reconnects == 1
				end)
				subject:close_connection()

				server.on_packet = function(self, packet)
					if packet.type == types.CONNECT then
						self:send({ type = types.CONNACK, sp = true, rc = 0 })
					elseif packet.type == types.SUBSCRIBE then
						self:send({ type = types.SUBACK, packet_id = packet.packet_id, rc = { 0 } })
					end
				end
				local before = server:count(types.SUBSCRIBE)
				serve({ subject, server.serve }, function()
					return #present == 2
				end)
				await(subject, types.SUBSCRIBE, before + 1)
				-- Each later one tells what the server says.
				server:drop()
				serve({ subject, server.serve }, function()
					return #present == 3
				end)
				assert.same({ false, false, true }, present)
				server.on_packet = accept
			end)
		end

		it("a session that may have begun with an unanswered CONNECT counts as lost, " .. name, function()
			local subject = start(version, connector, { resubscribe = true })
			local granted, present = 0, {}
			subject:on("connect", function(connack)
				present[#present + 1] = connack.sp
			end)
			local accept = server.on_packet
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			subject:subscribe({ topic = "a", callback = function()
				granted = granted + 1
			end })
			await(subject, types.SUBSCRIBE, 1)
			server:send({ type = types.SUBACK, packet_id = 1, rc = { 0 } })
			serve({ subject, server.serve }, function()
				return granted == 1
			end)

			server.on_packet = function(self, packet)
				if packet.type == types.CONNECT and self:count(types.CONNECT) == 2 then
					self:drop()
				elseif packet.type == types.CONNECT then
					self:send({ type = types.CONNACK, sp = true, rc = 0 })
				end
			end
			server:drop()
			await(subject, types.SUBSCRIBE, 2)
			serve({ subject, server.serve }, function()
				return #present == 2
			end)
			assert.same({ false, false }, present)
			assert.equal(3, server:count(types.CONNECT))
			server.on_packet = accept
		end)

		it("subscriptions are renewed, " .. name, function()
			local subject = start(version, connector, { resubscribe = true, clean = true }, false)
			local granted = 0
			subject:on("subscribe", function()
				granted = granted + 1
			end)
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			for i, topic in ipairs({ "a", "b" }) do
				subject:subscribe({ topic = topic, qos = i })
				await(subject, types.SUBSCRIBE, i)
				server:send({ type = types.SUBACK, packet_id = i, rc = { i } })
			end
			serve({ subject, server.serve }, function()
				return granted == 2
			end)
			subject:unsubscribe({ topic = "a" })
			await(subject, types.UNSUBSCRIBE, 1)
			server:send({ type = types.UNSUBACK, packet_id = 3, rc = { 0 } })
			serve({ subject, server.serve }, function()
				return subject:stats().bytes_received > 0 and server:count(types.UNSUBSCRIBE) == 1
					and not subject._callbacks[3]
			end)
			harness.serve({ subject, server.serve }, function()
				return subject:stats().queued == 0
			end)
			server:drop()
			await(subject, types.SUBSCRIBE, 3)
			local renewal = server.received[#server.received]
			local last = renewal.subscriptions[#renewal.subscriptions]
			assert.same({ "b", 2 }, { last.topic, last.qos })
		end)

		it("a subscription that cannot be renewed is an error, " .. name, function()
			local subject = start(version, connector, { resubscribe = true }, false)
			local events = harness.record(subject, { "error" })
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			for i, topic in ipairs({ "a", "b/#" }) do
				local granted
				subject:subscribe({ topic = topic, qos = 2, callback = function()
					granted = true
				end })
				await(subject, types.SUBSCRIBE, i)
				server:send({ type = types.SUBACK, packet_id = i, rc = { 1 } })
				serve({ subject, server.serve }, function()
					return granted
				end)
			end
			local why
			if version == mqtt.v50 then
				server.properties = { wildcard_subscription_available = 0, maximum_qos = 1 }
				why = "the server does not support wildcards in topic filters"
			else
				why = "the server refused it with reason code 0x80"
			end
			server:drop()
			await(subject, types.SUBSCRIBE, 3)
			local renewal = server.received[#server.received]
			assert.same({ "a", 2 }, { renewal.subscriptions[1].topic, renewal.subscriptions[1].qos })
			if version == mqtt.v311 then
				server:send({ type = types.SUBACK, packet_id = renewal.packet_id, rc = { 1, 0x80 } })
			end
			serve({ subject, server.serve }, function()
				return #events == 2
			end)
			assert.equal("failed to renew the subscription to 'b/#': " .. why, events[2][2])
		end)

		it("a large message that arrives slowly is received, " .. name, function()
			local subject = start(version, connector, { reconnect = false, keep_alive = 1, ping_timeout = 0.3 })
			local events = harness.record(subject, { "error" })
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			local payload
			subject:on("message", function(message)
				payload = message.payload
			end)
			local packet = tostring(server.protocol.make_packet({ type = types.PUBLISH, topic = "t", qos = 0, dup = false,
				retain = false, payload = ("x"):rep(100000) }))
			local sent, begun, late = 0, core.now(), nil
			serve({ subject, server.serve, function()
				-- 50 kB/s: two seconds, most of them after a PINGREQ.
				local now = math.min(math.floor((core.now() - begun) * 50000), #packet)
				if now > sent then
					server:send_bytes(packet:sub(sent + 1, now))
					sent = now
				end
				if sent == #packet and not late then
					late = server:count(types.PINGREQ)
					server:send({ type = types.PINGRESP })
				end
			end }, function()
				return payload or events[1]
			end)
			assert.same({}, events)
			assert.equal(100000, #payload)
			assert.is_true(late > 0)
		end)

		it("the largest packet and the time for a PINGRESP can be set, " .. name, function()
			local subject = start(version, connector, { max_packet_size = 100, ping_timeout = 0.05, reconnect = false,
				keep_alive = 1 })
			local events = harness.record(subject, { "error" })
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			if version == mqtt.v50 then
				assert.equal(100, server.received[1].properties.maximum_packet_size)
			end
			serve({ subject, server.serve }, function()
				return #events > 0
			end)
			assert.equal("failed to receive PINGRESP within 0.05 seconds: timeout", events[1][2])

			subject = start(version, connector, { max_packet_size = 100, reconnect = false })
			events = harness.record(subject, { "error" })
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			server:send({ type = types.PUBLISH, topic = "t", payload = ("x"):rep(100), qos = 0 })
			serve({ subject, server.serve }, function()
				return #events > 0
			end)
			assert.matches("100", events[1][2])
		end)
	end)

	for name, connector in pairs(CONNECTORS) do
		it("the server's receive maximum makes messages wait, " .. name, function()
			local subject = start(mqtt.v50, connector)
			server.properties = { receive_maximum = 2 }
			local acknowledged = 0
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			for i = 1, 20 do
				assert.equal(i, subject:publish({ topic = "t", payload = "m" .. i, qos = 1, callback = function()
					acknowledged = acknowledged + 1
				end }))
			end
			assert.equal(18, subject:stats().queued)
			for i = 1, 20 do
				await(subject, types.PUBLISH, math.min(i + 1, 20))
				assert.equal(math.min(i + 1, 20), server:count(types.PUBLISH))
				server:send({ type = types.PUBACK, packet_id = i, rc = 0 })
			end
			serve({ subject, server.serve }, function()
				return acknowledged == 20
			end)
		end)

		it("what a server turns out not to take is told, " .. name, function()
			local subject = start(mqtt.v50, connector, { queue = {} })
			server.properties = { maximum_packet_size = 30 }
			local events = harness.record(subject, { "error" })
			subject:publish({ topic = "t", payload = ("x"):rep(100), qos = 1, callback = function()
				error("must not be called")
			end })
			subject:publish({ topic = "t", payload = "small", qos = 1 })
			await(subject, types.PUBLISH, 1)
			serve({ subject, server.serve }, function()
				return #events > 0
			end)
			assert.same({ "CONNECT", "PUBLISH small 1" }, received())
			assert.same({ { "error", "failed to send what had to wait, packet id 1: "
				.. "the server accepts packets of at most 30 bytes, got 108", subject } }, events)
			-- The exact size is sent; what is known to be larger is refused.
			assert.same({ false, "failed to send PUBLISH: the server accepts packets of at most 30 bytes, got 31" },
				{ subject:publish({ topic = "t", payload = ("x"):rep(23), qos = 1 }) })
			assert.equal(3, subject:publish({ topic = "t", payload = ("x"):rep(22), qos = 1 }))
		end)

		it("topics become aliases where the server takes them, " .. name, function()
			local subject = start(mqtt.v50, connector, { topic_aliases = true })
			server.properties = { topic_alias_maximum = 1 }
			serve({ subject, server.serve }, function()
				return is_connected(subject)
			end)
			for _, topic in ipairs({ "long/topic", "other", "long/topic" }) do
				subject:publish({ topic = topic, payload = "m", qos = 0 })
			end
			await(subject, types.PUBLISH, 3)
			local sent = {}
			for i = 2, 4 do
				sent[#sent + 1] = { server.received[i].topic, server.received[i].properties.topic_alias }
			end
			assert.same({ { "long/topic", 1 }, { "other" }, { "", 1 } }, sent)
		end)
	end
end)

describe("stats", function()
	after_each(harness.cleanup)

	for name, connector in pairs(CONNECTORS) do
		it("count what has happened, " .. name, function()
			local subject = harness.connect(client({ connector = connector, reconnect = SOON }))
			local topic, got = harness.topic(), 0
			subject:on("message", function()
				got = got + 1
			end)
			harness.subscribe(subject, { topic = topic, qos = 0 })
			for _ = 1, 3 do
				subject:publish({ topic = topic, payload = "12345" })
			end
			harness.flush(subject)
			serve({ subject }, function()
				return got == 3
			end)
			subject:send_pingreq()
			serve({ subject }, function()
				return subject:stats().ping_round_trip
			end)
			local stats = subject:stats()
			assert.same({ 4, 3, 0, 0, 0, 0, 0 }, { stats.messages_sent, stats.messages_received, stats.in_flight,
				stats.queued, stats.queued_bytes, stats.dropped, stats.reconnects })
			assert.is_true(stats.bytes_sent > 50 and stats.bytes_received > 50)
			assert.is_true(stats.ping_round_trip < 5)
			assert.is_nil(stats.tls_version)
			subject:close_connection()
			serve({ subject }, function()
				return subject:stats().reconnects == 1
			end)
		end)

		local tag = connector == CONNECTORS.luasocket and " #luasec" or ""
		it("name the version of TLS, " .. name .. tag, function()
			local subject = harness.connect(harness.tls_client({ connector = connector }))
			assert.matches("^TLSv1%.[23]$", subject:stats().tls_version)
			subject:disconnect()
			assert.is_nil(subject:stats().tls_version)
		end)
	end
end)

describe("a real broker", function()
	after_each(harness.cleanup)

	each(function(name, version, connector)
		it("gets every message of a burst of QoS 2, " .. name, function()
			local topic, got, acknowledged = harness.topic(), 0, 0
			local watcher = harness.connect(client())
			watcher:on("message", function(message)
				got = got + 1
				assert.equal(tostring(got), message.payload)
				watcher:acknowledge(message)
			end)
			harness.subscribe(watcher, { topic = topic, qos = 2 })
			local subject = harness.connect(client({ version = version, connector = connector }))
			for i = 1, 100 do
				assert.equal(i, subject:publish({ topic = topic, payload = tostring(i), qos = 2, callback = function()
					acknowledged = acknowledged + 1
				end }))
			end
			serve({ subject, watcher }, function()
				return acknowledged == 100 and got == 100
			end)
		end)

		it("gets a message once, with QoS 2, whenever the connection breaks, " .. name, function()
			local id, topic = "resuming-" .. core.random_hex(8), harness.topic()
			local properties = version == mqtt.v50 and { session_expiry_interval = 60 } or nil
			local watcher = harness.connect(client())
			local got = {}
			watcher:on("message", function(message)
				got[#got + 1] = message.payload
				watcher:acknowledge(message)
			end)
			harness.subscribe(watcher, { topic = topic, qos = 2 })
			-- A clean start of MQTT 3.1.1 makes a session that ends with its connection.
			local subject = client({ id = id, clean = version == mqtt.v50 and "first", version = version,
				connector = connector, reconnect = SOON, properties = properties })
			harness.connect(subject)
			local acknowledged = {}
			for i = 1, 30 do
				subject:publish({ topic = topic, payload = tostring(i), qos = 2, callback = function()
					acknowledged[#acknowledged + 1] = i
				end })
				if i % 5 == 0 then
					if subject.connection then
						subject:close_connection("cut")
					end
					serve({ subject, watcher }, function()
						return subject.connection and subject.connection.connack
					end)
				end
			end
			serve({ subject, watcher }, function()
				return #acknowledged == 30 and subject:stats().in_flight == 0 and #got >= 30
			end)
			harness.flush(watcher)
			local expected = {}
			for i = 1, 30 do
				expected[i] = tostring(i)
			end
			assert.same(expected, got)
		end)
	end)

	for version_name, version in pairs(VERSIONS) do
		it("gets messages of QoS 1 and 2 by turns, and loses none, " .. version_name, function()
			local total, topic, acknowledged, arrived = 400, harness.topic(), 0, {}
			local witness = harness.connect(client({}))
			harness.subscribe(witness, { topic = topic, qos = 0 })
			witness:on("message", function(message)
				arrived[#arrived + 1] = tonumber(message.payload)
			end)
			local subject = client({ version = version })
			subject:on("connect", function()
				for i = 1, total do
					assert(subject:publish({ topic = topic, payload = tostring(i), qos = 1 + i % 2, callback = function()
						acknowledged = acknowledged + 1
					end }))
				end
			end)
			serve({ subject, witness }, function()
				return acknowledged == total and subject:stats().in_flight == 0
			end)
			harness.flush(witness)
			table.sort(arrived)
			assert.equal(total, #arrived)
			assert.equal(total, arrived[total])
		end)
	end

	for version_name, version in pairs(VERSIONS) do
		it("gets a burst of QoS 1 from a handler, more than the answers that are read meanwhile, " .. version_name, function()
			local total, acknowledged = 25000, 0
			local payload = ("x"):rep(900)
			local subject = client({ version = version })
			subject:on("connect", function()
				local begun = core.now()
				for _ = 1, total do
					assert(subject:publish({ topic = harness.topic(), payload = payload, qos = 1, callback = function()
						acknowledged = acknowledged + 1
					end }))
				end
				-- Nothing waits for a time limit.
				assert.is_true(core.now() - begun < 20)
			end)
			serve({ subject }, function()
				return acknowledged == total
			end)
		end)
	end
end)

describe("the option", function()
	local function failure(opts)
		opts.uri, opts.clean = broker.uri, true
		return (harness.failure(mqtt.client, opts):gsub("^.-:%d+: ", ""))
	end

	it("queue is checked", function()
		assert.equal("expecting queue to be a table", failure({ queue = true }))
		assert.equal("unexpected key in queue: size", failure({ queue = { size = 1 } }))
		assert.equal("expecting queue.max_messages to be a whole number from 1 to 4294967295",
			failure({ queue = { max_messages = 0 } }))
		assert.equal("expecting queue.max_bytes to be a whole number from 1 to 4294967295",
			failure({ queue = { max_bytes = 1.5 } }))
		assert.equal("expecting queue.when_full to be 'reject' or 'drop_oldest'",
			failure({ queue = { when_full = "explode" } }))
	end)

	it("resubscribe, topic_aliases, max_packet_size, server_receive_maximum and ping_timeout are checked", function()
		assert.equal("expecting resubscribe to be a boolean", failure({ resubscribe = 1 }))
		assert.equal("expecting topic_aliases to be a boolean", failure({ topic_aliases = "yes" }))
		assert.equal("expecting max_packet_size to be a whole number of bytes from 16 to 268435460, got: 3",
			failure({ max_packet_size = 3 }))
		for _, number in ipairs({ 0, 1.5, 65536 }) do
			assert.equal("expecting server_receive_maximum to be a whole number from 1 to 65535, got: " .. number,
				failure({ server_receive_maximum = number }))
		end
		assert.equal("expecting ping_timeout to be a positive number of seconds, got: 0", failure({ ping_timeout = 0 }))
	end)
end)
