-- A secure connection. The broker's certificate is verified: against the system's certificate authorities, the
-- authorities in SSL_CERT_FILE, or the authorities in a file of your own. Usage: tls.lua [URI [CAFILE]]; without
-- arguments MQTTS_URI and MQTT_CAFILE in the environment.

local mqtt = require("mqtt")

local cafile = arg[2] or os.getenv("MQTT_CAFILE")

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTTS_URI") or "mqtts://localhost",
	clean = true,
	-- For brokers that ask for the client's certificate, add certificate = "client.crt" and key = "client.key".
	-- With verify = "none" the client would trust anybody.
	secure = cafile and { cafile = cafile } or nil,
}

client:on {
	connect = function(connack)
		if connack.rc ~= 0 then
			print("the broker refused the connection:", connack:reason_string())
			return
		end
		print("connected over TLS to " .. client.connection.host)
		client:subscribe { topic = "luamqtt/#", qos = 1, callback = function()
			client:publish { topic = "luamqtt/tls", payload = "nobody listens in", qos = 1 }
		end }
	end,

	message = function(msg)
		print("received:", msg.payload)
		client:acknowledge(msg)
		client:disconnect()
	end,

	-- names the fault of a certificate
	error = function(err)
		print("error:", err)
	end,
}

mqtt.run_ioloop(client)
