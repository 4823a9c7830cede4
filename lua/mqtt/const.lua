-- Constants of the API; no code lives here.

--- Constants.
-- @module mqtt.const
-- @field v311 protocol version of MQTT 3.1.1, its level in CONNECT (3.1.2.2)
-- @field v50 protocol version of MQTT 5.0
-- @field _VERSION version of the luamqtt API that this library reproduces
return {
	v311 = 4,
	v50 = 5,
	_VERSION = "1.0.2",
}
