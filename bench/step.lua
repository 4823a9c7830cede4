-- A program that calls `step` in a loop of its own: lua bench/step.lua PAUSE [IDLE] PAUSE is the time between two
-- calls in milliseconds, 0 for none. With IDLE nothing is sent, and what is measured is the CPU time of a call. Else
-- it is the time from a publish until the message is back, through a real broker.

local bench = require("bench")

local pause, idle = tonumber((...)) / 1000, select(2, ...) == "idle"
local sleep = pause > 0 and require("socket").sleep
local TOPIC, PAYLOAD = "rig/data", ("x"):rep(64)
local times = {}
local watch, sent

local client = bench.client("step", function(client)
	local function publish()
		sent = bench.clock()
		assert(client:publish { topic = TOPIC, payload = PAYLOAD })
	end

	return {
		connect = function()
			assert(client:subscribe { topic = TOPIC, qos = 0, callback = function()
				watch = bench.start()
				if not idle then
					publish()
				end
			end })
		end,
		message = function()
			times[#times + 1] = bench.clock() - sent
			if not bench.is_over(watch) then
				publish()
			end
		end,
	}
end)

assert(client:start_connecting())
local steps = 0
repeat
	client:step()
	if watch then
		steps = steps + 1
	end
	if sleep then
		sleep(pause)
	end
until watch and (idle or times[1]) and bench.is_over(watch)

if idle then
	bench.report(watch, steps)
else
	table.sort(times)
	bench.report(watch, #times, {
		p50 = times[math.ceil(#times * 0.50)] * 1e6,
		p99 = times[math.ceil(#times * 0.99)] * 1e6,
	})
end
