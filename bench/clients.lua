-- Many clients in one loop, each of which answers every message: lua bench/clients.lua COUNT
-- Says when all are connected, and goes on until it is ended.

local bench = require("bench")

local count = tonumber((...))
local connected = 0
local before, start
local clients = {}

for i = 1, count do
	clients[i] = bench.client("client-" .. i, function(client)
		return {
			connect = function()
				connected = connected + 1
				if connected == count then
					local took = bench.clock() - start
					collectgarbage()
					collectgarbage()
					print(("connect=%.4f before=%d"):format(took, before))
					io.stdout:flush()
				end
			end,
			message = function(msg)
				assert(client:publish { topic = "rig/echoed", payload = msg.payload })
			end,
		}
	end)
	if i == 1 then
		-- Everything is loaded now.
		before, start = bench.status("VmRSS"), bench.clock()
	end
end
bench.run(clients)
