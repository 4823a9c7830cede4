-- Packets of MQTT 3.1.1: their bytes and what they are to programs.
-- `args` is what they are made from where that is less than `packet`. `parse_only` ones are accepted, but made
-- otherwise or not at all.

local pt = require("mqtt.protocol").packet_type

return {
	{
		name = "CONNECT",
		hex = "10 0C 0004 4D515454 04 00 0000 0000",
		packet = { type = pt.CONNECT, version = 4, id = "", clean = false, keep_alive = 0 },
		parse_only = true,
	},
	{
		name = "CONNECT: clean, keep alive",
		hex = "10 0C 0004 4D515454 04 02 001E 0000",
		packet = { type = pt.CONNECT, version = 4, id = "", clean = true, keep_alive = 30 },
	},
	{
		name = "CONNECT: keep alive, client identifier",
		hex = "10 10 0004 4D515454 04 00 001E 0004 74657374",
		packet = { type = pt.CONNECT, version = 4, id = "test", clean = false, keep_alive = 30 },
	},
	{
		name = "CONNECT: keep alive, user name",
		hex = "10 12 0004 4D515454 04 80 001E 0000 0004 75736572",
		packet = {
			type = pt.CONNECT, version = 4, id = "", clean = false, keep_alive = 30, username = "user",
		},
		parse_only = true,
	},
	{
		name = "CONNECT: keep alive, will with QoS 2 retained, its payload empty",
		hex = "10 13 0004 4D515454 04 34 001E 0000 0003 627965 0000",
		packet = {
			type = pt.CONNECT, version = 4, id = "", clean = false, keep_alive = 30,
			will = { topic = "bye", payload = "", qos = 2, retain = true },
		},
		parse_only = true,
	},
	{
		name = "CONNECT: client identifier",
		hex = "10 15 0004 4D515454 04 00 0000 0009 636C69656E742D6964",
		packet = { type = pt.CONNECT, version = 4, id = "client-id", clean = false, keep_alive = 0 },
		args = { type = pt.CONNECT, version = 4, id = "client-id" },
	},
	{
		name = "CONNECT: keep alive, will",
		hex = "10 16 0004 4D515454 04 04 001E 0000 0003 627965 0003 627965",
		packet = {
			type = pt.CONNECT, version = 4, id = "", clean = false, keep_alive = 30,
			will = { topic = "bye", payload = "bye", qos = 0, retain = false },
		},
		parse_only = true,
	},
	{
		name = "CONNECT: keep alive, user name, password",
		hex = "10 18 0004 4D515454 04 C0 001E 0000 0004 75736572 0004 31323334",
		packet = {
			type = pt.CONNECT, version = 4, id = "", clean = false, keep_alive = 30, password = "1234",
			username = "user",
		},
		parse_only = true,
	},
	{
		name = "CONNECT: all fields",
		hex = [[
			10 48 0004 4D515454 04 EE 001E 0009 636C69656E742D6964 0007 6F66666C696E65 0014
			636C69656E742D6964206973206F66666C696E65 0007 54686555736572 0009 546F70536563726574
		]],
		packet = {
			type = pt.CONNECT, version = 4, id = "client-id", clean = true, keep_alive = 30,
			password = "TopSecret", username = "TheUser",
			will = { topic = "offline", payload = "client-id is offline", qos = 1, retain = true },
		},
	},
	{
		name = "CONNACK: code 0x00",
		hex = "20 02 00 00",
		packet = { type = pt.CONNACK, sp = false, rc = 0 },
	},
	{
		name = "CONNACK: code 0x01",
		hex = "20 02 00 01",
		packet = { type = pt.CONNACK, sp = false, rc = 1 },
	},
	{
		name = "CONNACK: code 0x02",
		hex = "20 02 00 02",
		packet = { type = pt.CONNACK, sp = false, rc = 2 },
	},
	{
		name = "CONNACK: code 0x20",
		hex = "20 02 00 20",
		packet = { type = pt.CONNACK, sp = false, rc = 0x20 },
	},
	{
		name = "CONNACK: session present, code 0x00",
		hex = "20 02 01 00",
		packet = { type = pt.CONNACK, sp = true, rc = 0 },
	},
	{
		name = "CONNACK: session present, code 0x02",
		hex = "20 02 01 02",
		packet = { type = pt.CONNACK, sp = true, rc = 2 },
	},
	{
		name = "PUBLISH: QoS 0",
		hex = "30 06 0004 736F6D65",
		packet = { type = pt.PUBLISH, topic = "some", dup = false, qos = 0, retain = false },
	},
	{
		name = "PUBLISH: QoS 1, dup, retain",
		hex = "3B 08 0004 736F6D65 0001",
		packet = {
			type = pt.PUBLISH, packet_id = 1, topic = "some", dup = true, qos = 1, retain = true,
		},
	},
	{
		name = "PUBLISH: QoS 1, dup, retain, payload",
		hex = "3B 0F 0004 736F6D65 0001 7061796C6F6164",
		packet = {
			type = pt.PUBLISH, packet_id = 1, topic = "some", dup = true, payload = "payload", qos = 1,
			retain = true,
		},
	},
	{
		name = "PUBLISH: QoS 1, dup, retain, longer payload",
		hex = "3B 0F 0004 736F6D65 0002 7061796C6F6164",
		packet = {
			type = pt.PUBLISH, packet_id = 2, topic = "some", dup = true, payload = "payload", qos = 1,
			retain = true,
		},
	},
	{
		name = "PUBLISH: QoS 0, payload",
		hex = "30 13 0004 736F6D65 716F73203D3D20312C206F6B21",
		packet = {
			type = pt.PUBLISH, topic = "some", dup = false, payload = "qos == 1, ok!", qos = 0, retain = false,
		},
	},
	{
		name = "PUBLISH: QoS 1, dup, retain, payload, another",
		hex = "3B 15 0004 736F6D65 0001 716F73203D3D20312C206F6B21",
		packet = {
			type = pt.PUBLISH, packet_id = 1, topic = "some", dup = true, payload = "qos == 1, ok!", qos = 1,
			retain = true,
		},
	},
	{
		name = "PUBACK: packet identifier 1",
		hex = "40 02 0001",
		packet = { type = pt.PUBACK, packet_id = 1 },
	},
	{
		name = "PUBACK: packet identifier 2",
		hex = "40 02 0002",
		packet = { type = pt.PUBACK, packet_id = 2 },
	},
	{
		name = "PUBACK: packet identifier 3",
		hex = "40 02 0003",
		packet = { type = pt.PUBACK, packet_id = 3 },
	},
	{
		name = "PUBACK: packet identifier 32759",
		hex = "40 02 7FF7",
		packet = { type = pt.PUBACK, packet_id = 32759 },
	},
	{
		name = "PUBACK: packet identifier 65535",
		hex = "40 02 FFFF",
		packet = { type = pt.PUBACK, packet_id = 65535 },
	},
	{
		name = "PUBREC: packet identifier 1",
		hex = "50 02 0001",
		packet = { type = pt.PUBREC, packet_id = 1 },
	},
	{
		name = "PUBREC: packet identifier 2",
		hex = "50 02 0002",
		packet = { type = pt.PUBREC, packet_id = 2 },
	},
	{
		name = "PUBREC: packet identifier 4",
		hex = "50 02 0004",
		packet = { type = pt.PUBREC, packet_id = 4 },
	},
	{
		name = "PUBREC: packet identifier 17767",
		hex = "50 02 4567",
		packet = { type = pt.PUBREC, packet_id = 17767 },
	},
	{
		name = "PUBREC: packet identifier 65535",
		hex = "50 02 FFFF",
		packet = { type = pt.PUBREC, packet_id = 65535 },
	},
	{
		name = "PUBREL: packet identifier 1",
		hex = "62 02 0001",
		packet = { type = pt.PUBREL, packet_id = 1 },
	},
	{
		name = "PUBREL: packet identifier 2",
		hex = "62 02 0002",
		packet = { type = pt.PUBREL, packet_id = 2 },
	},
	{
		name = "PUBREL: packet identifier 5",
		hex = "62 02 0005",
		packet = { type = pt.PUBREL, packet_id = 5 },
	},
	{
		name = "PUBREL: packet identifier 4660",
		hex = "62 02 1234",
		packet = { type = pt.PUBREL, packet_id = 4660 },
	},
	{
		name = "PUBREL: packet identifier 65535",
		hex = "62 02 FFFF",
		packet = { type = pt.PUBREL, packet_id = 65535 },
	},
	{
		name = "PUBCOMP: packet identifier 1",
		hex = "70 02 0001",
		packet = { type = pt.PUBCOMP, packet_id = 1 },
	},
	{
		name = "PUBCOMP: packet identifier 2",
		hex = "70 02 0002",
		packet = { type = pt.PUBCOMP, packet_id = 2 },
	},
	{
		name = "PUBCOMP: packet identifier 6",
		hex = "70 02 0006",
		packet = { type = pt.PUBCOMP, packet_id = 6 },
	},
	{
		name = "PUBCOMP: packet identifier 4660",
		hex = "70 02 1234",
		packet = { type = pt.PUBCOMP, packet_id = 4660 },
	},
	{
		name = "PUBCOMP: packet identifier 65535",
		hex = "70 02 FFFF",
		packet = { type = pt.PUBCOMP, packet_id = 65535 },
	},
	{
		name = "SUBSCRIBE: 1 topic filter",
		hex = "82 09 0001 0004 736F6D65 00",
		packet = {
			type = pt.SUBSCRIBE, packet_id = 1, subscriptions = { { topic = "some", qos = 0 } },
		},
	},
	{
		name = "SUBSCRIBE: 3 topic filters",
		hex = "82 21 0002 0006 736F6D652F23 00 000F 6F746865722F2B2F746F7069632F23 01 0001 23 02",
		packet = {
			type = pt.SUBSCRIBE, packet_id = 2,
			subscriptions = {
				{ topic = "some/#", qos = 0 }, { topic = "other/+/topic/#", qos = 1 },
				{ topic = "#", qos = 2 },
			},
		},
	},
	{
		name = "SUBSCRIBE: 3 topic filters, another",
		hex = "82 21 0007 0006 736F6D652F23 00 000F 6F746865722F2B2F746F7069632F23 01 0001 23 02",
		packet = {
			type = pt.SUBSCRIBE, packet_id = 7,
			subscriptions = {
				{ topic = "some/#", qos = 0 }, { topic = "other/+/topic/#", qos = 1 },
				{ topic = "#", qos = 2 },
			},
		},
	},
	{
		name = "SUBACK: code 0x00, packet identifier 1",
		hex = "90 03 0001 00",
		packet = { type = pt.SUBACK, packet_id = 1, rc = { 0 } },
	},
	{
		name = "SUBACK: code 0x00, packet identifier 16",
		hex = "90 03 0010 00",
		packet = { type = pt.SUBACK, packet_id = 16, rc = { 0 } },
	},
	{
		name = "SUBACK: code 0x01, packet identifier 16",
		hex = "90 03 0010 01",
		packet = { type = pt.SUBACK, packet_id = 16, rc = { 1 } },
	},
	{
		name = "SUBACK: code 0x02, packet identifier 16",
		hex = "90 03 0010 02",
		packet = { type = pt.SUBACK, packet_id = 16, rc = { 2 } },
	},
	{
		name = "SUBACK: code 0x80, packet identifier 16",
		hex = "90 03 0010 80",
		packet = { type = pt.SUBACK, packet_id = 16, rc = { 0x80 } },
	},
	{
		name = "SUBACK: code 0x00, packet identifier 4660",
		hex = "90 03 1234 00",
		packet = { type = pt.SUBACK, packet_id = 4660, rc = { 0 } },
	},
	{
		name = "SUBACK: 3 codes, packet identifier 4660",
		hex = "90 05 1234 02 03 80",
		packet = { type = pt.SUBACK, packet_id = 4660, rc = { 2, 3, 0x80 } },
	},
	{
		name = "SUBACK: 5 codes, packet identifier 1",
		hex = "90 07 0001 00 01 02 03 80",
		packet = { type = pt.SUBACK, packet_id = 1, rc = { 0, 1, 2, 3, 0x80 } },
	},
	{
		name = "SUBACK: 5 codes, packet identifier 8",
		hex = "90 07 0008 00 01 02 03 80",
		packet = { type = pt.SUBACK, packet_id = 8, rc = { 0, 1, 2, 3, 0x80 } },
	},
	{
		name = "UNSUBSCRIBE: 1 topic filter",
		hex = "A2 08 0001 0004 736F6D65",
		packet = { type = pt.UNSUBSCRIBE, packet_id = 1, subscriptions = { "some" } },
	},
	{
		name = "UNSUBSCRIBE: 3 topic filters",
		hex = "A2 1E 0009 0006 736F6D652F23 000F 6F746865722F2B2F746F7069632F23 0001 23",
		packet = {
			type = pt.UNSUBSCRIBE, packet_id = 9, subscriptions = { "some/#", "other/+/topic/#", "#" },
		},
	},
	{
		name = "UNSUBSCRIBE: 3 topic filters, another",
		hex = "A2 1E 1234 0006 736F6D652F23 000F 6F746865722F2B2F746F7069632F23 0001 23",
		packet = {
			type = pt.UNSUBSCRIBE, packet_id = 4660, subscriptions = { "some/#", "other/+/topic/#", "#" },
		},
	},
	{
		name = "UNSUBACK: packet identifier 1",
		hex = "B0 02 0001",
		packet = { type = pt.UNSUBACK, packet_id = 1 },
	},
	{
		name = "UNSUBACK: packet identifier 10",
		hex = "B0 02 000A",
		packet = { type = pt.UNSUBACK, packet_id = 10 },
	},
	{
		name = "UNSUBACK: packet identifier 255",
		hex = "B0 02 00FF",
		packet = { type = pt.UNSUBACK, packet_id = 255 },
	},
	{
		name = "UNSUBACK: packet identifier 4660",
		hex = "B0 02 1234",
		packet = { type = pt.UNSUBACK, packet_id = 4660 },
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
		name = "DISCONNECT",
		hex = "E0 00",
		packet = { type = pt.DISCONNECT },
	},
}
