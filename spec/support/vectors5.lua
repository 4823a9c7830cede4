-- Packets of MQTT 5.0: their bytes and what they are to programs.
-- `args` is what they are made from where that is less than `packet`. `parse_only` ones are accepted, but made
-- otherwise or not at all.
-- Empty tables of properties are left out here.

local pt = require("mqtt.protocol").packet_type

return {
	{
		name = "CONNECT",
		hex = "10 0D 0004 4D515454 05 00 0000 00 0000",
		packet = { type = pt.CONNECT, version = 5, id = "", clean = false, keep_alive = 0 },
	},
	{
		name = "CONNECT: clean",
		hex = "10 0D 0004 4D515454 05 02 0000 00 0000",
		packet = { type = pt.CONNECT, version = 5, id = "", clean = true, keep_alive = 0 },
	},
	{
		name = "CONNECT: user name",
		hex = "10 13 0004 4D515454 05 80 0000 00 0000 0004 75736572",
		packet = {
			type = pt.CONNECT, version = 5, id = "", clean = false, keep_alive = 0, username = "user",
		},
	},
	{
		name = "CONNECT: keep alive, password",
		hex = "10 15 0004 4D515454 05 40 001E 00 0000 0006 736563726574",
		packet = {
			type = pt.CONNECT, version = 5, id = "", clean = false, keep_alive = 30, password = "secret",
		},
	},
	{
		name = "CONNECT: client identifier",
		hex = "10 18 0004 4D515454 05 00 0000 00 000B 636C69656E742D69642D35",
		packet = {
			type = pt.CONNECT, version = 5, id = "client-id-5", clean = false, keep_alive = 0,
		},
		args = { type = pt.CONNECT, version = 5, id = "client-id-5" },
	},
	{
		name = "CONNECT: clean, keep alive, client identifier",
		hex = "10 18 0004 4D515454 05 02 00FF 00 000B 636C69656E742D69642D35",
		packet = {
			type = pt.CONNECT, version = 5, id = "client-id-5", clean = true, keep_alive = 255,
		},
	},
	{
		name = "CONNECT: will",
		hex = "10 18 0004 4D515454 05 04 0000 00 0000 00 0003 627965 0003 627965",
		packet = {
			type = pt.CONNECT, version = 5, id = "", clean = false, keep_alive = 0,
			will = { topic = "bye", payload = "bye", qos = 0, retain = false },
		},
	},
	{
		name = "CONNECT: user name, password",
		hex = "10 1B 0004 4D515454 05 C0 0000 00 0000 0004 75736572 0006 736563726574",
		packet = {
			type = pt.CONNECT, version = 5, id = "", clean = false, keep_alive = 0, password = "secret",
			username = "user",
		},
	},
	{
		name = "CONNECT: client identifier, user name, password",
		hex = "10 22 0004 4D515454 05 C0 0000 00 0007 6C75616D717474 0004 75736572 0006 736563726574",
		packet = {
			type = pt.CONNECT, version = 5, id = "luamqtt", clean = false, keep_alive = 0, password = "secret",
			username = "user",
		},
	},
	{
		name = "CONNECT: all fields",
		hex = [[
			10 55 0004 4D515454 05 F6 001E 00 000B 636C69656E742D69642D35 00 0007 6F66666C696E65 0016
			636C69656E742D69642D35206973206F66666C696E65 000A 54686520352D55736572 000D
			3535352D546F70536563726574
		]],
		packet = {
			type = pt.CONNECT, version = 5, id = "client-id-5", clean = true, keep_alive = 30,
			password = "555-TopSecret", username = "The 5-User",
			will = { topic = "offline", payload = "client-id-5 is offline", qos = 2, retain = true },
		},
	},
	{
		name = "CONNECT: will with QoS 2 retained, will properties",
		hex = [[
			10 64 0004 4D515454 05 34 0000 00 0000 4C 18 0000001E 01 01 02 0000000A 03 000A 746578742F706C61696E
			08 0004 72657370 09 0004 31323334 26 0005 68656C6C6F 0005 776F726C64 26 0005 68656C6C6F 0005
			616761696E 26 0001 61 0001 62 0003 627965 0003 627965
		]],
		packet = {
			type = pt.CONNECT, version = 5, id = "", clean = false, keep_alive = 0,
			will = {
				topic = "bye", payload = "bye", qos = 2, retain = true,
				properties = {
					content_type = "text/plain", correlation_data = "1234", message_expiry_interval = 10,
					payload_format_indicator = 1, response_topic = "resp", will_delay_interval = 30,
				},
				user_properties = { { "hello", "world" }, { "hello", "again" }, a = "b", hello = "again" },
			},
		},
		parse_only = true,
	},
	{
		name = "CONNECT: all fields and properties",
		hex = [[
			10 EF01 0004 4D515454 05 F6 001E 4C 11 00015180 15 0005 6261736963 16 000B 736F6D652D736563726574 17
			01 19 01 21 7FFF 22 03E8 27 00100000 26 0004 66726F6D 000A 4D515454207465737473 26 0005 68656C6C6F
			0005 776F726C64 000B 636C69656E742D69642D35 4E 01 01 02 00015180 03 000A 746578742F706C61696E 08
			000C 6F6B61792F6F66666C696E65 09 0004 736F6D65 18 00000014 26 0005 68656C6C6F 0004 776F7264 26 0004
			736F6D65 0008 70726F7065727479 0007 6F66666C696E65 0016 636C69656E742D69642D35206973206F66666C696E65
			000A 54686520352D55736572 000D 3535352D546F70536563726574
		]],
		packet = {
			type = pt.CONNECT, version = 5, id = "client-id-5", clean = true, keep_alive = 30,
			password = "555-TopSecret", username = "The 5-User",
			will = {
				topic = "offline", payload = "client-id-5 is offline", qos = 2, retain = true,
				properties = {
					content_type = "text/plain", correlation_data = "some", message_expiry_interval = 86400,
					payload_format_indicator = 1, response_topic = "okay/offline", will_delay_interval = 20,
				},
				user_properties = { hello = "word", some = "property" },
			},
			properties = {
				authentication_data = "some-secret", authentication_method = "basic",
				maximum_packet_size = 1048576, receive_maximum = 32767, request_problem_information = 1,
				request_response_information = 1, session_expiry_interval = 86400, topic_alias_maximum = 1000,
			},
			user_properties = { from = "MQTT tests", hello = "world" },
		},
	},
	{
		name = "CONNACK: code 0x00",
		hex = "20 03 00 00 00",
		packet = { type = pt.CONNACK, sp = false, rc = 0 },
	},
	{
		name = "CONNACK: code 0x20",
		hex = "20 03 00 20 00",
		packet = { type = pt.CONNACK, sp = false, rc = 0x20 },
	},
	{
		name = "CONNACK: session present, code 0x8A",
		hex = "20 03 01 8A 00",
		packet = { type = pt.CONNACK, sp = true, rc = 0x8A },
	},
	{
		name = "CONNACK: session present, code 0x82, properties, repeated user properties",
		hex = [[
			20 75 01 82 72 11 00000E10 12 0005 736C617665 13 0078 15 0005 6775657373 16 0002 3130 1A 0005
			686572652F 1C 000D 736565202F6465762F6E756C6C 1F 0007 70726F63656564 21 1234 22 4321 24 01 25 01 27
			00004567 28 01 29 00 2A 01 26 0005 68656C6C6F 0005 776F726C64 26 0005 68656C6C6F 0005 616761696E
		]],
		packet = {
			type = pt.CONNACK, sp = true, rc = 0x82,
			properties = {
				assigned_client_identifier = "slave", authentication_data = "10",
				authentication_method = "guess", maximum_packet_size = 17767, maximum_qos = 1,
				reason_string = "proceed", receive_maximum = 4660, response_information = "here/",
				retain_available = 1, server_keep_alive = 120, server_reference = "see /dev/null",
				session_expiry_interval = 3600, shared_subscription_available = 1,
				subscription_identifiers_available = 0, topic_alias_maximum = 17185,
				wildcard_subscription_available = 1,
			},
			user_properties = { { "hello", "world" }, { "hello", "again" }, hello = "again" },
		},
	},
	{
		name = "CONNACK: all fields and properties",
		hex = [[
			20 75 01 82 72 11 00000E10 21 1234 24 01 25 01 27 00004567 12 0005 736C617665 22 4321 1F 0007
			70726F63656564 28 01 29 00 2A 01 13 0078 1A 0005 686572652F 1C 000D 736565202F6465762F6E756C6C 15
			0005 6775657373 16 0002 3130 26 0005 68656C6C6F 0005 776F726C64 26 0005 68656C6C6F 0005 616761696E
		]],
		packet = {
			type = pt.CONNACK, sp = true, rc = 0x82,
			properties = {
				assigned_client_identifier = "slave", authentication_data = "10",
				authentication_method = "guess", maximum_packet_size = 17767, maximum_qos = 1,
				reason_string = "proceed", receive_maximum = 4660, response_information = "here/",
				retain_available = 1, server_keep_alive = 120, server_reference = "see /dev/null",
				session_expiry_interval = 3600, shared_subscription_available = 1,
				subscription_identifiers_available = 0, topic_alias_maximum = 17185,
				wildcard_subscription_available = 1,
			},
			user_properties = { { "hello", "world" }, { "hello", "again" }, hello = "again" },
		},
		parse_only = true,
	},
	{
		name = "PUBLISH: QoS 0",
		hex = "30 07 0004 74657374 00",
		packet = { type = pt.PUBLISH, topic = "test", dup = false, qos = 0, retain = false },
	},
	{
		name = "PUBLISH: QoS 0, another",
		hex = "30 0B 0008 746573742F707562 00",
		packet = { type = pt.PUBLISH, topic = "test/pub", dup = false, qos = 0, retain = false },
	},
	{
		name = "PUBLISH: QoS 0, dup, retain, payload",
		hex = "39 0B 0004 74657374 00 6B756B75",
		packet = {
			type = pt.PUBLISH, topic = "test", dup = true, payload = "kuku", qos = 0, retain = true,
		},
		parse_only = true,
	},
	{
		name = "PUBLISH: QoS 2, dup, retain, payload",
		hex = "3D 0D 0004 74657374 1234 00 6B756B75",
		packet = {
			type = pt.PUBLISH, packet_id = 4660, topic = "test", dup = true, payload = "kuku", qos = 2,
			retain = true,
		},
	},
	{
		name = "PUBLISH: QoS 2, dup, retain",
		hex = "3D 0D 0008 746573742F707562 04D2 00",
		packet = {
			type = pt.PUBLISH, packet_id = 1234, topic = "test/pub", dup = true, qos = 2, retain = true,
		},
	},
	{
		name = "PUBLISH: QoS 2, dup, retain, payload, properties",
		hex = "3D 14 0004 74657374 1234 07 0B 02 0B 03 0B 8010 6B756B75",
		packet = {
			type = pt.PUBLISH, packet_id = 4660, topic = "test", dup = true, payload = "kuku", qos = 2,
			retain = true, properties = { subscription_identifiers = { 2, 3, 2048 } },
		},
		parse_only = true,
	},
	{
		name = "PUBLISH: QoS 1, retain, payload",
		hex = "33 16 0008 746573742F707562 00DE 00 686579204D51545421",
		packet = {
			type = pt.PUBLISH, packet_id = 222, topic = "test/pub", dup = false, payload = "hey MQTT!", qos = 1,
			retain = true,
		},
	},
	{
		name = "PUBLISH: QoS 2, dup, retain, payload, properties, user properties",
		hex = [[
			3D 43 0004 74657374 1234 36 01 01 02 0000012C 23 0002 08 0007 6865792F707562 09 0002 3230 0B 02 03
			0009 696D6167652F706E67 26 0005 68656C6C6F 0005 776F726C64 6B756B75
		]],
		packet = {
			type = pt.PUBLISH, packet_id = 4660, topic = "test", dup = true, payload = "kuku", qos = 2,
			retain = true,
			properties = {
				content_type = "image/png", correlation_data = "20", message_expiry_interval = 300,
				payload_format_indicator = 1, response_topic = "hey/pub", subscription_identifiers = { 2 },
				topic_alias = 2,
			},
			user_properties = { hello = "world" },
		},
		parse_only = true,
	},
	{
		name = "PUBLISH: QoS 2, dup, retain, payload, properties, repeated user properties",
		hex = [[
			3D 9701 0008 746573742F707562 00DE 8001 01 01 02 00015180 03 000A 796F752F74656C6C6D65 08 0004
			68657265 09 0004 736F6D65 0B 05 23 1234 26 0005 6172726179 0006 6974656D2031 26 0005 6172726179 0006
			6974656D2033 26 0005 6172726179 0006 6974656D2032 26 000B 546F20496E66696E697479 000A
			616E64204265796F6E64 26 0005 68656C6C6F 0005 776F726C64 686579204D51545421
		]],
		packet = {
			type = pt.PUBLISH, packet_id = 222, topic = "test/pub", dup = true, payload = "hey MQTT!", qos = 2,
			retain = true,
			properties = {
				content_type = "you/tellme", correlation_data = "some", message_expiry_interval = 86400,
				payload_format_indicator = 1, response_topic = "here", subscription_identifiers = { 5 },
				topic_alias = 4660,
			},
			user_properties = {
				{ "array", "item 1" }, { "array", "item 3" }, { "array", "item 2" },
				["To Infinity"] = "and Beyond", array = "item 2", hello = "world",
			},
		},
	},
	{
		name = "PUBACK: code 0x00, packet identifier 1",
		hex = "40 02 0001",
		packet = { type = pt.PUBACK, packet_id = 1, rc = 0 },
	},
	{
		name = "PUBACK: code 0x00, packet identifier 10",
		hex = "40 02 000A",
		packet = { type = pt.PUBACK, packet_id = 10, rc = 0 },
	},
	{
		name = "PUBACK: code 0x10, packet identifier 1",
		hex = "40 03 0001 10",
		packet = { type = pt.PUBACK, packet_id = 1, rc = 0x10 },
		parse_only = true,
	},
	{
		name = "PUBACK: code 0x80, packet identifier 10",
		hex = "40 04 000A 80 00",
		packet = { type = pt.PUBACK, packet_id = 10, rc = 0x80 },
	},
	{
		name = "PUBACK: code 0x10, packet identifier 4660",
		hex = "40 04 1234 10 00",
		packet = { type = pt.PUBACK, packet_id = 4660, rc = 0x10 },
	},
	{
		name = "PUBACK: code 0x97, packet identifier 61455, properties, user properties",
		hex = "40 1F F00F 97 1B 1F 0009 69742773206F6B6179 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBACK, packet_id = 61455, rc = 0x97, properties = { reason_string = "it's okay" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "PUBACK: code 0x80, packet identifier 10, properties, user properties",
		hex = "40 23 000A 80 1F 1F 000D 74657374696E672070726F7073 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBACK, packet_id = 10, rc = 0x80, properties = { reason_string = "testing props" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "PUBREC: code 0x00, packet identifier 2",
		hex = "50 02 0002",
		packet = { type = pt.PUBREC, packet_id = 2, rc = 0 },
	},
	{
		name = "PUBREC: code 0x00, packet identifier 22",
		hex = "50 02 0016",
		packet = { type = pt.PUBREC, packet_id = 22, rc = 0 },
	},
	{
		name = "PUBREC: code 0x80, packet identifier 2",
		hex = "50 03 0002 80",
		packet = { type = pt.PUBREC, packet_id = 2, rc = 0x80 },
		parse_only = true,
	},
	{
		name = "PUBREC: code 0x10, packet identifier 22",
		hex = "50 04 0016 10 00",
		packet = { type = pt.PUBREC, packet_id = 22, rc = 0x10 },
	},
	{
		name = "PUBREC: code 0x80, packet identifier 4660",
		hex = "50 04 1234 80 00",
		packet = { type = pt.PUBREC, packet_id = 4660, rc = 0x80 },
	},
	{
		name = "PUBREC: code 0x83, packet identifier 61455, properties, user properties",
		hex = "50 1F F00F 83 1B 1F 0009 69742773206F6B6179 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBREC, packet_id = 61455, rc = 0x83, properties = { reason_string = "it's okay" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "PUBREC: code 0x80, packet identifier 10, properties, user properties",
		hex = "50 23 000A 80 1F 1F 000D 74657374696E672070726F7073 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBREC, packet_id = 10, rc = 0x80, properties = { reason_string = "testing props" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "PUBREL: code 0x00, packet identifier 3",
		hex = "62 02 0003",
		packet = { type = pt.PUBREL, packet_id = 3, rc = 0 },
	},
	{
		name = "PUBREL: code 0x00, packet identifier 22",
		hex = "62 02 0016",
		packet = { type = pt.PUBREL, packet_id = 22, rc = 0 },
	},
	{
		name = "PUBREL: code 0x92, packet identifier 3",
		hex = "62 03 0003 92",
		packet = { type = pt.PUBREL, packet_id = 3, rc = 0x92 },
		parse_only = true,
	},
	{
		name = "PUBREL: code 0x92, packet identifier 22",
		hex = "62 04 0016 92 00",
		packet = { type = pt.PUBREL, packet_id = 22, rc = 0x92 },
	},
	{
		name = "PUBREL: code 0x92, packet identifier 4660",
		hex = "62 04 1234 92 00",
		packet = { type = pt.PUBREL, packet_id = 4660, rc = 0x92 },
	},
	{
		name = "PUBREL: code 0x00, packet identifier 61455, properties, user properties",
		hex = "62 1F F00F 00 1B 1F 0009 69742773206F6B6179 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBREL, packet_id = 61455, rc = 0, properties = { reason_string = "it's okay" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "PUBREL: code 0x92, packet identifier 10, properties, user properties",
		hex = "62 23 000A 92 1F 1F 000D 74657374696E672070726F7073 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBREL, packet_id = 10, rc = 0x92, properties = { reason_string = "testing props" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "PUBCOMP: code 0x00, packet identifier 4",
		hex = "70 02 0004",
		packet = { type = pt.PUBCOMP, packet_id = 4, rc = 0 },
	},
	{
		name = "PUBCOMP: code 0x00, packet identifier 22",
		hex = "70 02 0016",
		packet = { type = pt.PUBCOMP, packet_id = 22, rc = 0 },
	},
	{
		name = "PUBCOMP: code 0x92, packet identifier 4",
		hex = "70 03 0004 92",
		packet = { type = pt.PUBCOMP, packet_id = 4, rc = 0x92 },
		parse_only = true,
	},
	{
		name = "PUBCOMP: code 0x92, packet identifier 22",
		hex = "70 04 0016 92 00",
		packet = { type = pt.PUBCOMP, packet_id = 22, rc = 0x92 },
	},
	{
		name = "PUBCOMP: code 0x92, packet identifier 4660",
		hex = "70 04 1234 92 00",
		packet = { type = pt.PUBCOMP, packet_id = 4660, rc = 0x92 },
	},
	{
		name = "PUBCOMP: code 0x00, packet identifier 61455, properties, user properties",
		hex = "70 1F F00F 00 1B 1F 0009 69742773206F6B6179 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBCOMP, packet_id = 61455, rc = 0, properties = { reason_string = "it's okay" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "PUBCOMP: code 0x92, packet identifier 10, properties, user properties",
		hex = "70 23 000A 92 1F 1F 000D 74657374696E672070726F7073 26 0005 68656C6C6F 0005 776F726C64",
		packet = {
			type = pt.PUBCOMP, packet_id = 10, rc = 0x92, properties = { reason_string = "testing props" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "SUBSCRIBE: 1 topic filter",
		hex = "82 0A 0003 00 0004 74657374 00",
		packet = {
			type = pt.SUBSCRIBE, packet_id = 3,
			subscriptions = { { topic = "test", no_local = false, qos = 0, retain_as_published = false, retain_handling = 0 } },
		},
		args = {
			type = pt.SUBSCRIBE, packet_id = 3,
			subscriptions = { { topic = "test", no_local = false, retain_as_published = false, retain_handling = 0 } },
		},
	},
	{
		name = "SUBSCRIBE: 1 topic filter, another",
		hex = "82 0A 0005 00 0004 74657374 00",
		packet = {
			type = pt.SUBSCRIBE, packet_id = 5,
			subscriptions = { { topic = "test", no_local = false, qos = 0, retain_as_published = false, retain_handling = 0 } },
		},
	},
	{
		name = "SUBSCRIBE: 2 topic filters",
		hex = "82 12 0004 00 0004 74657374 2E 0005 6F74686572 15",
		packet = {
			type = pt.SUBSCRIBE, packet_id = 4,
			subscriptions = {
				{ topic = "test", no_local = true, qos = 2, retain_as_published = true, retain_handling = 2 },
				{ topic = "other", no_local = true, qos = 1, retain_as_published = false, retain_handling = 1 },
			},
		},
	},
	{
		name = "SUBSCRIBE: 2 topic filters, properties, user properties",
		hex = [[
			82 24 0004 12 0B C546 26 0005 68656C6C6F 0005 616761696E 0004 74657374 2E 0005 6F74686572 15
		]],
		packet = {
			type = pt.SUBSCRIBE, packet_id = 4,
			subscriptions = {
				{ topic = "test", no_local = true, qos = 2, retain_as_published = true, retain_handling = 2 },
				{ topic = "other", no_local = true, qos = 1, retain_as_published = false, retain_handling = 1 },
			},
			properties = { subscription_identifiers = { 9029 } }, user_properties = { hello = "again" },
		},
	},
	{
		name = "SUBSCRIBE: 5 topic filters, properties, user properties",
		hex = [[
			82 3C 0005 11 0B 01 26 0005 68656C6C6F 0005 776F726C64 0005 7465737431 00 0005 7465737432 01 0005
			7465737433 06 0005 7465737434 0A 0005 7465737435 1E
		]],
		packet = {
			type = pt.SUBSCRIBE, packet_id = 5,
			subscriptions = {
				{ topic = "test1", no_local = false, qos = 0, retain_as_published = false, retain_handling = 0 },
				{ topic = "test2", no_local = false, qos = 1, retain_as_published = false, retain_handling = 0 },
				{ topic = "test3", no_local = true, qos = 2, retain_as_published = false, retain_handling = 0 },
				{ topic = "test4", no_local = false, qos = 2, retain_as_published = true, retain_handling = 0 },
				{ topic = "test5", no_local = true, qos = 2, retain_as_published = true, retain_handling = 1 },
			},
			properties = { subscription_identifiers = { 1 } }, user_properties = { hello = "world" },
		},
	},
	{
		name = "SUBACK: code 0x02, packet identifier 14",
		hex = "90 04 000E 00 02",
		packet = { type = pt.SUBACK, packet_id = 14, rc = { 2 } },
	},
	{
		name = "SUBACK: code 0x00, packet identifier 257",
		hex = "90 04 0101 00 00",
		packet = { type = pt.SUBACK, packet_id = 257, rc = { 0 } },
	},
	{
		name = "SUBACK: 4 codes, packet identifier 257",
		hex = "90 07 0101 00 00 01 80 97",
		packet = { type = pt.SUBACK, packet_id = 257, rc = { 0, 1, 0x80, 0x97 } },
	},
	{
		name = "SUBACK: 5 codes, packet identifier 14, properties, user properties",
		hex = "90 1E 000E 16 1F 0004 6F6B6179 26 0005 68656C6C6F 0005 7568206E6F 02 01 00 80 87",
		packet = {
			type = pt.SUBACK, packet_id = 14, rc = { 2, 1, 0, 0x80, 0x87 },
			properties = { reason_string = "okay" }, user_properties = { hello = "uh no" },
		},
	},
	{
		name = "SUBACK: 4 codes, packet identifier 257, properties, user properties",
		hex = "90 22 0101 1B 1F 0009 69742773206F6B6179 26 0005 68656C6C6F 0005 776F726C64 00 09 80 97",
		packet = {
			type = pt.SUBACK, packet_id = 257, rc = { 0, 9, 0x80, 0x97 },
			properties = { reason_string = "it's okay" }, user_properties = { hello = "world" },
		},
	},
	{
		name = "UNSUBSCRIBE: 1 topic filter",
		hex = "A2 09 0002 00 0004 74657374",
		packet = { type = pt.UNSUBSCRIBE, packet_id = 2, subscriptions = { "test" } },
	},
	{
		name = "UNSUBSCRIBE: 1 topic filter, another",
		hex = "A2 0A 000E 00 0005 6F74686572",
		packet = { type = pt.UNSUBSCRIBE, packet_id = 14, subscriptions = { "other" } },
	},
	{
		name = "UNSUBSCRIBE: 3 topic filters, user properties",
		hex = [[
			A2 27 0003 0F 26 0005 68656C6C6F 0005 776F726C64 0005 7465737431 0005 7465737432 0005 7465737433
		]],
		packet = {
			type = pt.UNSUBSCRIBE, packet_id = 3, subscriptions = { "test1", "test2", "test3" },
			user_properties = { hello = "world" },
		},
	},
	{
		name = "UNSUBSCRIBE: 2 topic filters, repeated user properties",
		hex = [[
			A2 30 000E 20 26 0006 627965627965 0005 776F726C64 26 0006 627965627965 0005 616761696E 0005
			6F74686572 0004 74657374
		]],
		packet = {
			type = pt.UNSUBSCRIBE, packet_id = 14, subscriptions = { "other", "test" },
			user_properties = { { "byebye", "world" }, { "byebye", "again" }, byebye = "again" },
		},
	},
	{
		name = "UNSUBACK: code 0x02, packet identifier 14",
		hex = "B0 04 000E 00 02",
		packet = { type = pt.UNSUBACK, packet_id = 14, rc = { 2 } },
	},
	{
		name = "UNSUBACK: code 0x00, packet identifier 514",
		hex = "B0 04 0202 00 00",
		packet = { type = pt.UNSUBACK, packet_id = 514, rc = { 0 } },
	},
	{
		name = "UNSUBACK: 4 codes, packet identifier 8995",
		hex = "B0 07 2323 00 00 11 80 87",
		packet = { type = pt.UNSUBACK, packet_id = 8995, rc = { 0, 0x11, 0x80, 0x87 } },
	},
	{
		name = "UNSUBACK: 5 codes, packet identifier 14, properties, user properties",
		hex = "B0 1E 000E 16 1F 0004 6F6B6179 26 0005 68656C6C6F 0005 776F726C64 00 00 00 80 11",
		packet = {
			type = pt.UNSUBACK, packet_id = 14, rc = { 0, 0, 0, 0x80, 0x11 },
			properties = { reason_string = "okay" }, user_properties = { hello = "world" },
		},
	},
	{
		name = "UNSUBACK: 4 codes, packet identifier 13364, properties, user properties",
		hex = "B0 22 3434 1B 1F 0009 69742773206F6B6179 26 0005 68656C6C6F 0005 776F726C64 00 11 80 05",
		packet = {
			type = pt.UNSUBACK, packet_id = 13364, rc = { 0, 0x11, 0x80, 5 },
			properties = { reason_string = "it's okay" }, user_properties = { hello = "world" },
		},
	},
	{
		name = "PINGREQ",
		hex = "C0 00",
		packet = { type = pt.PINGREQ },
	},
	{
		name = "PINGRESP",
		hex = "D0 00",
		packet = { type = pt.PINGRESP },
	},
	{
		name = "DISCONNECT: code 0x00",
		hex = "E0 00",
		packet = { type = pt.DISCONNECT, rc = 0 },
	},
	{
		name = "DISCONNECT: code 0x81",
		hex = "E0 01 81",
		packet = { type = pt.DISCONNECT, rc = 0x81 },
		parse_only = true,
	},
	{
		name = "DISCONNECT: code 0x00 spelt out",
		hex = "E0 02 00 00",
		packet = { type = pt.DISCONNECT, rc = 0 },
		parse_only = true,
	},
	{
		name = "DISCONNECT: code 0x20",
		hex = "E0 02 20 00",
		packet = { type = pt.DISCONNECT, rc = 0x20 },
	},
	{
		name = "DISCONNECT: code 0x81, property length spelt out",
		hex = "E0 02 81 00",
		packet = { type = pt.DISCONNECT, rc = 0x81 },
	},
	{
		name = "DISCONNECT: code 0x87, properties, user properties",
		hex = [[
			E0 2B 87 29 11 00000E10 1C 0002 3433 1F 0008 66696E616C6C7921 26 0006 736572766572 0009
			6E6F742034323F3F3F
		]],
		packet = {
			type = pt.DISCONNECT, rc = 0x87,
			properties = { reason_string = "finally!", server_reference = "43", session_expiry_interval = 3600 },
			user_properties = { server = "not 42???" },
		},
	},
	{
		name = "DISCONNECT: code 0x81, properties, user properties",
		hex = [[
			E0 38 81 36 11 00000E10 1F 0009 69742773206F6B6179 1C 0013 6D6567612D62726F6B65722076313030353030 26
			0005 68656C6C6F 0005 776F726C64
		]],
		packet = {
			type = pt.DISCONNECT, rc = 0x81,
			properties = {
				reason_string = "it's okay", server_reference = "mega-broker v100500",
				session_expiry_interval = 3600,
			},
			user_properties = { hello = "world" },
		},
		parse_only = true,
	},
	{
		name = "AUTH: code 0x00",
		hex = "F0 00",
		packet = { type = pt.AUTH, rc = 0 },
	},
	{
		name = "AUTH: code 0x00 spelt out",
		hex = "F0 02 00 00",
		packet = { type = pt.AUTH, rc = 0 },
		parse_only = true,
	},
	{
		name = "AUTH: code 0x18",
		hex = "F0 02 18 00",
		packet = { type = pt.AUTH, rc = 0x18 },
	},
	{
		name = "AUTH: code 0x19, properties, user properties",
		hex = [[
			F0 3E 19 3C 15 0005 6775657373 16 000D 343220697320746865206B6579 1F 000A 6A757374206361757365 26
			0006 616E73776572 000C 34322C2066696E616C6C7921
		]],
		packet = {
			type = pt.AUTH, rc = 0x19,
			properties = {
				authentication_data = "42 is the key", authentication_method = "guess",
				reason_string = "just cause",
			},
			user_properties = { answer = "42, finally!" },
		},
	},
	{
		name = "AUTH: code 0x18, properties, repeated user properties",
		hex = [[
			F0 44 18 42 15 0006 6D6574686F64 16 000B 6B6E6F636B2D6B6E6F636B 1F 0009 69742773206F6B6179 26 0005
			68656C6C6F 0005 776F726C64 26 0005 68656C6C6F 0006 776F726C6432
		]],
		packet = {
			type = pt.AUTH, rc = 0x18,
			properties = {
				authentication_data = "knock-knock", authentication_method = "method",
				reason_string = "it's okay",
			},
			user_properties = { { "hello", "world" }, { "hello", "world2" }, hello = "world2" },
		},
	},
}
