-- Waits for client-1, asks it to die, and receives its last will from the broker.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	clean = true,
}

client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		client:subscribe { topic = "luamqtt/lost", qos = 1, callback = function()
			client:subscribe { topic = "luamqtt/ready", qos = 1 }
		end }
	end,

	message = function(msg)
		client:acknowledge(msg)
		if msg.topic == "luamqtt/ready" and msg.payload then
			print("client-2: client-1 is there, asking it to die")
			-- an empty retained message deletes the retained one
			client:publish { topic = "luamqtt/ready", retain = true }
			client:publish { topic = "luamqtt/close", payload = "please", qos = 1 }
		elseif msg.topic == "luamqtt/lost" then
			print("client-2: last will received: " .. msg.payload)
			client:disconnect()
		end
	end,
}

mqtt.run_ioloop(client)
