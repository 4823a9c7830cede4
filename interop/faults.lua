-- What brokers do not do: for broker, MQTT version and feature a sentence that says why it is not this library's fault.
-- A feature that is "not ok" and is not here makes scripts/interop fail; to others the sentence may add something. What
-- concerns all of them has the feature "*".

local DOT = "A dot comes back as a slash: RabbitMQ keeps topics as routing keys of AMQP, which have dots for slashes."
local NO_DUP = "A repeated message has no DUP, against [MQTT-3.3.1-1]."

return {
	rabbitmq = {
		["3.1.1"] = {
			["QoS 2, 50 messages both ways"] = "Treated as QoS 1: SUBACK grants QoS 1, and PUBLISH gets a PUBACK.",
			["a dot in a topic"] = DOT,
		},
		["5.0"] = {
			["connect, disconnect"] = "Speaks MQTT 3.1.1 only; it closes the connection without a CONNACK.",
			["a dot in a topic"] = DOT .. " Nor does RabbitMQ 4 heed the options of a subscription with a dot.",
		},
	},
	aedes = {
		["3.1.1"] = {
			["session: what was not acknowledged comes again"] = NO_DUP,
		},
	},
	amqtt = {
		["3.1.1"] = {
			["session: what was not acknowledged comes again"] = "It is not sent again, against [MQTT-4.4.0-1].",
		},
		["5.0"] = {
			["connect, disconnect"] = "Speaks MQTT 3.1.1 only.",
		},
	},
	rumqttd = {
		["3.1.1"] = {
			["session: what was not acknowledged comes again"] = NO_DUP,
		},
		["5.0"] = {
			["session: what was not acknowledged comes again"] = NO_DUP,
			["*"] = "Sometimes ends a connection that comes right after another has ended: both have the same number, and "
				.. "rumqttd notes the end of the first twice. So the program waits 0.1 s before each connection.",
			["no local, retain as published"] = "Retain as published is ignored, against [MQTT-3.3.1-13].",
		},
	},
}
