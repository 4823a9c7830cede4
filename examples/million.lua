-- Publishes a million messages of QoS 1 at the broker's pace: never more than a window of them wait for a PUBACK.
-- `publish` returns at once, so a plain loop would fill the memory, and use up the 65,535 packet identifiers.
-- Usage: million.lua [URI [MESSAGES]], or MESSAGES in the environment.

local mqtt = require("mqtt")

local count = tonumber(arg[2] or os.getenv("MESSAGES")) or 1000000
local WINDOW = 1000

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	clean = true,
	reconnect = 1, -- messages that have no PUBACK are sent again
}

local sent, acknowledged = 0, 0

-- Publishes as much as there is room for.
local function fill()
	while sent < count and sent - acknowledged < WINDOW do
		local ok = client:publish { topic = "luamqtt/million", payload = tostring(sent + 1), qos = 1, callback = function()
			acknowledged = acknowledged + 1
			if acknowledged == count then
				client:shutdown()
			elseif sent - acknowledged <= WINDOW / 2 then
				fill()
			end
		end }
		if not ok then
			return -- no connection now; the next one goes on
		end
		sent = sent + 1
	end
end

client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		fill()
	end,
	error = print,
}

local loop = mqtt.get_ioloop()
local progress = loop:every(1, function()
	print(("%d of %d acknowledged"):format(acknowledged, count))
end)
client:on("shutdown", function()
	progress:cancel()
end)

loop:add(client)
loop:run_until_clients()
assert(acknowledged == count, "the client ended early")
print(count .. " messages, all acknowledged")
