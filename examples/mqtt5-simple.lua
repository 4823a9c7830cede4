-- MQTT 5.0: properties, user properties and reason codes.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	clean = true,
	version = mqtt.v50,
	properties = { session_expiry_interval = 60 },
	user_properties = { example = "mqtt5-simple" },
}

client:on {
	connect = function(connack)
		if connack.rc ~= 0 then
			print("the broker refused the connection:", connack:reason_string())
			return
		end
		print("connected:   ", connack)
		client:subscribe {
			topic = "luamqtt/#",
			qos = 1,
			properties = { subscription_identifiers = { 7 } },
			callback = function(suback)
				print("subscribed:  ", table.concat(suback:reason_strings(), ", "))
				client:publish {
					topic = "luamqtt/mqtt5-simple",
					payload = '{"temperature": 21.5}',
					qos = 1,
					properties = { content_type = "application/json", message_expiry_interval = 3600 },
					user_properties = { unit = "C" },
				}
			end,
		}
	end,

	message = function(msg)
		print("received:    ", msg)
		print("content type:", msg.properties.content_type)
		print("unit:        ", msg.user_properties.unit)
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

mqtt.run_ioloop(client)
