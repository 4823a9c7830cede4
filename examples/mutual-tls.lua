-- Mutual TLS: the broker shows its certificate and asks for the client's. The files are PEM; the key may be PKCS#8
-- (encrypted or not), PKCS#1 or SEC1.
-- Usage: mutual-tls.lua [URI CAFILE CERTIFICATE KEY]; without arguments MQTTS_MUTUAL_URI, MQTT_CAFILE, MQTT_CERTIFICATE
-- and MQTT_KEY in the environment.

local mqtt = require("mqtt")

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTTS_MUTUAL_URI") or "mqtts://localhost",
	clean = true,
	secure = {
		cafile = arg[2] or os.getenv("MQTT_CAFILE") or "ca.crt",
		certificate = arg[3] or os.getenv("MQTT_CERTIFICATE") or "client.crt",
		key = arg[4] or os.getenv("MQTT_KEY") or "client.key",
		-- for an encrypted key: a string, or a function that returns the string
		password = os.getenv("MQTT_KEY_PASSWORD"),
	},
}

local connected = false
client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		connected = true
		print("connected by " .. client:stats().tls_version)
		client:disconnect()
	end,

	-- A broker that gets no certificate ends the connection: with TLS 1.3 after the handshake.
	error = function(err)
		print("error:", err)
	end,
}

mqtt.run_ioloop(client)
assert(connected, "the broker did not let us in")
