-- Leaves a last will with the broker, and ends without a DISCONNECT when client-2 asks for it. Run it first.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	clean = true,
	will = { topic = "luamqtt/lost", payload = "client-1 is gone", qos = 1 },
}

client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		client:subscribe { topic = "luamqtt/close", qos = 1, callback = function()
			-- retained, so that client-2 sees it whenever it starts
			client:publish { topic = "luamqtt/ready", payload = "yes", qos = 1, retain = true }
			print("client-1: waiting to be asked to die")
		end }
	end,

	message = function(msg)
		client:acknowledge(msg)
		print("client-1: closing the connection without DISCONNECT")
		client:close_connection("asked to")
	end,
}

mqtt.run_ioloop(client)
