-- Publishes messages, those of QoS 1 and 2 with 100 unacknowledged: lua bench/publish.lua QOS SIZE

local bench = require("bench")

local qos, size = tonumber((...)), tonumber((select(2, ...)))
local payload = ("x"):rep(size)
-- How many messages there are between two looks at the clock.
local batch = math.max(1, math.floor(64 * 1024 / size / 16))
local sent = 0
local watch

local function publish(client)
	assert(client:publish { topic = "rig/data", payload = payload, qos = qos })
	sent = sent + 1
end

bench.run { bench.client("publish", function(client)
	local acknowledged, is_over = 0, false
	return {
		connect = function()
			watch = bench.start(size)
			if qos > 0 then
				for _ = 1, bench.OUTSTANDING do
					publish(client)
				end
				return
			end
			repeat
				for _ = 1, batch do
					publish(client)
				end
			until bench.is_over(watch)
			assert(client:publish { topic = "rig/end" })
		end,
		acknowledge = function()
			acknowledged = acknowledged + 1
			is_over = is_over or (acknowledged % batch == 0 and bench.is_over(watch))
			if not is_over then
				publish(client)
			elseif acknowledged == sent then
				assert(client:publish { topic = "rig/end" })
			end
		end,
		message = function(msg)
			assert(tonumber(msg.payload) == sent, "messages are missing")
			bench.report(watch, sent)
		end,
	}
end) }
