-- One run of the soak: two clients send each other numbered messages of QoS 1 and 2 over a broker with persistent
-- sessions, one of them through the fault proxy. Says what was lost, repeated or out of order, and fails if anything
-- was that must not be.
-- usage: scripts/soak, which starts broker and proxy, and to which the lines "save" and "restart SIGNAL" are commands
-- settings, as NAME=VALUE:
--   version          3.1.1 or 5.0
--   messages         how many of each QoS go each way
--   uri, direct      the broker through the proxy, and without
--   queue            1: the clients publish without a connection too
--   connector        the module that the client under test connects with, its own connection unless given
--   faults, cuts     the file with the proxy's events, and how many cuts there must be
--   restarts, signal how often the broker is ended, and how: TERM or KILL
--   ends             the file with a line for each of that: when it had saved last, when it ended, in seconds
--   seed             what is drawn from here

local mqtt = require("mqtt")
local socket = require("socket")

-- How many messages each client has under way.
local WINDOW = 200
-- How many messages a stream may be ahead of the slowest one: the cuts hit all of them.
local AHEAD = 500
-- How soon a lost connection is opened again, in seconds.
local RECONNECT = 0.05
-- After how many seconds without any progress the run is given up.
local PATIENCE = 15
-- How long after a PUBREC the broker may send its PUBCOMP, which is not seen here, in seconds.
local UNTIL_PUBCOMP = 0.2
-- Above this mosquitto does not keep messages in order.
local RECEIVE_MAXIMUM = 10000
-- At most so many messages are acknowledged between a save of the broker and its being killed.
local UNSAVED = 300

local settings = {}
for _, argument in ipairs(arg) do
	local name, value = argument:match("^(%w+)=(.*)$")
	settings[name] = tonumber(value) or value
end
local version = assert(({ ["3.1.1"] = mqtt.v311, [5] = mqtt.v50 })[settings.version], "expecting version 3.1.1 or 5.0")
local messages = settings.messages
local restarts = settings.restarts or 0

io.stdout:setvbuf("line")
math.randomseed(settings.seed)

local started
local problems = {}

local function problem(text, ...)
	problems[#problems + 1] = text:format(...)
end

-- Streams of messages -------------------------------------------------------------------------------------------------

-- A message is its number and some bytes, so that the packets have many lengths.
local function payload(number)
	return number .. ":" .. ("."):rep(number * 37 % 64)
end

-- A broker that was killed has forgotten which packet identifiers it had used: it takes them again for other messages,
-- which the receiver must take for repeated ones of QoS 2 [MQTT-4.3.3-10]. Only at QoS 1 a message then arrives.
local function subscribed_qos(stream)
	return settings.signal == "KILL" and 1 or stream.qos
end

local streams, by_topic = {}, {}

local function new_stream(direction, qos)
	local stream = {
		name = direction .. " QoS " .. qos,
		topic = ("soak/%s/%d"):format(direction, qos),
		qos = qos,
		-- What has been accepted by `publish` and is to be; numbers after those of the messages mark the end.
		published = 0,
		goal = 0,
		acknowledged = 0,
		-- When each message was acknowledged, and whether it was received.
		acknowledged_at = {},
		has_received = {},
		received = 0,
		highest = 0,
		-- The numbers of messages received again, and out of order.
		repeated = {},
		disordered = {},
		subscribed = false,
	}
	streams[#streams + 1] = stream
	by_topic[stream.topic] = stream
	return stream
end

local function sum(field, of)
	local total = 0
	for _, stream in ipairs(of or streams) do
		total = total + stream[field]
	end
	return total
end

local function slowest()
	local least = math.huge
	for _, stream in ipairs(streams) do
		least = math.min(least, stream.acknowledged)
	end
	return least
end

local function all(test)
	for _, stream in ipairs(streams) do
		if not test(stream) then
			return false
		end
	end
	return true
end

local function acknowledged(stream, number, ack)
	if stream.acknowledged_at[number] then
		problem("%s: the callback of %d was called again", stream.name, number)
	elseif (ack.rc or 0) ~= 0 then
		problem("%s: %d was acknowledged with %s", stream.name, number, tostring(ack))
	end
	stream.acknowledged_at[number] = socket.gettime()
	stream.acknowledged = stream.acknowledged + 1
end

local function received(stream, msg)
	local number = tonumber(msg.payload:match("^%d+"))
	if msg.payload ~= payload(number) or msg.qos ~= subscribed_qos(stream) then
		problem("%s: received %s", stream.name, tostring(msg))
	elseif stream.has_received[number] then
		stream.repeated[#stream.repeated + 1] = number
		return
	end
	stream.has_received[number] = true
	stream.received = stream.received + 1
	if number < stream.highest then
		stream.disordered[#stream.disordered + 1] = number
	end
	stream.highest = math.max(stream.highest, number)
end

-- The clients ---------------------------------------------------------------------------------------------------------

local clients = {}
local pump_all
local restarted = 0
local phase = "subscribe"
local advance

-- Publishes as much as may be under way, of each stream in turn.
local function pump(peer)
	local more = true
	while more do
		more = false
		for _, stream in ipairs(peer.publishes) do
			local number = stream.published + 1
			local under_way = sum("published", peer.publishes) - sum("acknowledged", peer.publishes)
			if under_way < WINDOW and number <= math.min(stream.goal, slowest() + AHEAD) then
				local ok = peer.client:publish {
					topic = stream.topic,
					payload = payload(number),
					qos = stream.qos,
					callback = function(ack)
						acknowledged(stream, number, ack)
						advance()
						pump_all()
					end,
				}
				-- Else there is no connection, and the next one starts this again.
				if ok then
					stream.published = number
					more = true
				end
			end
		end
	end
end

function pump_all()
	for _, peer in ipairs(clients) do
		pump(peer)
	end
end

local function new_peer(name, uri, connector)
	local peer = {
		name = name,
		publishes = {},
		receives = {},
		connected = false,
		connected_at = {},
		-- Whether a connection has ended before its CONNACK: the client does not trust the session of the next one.
		is_in_doubt = false,
		acknowledge_events = 0,
	}
	peer.client = mqtt.client {
		uri = uri,
		id = "soak-" .. name,
		version = version,
		clean = false,
		reconnect = RECONNECT,
		connector = connector and require(connector),
		queue = settings.queue and {},
		properties = version == mqtt.v50 and { session_expiry_interval = 3600, receive_maximum = RECEIVE_MAXIMUM } or nil,
	}
	peer.client:on {
		error = function(err)
			if not (peer.connected or err:find("failed to open network connection", 1, true)) then
				peer.is_in_doubt = true
			end
		end,
		connect = function(connack)
			if connack.rc ~= 0 then
				return
			elseif #peer.connected_at > 0 and not connack.sp and not peer.is_in_doubt then
				problem("the broker has lost the session of the %s", name)
			end
			peer.connected_at[#peer.connected_at + 1] = socket.gettime()
			peer.connected = true
			peer.is_in_doubt = false
			if #peer.connected_at == 1 or not connack.sp then
				for _, stream in ipairs(peer.receives) do
					peer.client:subscribe {
						topic = stream.topic,
						qos = subscribed_qos(stream),
						callback = function(suback)
							if suback.rc[1] ~= subscribed_qos(stream) then
								problem("%s: subscribed with %s", stream.name, tostring(suback))
							end
							stream.subscribed = true
							advance()
						end,
					}
				end
			end
			advance()
			pump(peer)
		end,
		close = function()
			peer.connected = false
		end,
		acknowledge = function()
			peer.acknowledge_events = peer.acknowledge_events + 1
		end,
		message = function(msg, client)
			received(by_topic[msg.topic], msg)
			-- Where the connection is gone meanwhile, the broker sends it again.
			client:acknowledge(msg)
			advance()
		end,
	}
	clients[#clients + 1] = peer
	return peer
end

local tested = new_peer("client", settings.uri, settings.connector)
local checker = new_peer("checker", settings.direct)
for qos = 1, 2 do
	local up, down = new_stream("up", qos), new_stream("down", qos)
	tested.publishes[qos], checker.receives[qos] = up, up
	checker.publishes[qos], tested.receives[qos] = down, down
end

-- The report ----------------------------------------------------------------------------------------------------------

-- Numbers as text: the first of them.
local function list(numbers)
	local text = table.concat(numbers, " ", 1, math.min(#numbers, 10))
	return #numbers > 10 and text .. " ..." or text
end

-- When the broker was ended, and when it had saved its state last.
local function read_ends()
	local ends = {}
	for line in io.lines(settings.ends) do
		local saved, ended = line:match("^(%S+) (%S+)$")
		ends[#ends + 1] = { saved = tonumber(saved), ended = tonumber(ended) }
	end
	return ends
end

-- The intervals that a killed broker forgot, for one client: each from the last save, or so much before, to the
-- client's next connection, since until then it handles what it had received.
local function forgotten_intervals(peer, ends, before)
	local intervals = {}
	for i, this in ipairs(settings.signal == "KILL" and ends or {}) do
		intervals[i] = { from = this.saved - before, to = math.huge }
		for _, time in ipairs(peer.connected_at) do
			if time > this.ended then
				intervals[i].to = time
				break
			end
		end
	end
	return intervals
end

local function is_within(intervals, time)
	for _, interval in ipairs(intervals) do
		if time > interval.from and time <= interval.to then
			return true
		end
	end
	return false
end

local function judge(stream, peer, ends)
	-- A broker that has forgotten its PUBCOMP waits for a PUBREL that the client has no reason to send.
	local forgotten = forgotten_intervals(peer, ends, stream.qos == 2 and UNTIL_PUBCOMP or 0)
	local lost, forgiven, open = {}, 0, 0
	for number = 1, stream.published do
		local time = stream.acknowledged_at[number]
		if not time then
			open = open + 1
		end
		if stream.has_received[number] then -- luacheck: ignore 542
			-- as it should be
		elseif time and is_within(forgotten, time) then
			forgiven = forgiven + 1
		else
			lost[#lost + 1] = number
		end
	end
	print(("%-10s %6d published %6d received %3d lost %5d repeated %3d out of order%s"):format(stream.name,
		stream.published, stream.received, #lost, #stream.repeated, #stream.disordered,
		forgiven > 0 and (", %d acknowledged and then forgotten by the broker"):format(forgiven) or ""))
	if stream.published < stream.goal then
		problem("%s: %d of %d were published", stream.name, stream.published, stream.goal)
	end
	if #lost > 0 then
		problem("%s: %d lost: %s", stream.name, #lost, list(lost))
	end
	if open > 0 then
		problem("%s: the callbacks of %d were not called", stream.name, open)
	end
	if subscribed_qos(stream) == 2 and #stream.repeated > 0 then
		problem("%s: %d received again: %s", stream.name, #stream.repeated, list(stream.repeated))
	end
	if #stream.disordered > 0 then
		problem("%s: %d out of order: %s", stream.name, #stream.disordered, list(stream.disordered))
	end
end

-- Counts the proxy's cuts by kind.
local function read_cuts()
	local count, kinds, texts = 0, {}, {}
	for line in io.lines(settings.faults) do
		local kind = line:match("^cut %d+ .- (%S+)$")
		if kind then
			count = count + 1
			kinds[kind] = (kinds[kind] or 0) + 1
		end
	end
	for kind, times in pairs(kinds) do
		texts[#texts + 1] = times .. " " .. kind
	end
	table.sort(texts)
	return count, #texts > 0 and " (" .. table.concat(texts, ", ") .. ")" or ""
end

local function finish()
	local seconds = socket.gettime() - (started or socket.gettime())
	local ends = read_ends()
	local cuts, kinds = read_cuts()
	for _, peer in ipairs(clients) do
		for _, stream in ipairs(peer.publishes) do
			judge(stream, peer, ends)
		end
		local callbacks = sum("acknowledged", peer.publishes)
		if peer.acknowledge_events ~= callbacks then
			problem("%s: %d acknowledge events, %d callbacks", peer.name, peer.acknowledge_events, callbacks)
		end
	end
	print(("%d cuts%s, %d ends of the broker; the client connected %d times, the checker %d times"):format(cuts, kinds,
		#ends, #tested.connected_at, #checker.connected_at))
	if cuts < settings.cuts then
		problem("%d of %d cuts were forced", cuts, settings.cuts)
	end
	if #ends ~= restarts then
		problem("the broker was ended %d times of %d", #ends, restarts)
	end
	local count = sum("received")
	print(("%d messages in %.1f s, %.0f a second; %s"):format(count, seconds, count / math.max(seconds, 0.001),
		_G.jit and _G.jit.version or _VERSION))
	for i = 1, math.min(#problems, 20) do
		print("PROBLEM: " .. problems[i])
	end
	if #problems > 20 then
		print(("PROBLEM: and %d more"):format(#problems - 20))
	end
	os.exit(#problems == 0 and 0 or 1)
end

-- The course of events ------------------------------------------------------------------------------------------------

local function set_goals(goal)
	for _, stream in ipairs(streams) do
		stream.goal = goal
	end
	pump_all()
end

local function is_connected()
	return tested.connected and checker.connected
end

-- How often each client had connected when the broker was ended last.
local connects_before = {}

-- Before the broker is killed the next time: how many messages are acknowledged between its save and that, false once
-- it has been told to save.
local unsaved = settings.signal == "KILL" and math.random(0, UNSAVED)

-- Ends the broker each time when so many messages more have been acknowledged, once everybody is back from the last
-- time.
local function end_broker()
	if restarted == restarts or not is_connected() then
		return
	end
	for index, peer in ipairs(clients) do
		if #peer.connected_at <= (connects_before[index] or 0) then
			return
		end
	end
	local missing = (restarted + 1) * 4 * messages / (restarts + 1) - sum("acknowledged")
	if unsaved and missing <= unsaved then
		unsaved = false
		print("save")
	end
	if missing > 0 then
		return
	end
	for index, peer in ipairs(clients) do
		connects_before[index] = #peer.connected_at
	end
	restarted = restarted + 1
	unsaved = settings.signal == "KILL" and math.random(0, UNSAVED)
	print("restart " .. settings.signal)
end

-- All of a stream is over when its last message has been acknowledged and received: behind it nothing of the stream is
-- under way.
local function is_over(stream)
	return stream.acknowledged == stream.goal and stream.has_received[stream.goal]
end

function advance()
	if phase == "subscribe" then
		if all(function(stream) return stream.subscribed end) then
			phase = "messages"
			if settings.signal == "KILL" then
				-- The sessions.
				print("save")
			end
			started = socket.gettime()
			set_goals(messages)
		end
	elseif phase == "messages" then
		end_broker()
		if sum("acknowledged") == 4 * messages and restarted == restarts then
			phase = "end"
			set_goals(messages + 1)
		end
	elseif phase == "end" and all(is_over) then
		-- What either side believes to be under way still would come now.
		phase = "once more"
		for _, peer in ipairs(clients) do
			peer.client:disconnect()
		end
		set_goals(messages + 2)
	elseif phase == "once more" and all(is_over) then
		phase = "over"
	end
end

local function progress()
	return sum("acknowledged") + sum("received") + sum("published")
end

local last, since = -1, socket.gettime()

local function watch()
	local now, count = socket.gettime(), progress()
	if phase == "over" then
		finish()
	elseif count ~= last then
		last, since = count, now
	elseif now > since + PATIENCE then
		problem("nothing has moved for %d seconds in phase '%s'", PATIENCE, phase)
		finish()
	end
	return 0.2
end

mqtt.run_ioloop(tested.client, checker.client, watch)
