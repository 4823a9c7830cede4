-- Publishes messages, of QoS 1 and 2 with 100 unacknowledged: lua bench/publish.lua QOS SIZE [outside|acknowledged]
-- With `outside`, the messages of QoS 0 are published outside of the loop and its handlers. With `acknowledged`, the
-- last acknowledgement is the end; else the broker of the rig says how many messages it has received.

local bench = require("bench")

local qos, size = tonumber((...)), tonumber((select(2, ...)))
local payload = ("x"):rep(size)
-- How many messages there are between two looks at the clock.
local batch = math.max(1, math.floor(64 * 1024 / size / 16))
local sent = 0
local is_outside = select(3, ...) == "outside"
local is_counted_here = select(3, ...) == "acknowledged"
local watch

local function publish(client)
	assert(client:publish { topic = "rig/data", payload = payload, qos = qos })
	sent = sent + 1
end

local function publish_all(client)
	watch = bench.start(size)
	repeat
		for _ = 1, batch do
			publish(client)
		end
	until bench.is_over(watch)
	assert(client:publish { topic = "rig/end" })
end

local publisher = bench.client("publish", function(client)
	local acknowledged, is_over = 0, false
	return {
		connect = function()
			if qos > 0 then
				watch = bench.start(size)
				for _ = 1, bench.OUTSTANDING do
					publish(client)
				end
			elseif not is_outside then
				publish_all(client)
			end
		end,
		acknowledge = function()
			acknowledged = acknowledged + 1
			is_over = is_over or (acknowledged % batch == 0 and bench.is_over(watch))
			if not is_over then
				publish(client)
			elseif acknowledged == sent and is_counted_here then
				bench.report(watch, sent)
			elseif acknowledged == sent then
				assert(client:publish { topic = "rig/end" })
			end
		end,
		message = function(msg)
			assert(tonumber(msg.payload) == sent, "messages are missing")
			bench.report(watch, sent)
		end,
	}
end)

if is_outside then
	bench.run_outside(publisher, function()
		publish_all(publisher)
	end)
else
	bench.run { publisher }
end
