-- Connects, subscribes, publishes a message, receives it back and disconnects.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	clean = true,
}

client:on {
	connect = function(connack)
		if connack.rc ~= 0 then
			print("the broker refused the connection:", connack:reason_string())
			return
		end
		print("connected:   ", connack)
		client:subscribe { topic = "luamqtt/#", qos = 1, callback = function(suback)
			print("subscribed:  ", suback)
			client:publish { topic = "luamqtt/simple", payload = "hello", qos = 1, callback = function(puback)
				print("acknowledged:", puback)
			end }
		end }
	end,

	message = function(msg)
		print("received:    ", msg)
		client:acknowledge(msg)
		client:disconnect()
	end,

	error = function(err)
		print("error:       ", err)
	end,

	close = function(connection)
		print("closed:      ", connection.close_reason)
	end,
}

print("created:     ", client)
mqtt.run_ioloop(client)
