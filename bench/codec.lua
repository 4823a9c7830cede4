-- The time of parsing and making a PUBLISH (QoS 1, payload of 64 bytes) by the functions that the library offers for
-- that: lua bench/codec.lua
-- Reports `parse4`, `make4`, `parse5` and `make5` in nanoseconds.

local bench = require("bench")

local PACKETS = 2000

-- The time of one call, from the best of many rounds: what else the machine does can only make it longer.
local function measure(work)
	local best = math.huge
	local watch = bench.start()
	repeat
		collectgarbage()
		local start = os.clock()
		work()
		best = math.min(best, os.clock() - start)
	until bench.is_over(watch)
	return best / PACKETS * 1e9
end

local results = {}
local watch = bench.start()
for version = 4, 5 do
	local protocol = require("mqtt.protocol" .. version)
	local make_packet, parse_packet = protocol.make_packet, protocol.parse_packet
	local args = {
		type = require("mqtt.protocol").packet_type.PUBLISH,
		topic = "home/living/thermostat/setpoint",
		payload = ("x"):rep(64),
		qos = 1,
		packet_id = 1,
	}
	local bytes = tostring(make_packet(args))
	local pos
	local function read(size)
		local from = pos
		pos = pos + size
		return bytes:sub(from, from + size - 1)
	end
	results["parse" .. version] = measure(function()
		for _ = 1, PACKETS do
			pos = 1
			assert(parse_packet(read))
		end
	end)
	results["make" .. version] = measure(function()
		for _ = 1, PACKETS do
			tostring(make_packet(args))
		end
	end)
end
bench.report(watch, PACKETS, results)
