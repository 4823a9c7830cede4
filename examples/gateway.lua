-- A gateway of sensors that loses nothing: what it has accepted is kept on the disk until the broker has it, however
-- the gateway or its connection ends. After a restart it goes on with what it finds there.
-- Usage: gateway.lua [URI [DIRECTORY]]. READINGS in the environment ends it after as many readings have arrived.

local mqtt = require("mqtt")

local directory = arg[2] or "gateway-store"
local readings = tonumber(os.getenv("READINGS")) or math.huge

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	id = "luamqtt-gateway", -- by this name the broker knows the session
	clean = false,
	reconnect = { min = 1, max = 60 },
	store = { path = directory, max_bytes = 100e6, when_full = "drop_oldest" },
}

local count, oldest = 0, nil
for message in client:stored() do
	count, oldest = count + 1, oldest or message
end
if oldest then
	local since = os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(oldest.since))
	print(("%d readings wait, the first since %s"):format(count, since))
end

client:on {
	connect = function(connack)
		if connack.rc ~= 0 then
			print("the broker refused the connection:", connack:reason_string())
		end
	end,

	acknowledge = function(ack)
		print("arrived: " .. tostring(ack.tag))
		readings = readings - 1
		if readings == 0 then
			client:shutdown()
		end
	end,

	error = print,
}

local loop = mqtt.get_ioloop()
local timer = loop:every(0.1, function()
	-- A sensor would be read here.
	local reading = ("%.1f"):format(20 + 2 * math.sin(os.time() / 100))
	local ok, err = client:publish {
		topic = "luamqtt/gateway/temperature",
		payload = reading,
		qos = 2, -- each reading arrives once
		tag = os.date("!%H:%M:%S") .. " " .. reading,
	}
	if not ok then
		print("not accepted: " .. err)
	end
end)
client:on("shutdown", function()
	timer:cancel()
end)
loop:add(client)
loop:run_until_clients()
