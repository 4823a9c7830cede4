-- What must fail, by protocol version: `parse` has bytes and the error, `make` has arguments and the error.

local pt = require("mqtt.protocol").packet_type

local function publish(fields)
	local args = { type = pt.PUBLISH, topic = "a", qos = 1, packet_id = 1 }
	for key, value in pairs(fields) do
		args[key] = value
	end
	return args
end

local function subscribe(...)
	return { type = pt.SUBSCRIBE, packet_id = 1, subscriptions = { ... } }
end

local function connect(fields)
	fields.type = pt.CONNECT
	fields.id = fields.id or "id"
	return fields
end

local bad = {
	[4] = {
		parse = {
			{ "00 00", "packet type 0 is reserved in MQTT 3.1.1" },
			{ "F0 00", "packet type 15 is reserved in MQTT 3.1.1" },
			{ "30 FFFFFFFF 01", "malformed variable byte integer: expecting at most 4 bytes" },
			{ "10 00", "CONNECT: not enough bytes for protocol name: expected 2, got 0" },
			{ "11 00", "CONNECT: unexpected flags value: 1" },
			{ "10 0C 0004 4D515458 04 00 0000 0000", 'CONNECT: protocol name must be "MQTT", got "MQTX"' },
			{ "10 0C 0004 4D515454 05 00 0000 0000", "CONNECT: protocol version must be 4, got 5" },
			{ "10 0C 0004 4D515454 04 01 0000 0000", "CONNECT: connect flags must have bit 0 clear" },
			{ "10 0C 0004 4D515454 04 08 0000 0000", "CONNECT: will QoS and will retain must be 0 without a will" },
			{ "10 0F 0004 4D515454 04 40 0000 0000 0001 61", "CONNECT: password must not be given without a user name" },
			{ "10 12 0004 4D515454 04 1C 0000 0000 0001 61 0001 62", "CONNECT: will QoS must be 0, 1 or 2, got 3" },
			{ "10 0D 0004 4D515454 04 02 0000 0001 FF", "CONNECT: client identifier must be well-formed UTF-8" },
			{ "20 03 00 00 00", "CONNACK: extra data in remaining length left after packet parsing" },
			{ "20 02 02 00", "CONNACK: connect acknowledge flags must be 0 or 1, got 2" },
			{ "20 01 00", "CONNACK: not enough bytes for reason code: expected 1, got 0" },
			{ "36 05 0001 61 0001", "PUBLISH: QoS must be 0, 1 or 2, got 3" },
			{ "32 05 0001 61 0000", "PUBLISH: packet identifier must not be 0" },
			{ "32 03 0001 61", "PUBLISH: not enough bytes for packet identifier: expected 2, got 0" },
			{ "30 03 0001 2B", 'PUBLISH: topic must not contain wildcards, got "+"' },
			{ "30 02 0000", "PUBLISH: topic must not be empty" },
			{ "30 03 0001 00", "PUBLISH: topic must not contain U+0000" },
			{ "30 05 0003 EDA080", "PUBLISH: topic must be well-formed UTF-8" },
			{ "30 02 0005", "PUBLISH: not enough bytes for topic: expected 5, got 0" },
			{ "40 02 0000", "PUBACK: packet identifier must not be 0" },
			{ "50 03 0001 00", "PUBREC: extra data in remaining length left after packet parsing" },
			{ "60 02 0001", "PUBREL: unexpected flags value: 0" },
			{ "70 01 00", "PUBCOMP: not enough bytes for packet identifier: expected 2, got 1" },
			{ "82 02 0001", "SUBSCRIBE: empty subscriptions list" },
			{ "80 06 0001 0001 61 00", "SUBSCRIBE: unexpected flags value: 0" },
			{ "82 06 0000 0001 61 00", "SUBSCRIBE: packet identifier must not be 0" },
			{ "82 06 0001 0001 61 03", "SUBSCRIBE: QoS must be 0, 1 or 2, got 3" },
			{ "82 06 0001 0001 61 04", "SUBSCRIBE: subscription options must have reserved bits clear, got 0x04" },
			{ "82 07 0001 0002 612B 00", 'SUBSCRIBE: topic filter must have "+" only as a whole level, got "a+"' },
			{ "90 02 0001", "SUBACK: empty reason code list" },
			{ "92 03 0001 00", "SUBACK: unexpected flags value: 2" },
			{ "A2 02 0001", "UNSUBSCRIBE: empty subscriptions list" },
			{ "A0 05 0001 0001 61", "UNSUBSCRIBE: unexpected flags value: 0" },
			{ "B0 03 0001 00", "UNSUBACK: extra data in remaining length left after packet parsing" },
			{ "C0 01 00", "PINGREQ: extra data in remaining length left after packet parsing" },
			{ "D1 00", "PINGRESP: unexpected flags value: 1" },
			{ "E0 01 00", "DISCONNECT: extra data in remaining length left after packet parsing" },
		},
		make = {
			{ "PUBACK", "expecting args to be a table, got: string" },
			{ {}, "expecting .type to be an integer from 0 to 255, got: nil" },
			{ { type = 16 }, "expecting .type to be a packet type, 1 to 15, got: 16" },
			{ { type = pt.AUTH, rc = 0 }, "AUTH: an AUTH packet needs MQTT 5.0" },
			{ connect({ username = "u", id = 1 }), "expecting .id to be a string, got: number" },
			{ connect({ clean = "first" }), "expecting .clean to be a boolean, got: string" },
			{ connect({ keep_alive = 65536 }), "expecting .keep_alive to be an integer from 0 to 65535, got: 65536" },
			{ connect({ username = {} }), "expecting .username to be a string, got: table" },
			{ connect({ username = "u", password = 1234 }), "expecting .password to be a string, got: number" },
			{ connect({ password = "p" }), "CONNECT: password must not be given without a user name" },
			{ connect({ id = "\255" }), ".id must be well-formed UTF-8" },
			{ connect({ will = "w" }), "expecting .will to be a table, got: string" },
			{ connect({ will = { payload = "p" } }), "expecting .will.topic to be a string, got: nil" },
			{ connect({ will = { topic = "t" } }), "expecting .will.payload to be a string, got: nil" },
			{
				connect({ will = { topic = "t", payload = "p", qos = 3 } }),
				"expecting .will.qos to be an integer from 0 to 2, got: 3",
			},
			{
				connect({ will = { topic = "t", payload = "p", retain = 1 } }),
				"expecting .will.retain to be a boolean, got: number",
			},
			{ connect({ will = { topic = "+", payload = "p" } }), "CONNECT: will topic must not contain wildcards" },
			{ { type = pt.CONNACK, sp = 0, rc = 0 }, "expecting .sp to be a boolean, got: number" },
			{ { type = pt.CONNACK, sp = false }, "expecting .rc to be an integer from 0 to 255, got: nil" },
			{ publish({ topic = false }), "expecting .topic to be a string, got: boolean" },
			{ publish({ topic = "a/#" }), 'PUBLISH: topic must not contain wildcards, got "a/#"' },
			{ publish({ topic = "" }), "PUBLISH: topic must not be empty" },
			{ publish({ topic = "\255" }), ".topic must be well-formed UTF-8" },
			{ publish({ payload = 5 }), "expecting .payload to be a string, got: number" },
			{ publish({ qos = "1" }), "expecting .qos to be an integer from 0 to 2, got: string" },
			{ publish({ qos = 3 }), "expecting .qos to be an integer from 0 to 2, got: 3" },
			{ publish({ retain = 1 }), "expecting .retain to be a boolean, got: number" },
			{ publish({ dup = "no" }), "expecting .dup to be a boolean, got: string" },
			{ publish({ qos = 0, dup = true }), "PUBLISH: " },
			{ publish({ packet_id = false }), "expecting .packet_id to be an integer from 1 to 65535, got: boolean" },
			{ publish({ packet_id = 0 }), "expecting .packet_id to be an integer from 1 to 65535, got: 0" },
			{ publish({ packet_id = 1.5 }), "expecting .packet_id to be an integer from 1 to 65535, got: 1.5" },
			{ { type = pt.SUBSCRIBE }, "expecting .packet_id to be an integer from 1 to 65535, got: nil" },
			{ { type = pt.SUBSCRIBE, packet_id = 1 }, "expecting .subscriptions to be a list, got: nil" },
			{ subscribe(), "expecting .subscriptions to be a list with at least one item" },
			{ subscribe("invalid"), "expecting .subscriptions[1] to be a table, got: string" },
			{ subscribe({}), "expecting .subscriptions[1].topic to be a string, got: nil" },
			{ subscribe({ topic = "a" }, { topic = false }), "expecting .subscriptions[2].topic to be a string" },
			{ subscribe({ topic = "a", qos = 3 }), "expecting .subscriptions[1].qos to be an integer from 0 to 2, got: 3" },
			{ subscribe({ topic = "a#" }), 'SUBSCRIBE: topic filter must have "#" only as its last level, got "a#"' },
			{ { type = pt.SUBACK, packet_id = 1, rc = 0 }, "expecting .rc to be a list, got: number" },
			{ { type = pt.SUBACK, packet_id = 1, rc = {} }, "expecting .rc to be a list with at least one item" },
			{
				{ type = pt.SUBACK, packet_id = 1, rc = { 0, 256 } },
				"expecting .rc[2] to be an integer from 0 to 255, got: 256",
			},
			{
				{ type = pt.UNSUBSCRIBE, packet_id = 1, subscriptions = { "a", {} } },
				"expecting .subscriptions[2] to be a string, got: table",
			},
			{
				{ type = pt.UNSUBSCRIBE, packet_id = 1, subscriptions = {} },
				"expecting .subscriptions to be a list with at least one item",
			},
		},
	},
	[5] = {
		parse = {
			{ "10 0D 0004 4D515454 04 00 0000 00 0000", "CONNECT: protocol version must be 5, got 4" },
			{ "21 03 000000", "CONNACK: unexpected flags value: 1" },
			{ "20 02 0000", "CONNACK: failed to parse packet properties: not enough bytes for property length" },
			{
				"20 05 00 00 02 01 01",
				"CONNACK: failed to parse packet properties: property payload_format_indicator (1) is not allowed "
					.. "for that packet type",
			},
			{
				"20 07 00 00 04 2401 2401",
				"CONNACK: failed to parse packet properties: it is a Protocol Error to include the maximum_qos "
					.. "(36) property more than once",
			},
			{
				"20 05 00 00 02 2402",
				"CONNACK: failed to parse packet properties: property maximum_qos (36) must be 0 or 1, got 2",
			},
			{
				"20 06 00 00 03 210000",
				"CONNACK: failed to parse packet properties: property receive_maximum (33) must not be 0",
			},
			{ "20 05 00 00 03 2100", "CONNACK: failed to parse packet properties: not enough bytes for property list" },
			{
				"30 07 0001 61 03 230000",
				"PUBLISH: failed to parse packet properties: property topic_alias (35) must not be 0",
			},
			{ "30 03 0000 00", "PUBLISH: topic must not be empty" },
			{
				"30 06 0001 61 02 0B00",
				"PUBLISH: failed to parse packet properties: property subscription_identifiers (11) must not be 0",
			},
			{
				"30 0B 0001 61 07 26 0001 61 0001 00",
				"PUBLISH: failed to parse packet properties: user_property must not contain U+0000",
			},
			{
				"30 09 0001 61 05 08 0002 612B",
				'PUBLISH: failed to parse packet properties: response_topic must not contain wildcards, got "a+"',
			},
			{
				"30 06 0001 61 02 7F00",
				"PUBLISH: failed to parse packet properties: 127 is not the identifier of a property",
			},
			{ "40 04 0001 00 05", "PUBACK: failed to parse packet properties: not enough bytes for property list" },
			{ "50 05 0001 00 00 00", "PUBREC: extra data in remaining length left after packet parsing" },
			{ "82 03 0005 00", "SUBSCRIBE: empty subscriptions list" },
			{
				"82 0E 0005 04 0B01 0B02 0004 74657374 00",
				"SUBSCRIBE: failed to parse packet properties: it is a Protocol Error to include the "
					.. "subscription_identifiers (11) property more than once",
			},
			{ "82 07 0001 00 0001 61 C0", "SUBSCRIBE: subscription options must have reserved bits clear, got 0xc0" },
			{ "82 07 0001 00 0001 61 30", "SUBSCRIBE: retain handling must be 0, 1 or 2, got 3" },
			{ "90 03 0001 00", "SUBACK: empty reason code list" },
			{ "A2 03 0001 00", "UNSUBSCRIBE: empty subscriptions list" },
			{
				"A2 0C 0001 02 0B01 0005 7465737431",
				"UNSUBSCRIBE: failed to parse packet properties: property subscription_identifiers (11) is not allowed "
					.. "for that packet type",
			},
			{ "B0 03 0001 00", "UNSUBACK: empty reason code list" },
			{ "C0 01 00", "PINGREQ: extra data in remaining length left after packet parsing" },
			{ "D0 01 00", "PINGRESP: extra data in remaining length left after packet parsing" },
			{ "F0 02 18 05", "AUTH: failed to parse packet properties: not enough bytes for property list" },
		},
		make = {
			{ { type = pt.PUBACK, packet_id = 1 }, "expecting .rc to be an integer from 0 to 255, got: nil" },
			{ { type = pt.DISCONNECT }, "expecting .rc to be an integer from 0 to 255, got: nil" },
			{ { type = pt.UNSUBACK, packet_id = 1 }, "expecting .rc to be a list, got: nil" },
			{
				subscribe({ topic = "a", no_local = 1 }),
				"expecting .subscriptions[1].no_local to be a boolean, got: number",
			},
			{
				subscribe({ topic = "a", retain_as_published = 0 }),
				"expecting .subscriptions[1].retain_as_published to be a boolean, got: number",
			},
			{
				subscribe({ topic = "a", retain_handling = 3 }),
				"expecting .subscriptions[1].retain_handling to be an integer from 0 to 2, got: 3",
			},
			{ publish({ properties = 1 }), "expecting .properties to be a table, got: number" },
			{ publish({ properties = { "x" } }), "expecting keys of .properties to be strings, got: number" },
			{ publish({ properties = { hi = 1 } }), "expecting keys of .properties to be names of properties, got: hi" },
			{
				publish({ properties = { user_property = "x" } }),
				"expecting user properties in .user_properties, got one in .properties",
			},
			{
				publish({ properties = { topic_alias = "1" } }),
				"expecting .properties.topic_alias to be an integer from 0 to 65535, got: string",
			},
			{
				publish({ properties = { message_expiry_interval = 4294967296 } }),
				"expecting .properties.message_expiry_interval to be an integer from 0 to 4294967295, got: 4294967296",
			},
			{ publish({ properties = { topic_alias = 0 } }), "PUBLISH: property topic_alias (35) must not be 0" },
			{
				publish({ properties = { payload_format_indicator = 2 } }),
				"PUBLISH: property payload_format_indicator (1) must be 0 or 1, got 2",
			},
			{
				publish({ properties = { content_type = 1 } }),
				"expecting .properties.content_type to be a string, got: number",
			},
			{
				publish({ properties = { content_type = "\255" } }),
				".properties.content_type must be well-formed UTF-8",
			},
			{
				publish({ properties = { subscription_identifiers = 1 } }),
				"expecting .properties.subscription_identifiers to be a list, got: number",
			},
			{
				publish({ properties = { subscription_identifiers = { "x" } } }),
				"expecting .properties.subscription_identifiers[1] to be an integer",
			},
			{
				publish({ properties = { receive_maximum = 1 } }),
				"PUBLISH: property receive_maximum (33) is not allowed for that packet type",
			},
			{ publish({ user_properties = "x" }), "expecting .user_properties to be a list, got: string" },
			{ publish({ user_properties = { "x" } }), "expecting .user_properties[1] to be a table, got: string" },
			{ publish({ user_properties = { { "x" } } }), "expecting .user_properties[1][2] to be a string, got: nil" },
			{ publish({ user_properties = { x = 1 } }), "expecting .user_properties.x to be a string, got: number" },
			{
				publish({ user_properties = { [true] = "x" } }),
				"expecting key of .user_properties to be a string, got: boolean",
			},
			{
				connect({ will = { topic = "t", payload = "p", properties = { content_type = 1 } } }),
				"expecting .will.properties.content_type to be a string, got: number",
			},
			{
				connect({ will = { topic = "t", payload = "p", properties = { receive_maximum = 1 } } }),
				"CONNECT: ",
			},
			{
				{
					type = pt.SUBSCRIBE, packet_id = 1, subscriptions = { { topic = "a" } },
					properties = { subscription_identifiers = { 1, 2 } },
				},
				"SUBSCRIBE: it is a Protocol Error to include the subscription_identifiers (11) property more than once",
			},
		},
	},
}

return bad
