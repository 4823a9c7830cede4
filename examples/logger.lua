-- Writes each message to a file, and acknowledges it when it is there. While the logger does not run, the broker keeps
-- messages of QoS 1 and 2 for it.
-- Usage: logger.lua [URI [FILE [FILTER]]]. MESSAGES in the environment ends it after as many messages.

local mqtt = require("mqtt")

local path = arg[2] or "messages.log"
local filter = arg[3] or "luamqtt/log/#"
local left = tonumber(os.getenv("MESSAGES")) or math.huge

local file = assert(io.open(path, "a"))
local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	id = "luamqtt-logger", -- by this name the broker keeps the messages while the logger does not run
	clean = false,
	reconnect = { min = 1, max = 60 },
}

client:on {
	connect = function(connack)
		if connack.rc ~= 0 then
			print("the broker refused the connection:", connack:reason_string())
		else
			client:subscribe { topic = filter, qos = 1 }
		end
	end,

	message = function(msg)
		-- %q keeps each message on a line of its own.
		local payload = ("%q"):format(msg.payload or ""):gsub("\n", "n")
		assert(file:write(os.date("!%Y-%m-%dT%H:%M:%SZ "), msg.topic, " ", payload, "\n"))
		assert(file:flush())
		client:acknowledge(msg)
		left = left - 1
		if left == 0 then
			client:shutdown()
		end
	end,

	error = print,
}

print("logs " .. filter .. " to " .. path)
mqtt.run_ioloop(client)
file:close()
