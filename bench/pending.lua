-- Publishes with a callback that wait for their acknowledgements, all of which come at once; then subscriptions with a
-- callback, likewise, twice as many: lua bench/pending.lua COUNT
-- Reports `publish` and `subscribe`, microseconds of CPU time each.

local bench = require("bench")

local count = tonumber((...))

bench.run { bench.client("pending", function(client)
	local watch, publish_time
	local rounds = 0

	-- Sends so many requests; calls `next_part` when all are answered.
	local function request(method, args, next_part)
		assert(client:publish { topic = "rig/hold/" .. count })
		local answered = 0
		local cpu = os.clock()
		local function callback()
			answered = answered + 1
			if answered == count then
				next_part((os.clock() - cpu) * 1e6 / count)
			end
		end
		for i = 1, count do
			assert(client[method](client, args(i, callback)))
		end
	end

	local function subscribe()
		request("subscribe", function(i, callback)
			return { topic = ("rig/%d/%d"):format(rounds, i), qos = 0, callback = callback }
		end, function(time)
			rounds = rounds + 1
			if rounds == 2 then
				bench.report(watch, count * 3, { publish = publish_time, subscribe = time })
			end
			subscribe()
		end)
	end

	return {
		connect = function()
			watch = bench.start()
			request("publish", function(_, callback)
				return { topic = "rig/data", payload = "payload", qos = 1, callback = callback }
			end, function(time)
				publish_time = time
				subscribe()
			end)
		end,
	}
end) }
