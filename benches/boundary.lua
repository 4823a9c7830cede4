-- Work between Lua and the session that is the same each time, to count its instructions:
-- lua benches/boundary.lua CASE ROUNDS; see scripts/instructions. A connector stands in for the network.

local mqtt = require("mqtt")
local protocol = require("mqtt.protocol")
local packet_type = protocol.packet_type

-- The number of messages of a round.
local MESSAGES = 16
local TOPIC, PAYLOAD = "home/living/thermostat/setpoint", ("x"):rep(64)

local case, rounds = (...), tonumber((select(2, ...)))
local name, version = case:match("^(%l+%d?)%-v(%d+)$")
version = version == "5" and 5 or 4
local codec = require("mqtt.protocol" .. version)

local function message(qos, packet_id)
	return tostring(codec.make_packet {
		type = packet_type.PUBLISH,
		topic = TOPIC,
		payload = PAYLOAD,
		qos = qos,
		packet_id = qos > 0 and packet_id or nil,
	})
end

-- The bytes that the client receives next.
local input, position = "", 1

local connector = { signal_idle = {}, signal_closed = {} }
connector.__index = connector

function connector:validate() end -- luacheck: ignore 212

function connector:connect() -- luacheck: ignore 212
	return true
end

function connector:send(data) -- luacheck: ignore 212
	return #data > 0
end

function connector:receive(size)
	local last = position + size - 1
	if last > #input then
		return false, self.signal_idle
	end
	local data = input:sub(position, last)
	position = last + 1
	return data
end

function connector:buffer_clear() end -- luacheck: ignore 212

function connector:shutdown() end -- luacheck: ignore 212

local function feed(client, bytes)
	input, position = bytes, 1
	repeat
		local wait = client:step()
	until wait == -1 and position > #input
end

local function connected_client(handlers)
	local client = mqtt.client {
		uri = "localhost",
		id = "boundary",
		clean = true,
		version = version,
		connector = connector,
	}
	client:on(handlers)
	assert(client:start_connecting())
	feed(client, version == 5 and "\32\3\0\0\0" or "\32\2\0\0")
	assert(client.connection.connack)
	return client
end

local function receive(qos)
	local count = 0
	local client
	client = connected_client {
		message = function(msg)
			count = count + 1
			assert(client:acknowledge(msg))
		end,
	}
	local bytes = {}
	for i = 1, MESSAGES do
		bytes[i] = message(qos, i)
	end
	bytes = table.concat(bytes)
	for _ = 1, rounds do
		feed(client, bytes)
	end
	assert(count == rounds * MESSAGES)
end

local function publish(qos)
	local count = 0
	local client = connected_client {
		acknowledge = function()
			count = count + 1
		end,
	}
	for _ = 1, rounds do
		local answers = {}
		for i = 1, MESSAGES do
			local id = assert(client:publish { topic = TOPIC, payload = PAYLOAD, qos = qos })
			answers[i] = qos > 0 and string.char(0x40, 2, math.floor(id / 256), id % 256) or ""
		end
		feed(client, table.concat(answers))
	end
	assert(qos == 0 or count == rounds * MESSAGES)
end

local cases = {
	parse = function()
		local bytes = message(1, 1)
		local pos
		local function read(size)
			local from = pos
			pos = pos + size
			return bytes:sub(from, pos - 1)
		end
		for _ = 1, rounds * MESSAGES do
			pos = 1
			assert(codec.parse_packet(read))
		end
	end,
	make = function()
		for i = 1, rounds * MESSAGES do
			message(1, i % 100 + 1)
		end
	end,
	receive0 = function() receive(0) end,
	receive1 = function() receive(1) end,
	publish0 = function() publish(0) end,
	publish1 = function() publish(1) end,
}

assert(cases[name], "there is no such case")()
-- The work at the end of a program is not counted.
os.exit(0)
