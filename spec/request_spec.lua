-- Requests and responses of MQTT 5.0.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local packet_type = require("mqtt.protocol").packet_type
local servers = require("spec.support.server")

-- Answers each request by its payload, turned round, unless it is silent; acknowledges, unless it is mute; refuses to
-- subscribe to "refused", or to anything. Notes the requests that come before the topic of their response is granted.
local function answer(self, packet)
	local ptype = packet.type
	if ptype == packet_type.CONNECT then
		if not self.has_session then
			self.granted = {}
		end
		self:send({ type = packet_type.CONNACK, sp = self.has_session, rc = 0, properties = self.connack_properties })
	elseif ptype == packet_type.SUBSCRIBE then
		local rc = {}
		for i, subscription in ipairs(packet.subscriptions) do
			local refused = self.refuses or subscription.topic == "refused"
			rc[i] = refused and 0x87 or 1
			self.granted[subscription.topic] = not refused
		end
		self:send({ type = packet_type.SUBACK, packet_id = packet.packet_id, rc = rc })
	elseif ptype == packet_type.PUBREL then
		self:send({ type = packet_type.PUBCOMP, packet_id = packet.packet_id, rc = 0 })
	elseif ptype == packet_type.PUBLISH and packet.qos > 0 and not self.is_mute then
		local refused = packet.topic == "refused"
		self:send({ type = packet.qos == 1 and packet_type.PUBACK or packet_type.PUBREC, packet_id = packet.packet_id,
			rc = refused and 0x87 or 0 })
	end
	local topic = ptype == packet_type.PUBLISH and packet.properties.response_topic
	if topic and not self.granted[topic] then
		table.insert(self.early, packet.payload)
	end
	if topic and packet.topic == "reverse" and not (self.is_silent or self.is_mute) then
		self:send({ type = packet_type.PUBLISH, topic = topic, qos = 1, packet_id = #self.received,
			payload = packet.payload:reverse(), retain = false, dup = false,
			properties = { correlation_data = packet.properties.correlation_data } })
	end
end

-- A server that does so.
local function responding()
	local server = servers.start(mqtt.v50, answer)
	server.has_session, server.granted, server.early = false, {}, {}
	return server
end

-- Has a server take its time to grant topics. Returns two functions: one grants those that were asked for, one says
-- whether there are so many.
local function grant_later(server)
	local held = {}
	function server:on_packet(packet)
		if packet.type == packet_type.SUBSCRIBE then
			held[#held + 1] = packet
		else
			answer(self, packet)
		end
	end
	return function()
		server.on_packet = answer
		for _, packet in ipairs(held) do
			answer(server, packet)
		end
	end, function(count)
		return #held >= count
	end
end

for way, class in pairs({ natively = "native", ["on LuaSocket"] = "luasocket" }) do
	describe("a request, " .. way, function()
		local found, connector = pcall(require, "mqtt.connector." .. class)
		if not found then
			pending("no LuaSocket for this Lua: " .. connector:match("[^\n]*"))
			return
		end

		local server, subject, results

		local function serve(done)
			harness.serve({ subject, server.serve }, done)
		end

		local function connect(opts)
			opts = opts or {}
			opts.uri, opts.version, opts.connector = server.uri, mqtt.v50, connector
			subject = harness.client(opts)
			serve(function()
				return subject.connection and subject.connection.connack
			end)
		end

		local function note(...)
			results[#results + 1] = { ... }
		end

		-- The received packets of a type.
		local function received(ptype)
			local list = {}
			for _, packet in ipairs(server.received) do
				if packet.type == ptype then
					list[#list + 1] = packet
				end
			end
			return list
		end

		before_each(function()
			results = {}
			server = responding()
		end)

		after_each(function()
			local early = server.early
			harness.cleanup()
			server:stop()
			assert.same({}, early)
		end)

		it("does not keep its client, though the broker grants no topic", function()
			connect()
			server.on_packet = function() end
			assert(subject:request({ topic = "reverse", payload = "abc", callback = note }))
			serve(function()
				return server:count(packet_type.SUBSCRIBE) == 1
			end)
			local kept = setmetatable({ subject }, { __mode = "v" })
			subject:shutdown()
			harness.cleanup()
			subject = nil
			for _ = 1, 10 do
				collectgarbage()
			end
			assert.is_nil(kept[1])
		end)

		it("waits for its topic anew if the session is lost while the broker's SUBACK is handled", function()
			connect({ reconnect = 0.01 })
			local function is_back()
				return server:count(packet_type.CONNECT) == 2 and subject.connection and subject.connection.connack
			end
			subject:on("subscribe", function()
				if server:count(packet_type.CONNECT) == 1 then
					server:drop()
					serve(is_back)
				end
			end)
			assert(subject:request({ topic = "reverse", payload = "abc", qos = 1, callback = note }))
			serve(function()
				return results[1]
			end)
			assert.equal("cba", results[1][1].payload)
			assert.equal(2, #received(packet_type.SUBSCRIBE))
		end)

		it("gets its response", function()
			connect()
			local payloads = { a1 = true, b2 = true, c3 = true }
			for payload in pairs(payloads) do
				assert.is_true(subject:request({ topic = "reverse", payload = payload, callback = function(response, err)
					assert.is_nil(err)
					note(payload, response.payload)
				end }))
			end
			serve(function()
				return #results == 3
			end)
			for _, result in ipairs(results) do
				assert.equal(result[1]:reverse(), result[2])
			end
			serve(function()
				return server:count(packet_type.PUBACK) == 3
			end)
			local subscribes, publishes = received(packet_type.SUBSCRIBE), received(packet_type.PUBLISH)
			assert.equal(1, #subscribes)
			local topic = subscribes[1].subscriptions[1].topic
			assert.matches("^responses/%x+$", topic)
			local seen = {}
			for _, publish in ipairs(publishes) do
				assert.equal(topic, publish.properties.response_topic)
				assert.is_nil(seen[publish.properties.correlation_data])
				seen[publish.properties.correlation_data] = true
			end
			assert.same({}, subject._waits.pending)
		end)

		it("waits for it in a coroutine", function()
			connect()
			coroutine.wrap(function()
				note(subject:request({ topic = "reverse", payload = "abc", qos = 1 }))
				note(subject:request({ topic = "silence", timeout = 0.02 }))
			end)()
			serve(function()
				return results[2]
			end)
			assert.equal("cba", results[1][1].payload)
			assert.same({ nil, "timeout" }, results[2])
		end)

		it("does not mind who acknowledges the response", function()
			connect({ auto_ack = true })
			subject:on("message", function(message)
				assert(subject:acknowledge(message))
			end)
			assert(subject:request({ topic = "reverse", payload = "abc", callback = note }))
			serve(function()
				return results[1] and server:count(packet_type.PUBACK) > 0
			end)
			assert.equal("cba", results[1][1].payload)
			subject:send_pingreq()
			serve(function()
				return server:count(packet_type.PINGREQ) == 1
			end)
			assert.equal(1, server:count(packet_type.PUBACK))
		end)

		it("has a response topic below the response information, or one of its own", function()
			server.connack_properties = { response_information = "for/me/" }
			connect()
			for _, topic in ipairs({ false, "mine" }) do
				assert(subject:request({ topic = "reverse", payload = "a", callback = note,
					properties = { response_topic = topic or nil, content_type = "text" } }))
			end
			serve(function()
				return #results == 2
			end)
			local subscribes = received(packet_type.SUBSCRIBE)
			assert.matches("^for/me/%x+$", subscribes[1].subscriptions[1].topic)
			assert.equal("mine", subscribes[2].subscriptions[1].topic)
			assert.equal("text", received(packet_type.PUBLISH)[1].properties.content_type)
		end)

		it("fails when the broker refuses it, or the subscription", function()
			connect()
			subject:request({ topic = "refused", qos = 1, callback = note })
			subject:request({ topic = "a", properties = { response_topic = "refused" }, callback = note })
			serve(function()
				return #results == 2
			end)
			local types = {}
			for _, result in ipairs(results) do
				assert.is_nil(result[1])
				assert.equal("Not authorized", result[2])
				types[result[3].type] = true
			end
			assert.same({ [packet_type.PUBACK] = true, [packet_type.SUBACK] = true }, types)
		end)

		it("waits on over a lost connection", function()
			connect({ reconnect = 0.01 })
			server.is_silent = true
			subject:request({ topic = "reverse", payload = "abc", qos = 1, callback = note })
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			local publish = received(packet_type.PUBLISH)[1]
			server:drop()
			serve(function()
				return server:count(packet_type.SUBSCRIBE) == 2
			end)
			server.is_silent = false
			answer(server, publish)
			serve(function()
				return results[1]
			end)
			assert.equal("cba", results[1][1].payload)
		end)

		-- The server, which has lost the session, takes its time to grant topics on the next connection. Returns how it
		-- grants the given number of them.
		local function lose_session(count)
			server.received = {}
			local grant, has_asked = grant_later(server)
			serve(function()
				return has_asked(count or 1)
			end)
			return grant
		end

		-- Returns when the server has received all that may be sent now.
		local function flush()
			local flushed
			assert(subject:publish({ topic = "t", qos = 1, callback = function()
				flushed = true
			end }))
			serve(function()
				return flushed
			end)
		end

		-- The payloads of the requests that the server has received, in their order, and those of the responses.
		local function exchanged()
			local sent, answered = {}, {}
			for _, packet in ipairs(received(packet_type.PUBLISH)) do
				sent[#sent + 1] = packet.topic == "reverse" and packet.payload or nil
			end
			for i, result in ipairs(results) do
				answered[i] = result[1] and result[1].payload or result[2]
			end
			return sent, answered
		end

		it("does not leave before its topic is granted in this session", function()
			connect({ reconnect = 0.01, queue = {} })
			assert(subject:request({ topic = "reverse", payload = "ab", callback = note }))
			serve(function()
				return #results == 1
			end)
			server.is_silent = true
			assert(subject:request({ topic = "reverse", payload = "cd", qos = 1, callback = note }))
			serve(function()
				return subject:stats().in_flight == 0
			end)
			server:drop()
			serve(function()
				return not subject.connection
			end)
			server.is_silent = false
			assert(subject:request({ topic = "reverse", payload = "ef", qos = 1, callback = note }))
			local grant = lose_session()
			assert(subject:request({ topic = "reverse", payload = "gh", callback = note }))
			flush()
			assert.same({}, (exchanged()))
			grant()
			serve(function()
				return #results == 4
			end)
			local sent, answered = exchanged()
			assert.same({ "cd", "ef", "gh" }, sent)
			assert.same({ "ba", "dc", "fe", "hg" }, answered)
		end)

		for name, resubscribe in pairs({ ["with resubscribe"] = true, ["without resubscribe"] = false }) do
			describe(name, function()
				-- Has a request answered, so that the topic is granted, and makes others of which the server takes no notice, so
				-- many of them that are sent. Then the connection is lost.
				local function interrupt(requests, sent)
					connect({ reconnect = 0.01, resubscribe = resubscribe })
					assert(subject:request({ topic = "reverse", payload = "00", callback = note }))
					serve(function()
						return #results == 1
					end)
					results, server.is_mute = {}, true
					for _, request in ipairs(requests) do
						request.topic, request.callback = "reverse", note
						assert(subject:request(request))
					end
					local before = 1
					serve(function()
						return server:count(packet_type.PUBLISH) == before + sent
					end)
					server:drop()
					server.is_mute = false
				end

				it("is not repeated before its topic is granted in this session", function()
					interrupt({
						{ payload = "ab", qos = 1 },
						{ payload = "cd", qos = 2 },
					}, 2)
					local grant = lose_session()
					flush()
					assert.same({}, (exchanged()))
					grant()
					serve(function()
						return #results == 2
					end)
					flush()
					local sent, answered = exchanged()
					assert.same({ "ab", "cd" }, sent)
					assert.same({ "ba", "dc" }, answered)
					for _, packet in ipairs(received(packet_type.PUBLISH)) do
						assert.is_false(packet.dup)
					end
					assert.same({}, subject._waits.pending)
					assert.same({}, subject._callbacks)
				end)

				it("is not sent before that when it has waited for the receive maximum", function()
					server.connack_properties = { receive_maximum = 1 }
					interrupt({
						{ payload = "ab", qos = 1 },
						{ payload = "cd", qos = 2 },
						{ payload = "ef" },
						{ payload = "gh", qos = 1 },
					}, 1)
					local grant = lose_session()
					flush()
					assert.same({}, (exchanged()))
					assert.equal(0, subject:stats().queued_bytes)
					grant()
					serve(function()
						return #results == 4
					end)
					local sent, answered = exchanged()
					assert.same({ "ab", "cd", "ef", "gh" }, sent)
					assert.same({ "ba", "dc", "fe", "hg" }, answered)
				end)

				it("is not sent once more when it is done and of QoS 0 or 2", function()
					interrupt({ { payload = "ab", qos = 1 } }, 1)
					serve(function()
						return results[1]
					end)
					results, server.received, server.is_silent = {}, {}, true
					for qos = 0, 2 do
						assert(subject:request({ topic = "reverse", payload = "q" .. qos, qos = qos, callback = note }))
					end
					flush()
					serve(function()
						return subject:stats().in_flight == 0
					end)
					server:drop()
					server.is_silent = false
					lose_session()()
					serve(function()
						return #results == 1
					end)
					flush()
					local sent, answered = exchanged()
					assert.same({ "q1" }, sent)
					assert.same({ "1q" }, answered)
				end)

				it("is not sent any more when it has timed out meanwhile", function()
					interrupt({ { payload = "ab", qos = 1, timeout = 0.05 } }, 1)
					local grant = lose_session()
					serve(function()
						return results[1]
					end)
					grant()
					flush()
					assert.same({}, (exchanged()))
					assert.same({ { nil, "timeout" } }, results)
				end)

				it("fails when its topic is refused in the next session", function()
					interrupt({ { payload = "ab", qos = 1 } }, 1)
					server.refuses = true
					server.received = {}
					serve(function()
						return results[1]
					end)
					assert.equal("Not authorized", results[1][2])
					flush()
					assert.same({}, (exchanged()))
					-- The next one tries again.
					server.refuses = false
					assert(subject:request({ topic = "reverse", payload = "cd", callback = note }))
					serve(function()
						return results[2]
					end)
					assert.equal("dc", results[2][1].payload)
				end)
			end)
		end

		it("of another topic than others is not repeated before that is granted", function()
			connect({ reconnect = 0.01 })
			server.is_mute = true
			for topic, payload in pairs({ mine = "ab", yours = "cd" }) do
				assert(subject:request({ topic = "reverse", payload = payload, qos = 1, callback = note,
					properties = { response_topic = topic } }))
			end
			serve(function()
				return server:count(packet_type.PUBLISH) == 2
			end)
			server:drop()
			server.is_mute = false
			local grant = lose_session(2)
			flush()
			assert.same({}, (exchanged()))
			grant()
			serve(function()
				return #results == 2
			end)
			local sent = exchanged()
			table.sort(sent)
			assert.same({ "ab", "cd" }, sent)
		end)

		it("is repeated at once in a session that goes on", function()
			connect({ reconnect = 0.01, clean = "first", properties = { session_expiry_interval = 60 } })
			server.is_mute = true
			assert(subject:request({ topic = "reverse", payload = "ab", qos = 1, callback = note }))
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			server.is_mute, server.has_session = false, true
			server:drop()
			serve(function()
				return results[1]
			end)
			local publishes = received(packet_type.PUBLISH)
			assert.is_true(publishes[2].dup)
			assert.equal(2, #publishes)
			assert.equal(1, server:count(packet_type.SUBSCRIBE))
		end)

		it("waits on when the connection is lost as its topic is granted", function()
			connect({ reconnect = 0.01 })
			local grant, has_asked = grant_later(server)
			assert(subject:request({ topic = "reverse", payload = "ab", qos = 1, callback = note }))
			serve(function()
				return has_asked(1)
			end)
			-- Both are there before the client looks.
			grant()
			server:drop()
			serve(function()
				return results[1]
			end)
			assert.same({ "ba" }, select(2, exchanged()))
		end)

		it("made before there is a connection has a topic below the response information", function()
			server.connack_properties = { response_information = "here" }
			subject = harness.client({ uri = server.uri, version = mqtt.v50, connector = connector, queue = {} })
			assert(subject:request({ topic = "reverse", payload = "ab", callback = note }))
			serve(function()
				return results[1]
			end)
			assert.matches("^here/", results[1][1].topic)
			assert.equal(1, server:count(packet_type.SUBSCRIBE))
		end)

		it("moves to another topic with the response information", function()
			server.connack_properties = { response_information = "here" }
			connect({ reconnect = 0.01, queue = {} })
			server.is_silent = true
			assert(subject:request({ topic = "reverse", payload = "ab", qos = 1, callback = note }))
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			server.is_silent = false
			server:drop()
			server.connack_properties = { response_information = "there" }
			serve(function()
				return #results == 1
			end)
			assert.equal("ba", results[1][1].payload)
			assert.matches("^there/", results[1][1].topic)
		end)

		it("that was sent gets its response at the topic of then, in a session that goes on", function()
			server.connack_properties = { response_information = "here" }
			connect({ reconnect = 0.01, clean = "first", properties = { session_expiry_interval = 60 } })
			server.is_silent = true
			assert(subject:request({ topic = "reverse", payload = "ab", qos = 1, callback = note }))
			serve(function()
				return subject:stats().messages_sent == 1 and subject:stats().in_flight == 0
			end)
			local request = received(packet_type.PUBLISH)[1]
			server.is_silent, server.has_session = false, true
			server.connack_properties = { response_information = "there" }
			server:drop()
			serve(function()
				return server.accepted == 2 and subject.connection and subject.connection.connack
			end)
			assert(subject:request({ topic = "reverse", payload = "cd", callback = note }))
			serve(function()
				return results[1]
			end)
			assert.matches("^there/", results[1][1].topic)
			answer(server, request)
			serve(function()
				return results[2]
			end)
			assert.equal("ba", results[2][1].payload)
			assert.equal(0, server:count(packet_type.UNSUBSCRIBE))
			-- What is not used any more is not subscribed to again.
			server.has_session, server.received = false, {}
			server:drop()
			serve(function()
				return server:count(packet_type.SUBSCRIBE) > 0
			end)
			flush()
			local subscribes = received(packet_type.SUBSCRIBE)
			assert.equal(1, #subscribes)
			assert.matches("^there/", subscribes[1].subscriptions[1].topic)
		end)

		it("that waits fails when the response information becomes no topic", function()
			connect({ reconnect = 0.01 })
			server.is_mute = true
			assert(subject:request({ topic = "reverse", payload = "ab", qos = 2, callback = note }))
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			server.connack_properties = { response_information = "a/+" }
			server:drop()
			serve(function()
				return results[1]
			end)
			assert.matches("^the broker's response information is of no use: ", results[1][2])
			assert.equal(1, server:count(packet_type.PUBLISH))
		end)

		it("fails where the response information is no topic", function()
			server.connack_properties = { response_information = "a/+/#" }
			connect()
			local ok, err = subject:request({ topic = "reverse", callback = note })
			assert.is_nil(ok)
			assert.matches("^the broker's response information is of no use: ", err)
		end)

		it("leaves the program's handlers alone when its topic is refused", function()
			connect()
			local seen = {}
			subject:on_topic("refused", function(message)
				seen[#seen + 1] = message.payload
			end)
			subject:request({ topic = "a", properties = { response_topic = "refused" }, callback = note })
			serve(function()
				return #results == 1
			end)
			server:send({ type = packet_type.PUBLISH, topic = "refused", payload = "still", qos = 0 })
			serve(function()
				return seen[1]
			end)
		end)

		it("fails at once when the broker does not take the subscription to its topic", function()
			server.connack_properties = { maximum_packet_size = 40 }
			subject = harness.client({ uri = server.uri, version = mqtt.v50, connector = connector })
			subject:on("error", function(message)
				results.event = message
			end)
			assert(subject:start_connecting())
			assert(subject:request({ topic = "reverse", callback = note }))
			serve(function()
				return results[1]
			end)
			assert.is_nil(results[1][1])
			assert.matches("the server accepts packets of at most 40 bytes", results[1][2], 1, true)
			assert.matches("the server accepts packets of at most 40 bytes", results.event, 1, true)
		end)

		it("is told of that after the connect event, and no message comes before it", function()
			server.connack_properties = { maximum_packet_size = 40 }
			function server:on_packet(packet)
				answer(self, packet)
				if packet.type == packet_type.CONNECT then
					self:send({ type = packet_type.PUBLISH, topic = "t", payload = "", qos = 0 })
				end
			end
			subject = harness.client({ uri = server.uri, version = mqtt.v50, connector = connector })
			local names = {}
			-- Each serves the client once more.
			local function note_event(name)
				return function()
					names[#names + 1] = name
					if #names < 10 then
						subject:step()
					end
				end
			end
			for _, name in ipairs({ "connect", "error", "message" }) do
				subject:on(name, note_event(name))
			end
			assert(subject:start_connecting())
			assert(subject:request({ topic = "reverse", callback = note_event("callback") }))
			serve(function()
				return names[4]
			end)
			assert.equal("connect", names[1])
			table.sort(names)
			assert.same({ "callback", "connect", "error", "message" }, names)
		end)

		it("waits for the next connection when the broker has ended this one as it accepted", function()
			local count = 0
			function server:on_packet(packet)
				if packet.type ~= packet_type.CONNECT or count > 0 then
					return answer(self, packet)
				end
				count = count + 1
				answer(self, packet)
				self:send({ type = packet_type.DISCONNECT, rc = 0x8B })
			end
			subject = harness.client({ uri = server.uri, version = mqtt.v50, connector = connector, reconnect = 0.01 })
			assert(subject:start_connecting())
			assert(subject:request({ topic = "reverse", payload = "ab", callback = note }))
			serve(function()
				return results[1]
			end)
			assert.equal("ba", results[1][1] and results[1][1].payload or results[1][2])
		end)

		it("fails at once when the next broker does not take the subscription that is under way", function()
			connect({ reconnect = 0.01 })
			local _, has_asked = grant_later(server)
			assert(subject:request({ topic = "reverse", payload = "ab", callback = note }))
			serve(function()
				return has_asked(1)
			end)
			server.connack_properties = { maximum_packet_size = 40 }
			server:drop()
			serve(function()
				return results[1]
			end)
			assert.is_nil(results[1][1])
			assert.matches("the server accepts packets of at most 40 bytes", results[1][2], 1, true)
			-- The next one tries again.
			server.connack_properties, server.on_packet = nil, answer
			server:drop()
			serve(function()
				return server.accepted == 3 and subject.connection and subject.connection.connack
			end)
			assert(subject:request({ topic = "reverse", payload = "cd", callback = note }))
			serve(function()
				return results[2]
			end)
			assert.equal("dc", results[2][1].payload)
		end)

		it("fails when there will be no other connection, and at disconnect", function()
			for _, ending in ipairs({ "drop", "disconnect" }) do
				results = {}
				connect({ reconnect = ending == "disconnect" and 10 or false })
				server.is_silent = true
				subject:request({ topic = "reverse", payload = "abc", callback = note })
				local count = server:count(packet_type.PUBLISH)
				serve(function()
					return server:count(packet_type.PUBLISH) > count
				end)
				if ending == "drop" then
					server:drop()
					harness.serve_to_end(subject)
					assert.same({ { nil, "connection closed by broker" } }, results)
				else
					subject:disconnect()
					assert.same({ { nil, "connection closed by client" } }, results)
				end
			end
			subject:shutdown()
			assert.same({ nil, "network connection is not opened" }, { subject:request({ topic = "a", callback = note }) })
		end)

		it("ends after its timeout, each at its time, in a loop that polls", function()
			connect()
			local start = harness.now()
			for _, timeout in ipairs({ 0.09, 0.03, 0.06 }) do
				subject:request({ topic = "silence", timeout = timeout, callback = function(response, err)
					note(response, err, timeout, harness.now() - start)
				end })
			end
			while #results < 3 do
				assert(harness.now() < start + 10)
				server:poll()
				subject:step()
			end
			for i, timeout in ipairs({ 0.03, 0.06, 0.09 }) do
				assert.is_nil(results[i][1])
				assert.equal("timeout", results[i][2])
				assert.equal(timeout, results[i][3])
				assert.is_true(results[i][4] >= timeout)
			end
		end)

		it("does not keep a loop from sleeping", function()
			if class ~= "native" then
				return -- is polled anyhow
			end
			connect()
			subject:request({ topic = "silence", timeout = 0.1, callback = note })
			serve(function()
				return server:count(packet_type.PUBLISH) == 1
			end)
			local loop = require("mqtt.ioloop").create({ sleep_max = 0.4 })
			local rounds = 0
			loop:add(subject)
			repeat
				loop:iteration()
				rounds = rounds + 1
			until results[1]
			loop:remove(subject)
			assert.is_true(rounds < 8, rounds)
		end)

		it("blames its caller", function()
			connect()
			for _, case in ipairs({
				{ "expecting opts to be a table" },
				{ "expecting opts.topic to be a string", {} },
				{ "expecting opts.payload to be a string, got a number: use tostring", { topic = "a", payload = 1 } },
				{ "expecting opts.callback to be a function", { topic = "a", callback = 1 } },
				{ "expecting opts.timeout to be a number of seconds above 0, got: -1", { topic = "a", timeout = -1 } },
				{ "expecting opts.properties to be a table", { topic = "a", properties = 1 } },
				{ "expecting no opts.properties.correlation_data, which is given by the library",
					{ topic = "a", properties = { correlation_data = "x" } } },
			}) do
				harness.blames_caller(case[1], subject.request, subject, case[2])
			end
			assert.matches("wildcards", harness.failure(subject.request, subject, { topic = "a",
				properties = { response_topic = "a/+" } }))
			harness.blames_caller("expecting request to be a publish packet", subject.respond, subject, "a", {})
			harness.blames_caller("expecting opts to be a table", subject.respond, subject, { topic = "a" })
			-- Also for what the broker would see first when the topic has been granted.
			for _, case in ipairs({
				{ "PUBLISH: DUP must not be set with QoS 0", { topic = "a", dup = true } },
				{ "expecting .packet_id to be an integer from 1 to 65535, got: 0", { topic = "a", packet_id = 0 } },
				{ "expecting .packet_id to be an integer from 1 to 65535, got: 0", { topic = "a", qos = 1, packet_id = 0 } },
				{ "PUBLISH: a client must not send subscription_identifiers",
					{ topic = "a", properties = { subscription_identifiers = { 1 } } } },
			}) do
				case[2].callback = note
				harness.blames_caller(case[1], subject.request, subject, case[2])
			end
			assert.same({}, results)
			local old = harness.client({ connector = connector })
			harness.blames_caller("allowed only in MQTT v5.0 protocol", old.request, old, { topic = "a" })
			harness.blames_caller("allowed only in MQTT v5.0 protocol", old.respond, old, { topic = "a" }, {})
		end)

		it("is sent as it was made, whatever becomes of its table while it waits", function()
			connect()
			local opts = { topic = "reverse", properties = { content_type = "a" }, user_properties = { a = "b" } }
			opts.payload, opts.callback = "abc", note
			assert(subject:request(opts))
			opts.payload, opts.properties.content_type, opts.user_properties.a = "xyz", "x", 1
			serve(function()
				return results[1]
			end)
			assert.equal("cba", results[1][1].payload)
			local sent = received(packet_type.PUBLISH)[1]
			assert.equal("a", sent.properties.content_type)
			assert.equal("b", sent.user_properties.a)
		end)

		it("is not answered where it wants no response", function()
			connect()
			assert.same({ false, "the message wants no response" }, { subject:respond({ topic = "a" }, {}) })
			local ok, err = subject:respond({ topic = "a", properties = { response_topic = "#" } }, {})
			assert.is_false(ok)
			assert.matches("^the message has a response topic of no use: ", err)
		end)
	end)
end

-- In threads that wait, natively and by the connector of Copas.
for _, version in ipairs({ 1, 4 }) do
	for _, class in ipairs({ "native", "copas" }) do
		it("requests in threads of Copas " .. version .. ", " .. class .. ", wait for their topic in each session", function()
			local copas, missing, errors = copas_support.load_watched(version)
			local server = responding()
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
			local subject = harness.client({ uri = server.uri, version = mqtt.v50, reconnect = 0.01,
				connector = require("mqtt.connector." .. class) })
			require("mqtt.loop").add(subject)
			local results = {}
			local function request(payload, qos)
				copas.addthread(function()
					assert(subject:await("connect"))
					local response, err = subject:request({ topic = "reverse", payload = payload, qos = qos })
					results[payload] = response and response.payload or err
				end)
			end
			local function run(done)
				local deadline = harness.deadline()
				while not done() do
					assert.same({}, errors)
					assert(harness.now() < deadline, "nothing came of it in time")
					server:poll()
					copas.step(0.002)
				end
			end
			request("00")
			run(function()
				return results["00"]
			end)
			server.is_mute = true
			request("ab", 1)
			request("cd", 2)
			run(function()
				return server:count(packet_type.PUBLISH) == 3
			end)
			local grant, has_asked = grant_later(server)
			server:drop()
			server.received, server.is_mute = {}, false
			subject:on("connect", function()
				request("ef", 1)
			end)
			run(function()
				return has_asked(1) and subject.connection and subject.connection.connack
			end)
			request("gh")
			local flushed
			copas.addthread(function()
				subject:await("publish", { topic = "t", qos = 1 })
				flushed = true
			end)
			run(function()
				return flushed
			end)
			assert.equal(1, server:count(packet_type.PUBLISH))
			grant()
			run(function()
				return results.ab and results.cd and results.ef and results.gh
			end)
			assert.same({ ["00"] = "00", ab = "ba", cd = "dc", ef = "fe", gh = "hg" }, results)
			assert.equal(5, server:count(packet_type.PUBLISH))
			assert.same({}, server.early)
		end)
	end
end

for way, reconnect in pairs({ ["that ends"] = false, ["that connects again"] = 0.01 }) do
	it("a request that a client " .. way .. " cannot send is refused, or its callback is told", function()
		local found, luasocket = pcall(require, "mqtt.connector.luasocket")
		if not found then
			return pending("no LuaSocket for this Lua: " .. luasocket:match("[^\n]*"))
		end
		local server, class = responding(), setmetatable({ super = luasocket }, luasocket)
		class.__index = class
		local failure
		function class.send(...)
			if failure then
				return false, failure
			end
			return luasocket.send(...)
		end
		finally(function()
			harness.cleanup()
			server:stop()
		end)
		local subject = harness.client({ uri = server.uri, version = mqtt.v50, reconnect = reconnect, connector = class })
		local responses, told = {}, {}
		local function serve(done)
			harness.serve({ subject, server.serve }, done)
		end
		serve(function()
			return subject.connection and subject.connection.connack
		end)
		assert(subject:request({ topic = "reverse", payload = "ab", callback = function(response)
			responses[1] = response
		end }))
		serve(function()
			return responses[1]
		end)
		failure = "out of order"
		local ok, err = subject:request({ topic = "reverse", payload = "cd", callback = function(_, reason)
			told[#told + 1] = reason
		end })
		failure = nil
		subject:shutdown()
		if ok then
			err = told[1]
		end
		assert.equal(ok and 1 or 0, #told)
		assert.matches("out of order", err, 1, true)
	end)
end

-- A client that answers requests by its payload, turned round.
local function responder(topic)
	local client = harness.client({ version = mqtt.v50 })
	client:on_topic(topic, function(message)
		assert(client:respond(message, { payload = message.payload:reverse(), user_properties = { by = "me" } }))
		client:acknowledge(message)
	end, { subscribe = true, qos = 1 })
	harness.connect(client)
	harness.flush(client)
	return client
end

describe("requests through a broker", function()
	after_each(harness.cleanup)

	it("are answered", function()
		local topic = harness.topic()
		local other = responder(topic)
		local subject = harness.client({ version = mqtt.v50 })
		local responses = {}
		for i = 1, 20 do
			coroutine.wrap(function()
				assert(subject:await("connect"))
				local response = assert(subject:request({ topic = topic, payload = "no " .. i, qos = i % 2 }))
				responses[#responses + 1] = response.payload .. response.qos .. response.user_properties.by
			end)()
		end
		harness.serve({ other, subject }, function()
			return #responses == 20
		end)
		table.sort(responses)
		assert.equal("01 on0me", responses[1])
		assert.equal("91 on1me", responses[20])
	end)

	for _, version in ipairs({ 1, 4 }) do
		it("wait in threads of Copas " .. version, function()
			local copas, missing, errors = copas_support.load_watched(version)
			finally(copas_support.unload)
			if not copas then
				return pending(missing)
			end
			local topic = harness.topic()
			local other = responder(topic)
			local subject = harness.client({ version = mqtt.v50 })
			local add = require("mqtt.loop").add
			add(other)
			add(subject)
			local answered, late
			copas.addthread(function()
				assert(subject:await("connect"))
				answered = assert(subject:request({ topic = topic, payload = "abc", qos = 1 }))
				late = { subject:request({ topic = harness.topic(), timeout = 0.05 }) }
			end)
			local deadline = harness.deadline()
			while not late and not errors[1] do
				assert(harness.now() < deadline, "nothing came of it in time")
				copas.step(0.05)
			end
			assert.same({}, errors)
			assert.equal("cba", answered.payload)
			assert.equal("timeout", late[2])
		end)
	end
end)
