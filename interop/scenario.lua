-- What a broker and this library do together: each feature is tried, and gets a line
--   VERSION|FEATURE|ok, not ok or not supported|WHY
-- "not supported" is what the broker says itself, by a reason code, a property of CONNACK or a lower QoS.
-- usage: scenario.lua VERSION URI [TICKS], where VERSION is 3.1.1 or 5.0, and TICKS is how many twentieths of a second
-- there are before each connection; scripts/interop calls it

local mqtt = require("mqtt")

local version_name, uri, pause = arg[1], arg[2], tonumber(arg[3] or 0)
local version = assert(({ ["3.1.1"] = mqtt.v311, ["5.0"] = mqtt.v50 })[version_name], "expecting version 3.1.1 or 5.0")
local is_v5 = version == mqtt.v50

-- How long anything may take, in seconds.
local PATIENCE = 5
-- How many messages are sent at a time.
local COUNT = 50
local LARGE = 2 ^ 20

local loop = mqtt.get_ioloop()
local ticks = 0

-- The loop is not to wait for long while a condition is looked at.
local function tick()
	ticks = ticks + 1
	return 0.05
end
loop:add(tick)

local unsupported = {}

-- Ends a feature: the broker says that it does not do that.
local function not_supported(text, ...)
	error(setmetatable({ text:format(...) }, unsupported), 0)
end

local function check(value, text, ...)
	return value or error(text:format(...), 0)
end

-- Whether a condition comes true in time.
local function comes(condition)
	local deadline = os.time() + PATIENCE
	while not condition() do
		if os.time() > deadline then
			return false
		end
		loop:iteration()
	end
	return true
end

-- Clients -------------------------------------------------------------------------------------------------------------

local peers = {}
local Peer = {}
Peer.__index = Peer

-- Connects a client, and waits until it is connected. The options are those of `mqtt.client`, and acknowledge = false.
local function open(opts)
	local peer = setmetatable({ messages = {}, unacknowledged = opts.acknowledge == false }, Peer)
	local at = ticks + pause
	comes(function() return ticks >= at end)
	opts.acknowledge = nil
	opts.uri, opts.version = uri, version
	if opts.clean == nil then
		opts.clean = true
	end
	peer.client = mqtt.client(opts)
	peer.client:on {
		connect = function(connack)
			peer.connack = connack
		end,
		error = function(err)
			peer.error = err
		end,
		close = function(connection)
			peer.closed = connection.close_reason
		end,
		message = function(msg)
			table.insert(peer.messages, msg)
			if not peer.unacknowledged then
				peer.client:acknowledge(msg)
			end
		end,
	}
	peers[#peers + 1] = peer
	loop:add(peer.client)
	comes(function() return peer.connack or peer.closed end)
	local connack = peer.connack
	if connack and (connack.rc == 1 or connack.rc == 0x84) then
		not_supported("CONNACK: %s", connack:reason_string())
	end
	check(connack and connack.rc == 0, "not connected: %s",
		connack and connack:reason_string() or peer.error or peer.closed or "no CONNACK")
	return peer
end

function Peer:why()
	return self.error or self.closed or "no answer"
end

-- Subscribes and returns what was granted.
function Peer:subscribe(opts)
	opts.qos = opts.qos or 0
	local suback
	opts.callback = function(packet)
		suback = packet
	end
	check(self.client:subscribe(opts))
	check(comes(function() return suback or self.closed end) and suback, "no SUBACK: %s", self:why())
	check(suback.rc[1] <= 2, "SUBACK: %s", suback:reason_strings()[1])
	return suback.rc[1]
end

function Peer:publish(opts)
	local answers = { wanted = opts.qos and opts.qos > 0 and 1 or 0, got = 0 }
	opts.callback = function(packet)
		answers.got = answers.got + 1
		answers.packet = packet
	end
	local ok, err = self.client:publish(opts)
	check(ok, "publish: %s; %s", err, self:why())
	return answers
end

-- Publishes one message and waits until it is acknowledged.
function Peer:deliver(opts)
	local answers = self:publish(opts)
	check(comes(function() return answers.got >= answers.wanted or self.closed end) and answers.got >= answers.wanted,
		"PUBLISH: %s", self:why())
	return answers.packet
end

-- Waits for so many messages, and returns them.
function Peer:take(count, what)
	check(comes(function() return #self.messages >= count or self.closed end) and #self.messages >= count,
		"%d of %d %s arrived; %s", #self.messages, count, what or "messages", self:why())
	local messages = self.messages
	self.messages = {}
	check(#messages == count, "%d of %d %s arrived", #messages, count, what or "messages")
	return messages
end

-- Waits until the program has been told that the connection has ended.
function Peer:leave(rc, properties)
	if is_v5 then
		self.client:disconnect(rc or 0, properties)
	else
		self.client:disconnect()
	end
	check(comes(function() return self.closed end), "the connection did not end")
end

-- Every feature has its own topics and client identifiers.
local topic

local function id(name)
	return "interop-" .. topic:gsub("[^%w]", "-") .. "-" .. name
end

-- A session that outlives the connection.
local function lasting(name, acknowledge)
	return { id = id(name), clean = false, acknowledge = acknowledge,
		properties = is_v5 and { session_expiry_interval = 60 } or nil }
end

-- A session that ends with the connection, so that nothing is left.
local function ends(name)
	open({ id = id(name), clean = true }):leave()
end

-- The features --------------------------------------------------------------------------------------------------------

local features = {}

local function feature(name, run, only_v5)
	features[#features + 1] = { name = name, run = run, only_v5 = only_v5 }
end

feature("connect, disconnect", function()
	open({ id = id("a") }):leave()
end)

feature("client identifier from the broker", function()
	local peer = open { id = "" }
	if is_v5 then
		check(peer.connack.properties.assigned_client_identifier, "CONNACK has no assigned client identifier")
	end
	peer:leave()
end)

for qos = 0, 2 do
	feature(("QoS %d, %d messages both ways"):format(qos, COUNT), function()
		local a, b = open { id = id("a") }, open { id = id("b") }
		local maximum = a.connack.properties and a.connack.properties.maximum_qos
		if maximum and maximum < qos then
			not_supported("CONNACK: maximum QoS %d", maximum)
		end
		local granted = b:subscribe { topic = topic, qos = qos }
		local answers = {}
		for number = 1, COUNT do
			answers[number] = a:publish { topic = topic, payload = tostring(number), qos = qos }
		end
		local function is_done()
			for _, answer in ipairs(answers) do
				if answer.got < answer.wanted then
					return a.closed
				end
			end
			return true
		end
		check(comes(is_done) and not a.closed, "publishing: %s", a:why())
		if granted < qos then
			not_supported("SUBACK grants QoS %d", granted)
		end
		for number, msg in ipairs(b:take(COUNT)) do
			check(msg.payload == tostring(number) and msg.qos == qos, "message %d is %s", number, tostring(msg))
		end
	end)
end

feature("retained messages", function()
	local a = open { id = id("a") }
	if a.connack.properties and a.connack.properties.retain_available == 0 then
		not_supported("CONNACK: retain is not available")
	end
	a:deliver { topic = topic, payload = "kept", qos = 1, retain = true }
	local b = open { id = id("b") }
	b:subscribe { topic = topic, qos = 1 }
	local msg = b:take(1, "retained messages")[1]
	check(msg.payload == "kept" and msg.retain, "received %s", tostring(msg))
	-- Deleted, and then another message that is not retained.
	a:deliver { topic = topic, qos = 1, retain = true }
	check(b:take(1)[1].payload == nil, "the empty message is not empty")
	local c = open { id = id("c") }
	c:subscribe { topic = topic, qos = 1 }
	a:deliver { topic = topic, payload = "after", qos = 1 }
	msg = c:take(1)[1]
	check(msg.payload == "after" and not msg.retain, "received %s", tostring(msg))
end)

feature("last will", function()
	local b = open { id = id("b") }
	b:subscribe { topic = topic, qos = 1 }
	local will = { topic = topic, payload = "gone", qos = 1 }
	-- A DISCONNECT takes the first one back.
	open({ id = id("a"), will = will }):leave()
	open({ id = id("a"), will = will }).client:close_connection("to have the will sent")
	check(b:take(1, "wills")[1].payload == "gone", "another message arrived")
	open({ id = id("a") }):deliver { topic = topic, payload = "end", qos = 1 }
	check(b:take(1)[1].payload == "end", "another will arrived")
end)

feature("session: subscriptions and messages are kept", function()
	local b = open(lasting("b"))
	check(not b.connack.sp, "session present in a new session")
	b:subscribe { topic = topic, qos = 1 }
	b:leave()
	local a = open { id = id("a") }
	for number = 1, 10 do
		a:deliver { topic = topic, payload = tostring(number), qos = 1 }
	end
	b = open(lasting("b"))
	check(b.connack.sp, "CONNACK without session present")
	for number, msg in ipairs(b:take(10)) do
		check(msg.payload == tostring(number) and msg.qos == 1, "message %d is %s", number, tostring(msg))
	end
	b:leave()
	ends("b")
	check(not open({ id = id("b"), clean = true }).connack.sp, "session present with a clean start")
end)

feature("session: what was not acknowledged comes again", function()
	local b = open(lasting("b", false))
	b:subscribe { topic = topic, qos = 1 }
	open({ id = id("a") }):deliver { topic = topic, payload = "again", qos = 1 }
	check(b:take(1)[1].payload == "again", "another message arrived")
	b.client:close_connection("without PUBACK")
	b = open(lasting("b"))
	check(b.connack.sp, "CONNACK without session present")
	local msg = b:take(1, "unacknowledged messages")[1]
	check(msg.payload == "again", "another message arrived")
	check(msg.dup, "it came again, but without DUP")
	b:leave()
	ends("b")
end)

feature("wildcards", function()
	local a, b = open { id = id("a") }, open { id = id("b") }
	b:subscribe { topic = topic .. "/+/one", qos = 1 }
	b:subscribe { topic = topic .. "/all/#", qos = 1 }
	for _, level in ipairs { "x/one", "x/two", "x/y/one", "all", "all/x/y", "al", "end/one" } do
		a:deliver { topic = topic .. "/" .. level, payload = level, qos = 1 }
	end
	local received = {}
	for i, msg in ipairs(b:take(4)) do
		received[i] = msg.payload
	end
	received = table.concat(received, " ")
	check(received == "x/one all all/x/y end/one", "received %s", received)
end)

feature("a dot in a topic", function()
	local a, b = open { id = id("a") }, open { id = id("b") }
	b:subscribe { topic = topic .. "/1.5", qos = 1 }
	a:deliver { topic = topic .. "/1.5", payload = "x", qos = 1 }
	local got = b:take(1)[1].topic
	check(got == topic .. "/1.5", "the topic comes as %s", got)
end)

feature("unsubscribe", function()
	local a, b = open { id = id("a") }, open { id = id("b") }
	b:subscribe { topic = topic .. "/1", qos = 1 }
	b:subscribe { topic = topic .. "/2", qos = 1 }
	local unsuback
	check(b.client:unsubscribe { topic = topic .. "/1", callback = function(packet) unsuback = packet end })
	check(comes(function() return unsuback or b.closed end) and unsuback, "no UNSUBACK: %s", b:why())
	a:deliver { topic = topic .. "/1", payload = "unwanted", qos = 1 }
	a:deliver { topic = topic .. "/2", payload = "wanted", qos = 1 }
	check(b:take(1)[1].payload == "wanted", "an unsubscribed message arrived")
end)

feature("1 MiB of payload", function()
	local a, b = open { id = id("a") }, open { id = id("b") }
	local maximum = a.connack.properties and a.connack.properties.maximum_packet_size
	if maximum and maximum < LARGE + 100 then
		not_supported("CONNACK: maximum packet size %d", maximum)
	end
	b:subscribe { topic = topic, qos = 1 }
	local payload = ("0123456789abcdef"):rep(LARGE / 16)
	a:deliver { topic = topic, payload = payload, qos = 1 }
	check(b:take(1)[1].payload == payload, "the payload has changed")
end)

feature("keep alive", function()
	local peer = open { id = id("a"), keep_alive = 1 }
	local since = os.time()
	check(not comes(function() return peer.closed or os.time() > since + 3 end) or not peer.closed,
		"the connection ended: %s", peer:why())
end)

feature("shared subscription", function()
	local a, b, c = open { id = id("a") }, open { id = id("b") }, open { id = id("c") }
	local available = a.connack.properties and a.connack.properties.shared_subscription_available
	if available == 0 then
		not_supported("CONNACK: shared subscriptions are not available")
	end
	for _, peer in ipairs { b, c } do
		peer:subscribe { topic = "$share/group/" .. topic, qos = 1 }
	end
	for number = 1, COUNT do
		a:deliver { topic = topic, payload = tostring(number), qos = 1 }
	end
	check(comes(function() return #b.messages + #c.messages >= COUNT end) and #b.messages + #c.messages == COUNT,
		"%d and %d of %d messages arrived", #b.messages, #c.messages, COUNT)
	check(#b.messages > 0 and #c.messages > 0, "one of two got all")
end, true)

feature("properties of messages", function()
	local a, b = open { id = id("a") }, open { id = id("b") }
	b:subscribe { topic = topic, qos = 1 }
	local properties = { payload_format_indicator = 1, content_type = "text/plain", response_topic = topic .. "/answer",
		correlation_data = "\0\1\2", message_expiry_interval = 100 }
	a:deliver { topic = topic, payload = "x", qos = 1, properties = properties,
		user_properties = { { "name", "1" }, { "name", "2" } } }
	local msg = b:take(1)[1]
	for name, value in pairs(properties) do
		local got = msg.properties[name]
		if name == "message_expiry_interval" then
			check(got and got <= value, "%s is %s", name, tostring(got))
		else
			check(got == value, "%s is %s", name, tostring(got))
		end
	end
	local pairs_ = msg.user_properties
	check(#pairs_ == 2 and pairs_[1][2] == "1" and pairs_[2][2] == "2", "the user properties are %d", #pairs_)
end, true)

feature("subscription identifier", function()
	local a, b = open { id = id("a") }, open { id = id("b") }
	if a.connack.properties.subscription_identifiers_available == 0 then
		not_supported("CONNACK: subscription identifiers are not available")
	end
	b:subscribe { topic = topic, qos = 1, properties = { subscription_identifiers = { 7 } } }
	a:deliver { topic = topic, payload = "x", qos = 1 }
	local identifiers = b:take(1)[1].properties.subscription_identifiers
	check(identifiers and identifiers[1] == 7, "the message has none")
end, true)

feature("no local, retain as published", function()
	local a, b = open { id = id("a") }, open { id = id("b") }
	a:subscribe { topic = topic, qos = 1, no_local = true }
	b:subscribe { topic = topic, qos = 1, retain_as_published = true }
	a:deliver { topic = topic, payload = "mine", qos = 1, retain = true }
	b:deliver { topic = topic, payload = "yours", qos = 1 }
	check(b:take(2)[1].retain, "retain is not as published")
	check(a:take(1)[1].payload == "yours", "the client got its own message")
	a:deliver { topic = topic, qos = 1, retain = true }
end, true)

feature("topic alias", function()
	local a, b = open { id = id("a"), topic_aliases = true }, open { id = id("b") }
	if (a.connack.properties.topic_alias_maximum or 0) == 0 then
		not_supported("CONNACK: no topic alias maximum")
	end
	b:subscribe { topic = topic, qos = 1 }
	for number = 1, 3 do
		a:deliver { topic = topic, payload = tostring(number), qos = 1 }
	end
	for _, msg in ipairs(b:take(3)) do
		check(msg.topic == topic, "the topic is %s", msg.topic)
	end
end, true)

-- The course of events ------------------------------------------------------------------------------------------------

local function close_all()
	for _, peer in ipairs(peers) do
		if not peer.closed then
			peer.client:shutdown()
		end
		loop:remove(peer.client)
	end
	peers = {}
end

for number, this in ipairs(features) do
	if is_v5 or not this.only_v5 then
		topic = ("interop/%s/%d"):format(version_name:gsub("%.", "-"), number)
		local ok, err = pcall(this.run)
		local result = ok and "ok" or getmetatable(err) == unsupported and "not supported" or "not ok"
		local why = ok and "" or result == "not ok" and tostring(err) or err[1]
		print(("%s|%s|%s|%s"):format(version_name, this.name, result, (why:gsub("[|\n]", " "))))
		close_all()
		if number == 1 and result ~= "ok" then
			-- Nothing else can be tried.
			break
		end
	end
end
os.exit(0)
