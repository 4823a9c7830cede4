-- The native way of messages, from the socket to the handler and back, to count its instructions:
-- lua benches/native.lua CASE ROUNDS; see scripts/instructions. `lua benches/native.lua peer` is the server, which
-- prints its port; the other processes find the port in their environment, as PEER_PORT.

local protocol = require("mqtt.protocol4")
local packet_type = require("mqtt.protocol").packet_type

-- The number of messages of a round.
local MESSAGES = 1024
local TOPIC, PAYLOAD = "home/living/thermostat/setpoint", ("x"):rep(64)

-- Takes complete packets off the front of received bytes. Returns the rest.
local function take_packets(bytes, handle)
	local position = 1
	local function read(size)
		local from = position
		position = from + size
		return position <= #bytes + 1 and bytes:sub(from, position - 1), "incomplete"
	end
	while true do
		local start = position
		local packet = protocol.parse_packet(read)
		if not packet then
			return bytes:sub(start)
		end
		handle(packet)
	end
end

-- Serves a client: answers a message "go" with the payload of the client's message "burst".
local function serve(connection)
	local received, burst, answers = "", "", {}
	local function handle(packet)
		if packet.type == packet_type.CONNECT then
			answers[#answers + 1] = "\32\2\0\0"
		elseif packet.type == packet_type.PUBLISH and packet.qos > 0 then
			answers[#answers + 1] = tostring(protocol.make_packet { type = packet_type.PUBACK, packet_id = packet.packet_id })
		elseif packet.topic == "burst" then
			burst = packet.payload or ""
		elseif packet.topic == "go" then
			answers[#answers + 1] = burst
		end
	end
	while true do
		local bytes, err, part = connection:receive(2 ^ 16)
		bytes = bytes or part
		received = take_packets(received .. bytes, handle)
		if #answers > 0 then
			assert(connection:send(table.concat(answers)))
			answers = {}
		end
		if err == "closed" then
			return connection:close()
		elseif #bytes == 0 then
			require("socket").select({ connection })
		end
	end
end

local case, rounds = (...), tonumber((select(2, ...)))

if case == "peer" then
	local server = assert(require("socket").bind("127.0.0.1", 0))
	print((select(2, server:getsockname())))
	io.stdout:flush()
	while true do
		local connection = assert(server:accept())
		connection:setoption("tcp-nodelay", true)
		connection:settimeout(0)
		serve(connection)
	end
end

local mqtt = require("mqtt")
local what, qos = case:match("^(%l+)(%d)$")
qos = tonumber(qos)

local client = mqtt.client { uri = "127.0.0.1:" .. os.getenv("PEER_PORT"), id = "native", clean = true }
local count = 0

local function message(topic, quality, packet_id)
	return tostring(protocol.make_packet { type = packet_type.PUBLISH, topic = topic, payload = PAYLOAD, qos = quality,
		packet_id = packet_id })
end

local function go()
	assert(client:publish { topic = "go" })
end

local function publish_all()
	for _ = 1, MESSAGES do
		assert(client:publish { topic = TOPIC, payload = PAYLOAD, qos = qos })
	end
	if qos == 0 then
		go()
	end
end

-- Begins a round, or ends the program after the last round.
local function next_round(begin)
	rounds = rounds - 1
	if rounds < 0 then
		client:shutdown()
	else
		begin()
	end
end

-- The function that begins a round, the bytes that the peer sends in the round, and the event that ends it after so
-- many times.
local begin, burst, event, times = go, {}, "message", MESSAGES
if what == "receive" then
	for i = 1, MESSAGES do
		burst[i] = message(TOPIC, qos, qos > 0 and i or nil)
	end
elseif qos == 0 then
	begin, burst[1], times = publish_all, message("done", 0), 1
else
	begin, event = publish_all, "acknowledge"
end

client:on {
	connect = function()
		assert(client:publish { topic = "burst", payload = table.concat(burst) })
		next_round(begin)
	end,
	[event] = function(packet)
		if what == "receive" and qos > 0 then
			assert(client:acknowledge(packet))
		end
		count = count + 1
		if count == times then
			count = 0
			next_round(begin)
		end
	end,
}
mqtt.run_ioloop(client)
assert(rounds == -1, "the connection was lost")
