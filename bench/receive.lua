-- Receives messages into a handler, and acknowledges them: lua bench/receive.lua QOS SIZE

local bench = require("bench")

local qos, size = tonumber((...)), tonumber((select(2, ...)))
local topic = ("rig/receive/%d/%d/%d"):format(qos, bench.duration * 1000, size)
local messages, bytes = 0, 0
local watch

bench.run { bench.client("receive", function(client)
	return {
		connect = function()
			watch = bench.start(size)
			assert(client:publish { topic = topic })
		end,
		message = function(msg)
			if msg.topic == "rig/done" then
				assert(tonumber(msg.payload) == messages and bytes == messages * size, "messages are missing")
				bench.report(watch, messages)
			end
			messages = messages + 1
			bytes = bytes + #msg.payload
			if qos > 0 then
				assert(client:acknowledge(msg))
			end
		end,
	}
end) }
