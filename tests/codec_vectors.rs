//! Packets and their bytes, from the suites of the original library. The bytes must be read as the packet. If their
//! form is the one to send, the packet must be written as these bytes.

use bytes::BytesMut;
use mqtt_core::codec::PropertyId as Id;
use mqtt_core::codec::PropertyValue::{self, Byte, FourByte, Pair, TwoByte, VarInt};
use mqtt_core::codec::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
use mqtt_core::codec::Version::{V50, V311};
use mqtt_core::codec::*;

fn hex(text: &str) -> BytesMut {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn assert_read<const N: usize>(version: Version, vectors: [(&str, Packet); N]) {
    for (bytes, packet) in vectors {
        let mut buffer = hex(bytes);
        let read = Decoder::new(version).decode(&mut buffer);
        assert_eq!(read.expect(bytes).expect(bytes), packet, "{bytes}");
        assert!(buffer.is_empty(), "{bytes}");
    }
}

fn assert_read_and_written<const N: usize>(version: Version, vectors: [(&str, Packet); N]) {
    for (bytes, packet) in &vectors {
        let mut out = BytesMut::new();
        encode(packet, version, &mut out).expect(bytes);
        assert_eq!(out, hex(bytes));
    }
    assert_read(version, vectors);
}

fn str(text: &'static str) -> Str {
    Str::from_static(text)
}

fn text(text: &'static str) -> PropertyValue {
    PropertyValue::String(str(text))
}

fn binary(bytes: &'static str) -> PropertyValue {
    PropertyValue::Binary(bytes.into())
}

fn user(name: &'static str, value: &'static str) -> (Id, PropertyValue) {
    (Id::UserProperty, Pair(str(name), str(value)))
}

fn list<const N: usize>(list: [(Id, PropertyValue); N]) -> Properties {
    let property = |(id, value)| Property { id, value };
    list.into_iter().map(property).collect()
}

fn none() -> Properties {
    Properties::new()
}

/// A CONNECT with only a client identifier, then changed.
fn connect(version: Version, client_id: &'static str, change: fn(&mut Connect)) -> Packet {
    let mut connect = Connect {
        version,
        clean: false,
        keep_alive: 0,
        client_id: str(client_id),
        username: None,
        password: None,
        will: None,
        properties: none(),
    };
    change(&mut connect);
    Packet::Connect(Box::new(connect))
}

fn will(
    topic: &'static str,
    payload: &'static str,
    qos: QoS,
    retain: bool,
    properties: Properties,
) -> Option<Will> {
    Some(Will {
        topic: str(topic),
        payload: payload.into(),
        qos,
        retain,
        properties,
    })
}

fn connack(session_present: bool, reason: u8, properties: Properties) -> Packet {
    Packet::Connack(Connack {
        session_present,
        reason,
        properties,
    })
}

fn publish(
    (dup, qos, retain): (bool, QoS, bool),
    topic: &'static str,
    packet_id: u16,
    properties: Properties,
    payload: &'static str,
) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos,
        retain,
        topic: str(topic),
        packet_id,
        properties,
        payload: payload.into(),
    })
}

fn ack(packet_id: u16, reason: u8, properties: Properties) -> Ack {
    Ack {
        packet_id,
        reason,
        properties,
    }
}

/// Subscriptions from filter, QoS, no local, retain as published and retain handling.
fn subscribe<const N: usize>(
    packet_id: u16,
    properties: Properties,
    subscriptions: [(&'static str, QoS, bool, bool, u8); N],
) -> Packet {
    let subscription =
        |(filter, qos, no_local, retain_as_published, retain_handling)| Subscription {
            filter: str(filter),
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        };
    Packet::Subscribe(Subscribe {
        packet_id,
        subscriptions: subscriptions.into_iter().map(subscription).collect(),
        properties,
    })
}

fn unsubscribe<const N: usize>(
    packet_id: u16,
    properties: Properties,
    filters: [&'static str; N],
) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id,
        filters: filters.into_iter().map(str).collect(),
        properties,
    })
}

fn suback(packet_id: u16, properties: Properties, reasons: &[u8]) -> Suback {
    Suback {
        packet_id,
        reasons: reasons.to_vec(),
        properties,
    }
}

fn outcome(reason: u8, properties: Properties) -> Disconnect {
    Disconnect { reason, properties }
}

#[test]
#[rustfmt::skip]
fn v311() {
    assert_read_and_written(V311, [
        (
            "10 15 0004 4D515454 04 00 0000 0009 636C69656E742D6964",
            connect(V311, "client-id", |_| {}),
        ),
        (
            "10 48 0004 4D515454 04 EE 001E 0009 636C69656E742D6964 0007 6F66666C696E65
             0014 636C69656E742D6964206973206F66666C696E65 0007 54686555736572 0009 546F70536563726574",
            connect(V311, "client-id", |c| {
                (c.clean, c.keep_alive) = (true, 30);
                c.will = will("offline", "client-id is offline", AtLeastOnce, true, none());
                (c.username, c.password) = (Some(str("TheUser")), Some("TopSecret".into()));
            }),
        ),
        ("10 0C 0004 4D515454 04 02 001E 0000", connect(V311, "", |c| (c.clean, c.keep_alive) = (true, 30))),
        ("10 10 0004 4D515454 04 00 001E 0004 74657374", connect(V311, "test", |c| c.keep_alive = 30)),
        ("20 02 0000", connack(false, 0, none())),
        ("20 02 0100", connack(true, 0, none())),
        ("20 02 0001", connack(false, 1, none())),
        ("20 02 0002", connack(false, 2, none())),
        ("20 02 0102", connack(true, 2, none())),
        ("20 02 0020", connack(false, 32, none())),
        ("30 06 0004 736F6D65", publish((false, AtMostOnce, false), "some", 0, none(), "")),
        ("3B 08 0004 736F6D65 0001", publish((true, AtLeastOnce, true), "some", 1, none(), "")),
        ("3B 0F 0004 736F6D65 0001 7061796C6F6164", publish((true, AtLeastOnce, true), "some", 1, none(), "payload")),
        ("30 13 0004 736F6D65 716F73203D3D20312C206F6B21", publish((false, AtMostOnce, false), "some", 0, none(), "qos == 1, ok!")),
        ("40 02 0001", Packet::Puback(ack(1, 0, none()))),
        ("40 02 FFFF", Packet::Puback(ack(0xFFFF, 0, none()))),
        ("50 02 4567", Packet::Pubrec(ack(0x4567, 0, none()))),
        ("62 02 0001", Packet::Pubrel(ack(1, 0, none()))),
        ("70 02 1234", Packet::Pubcomp(ack(0x1234, 0, none()))),
        ("82 09 0001 0004 736F6D65 00", subscribe(1, none(), [("some", AtMostOnce, false, false, 0)])),
        (
            "82 21 0002 0006 736F6D652F23 00 000F 6F746865722F2B2F746F7069632F23 01 0001 23 02",
            subscribe(2, none(), [
                ("some/#", AtMostOnce, false, false, 0),
                ("other/+/topic/#", AtLeastOnce, false, false, 0),
                ("#", ExactlyOnce, false, false, 0),
            ]),
        ),
        ("90 03 0010 80", Packet::Suback(suback(16, none(), &[0x80]))),
        ("90 07 0001 00 01 02 03 80", Packet::Suback(suback(1, none(), &[0, 1, 2, 3, 0x80]))),
        ("A2 08 0001 0004 736F6D65", unsubscribe(1, none(), ["some"])),
        (
            "A2 1E 1234 0006 736F6D652F23 000F 6F746865722F2B2F746F7069632F23 0001 23",
            unsubscribe(0x1234, none(), ["some/#", "other/+/topic/#", "#"]),
        ),
        ("B0 02 00FF", Packet::Unsuback(suback(255, none(), &[]))),
        ("C0 00", Packet::Pingreq),
        ("D0 00", Packet::Pingresp),
        ("E0 00", Packet::Disconnect(outcome(0, none()))),
    ]);
    assert_read(V311, [
        // A server answers this packet with return code 2 [MQTT-3.1.3-8].
        ("10 0C 0004 4D515454 04 00 0000 0000", connect(V311, "", |_| {})),
        (
            "10 13 0004 4D515454 04 34 001E 0000 0003 627965 0000",
            connect(V311, "", |c| {
                c.keep_alive = 30;
                c.will = will("bye", "", ExactlyOnce, true, none());
            }),
        ),
        (
            "10 18 0004 4D515454 04 C0 001E 0000 0004 75736572 0004 31323334",
            connect(V311, "", |c| {
                c.keep_alive = 30;
                (c.username, c.password) = (Some(str("user")), Some("1234".into()));
            }),
        ),
    ]);
}

#[test]
#[rustfmt::skip]
fn v50_connection() {
    assert_read_and_written(V50, [
        (
            "10 18 0004 4D515454 05 00 0000 00 000B 636C69656E742D69642D35",
            connect(V50, "client-id-5", |_| {}),
        ),
        (
            "10 18 0004 4D515454 05 02 00FF 00 000B 636C69656E742D69642D35",
            connect(V50, "client-id-5", |c| (c.clean, c.keep_alive) = (true, 255)),
        ),
        (
            "10 55 0004 4D515454 05 F6 001E 00 000B 636C69656E742D69642D35 00 0007 6F66666C696E65
             0016 636C69656E742D69642D35206973206F66666C696E65
             000A 54686520352D55736572 000D 3535352D546F70536563726574",
            connect(V50, "client-id-5", |c| {
                (c.clean, c.keep_alive) = (true, 30);
                c.will = will("offline", "client-id-5 is offline", ExactlyOnce, true, none());
                (c.username, c.password) = (Some(str("The 5-User")), Some("555-TopSecret".into()));
            }),
        ),
        (
            "10 EF01 0004 4D515454 05 F6 001E
             4C 11 00015180 15 0005 6261736963 16 000B 736F6D652D736563726574 17 01 19 01 21 7FFF 22 03E8
             27 00100000 26 0004 66726F6D 000A 4D515454207465737473 26 0005 68656C6C6F 0005 776F726C64
             000B 636C69656E742D69642D35
             4E 01 01 02 00015180 03 000A 746578742F706C61696E 08 000C 6F6B61792F6F66666C696E65
             09 0004 736F6D65 18 00000014 26 0005 68656C6C6F 0004 776F7264 26 0004 736F6D65 0008 70726F7065727479
             0007 6F66666C696E65 0016 636C69656E742D69642D35206973206F66666C696E65
             000A 54686520352D55736572 000D 3535352D546F70536563726574",
            connect(V50, "client-id-5", |c| {
                (c.clean, c.keep_alive) = (true, 30);
                c.properties = list([
                    (Id::SessionExpiryInterval, FourByte(86400)),
                    (Id::AuthenticationMethod, text("basic")),
                    (Id::AuthenticationData, binary("some-secret")),
                    (Id::RequestProblemInformation, Byte(1)),
                    (Id::RequestResponseInformation, Byte(1)),
                    (Id::ReceiveMaximum, TwoByte(32767)),
                    (Id::TopicAliasMaximum, TwoByte(1000)),
                    (Id::MaximumPacketSize, FourByte(1024 * 1024)),
                    user("from", "MQTT tests"),
                    user("hello", "world"),
                ]);
                c.will = will("offline", "client-id-5 is offline", ExactlyOnce, true, list([
                    (Id::PayloadFormatIndicator, Byte(1)),
                    (Id::MessageExpiryInterval, FourByte(86400)),
                    (Id::ContentType, text("text/plain")),
                    (Id::ResponseTopic, text("okay/offline")),
                    (Id::CorrelationData, binary("some")),
                    (Id::WillDelayInterval, FourByte(20)),
                    user("hello", "word"),
                    user("some", "property"),
                ]));
                (c.username, c.password) = (Some(str("The 5-User")), Some("555-TopSecret".into()));
            }),
        ),
        // A password without a username.
        (
            "10 15 0004 4D515454 05 40 001E 00 0000 0006 736563726574",
            connect(V50, "", |c| (c.keep_alive, c.password) = (30, Some("secret".into()))),
        ),
        (
            "10 13 0004 4D515454 05 80 0000 00 0000 0004 75736572",
            connect(V50, "", |c| c.username = Some(str("user"))),
        ),
        ("20 03 00 00 00", connack(false, 0, none())),
        ("20 03 00 20 00", connack(false, 32, none())),
        ("20 03 01 8A 00", connack(true, 0x8A, none())),
        (
            "20 75 01 82 72 11 00000E10 12 0005 736C617665 13 0078 15 0005 6775657373 16 0002 3130
             1A 0005 686572652F 1C 000D 736565202F6465762F6E756C6C 1F 0007 70726F63656564 21 1234 22 4321
             24 01 25 01 27 00004567 28 01 29 00 2A 01 26 0005 68656C6C6F 0005 776F726C64
             26 0005 68656C6C6F 0005 616761696E",
            connack(true, 0x82, list([
                (Id::SessionExpiryInterval, FourByte(3600)),
                (Id::AssignedClientIdentifier, text("slave")),
                (Id::ServerKeepAlive, TwoByte(120)),
                (Id::AuthenticationMethod, text("guess")),
                (Id::AuthenticationData, binary("10")),
                (Id::ResponseInformation, text("here/")),
                (Id::ServerReference, text("see /dev/null")),
                (Id::ReasonString, text("proceed")),
                (Id::ReceiveMaximum, TwoByte(0x1234)),
                (Id::TopicAliasMaximum, TwoByte(0x4321)),
                (Id::MaximumQoS, Byte(1)),
                (Id::RetainAvailable, Byte(1)),
                (Id::MaximumPacketSize, FourByte(0x4567)),
                (Id::WildcardSubscriptionAvailable, Byte(1)),
                (Id::SubscriptionIdentifierAvailable, Byte(0)),
                (Id::SharedSubscriptionAvailable, Byte(1)),
                user("hello", "world"),
                user("hello", "again"),
            ])),
        ),
        ("C0 00", Packet::Pingreq),
        ("D0 00", Packet::Pingresp),
        ("E0 00", Packet::Disconnect(outcome(0, none()))),
        ("E0 02 81 00", Packet::Disconnect(outcome(0x81, none()))),
        (
            "E0 2B 87 29 11 00000E10 1C 0002 3433 1F 0008 66696E616C6C7921
             26 0006 736572766572 0009 6E6F742034323F3F3F",
            Packet::Disconnect(outcome(0x87, list([
                (Id::SessionExpiryInterval, FourByte(3600)),
                (Id::ServerReference, text("43")),
                (Id::ReasonString, text("finally!")),
                user("server", "not 42???"),
            ]))),
        ),
        ("F0 00", Packet::Auth(outcome(0, none()))),
        ("F0 02 18 00", Packet::Auth(outcome(0x18, none()))),
        (
            "F0 3E 19 3C 15 0005 6775657373 16 000D 343220697320746865206B6579 1F 000A 6A757374206361757365
             26 0006 616E73776572 000C 34322C2066696E616C6C7921",
            Packet::Auth(outcome(0x19, list([
                (Id::AuthenticationMethod, text("guess")),
                (Id::AuthenticationData, binary("42 is the key")),
                (Id::ReasonString, text("just cause")),
                user("answer", "42, finally!"),
            ]))),
        ),
    ]);
    assert_read(V50, [
        ("E0 01 81", Packet::Disconnect(outcome(0x81, none()))),
        ("E0 02 00 00", Packet::Disconnect(outcome(0, none()))),
        ("F0 02 00 00", Packet::Auth(outcome(0, none()))),
    ]);
}

#[test]
#[rustfmt::skip]
fn v50_messages() {
    let okay = || list([(Id::ReasonString, text("testing props")), user("hello", "world")]);
    assert_read_and_written(V50, [
        ("30 0B 0008 746573742F707562 00", publish((false, AtMostOnce, false), "test/pub", 0, none(), "")),
        ("3D 0D 0008 746573742F707562 04D2 00", publish((true, ExactlyOnce, true), "test/pub", 1234, none(), "")),
        (
            "33 16 0008 746573742F707562 00DE 00 686579204D51545421",
            publish((false, AtLeastOnce, true), "test/pub", 222, none(), "hey MQTT!"),
        ),
        (
            "3D 9701 0008 746573742F707562 00DE
             8001 01 01 02 00015180 03 000A 796F752F74656C6C6D65 08 0004 68657265 09 0004 736F6D65 0B 05 23 1234
             26 0005 6172726179 0006 6974656D2031 26 0005 6172726179 0006 6974656D2033
             26 0005 6172726179 0006 6974656D2032 26 000B 546F20496E66696E697479 000A 616E64204265796F6E64
             26 0005 68656C6C6F 0005 776F726C64 686579204D51545421",
            publish((true, ExactlyOnce, true), "test/pub", 222, list([
                (Id::PayloadFormatIndicator, Byte(1)),
                (Id::MessageExpiryInterval, FourByte(86400)),
                (Id::ContentType, text("you/tellme")),
                (Id::ResponseTopic, text("here")),
                (Id::CorrelationData, binary("some")),
                (Id::SubscriptionIdentifier, VarInt(5)),
                (Id::TopicAlias, TwoByte(0x1234)),
                user("array", "item 1"),
                user("array", "item 3"),
                user("array", "item 2"),
                user("To Infinity", "and Beyond"),
                user("hello", "world"),
            ]), "hey MQTT!"),
        ),
        (
            "3D 14 0004 74657374 1234 07 0B 02 0B 03 0B 8010 6B756B75",
            publish((true, ExactlyOnce, true), "test", 0x1234, list([
                (Id::SubscriptionIdentifier, VarInt(2)),
                (Id::SubscriptionIdentifier, VarInt(3)),
                (Id::SubscriptionIdentifier, VarInt(2048)),
            ]), "kuku"),
        ),
        ("40 02 000A", Packet::Puback(ack(10, 0, none()))),
        ("40 04 000A 80 00", Packet::Puback(ack(10, 0x80, none()))),
        (
            "40 23 000A 80 1F 1F 000D 74657374696E672070726F7073 26 0005 68656C6C6F 0005 776F726C64",
            Packet::Puback(ack(10, 0x80, okay())),
        ),
        ("50 02 0016", Packet::Pubrec(ack(22, 0, none()))),
        ("50 04 0016 10 00", Packet::Pubrec(ack(22, 0x10, none()))),
        (
            "50 23 000A 80 1F 1F 000D 74657374696E672070726F7073 26 0005 68656C6C6F 0005 776F726C64",
            Packet::Pubrec(ack(10, 0x80, okay())),
        ),
        ("62 02 0016", Packet::Pubrel(ack(22, 0, none()))),
        ("62 04 0016 92 00", Packet::Pubrel(ack(22, 0x92, none()))),
        (
            "62 23 000A 92 1F 1F 000D 74657374696E672070726F7073 26 0005 68656C6C6F 0005 776F726C64",
            Packet::Pubrel(ack(10, 0x92, okay())),
        ),
        ("70 02 0016", Packet::Pubcomp(ack(22, 0, none()))),
        ("70 04 0016 92 00", Packet::Pubcomp(ack(22, 0x92, none()))),
        // Properties although the reason code is 0.
        (
            "70 1F F00F 00 1B 1F 0009 69742773206F6B6179 26 0005 68656C6C6F 0005 776F726C64",
            Packet::Pubcomp(ack(0xF00F, 0, list([(Id::ReasonString, text("it's okay")), user("hello", "world")]))),
        ),
    ]);
    assert_read(V50, [
        ("40 03 0001 10", Packet::Puback(ack(1, 0x10, none()))),
        ("50 03 0002 80", Packet::Pubrec(ack(2, 0x80, none()))),
        ("62 03 0003 92", Packet::Pubrel(ack(3, 0x92, none()))),
        ("70 03 0004 92", Packet::Pubcomp(ack(4, 0x92, none()))),
        // DUP with QoS 0.
        ("39 0B 0004 74657374 00 6B756B75", publish((true, AtMostOnce, true), "test", 0, none(), "kuku")),
    ]);
}

#[test]
#[rustfmt::skip]
fn v50_subscriptions() {
    let two = [("test", ExactlyOnce, true, true, 2), ("other", AtLeastOnce, true, false, 1)];
    assert_read_and_written(V50, [
        ("82 0A 0003 00 0004 74657374 00", subscribe(3, none(), [("test", AtMostOnce, false, false, 0)])),
        ("82 12 0004 00 0004 74657374 2E 0005 6F74686572 15", subscribe(4, none(), two)),
        (
            "82 24 0004 12 0B C546 26 0005 68656C6C6F 0005 616761696E 0004 74657374 2E 0005 6F74686572 15",
            subscribe(4, list([(Id::SubscriptionIdentifier, VarInt(0x2345)), user("hello", "again")]), two),
        ),
        (
            "82 3C 0005 11 0B 01 26 0005 68656C6C6F 0005 776F726C64 0005 7465737431 00 0005 7465737432 01
             0005 7465737433 06 0005 7465737434 0A 0005 7465737435 1E",
            subscribe(5, list([(Id::SubscriptionIdentifier, VarInt(1)), user("hello", "world")]), [
                ("test1", AtMostOnce, false, false, 0),
                ("test2", AtLeastOnce, false, false, 0),
                ("test3", ExactlyOnce, true, false, 0),
                ("test4", ExactlyOnce, false, true, 0),
                ("test5", ExactlyOnce, true, true, 1),
            ]),
        ),
        ("90 04 000E 00 02", Packet::Suback(suback(14, none(), &[2]))),
        (
            "90 1E 000E 16 1F 0004 6F6B6179 26 0005 68656C6C6F 0005 7568206E6F 02 01 00 80 87",
            Packet::Suback(suback(
                14,
                list([(Id::ReasonString, text("okay")), user("hello", "uh no")]),
                &[2, 1, 0, 0x80, 0x87],
            )),
        ),
        ("A2 0A 000E 00 0005 6F74686572", unsubscribe(14, none(), ["other"])),
        (
            "A2 30 000E 20 26 0006 627965627965 0005 776F726C64 26 0006 627965627965 0005 616761696E
             0005 6F74686572 0004 74657374",
            unsubscribe(14, list([user("byebye", "world"), user("byebye", "again")]), ["other", "test"]),
        ),
        ("B0 04 000E 00 02", Packet::Unsuback(suback(14, none(), &[2]))),
        (
            "B0 1E 000E 16 1F 0004 6F6B6179 26 0005 68656C6C6F 0005 776F726C64 00 00 00 80 11",
            Packet::Unsuback(suback(
                14,
                list([(Id::ReasonString, text("okay")), user("hello", "world")]),
                &[0, 0, 0, 0x80, 0x11],
            )),
        ),
    ]);
}
