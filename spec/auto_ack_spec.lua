-- `auto_ack`: the library acknowledges what all handlers have dealt with.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local listen = require("spec.support.listen")
local mqtt = require("mqtt")
local packet_type = require("mqtt.protocol").packet_type
local servers = require("spec.support.server")
local socket = require("socket")

local ANSWERS = { packet_type.PUBACK, packet_type.PUBREC }

for name, version in pairs({ ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }) do
	for way, connector in pairs({ ["natively"] = "native", ["on LuaSocket"] = "luasocket" }) do
		describe(("in %s, %s, a message"):format(name, way), function()
			local found, class = pcall(require, "mqtt.connector." .. connector)
			if not found then
				pending("no LuaSocket for this Lua: " .. class:match("[^\n]*"))
				return
			end

			local server

			before_each(function()
				server = servers.start(version)
			end)

			after_each(function()
				harness.cleanup()
				server:stop()
			end)

			local function run(subject, done)
				harness.serve({ subject, server.serve }, done)
			end

			local function connected(opts)
				opts.uri, opts.version, opts.connector, opts.clean = server.uri, version, class, false
				if opts.auto_ack == nil then
					opts.auto_ack = true
				end
				local subject = harness.client(opts)
				run(subject, function()
					return subject.connection and subject.connection.connack
				end)
				return subject
			end

			local function send(qos, packet_id)
				server:send({ type = packet_type.PUBLISH, topic = "t", payload = "p", qos = qos, packet_id = packet_id,
					retain = false, dup = false })
			end

			-- Has the client answer something that only comes after all that it was to acknowledge. Returns the packet
			-- identifiers of its acknowledgements.
			local function acknowledged(subject)
				subject:send_pingreq()
				run(subject, function()
					return server:count(packet_type.PINGREQ) > 0
				end)
				local ids = {}
				for _, packet in ipairs(server.received) do
					if packet.type == ANSWERS[1] or packet.type == ANSWERS[2] then
						assert.equal(0, packet.rc or 0)
						ids[#ids + 1] = packet.packet_id
					end
				end
				return ids
			end

			for qos = 1, 2 do
				it(("of QoS %d is acknowledged once all handlers have returned"):format(qos), function()
					local subject = connected({})
					local calls, early = 0, nil
					local handler = function()
						calls = calls + 1
						server:poll()
						early = early or server:count(ANSWERS[qos]) > 0
					end
					subject:on({ message = handler })
					subject:on({ message = handler })
					send(qos, 7)
					run(subject, function()
						return server:count(ANSWERS[qos]) == 1
					end)
					assert.equal(2, calls)
					assert.is_false(early)
					assert.same({ 7 }, acknowledged(subject))
				end)

				it(("of QoS %d is not acknowledged without that option"):format(qos), function()
					local subject = connected({ auto_ack = false })
					local messages = harness.record(subject, { "message" })
					send(qos, 7)
					run(subject, function()
						return messages[1]
					end)
					assert.same({}, acknowledged(subject))
				end)

				it(("of QoS %d is not acknowledged twice when a handler does so"):format(qos), function()
					local subject = connected({})
					subject:on("message", function(message)
						assert.is_true(subject:acknowledge(message))
					end)
					send(qos, 7)
					send(qos, 8)
					run(subject, function()
						return server:count(ANSWERS[qos]) == 2
					end)
					assert.same({ 7, 8 }, acknowledged(subject))
				end)

				it(("of QoS %d is not acknowledged when a handler throws"):format(qos), function()
					local subject = connected({})
					local thrown
					subject:on("message", function(message)
						if message.packet_id == 7 then
							error("on purpose")
						end
					end)
					send(qos, 7)
					send(qos, 8)
					harness.serve({ server.serve, function()
						local ok, err = pcall(subject.step, subject)
						thrown = thrown or not ok and err
					end }, function()
						return server:count(ANSWERS[qos]) == 1
					end)
					assert.matches("on purpose", thrown)
					assert.same({ 8 }, acknowledged(subject))
				end)

				it(("of QoS %d is acknowledged by what takes the place of the method"):format(qos), function()
					local subject = connected({})
					local acknowledge, seen = subject.acknowledge, nil
					function subject:acknowledge(message, ...)
						seen = message
						return acknowledge(self, message, ...)
					end
					send(qos, 7)
					run(subject, function()
						return server:count(ANSWERS[qos]) == 1
					end)
					assert.equal(7, seen.packet_id)
				end)
			end

			it("of QoS 0 needs none", function()
				local subject = connected({})
				local messages = harness.record(subject, { "message" })
				send(0)
				run(subject, function()
					return messages[1]
				end)
				assert.same({}, acknowledged(subject))
			end)

			-- A client whose handler closes the connection at its first message, and connects again if `at_once`.
			-- Returns it when it has connected again, to a broker that has or has not kept the session.
			local function reconnected(qos, is_session_kept, at_once)
				local subject = connected({ reconnect = 0.01 })
				server.on_packet = function(_, packet)
					if packet.type == packet_type.CONNECT then
						server:send({ type = packet_type.CONNACK, sp = is_session_kept, rc = 0 })
					end
				end
				subject.messages = 0
				subject:on("message", function()
					subject.messages = subject.messages + 1
					if subject.messages == 1 then
						subject:close_connection()
						if at_once then
							assert.is_true(subject:start_connecting())
						end
					end
				end)
				send(qos, 7)
				run(subject, function()
					return server.accepted == 2 and subject.connection and subject.connection.connack
				end)
				assert.same({}, acknowledged(subject))
				return subject
			end

			for moment, at_once in pairs({ ["without a connection"] = false, ["on the next connection"] = true }) do
				it("of QoS 1 is acknowledged when it is repeated, not " .. moment, function()
					local subject = reconnected(1, true, at_once)
					send(1, 7)
					run(subject, function()
						return server:count(packet_type.PUBACK) == 1
					end)
					assert.equal(2, subject.messages)
				end)

				it("of QoS 2 is not handled again when it is repeated, having been handled " .. moment, function()
					local subject = reconnected(2, true, at_once)
					send(2, 7)
					run(subject, function()
						return server:count(packet_type.PUBREC) == 1
					end)
					assert.equal(1, subject.messages)
				end)

				it("of a session that is over is not acknowledged " .. moment, function()
					for qos = 1, 2 do
						local subject = reconnected(qos, false, at_once)
						send(qos, 7)
						run(subject, function()
							return subject.messages == 2
						end)
						run(subject, function()
							return server:count(ANSWERS[qos]) == 1
						end)
						subject:shutdown()
						server:stop()
						server = servers.start(version)
					end
				end)
			end

			it("of QoS 2 is handled again on the next connection when its handler throws, and then no more", function()
				local subject = connected({ reconnect = 0.01 })
				local messages, connections = 0, 0
				server.on_packet = function(_, packet)
					if packet.type == packet_type.CONNECT then
						connections = connections + 1
						server:send({ type = packet_type.CONNACK, sp = true, rc = 0 })
						send(2, 7)
					end
				end
				subject:on("message", function()
					messages = messages + 1
					if messages <= 2 then
						error("not now")
					end
				end)
				send(2, 7)
				for count = 1, 2 do
					assert.error_matches(function()
						run(subject, function()
							return false
						end)
					end, "not now")
					assert.equal(count, messages)
					subject:close_connection()
				end
				run(subject, function()
					return server:count(packet_type.PUBREC) == 1
				end)
				-- The PUBREC seems to be lost.
				subject:close_connection()
				run(subject, function()
					return server:count(packet_type.PUBREC) == 2
				end)
				assert.equal(3, messages)
				assert.equal(3, connections)
			end)

			it("may close the connection in its handler", function()
				local subject = connected({})
				local events = harness.record(subject, { "error", "close" })
				subject:on("message", function()
					subject:disconnect()
				end)
				send(2, 7)
				run(subject, function()
					return server.ended
				end)
				assert.same({ "close" }, harness.names(events))
				assert.equal(0, server:count(packet_type.PUBREC))
			end)
		end)
	end
end

for _, copas_version in ipairs({ 1, 4 }) do
	for _, connector in ipairs({ "native", "copas" }) do
		describe(("under Copas %d, %s, a message"):format(copas_version, connector), function()
			local copas, missing, errors, server

			before_each(function()
				copas, missing, errors = copas_support.load_watched(copas_version)
				package.loaded["mqtt.connector.copas"] = nil
				server = servers.start(mqtt.v50)
			end)

			after_each(function()
				harness.cleanup()
				server:stop()
				copas_support.unload()
				package.loaded["mqtt.connector.copas"] = nil
				assert.same({}, errors)
			end)

			it("is acknowledged when its handler has returned, in the handler's thread", function()
				if not copas then
					pending(missing)
					return
				end
				local subject = harness.client({
					uri = server.uri,
					version = mqtt.v50,
					auto_ack = true,
					connector = require("mqtt.connector." .. connector),
				})
				local listener = listen()
				local _, port = listener:getsockname()
				local ear = assert(socket.connect("127.0.0.1", port))
				local bell = assert(listener:accept())
				ear:settimeout(0)
				local order = {}
				subject:on("message", function(message)
					order[#order + 1] = "begins " .. message.payload
					if message.payload == "1" then
						-- Waits for the acknowledgement of a message of its own; meanwhile the second one comes.
						subject:publish({ topic = "t", qos = 1, callback = function()
							assert(bell:send("x"))
						end })
						assert(copas.receive(ear, 1))
					end
					order[#order + 1] = "ends " .. message.payload
				end)
				function server:on_packet(packet)
					if packet.type == packet_type.PUBLISH then
						-- Once the second message has been acknowledged.
						self.wanted = packet.packet_id
					elseif packet.type == packet_type.PUBACK then
						order[#order + 1] = "acknowledged " .. packet.packet_id
						if packet.packet_id == 12 then
							self:send({ type = packet_type.PUBACK, packet_id = self.wanted, rc = 0 })
						end
					else
						servers.accept(self, packet)
					end
				end
				assert.is_true(require("mqtt.loop").add(subject))
				local deadline, sent = harness.deadline(), false
				repeat
					assert(harness.now() < deadline, "nothing came of it in time")
					copas.step(0.01)
					server:poll()
					if not sent and subject.connection and subject.connection.connack then
						sent = true
						for i = 1, 2 do
							server:send({ type = packet_type.PUBLISH, topic = "t", payload = tostring(i), qos = 1,
								packet_id = 10 + i, retain = false, dup = false })
						end
					end
				until server:count(packet_type.PUBACK) == 2
				listener:close()
				ear:close()
				bell:close()
				assert.same({ "begins 1", "begins 2", "ends 2", "acknowledged 12", "ends 1", "acknowledged 11" }, order)
			end)
		end)
	end
end
