-- Handlers of topics: which of them a message reaches, in which order, and the subscriptions that they bring along.

local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local packet_type = require("mqtt.protocol").packet_type
local servers = require("spec.support.server")

describe("a handler of a topic", function()
	local server, subject, seen

	-- Answers like a broker that knows no session, and refuses filters that begin with "refused".
	local function answer(self, packet)
		if packet.type == packet_type.CONNECT then
			self:send({ type = packet_type.CONNACK, sp = self.has_session or false, rc = 0 })
		elseif packet.type == packet_type.SUBSCRIBE then
			local refused = packet.subscriptions[1].topic:find("^refused")
			self:send({ type = packet_type.SUBACK, packet_id = packet.packet_id, rc = { refused and 0x87 or 0 } })
		elseif packet.type == packet_type.UNSUBSCRIBE then
			self:send({ type = packet_type.UNSUBACK, packet_id = packet.packet_id, rc = { 0 } })
		end
	end

	-- The filters of the received packets of a type.
	local function filters(ptype)
		local list = {}
		for _, packet in ipairs(server.received) do
			if packet.type == ptype then
				local subscription = packet.subscriptions[1]
				list[#list + 1] = subscription.topic or subscription
			end
		end
		return list
	end

	local function serve(done)
		harness.serve({ subject, server.serve }, done)
	end

	-- Waits until the server has received so many packets of a type, and all that was sent before.
	local function until_received(ptype, count)
		serve(function()
			return server:count(ptype) >= count
		end)
	end

	local function connect()
		subject.first_connect = true
		serve(function()
			return subject.connection and subject.connection.connack
		end)
	end

	-- Has the client answer something that only comes after all that it was to do.
	local function settle()
		local pings = server:count(packet_type.PINGREQ)
		assert(subject:send_pingreq())
		until_received(packet_type.PINGREQ, pings + 1)
	end

	-- Sends messages, and serves the client until their handlers have been called.
	local function send(...)
		local last
		local function note(message)
			last = message.payload == "last"
		end
		subject:on("message", note)
		for _, topic in ipairs({ ... }) do
			server:send({ type = packet_type.PUBLISH, topic = topic, payload = "", qos = 0, retain = false, dup = false })
		end
		server:send({ type = packet_type.PUBLISH, topic = "-", payload = "last", qos = 0, retain = false, dup = false })
		serve(function()
			return last
		end)
		subject:off("message", note)
	end

	-- A handler that notes a name, the topic and what the wildcards stand for.
	local function noting(name)
		return function(message, captures)
			seen[#seen + 1] = name .. ": " .. message.topic .. " (" .. table.concat(captures, ",") .. ")"
		end
	end

	before_each(function()
		seen = {}
		server = servers.start(mqtt.v50, answer)
		subject = harness.client({ uri = server.uri, version = mqtt.v50 })
	end)

	after_each(function()
		harness.cleanup()
		server:stop()
	end)

	it("gets the messages that its filter matches, and what the wildcards stand for", function()
		connect()
		for _, filter in ipairs({ "a/b", "a/+", "+/b", "a/#", "#", "$share/g/+/b", "b/+/c/#", "$SYS/+" }) do
			assert.is_true(subject:on_topic(filter, noting(filter)))
		end
		send("a/b", "a", "b/1/c", "b/1/c/2/3", "$SYS/x", "a/")
		assert.same({
			"a/b: a/b ()", "a/+: a/b (b)", "+/b: a/b (a)", "a/#: a/b (b)", "#: a/b (a/b)", "$share/g/+/b: a/b (a)",
			"a/#: a ()", "#: a (a)",
			"#: b/1/c (b/1/c)", "b/+/c/#: b/1/c (1,)",
			"#: b/1/c/2/3 (b/1/c/2/3)", "b/+/c/#: b/1/c/2/3 (1,2/3)",
			"$SYS/+: $SYS/x (x)",
			"a/+: a/ ()", "a/#: a/ ()", "#: a/ (a/)",
			"#: - (-)",
		}, seen)
	end)

	it("gets named captures of its own, and the client", function()
		connect()
		local got
		subject:on_topic("homes/+/+/#", function(_, captures)
			captures[1] = "spoilt"
		end)
		subject:on_topic({
			topic = "homes/+/+/#",
			keys = { "home", "room" },
			handler = function(_, captures, client)
				got = { captures, client }
			end,
		})
		send("homes/mine/kitchen/light/level")
		assert.same({ "mine", "kitchen", "light/level", home = "mine", room = "kitchen" }, got[1])
		assert.equal(subject, got[2])
	end)

	it("comes after the handlers of the event message, in the order of its addition", function()
		connect()
		subject:on_topic("b/+", noting("first"))
		subject:on_topic("#", noting("second"))
		subject:on_topic("b/+", noting("third"))
		subject:on("message", function(message)
			seen[#seen + 1] = "message: " .. message.topic
		end)
		send("b/1")
		assert.same({ "message: b/1", "first: b/1 (1)", "second: b/1 (b/1)", "third: b/1 (1)", "message: -",
			"second: - (-)" }, seen)
	end)

	it("can be removed", function()
		connect()
		local same = noting("same")
		subject:on_topic("a", same)
		subject:on_topic("a", noting("other"))
		subject:on_topic("a", same)
		assert.is_true(subject:off_topic("a", same))
		send("a")
		assert.same({ "other: a ()", "same: a ()" }, seen)
		assert.is_true(subject:off_topic("a"))
		assert.same({ false, "there is no such handler of a" }, { subject:off_topic("a") })
		assert.same({ false, "there is no such handler of b" }, { subject:off_topic("b", same) })
		send("a")
		assert.equal(2, #seen)
		assert.same({}, subject._topics.handlers)
	end)

	it("is not called after another one has removed it, one that was added not before the next message", function()
		connect()
		local late = noting("late")
		local function changes()
			seen[#seen + 1] = "changes"
			subject:off_topic("a", late)
			subject:on_topic("+", noting("added"))
			subject:off_topic("a")
		end
		subject:on_topic("a", changes)
		subject:on_topic("a", late)
		send("a")
		assert.same({ "changes", "added: - (-)" }, seen)
	end)

	it("raises errors as a handler of message does", function()
		connect()
		subject.opts.auto_ack = true
		local fails = true
		subject:on_topic("a", function()
			if fails then
				error("thrown", 0)
			end
		end)
		subject:on_topic("a", noting("second"))
		local message = { type = packet_type.PUBLISH, topic = "a", payload = "", qos = 1, packet_id = 1, retain = false,
			dup = false }
		server:send(message)
		assert.has_error(function()
			serve(function() end)
		end, "thrown")
		assert.same({ "second: a ()" }, seen)
		settle()
		assert.equal(0, server:count(packet_type.PUBACK))
		fails, message.packet_id = false, 2
		server:send(message)
		until_received(packet_type.PUBACK, 1)
		assert.equal(2, server.received[#server.received].packet_id)
		assert.same({ "second: a ()", "second: a ()" }, seen)
	end)

	it("is given what makes sense", function()
		local function handler() end
		for _, case in ipairs({
			{ "expecting the handler to be a function", "a" },
			{ "expecting the handler to be a function", { topic = "a" } },
			{ "expecting the handler in the table of options", { topic = "a" }, handler },
			{ "expecting topic to be a string, got: nil", nil, handler },
			{ 'topic must have "#" only as its last level, got "#/a"', "#/a", handler },
			{ 'topic must be "$share/NAME/FILTER" to share a subscription, got "$share/a"', "$share/a", handler },
			{ "expecting opts to be a table", "a", handler, true },
			{ "expecting opts.keys to be a table", "a", handler, { keys = "b" } },
			{ "expecting opts.subscribe to be a boolean", "a", handler, { subscribe = 1 } },
			{ "expecting opts.subscribe to be true where there is opts.qos", "a", handler, { qos = 1 } },
			{ "unexpected key in opts: subscrib, did you mean subscribe?", "a", handler, { subscrib = true } },
			{ "expecting valid opts.qos value", "a", handler, { subscribe = true, qos = 3 } },
			{ "expecting opts.callback to be a function", "a", handler, { subscribe = true, callback = 1 } },
			{ 'SUBSCRIBE: no local must not be set on a shared subscription, got "$share/g/a"', "$share/g/a", handler,
				{ subscribe = true, no_local = true } },
		}) do
			harness.blames_caller(case[1], subject.on_topic, subject, case[2], case[3], case[4])
		end
		assert.matches("properties.*colour", harness.failure(subject.on_topic, subject, "a", handler,
			{ subscribe = true, properties = { colour = 1 } }))
		assert.is_nil(subject._topics)
		harness.blames_caller("expecting the topic filter to be a string", subject.off_topic, subject, 1)
		harness.blames_caller("expecting the handler to be a function", subject.off_topic, subject, "a", "b")
	end)

	describe("that subscribes", function()
		it("does so when the client connects, and again when the server has lost that", function()
			subject.opts.reconnect, subject.opts.clean = 0.01, "first"
			local answers = 0
			subject:on_topic("a/+", noting("a"), { subscribe = true, qos = 1, callback = function(suback)
				answers = answers + #suback.rc
			end })
			connect()
			until_received(packet_type.SUBSCRIBE, 1)
			assert.equal(1, server.received[2].subscriptions[1].qos)
			send("a/1")
			assert.same({ "a: a/1 (1)" }, seen)

			server:drop()
			serve(function()
				return answers == 2
			end)
			assert.same({ "a/+", "a/+" }, filters(packet_type.SUBSCRIBE))

			server.has_session = true
			server:drop()
			serve(function()
				return server.accepted == 3 and subject.connection and subject.connection.connack
			end)
			settle()
			assert.equal(2, answers)
			assert.same({ "a/+", "a/+" }, filters(packet_type.SUBSCRIBE))
		end)

		it("leaves that to resubscribe, if that is set", function()
			subject.opts.reconnect, subject.opts.resubscribe = 0.01, true
			local subscribed
			subject:on_topic("a", noting("a"), { subscribe = true, callback = function()
				subscribed = true
			end })
			connect()
			serve(function()
				return subscribed
			end)
			server:drop()
			until_received(packet_type.SUBSCRIBE, 2)
			settle()
			assert.same({ "a", "a" }, filters(packet_type.SUBSCRIBE))
		end)

		it("does so in the order in which that was asked for", function()
			local expected = {}
			for i = 1, 20 do
				expected[i] = "a/" .. i
				subject:on_topic(expected[i], noting("a"), { subscribe = true })
			end
			connect()
			until_received(packet_type.SUBSCRIBE, 20)
			assert.same(expected, filters(packet_type.SUBSCRIBE))
		end)

		it("does so before the handlers of connect are called", function()
			subject:on("connect", function()
				assert(subject:publish({ topic = "b" }))
			end)
			subject:on_topic("a", noting("a"), { subscribe = true })
			connect()
			until_received(packet_type.PUBLISH, 1)
			assert.equal(packet_type.SUBSCRIBE, server.received[2].type)
		end)

		it("does so at once when the client is connected, and unsubscribes with the last one", function()
			connect()
			local first = noting("first")
			assert.is_true(subject:on_topic("a", first, { subscribe = true }))
			assert.is_true(subject:on_topic("a", noting("second")))
			assert.is_true(subject:off_topic("a", first))
			settle()
			assert.same({ "a" }, filters(packet_type.SUBSCRIBE))
			assert.same({}, filters(packet_type.UNSUBSCRIBE))
			assert.is_true(subject:off_topic("a"))
			until_received(packet_type.UNSUBSCRIBE, 1)
			assert.same({ "a" }, filters(packet_type.UNSUBSCRIBE))
		end)

		it("unsubscribes on the next connection, if there is none", function()
			subject.opts.reconnect, subject.opts.clean = 0.01, "first"
			connect()
			subject:on_topic("a", noting("a"), { subscribe = true })
			settle()
			subject:close_connection()
			assert.is_true(subject:off_topic("a"))
			server.has_session = true
			serve(function()
				return server:count(packet_type.UNSUBSCRIBE) == 1
			end)
			assert.same({ "a" }, filters(packet_type.SUBSCRIBE))
			assert.same({ "a" }, filters(packet_type.UNSUBSCRIBE))
		end)

		it("is told by an error event that the server refuses", function()
			local errors = harness.record(subject, { "error" })
			local called
			subject:on_topic("refused/+", noting("a"), { subscribe = true, callback = function(suback)
				called = suback.rc[1]
			end })
			connect()
			serve(function()
				return errors[1]
			end)
			assert.equal(0x87, called)
			assert.equal("no subscription to refused/+: Not authorized", errors[1][2])
			assert.equal(packet_type.SUBACK, errors[1][4].type)
		end)

		it("is not added if the SUBSCRIBE cannot be sent", function()
			server.on_packet = function(self, packet)
				if packet.type == packet_type.CONNECT then
					self:send({ type = packet_type.CONNACK, sp = false, rc = 0,
						properties = { wildcard_subscription_available = 0 } })
				end
			end
			connect()
			local ok, err = subject:on_topic("a/+", noting("a"), { subscribe = true })
			assert.is_false(ok)
			assert.matches("wildcard", err)
			assert.same({}, subject._topics.handlers)
		end)
	end)
end)

describe("handlers of topics", function()
	after_each(harness.cleanup)

	it("do what a broker's subscriptions do", function()
		local topic = harness.topic()
		local subject = harness.client({})
		local got = {}
		for _, tail in ipairs({ "/+", "/#", "/+/b", "/a/b" }) do
			subject:on_topic(topic .. tail, function(message, captures)
				got[#got + 1] = tail .. " " .. message.payload .. " " .. table.concat(captures, ",")
			end, { subscribe = true, qos = 1 })
		end
		local expected, calls = {}, {
			["1"] = { "/# 1 a/b", "/+/b 1 a", "/a/b 1 " },
			["2"] = { "/+ 2 a", "/# 2 a" },
			["3"] = { "/# 3 " },
		}
		subject:on("message", function(message)
			for _, call in ipairs(calls[message.payload]) do
				expected[#expected + 1] = call
			end
		end)
		harness.connect(subject)
		harness.flush(subject)
		assert(subject:publish({ topic = topic .. "/a/b", payload = "1" }))
		assert(subject:publish({ topic = topic .. "/a", payload = "2" }))
		assert(subject:publish({ topic = topic, payload = "3" }))
		harness.serve({ subject }, function()
			return got[#got] == "/# 3 "
		end)
		-- mosquitto 2.0 sends a message that several subscriptions match once, mosquitto 2.1 for each of them.
		assert.same(expected, got)
	end)
end)
