-- Publishers and subscribers of a cluster, a node of which is killed again and again: the one that serves the most
-- clients. It comes back when its clients are connected elsewhere. Each client knows all nodes. Says what was lost, and
-- fails if anything was.
-- usage: scripts/cluster, which starts the nodes, and to which the lines "kill NUMBER" and "start NUMBER" are commands
-- settings, as NAME=VALUE:
--   uris      the nodes, with commas between them
--   messages  how many are acknowledged, of all publishers together, before a node is killed, and at the end
--   mqtt      the version, 3.1.1 or 5.0
--   back      the file that gets a line for each node that is back

local mqtt = require("mqtt")
local socket = require("socket")

-- How many messages each publisher has under way.
local WINDOW = 10
-- How long a client waits after all nodes have refused it, in seconds.
local RECONNECT = { min = 0.1, max = 1 }
-- After how many seconds without any progress this is given up.
local PATIENCE = 40

local settings = {}
for _, argument in ipairs(arg) do
	local name, value = argument:match("^(%w+)=(.*)$")
	settings[name] = tonumber(value) or value
end
local IS_V5 = settings.mqtt == 5
local uris = {}
for uri in settings.uris:gmatch("[^,]+") do
	uris[#uris + 1] = uri
end

io.stdout:setvbuf("line")

local problems = {}

local function problem(text, ...)
	problems[#problems + 1] = text:format(...)
end

-- The clients ---------------------------------------------------------------------------------------------------------

local publishers, subscribers, clients = {}, {}, {}
local phase = "subscribe"
-- How many kills there are, as many as there are nodes; how many there have been; and the node that is away.
local KILLS = #uris
local killed, away = 0, nil
local repeated, longest = 0, 0

-- The nodes, with a given one first.
local function nodes_from(number)
	local list = {}
	for i = 0, #uris - 1 do
		list[#list + 1] = uris[(number - 1 + i) % #uris + 1]
	end
	return list
end

-- The node that a client is connected to, or nil.
local function node_of(peer)
	for number, uri in ipairs(uris) do
		if peer.connected and peer.client.connection.uri == uri then
			return number
		end
	end
end

local function pump(peer)
	while peer.connected and phase == "publish" and peer.published - peer.acknowledged < WINDOW do
		local number = peer.published + 1
		local ok = peer.client:publish {
			topic = peer.topic,
			payload = tostring(number),
			qos = 1,
			callback = function()
				if peer.done[number] then
					problem("%s: the callback of %d was called again", peer.name, number)
				end
				peer.done[number] = true
				peer.acknowledged = peer.acknowledged + 1
				pump(peer)
			end,
		}
		if not ok then
			return
		end
		peer.published = number
	end
end

local function received(peer, msg)
	local publisher, number = publishers[tonumber(msg.topic:match("%d+$"))], tonumber(msg.payload)
	local seen = peer.seen[publisher]
	if seen[number] then
		repeated = repeated + 1
	else
		seen[number] = true
		peer.received = peer.received + 1
	end
end

local function new_peer(kind, number)
	local peer = { name = kind .. " " .. number, connects = 0, lost_at = nil }
	peer.client = mqtt.client {
		uri = nodes_from(number),
		id = ("%s-%d"):format(kind, number),
		clean = false,
		version = IS_V5 and mqtt.v50 or mqtt.v311,
		properties = IS_V5 and { session_expiry_interval = 3600 } or nil,
		reconnect = RECONNECT,
		auto_ack = true,
	}
	peer.client:on {
		connect = function(connack)
			if connack.rc ~= 0 then
				return
			end
			peer.connects, peer.connected = peer.connects + 1, true
			if peer.lost_at then
				longest = math.max(longest, socket.gettime() - peer.lost_at)
				peer.lost_at = nil
			end
			if kind == "publisher" then
				pump(peer)
			elseif peer.connects == 1 then
				peer.client:subscribe { topic = "cluster/+", qos = 1, callback = function(suback)
					peer.subscribed = suback.rc[1] == 1 or problem("%s: subscribed with %s", peer.name, tostring(suback))
				end }
			end
		end,
		close = function()
			peer.lost_at = peer.lost_at or peer.connected and socket.gettime()
			peer.connected = false
		end,
		message = function(msg)
			received(peer, msg)
		end,
	}
	clients[#clients + 1] = peer
	return peer
end

for number = 1, #uris do
	local publisher = new_peer("publisher", number)
	publisher.topic, publisher.published, publisher.acknowledged, publisher.done = "cluster/" .. number, 0, 0, {}
	publishers[number] = publisher
end
for number = 1, #uris do
	local subscriber = new_peer("subscriber", number)
	subscriber.received, subscriber.seen = 0, {}
	for _, publisher in ipairs(publishers) do
		subscriber.seen[publisher] = {}
	end
	subscribers[number] = subscriber
end

local function sum(peers, field)
	local total = 0
	for _, peer in ipairs(peers) do
		total = total + peer[field]
	end
	return total
end

local function all(peers, field)
	for _, peer in ipairs(peers) do
		if not peer[field] then
			return false
		end
	end
	return true
end

-- The report ----------------------------------------------------------------------------------------------------------

local started = socket.gettime()

local function finish()
	local seconds = socket.gettime() - started
	for _, subscriber in ipairs(subscribers) do
		local lost = 0
		for _, publisher in ipairs(publishers) do
			for number = 1, publisher.published do
				if publisher.done[number] and not subscriber.seen[publisher][number] then
					lost = lost + 1
				end
			end
		end
		if lost > 0 then
			problem("%s: %d acknowledged messages were lost", subscriber.name, lost)
		end
	end
	local published, acknowledged = sum(publishers, "published"), sum(publishers, "acknowledged")
	if acknowledged ~= published then
		problem("%d of %d messages were acknowledged", acknowledged, published)
	end
	print(("a node killed %d times; %d messages acknowledged, %d received by %d subscribers, %d of them again"):format(
		killed, acknowledged, sum(subscribers, "received"), #subscribers, repeated))
	print(("%.1f s; at most %.1f s from a lost connection to the next one"):format(seconds, longest))
	for _, text in ipairs(problems) do
		print("PROBLEM: " .. text)
	end
	os.exit(#problems == 0 and 0 or 1)
end

-- The course of events ------------------------------------------------------------------------------------------------

local function nodes_back()
	local count = 0
	for _ in io.lines(settings.back) do
		count = count + 1
	end
	return count
end

-- So many have to be acknowledged until something happens.
local goal = settings.messages

-- Kills the node that serves the most clients, which are some of each kind if possible.
local function kill_one()
	local served = {}
	for number = 1, #uris do
		served[number] = { publishers = 0, subscribers = 0 }
	end
	for _, peer in ipairs(clients) do
		local node = served[node_of(peer)]
		local kind = peer.topic and "publishers" or "subscribers"
		node[kind] = node[kind] + 1
	end
	local function rank(number)
		local node = served[number]
		return math.min(node.publishers, node.subscribers) * #clients + node.publishers + node.subscribers
	end
	away = 1
	for number = 2, #uris do
		if rank(number) > rank(away) then
			away = number
		end
	end
	killed = killed + 1
	print(("node %d serves %d publishers and %d subscribers"):format(away, served[away].publishers,
		served[away].subscribers))
	print("kill " .. away)
end

local loop = mqtt.get_ioloop()
local last, since = -1, started

local function watch()
	local now = socket.gettime()
	local acknowledged, took = sum(publishers, "acknowledged"), sum(subscribers, "received")
	if acknowledged + took + repeated ~= last then
		last, since = acknowledged + took + repeated, now
	elseif now > since + PATIENCE then
		problem("nothing has moved for %d seconds", PATIENCE)
		return finish()
	end
	local connected, back = all(clients, "connected"), nodes_back()
	if connected and away then
		print("start " .. away)
		away = nil
	end
	if phase == "subscribe" then
		-- Messages of a topic that nobody has subscribed to are not kept.
		if all(subscribers, "subscribed") then
			phase = "publish"
			for _, publisher in ipairs(publishers) do
				loop:add(publisher.client)
			end
		end
	elseif phase == "end" then
		if acknowledged == sum(publishers, "published") and took == acknowledged * #subscribers then
			finish()
		end
	elseif acknowledged >= goal and connected and back == killed then
		goal = acknowledged + settings.messages
		if killed == KILLS then
			phase = "end"
		else
			kill_one()
		end
	end
	return 0.1
end

for _, subscriber in ipairs(subscribers) do
	loop:add(subscriber.client)
end
loop:add(watch)
loop:run_until_clients()
