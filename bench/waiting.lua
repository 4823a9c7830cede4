-- Fills a store while there is no connection; then, in another process, sends what waits there: lua bench/waiting.lua
-- Reports `offline`, messages a second while filling, and `filling`, the most memory above that of an idle client
-- meanwhile, in KiB; `open`, the seconds from before the client is created to the first acknowledgement; `rate` and
-- `peak`, the same two figures of sending.

local bench = require("bench")
local mqtt = require("mqtt")

local count = tonumber(os.getenv("RIG_WAITING"))
local payload = ("x"):rep(100)

-- Lets an idle client come and go, and begins to measure.
local function start()
	local resident
	local idle = bench.client("idle", function(client)
		return {
			connect = function()
				collectgarbage()
				collectgarbage()
				resident = bench.reset_peak()
				client:disconnect()
			end,
		}
	end)
	mqtt.run_ioloop(idle)
	local watch = bench.start()
	watch.resident = resident
	return watch
end

local function fill()
	local watch = start()
	local client = bench.client("waiting", function() return {} end, "process")
	for _ = 1, count do
		assert(client:publish { topic = "rig/data", payload = payload, qos = 1 })
	end
	bench.report(watch, count)
end

local function send(figures)
	local watch = start()
	local acknowledged, open = 0, nil
	bench.run { bench.client("waiting", function(client)
		return {
			acknowledge = function()
				acknowledged = acknowledged + 1
				if acknowledged == 1 then
					open = bench.clock() - watch.time
				elseif acknowledged == count then
					assert(client:publish { topic = "rig/end" })
				end
			end,
			message = function(msg)
				assert(tonumber(msg.payload) == count, "messages are missing")
				bench.report(watch, count, { open = open, offline = figures.rate, filling = figures.peak })
			end,
		}
	end, "process") }
end

if ... == "fill" then
	fill()
else
	local filler = io.popen(("exec %s %s fill"):format(arg[-1], arg[0]))
	local figures = {}
	for name, number in filler:read("*a"):gmatch("(%w+)=(%S+)") do
		figures[name] = tonumber(number)
	end
	filler:close()
	send(figures)
end
