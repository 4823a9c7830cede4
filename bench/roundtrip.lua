-- The time from a publish until the message is back and, with QoS 1, acknowledged, through a real broker:
-- lua bench/roundtrip.lua QOS

local bench = require("bench")

local qos = tonumber((...))
local TOPIC, PAYLOAD = "rig/data", ("x"):rep(64)
local times = {}
local watch, sent

bench.run { bench.client("roundtrip", function(client)
	local missing

	local function publish()
		missing = qos > 0 and 2 or 1
		sent = bench.clock()
		assert(client:publish { topic = TOPIC, payload = PAYLOAD, qos = qos })
	end

	local function arrived()
		missing = missing - 1
		if missing > 0 then
			return
		end
		times[#times + 1] = bench.clock() - sent
		if not bench.is_over(watch) then
			publish()
			return
		end
		table.sort(times)
		bench.report(watch, #times, {
			p50 = times[math.ceil(#times * 0.50)] * 1e6,
			p99 = times[math.ceil(#times * 0.99)] * 1e6,
		})
	end

	return {
		connect = function()
			assert(client:subscribe { topic = TOPIC, qos = qos, callback = function()
				watch = bench.start()
				publish()
			end })
		end,
		acknowledge = arrived,
		message = function(msg)
			assert(client:acknowledge(msg))
			arrived()
		end,
	}
end) }
