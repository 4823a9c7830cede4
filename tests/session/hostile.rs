//! By the letter: for each rule that a server can break, the bytes that break it, the reason code that the server gets
//! in 5.0, and the error that the user sees. Also packets that a server may send although they make no sense.

use bytes::BytesMut;
use mqtt_core::codec::*;
use mqtt_core::session::{Event, Settings, State};

use crate::pair::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A client that in 5.0 accepts three topic aliases and packets of up to 100 bytes.
fn client(version: Version) -> Connect {
    Connect {
        properties: match version {
            Version::V311 => Properties::new(),
            Version::V50 => properties([
                (PropertyId::TopicAliasMaximum, PropertyValue::TwoByte(3)),
                (PropertyId::MaximumPacketSize, PropertyValue::FourByte(100)),
            ]),
        },
        ..connect(version)
    }
}

/// A server that has received CONNECT, or one that has accepted it, sends `bytes`. The connection ends with the error
/// `text`. In 5.0 a DISCONNECT with the reason code `disconnect` goes out first.
fn assert_ends(accepted: bool, bytes: &str, disconnect: Option<u8>, text: &str) {
    let client = client(disconnect.map_or(Version::V311, |_| Version::V50));
    let mut pair = match accepted {
        true => Pair::accepted(client, Properties::new()),
        false => Pair::connecting(client),
    };
    pair.server.send_bytes(&hex(bytes));
    // Later packets are not read.
    pair.server.send(publish(QoS::AtMostOnce, 0));
    assert_eq!(pair.failure(disconnect), text, "{bytes}");
}

#[test]
#[rustfmt::skip]
fn a_connack_that_breaks_a_rule() {
    for (bytes, text) in [
        ("20 02 02 00", "CONNACK: connect acknowledge flags must be 0 or 1, got 2"),
        ("20 02 80 00", "CONNACK: connect acknowledge flags must be 0 or 1, got 128"),
        ("20 02 01 00", "CONNACK: session present after a clean start"),
        ("20 02 01 05", "CONNACK: session present together with a refusal"),
        ("20 02 00 06", "CONNACK: unexpected reason code: 0x06"),
        ("20 03 00 00 00", "CONNACK: extra data in remaining length left after packet parsing"),
        ("20 01 00", "CONNACK: not enough bytes for reason code: expected 1, got 0"),
        ("21 02 00 00", "CONNACK: unexpected flags value: 1"),
        ("D0 00", "expecting CONNACK but received 13"),
        ("30 03 0001 61", "expecting CONNACK but received 3"),
    ] {
        assert_ends(false, bytes, None, text);
    }
    for (bytes, reason, text) in [
        ("20 03 02 00 00", 0x81, "CONNACK: connect acknowledge flags must be 0 or 1, got 2"),
        ("20 03 FE 00 00", 0x81, "CONNACK: connect acknowledge flags must be 0 or 1, got 254"),
        ("20 03 01 00 00", 0x82, "CONNACK: session present after a clean start"),
        ("20 03 01 87 00", 0x82, "CONNACK: session present together with a refusal"),
        ("20 03 00 01 00", 0x82, "CONNACK: unexpected reason code: 0x01"),
        ("20 03 00 92 00", 0x82, "CONNACK: unexpected reason code: 0x92"),
        ("20 04 00 00 00 00", 0x81, "CONNACK: extra data in remaining length left after packet parsing"),
        ("20 02 00 00", 0x81, "CONNACK: failed to parse packet properties: not enough bytes for property length: expected 1, got 0"),
        ("20 06 00 00 03 21 0000", 0x82, "CONNACK: failed to parse packet properties: property receive_maximum (33) must not be 0"),
        ("20 08 00 00 05 27 00000000", 0x82, "CONNACK: failed to parse packet properties: property maximum_packet_size (39) must not be 0"),
        ("20 05 00 00 02 24 02", 0x82, "CONNACK: failed to parse packet properties: property maximum_qos (36) must be 0 or 1, got 2"),
        ("20 05 00 00 02 25 02", 0x82, "CONNACK: failed to parse packet properties: property retain_available (37) must be 0 or 1, got 2"),
        ("20 09 00 00 06 21 0001 21 0001", 0x82, "CONNACK: failed to parse packet properties: it is a Protocol Error to include the receive_maximum (33) property more than once"),
        ("20 06 00 00 03 23 0001", 0x81, "CONNACK: failed to parse packet properties: property topic_alias (35) is not allowed for that packet type"),
        ("20 05 00 00 03 21 00", 0x81, "CONNACK: failed to parse packet properties: not enough bytes for property list: expected 3, got 2"),
        ("20 05 00 00 02 21 00", 0x81, "CONNACK: failed to parse packet properties: not enough bytes for receive_maximum: expected 2, got 1"),
        ("20 07 00 00 04 15 0001 61", 0x82, "CONNACK: authentication method is not that of CONNECT"),
        ("30 04 0001 61 00", 0x82, "expecting CONNACK but received 3"),
        ("F0 02 18 00", 0x82, "expecting CONNACK but received 15"),
    ] {
        assert_ends(false, bytes, Some(reason), text);
    }
}

#[test]
#[rustfmt::skip]
fn a_packet_of_v311_that_breaks_a_rule() {
    for (bytes, text) in [
        ("20 02 00 00", "CONNACK: received a second time"),
        // Only clients send these packets.
        ("C0 00", "PINGREQ: only a client sends it"),
        ("E0 00", "DISCONNECT: only a client sends it"),
        ("82 06 0001 0001 61 00", "SUBSCRIBE: only a client sends it"),
        ("A2 05 0001 0001 61", "UNSUBSCRIBE: only a client sends it"),
        ("10 0C 0004 4D515454 04 02 0000 0000", "CONNECT: only a client sends it"),
        // The packets are refused for their sender, whatever else is wrong with them.
        ("10 02 0000", "CONNECT: only a client sends it"),
        ("82 06 0000 0001 61 00", "SUBSCRIBE: only a client sends it"),
        // Fixed headers.
        ("00 00", "packet type 0 is reserved in MQTT 3.1.1"),
        ("F0 00", "packet type 15 is reserved in MQTT 3.1.1"),
        ("36 05 0001 61 0001", "PUBLISH: QoS must be 0, 1 or 2, got 3"),
        ("38 03 0001 61", "PUBLISH: DUP must not be set with QoS 0"),
        ("41 02 0001", "PUBACK: unexpected flags value: 1"),
        ("52 02 0001", "PUBREC: unexpected flags value: 2"),
        ("60 02 0001", "PUBREL: unexpected flags value: 0"),
        ("78 02 0001", "PUBCOMP: unexpected flags value: 8"),
        ("92 03 0001 00", "SUBACK: unexpected flags value: 2"),
        ("B2 02 0001", "UNSUBACK: unexpected flags value: 2"),
        ("D1 00", "PINGRESP: unexpected flags value: 1"),
        ("30 FF FF FF FF 01", "PUBLISH: remaining length must end by its fourth byte"),
        ("D0 01 00", "PINGRESP: extra data in remaining length left after packet parsing"),
        // Topics.
        ("30 02 0000", "PUBLISH: topic must not be empty"),
        ("30 05 0003 61 2F 23", "PUBLISH: topic must not contain wildcards, got \"a/#\""),
        ("30 05 0003 61 2F 2B", "PUBLISH: topic must not contain wildcards, got \"a/+\""),
        ("30 04 0002 61 00", "PUBLISH: topic must not contain U+0000"),
        ("30 04 0002 61 FF", "PUBLISH: topic must be well-formed UTF-8, got bad bytes at 1"),
        // A surrogate, and a slash of two bytes.
        ("30 05 0003 ED A0 80", "PUBLISH: topic must be well-formed UTF-8, got bad bytes at 0"),
        ("30 04 0002 C0 AF", "PUBLISH: topic must be well-formed UTF-8, got bad bytes at 0"),
        ("30 03 0002 61", "PUBLISH: not enough bytes for topic: expected 2, got 1"),
        // Packet identifiers and acknowledgements.
        ("32 05 0001 61 0000", "PUBLISH: packet identifier must not be 0"),
        ("34 04 0001 61 00", "PUBLISH: not enough bytes for packet identifier: expected 2, got 1"),
        ("40 02 0000", "PUBACK: packet identifier must not be 0"),
        ("50 02 0000", "PUBREC: packet identifier must not be 0"),
        ("62 02 0000", "PUBREL: packet identifier must not be 0"),
        ("70 02 0000", "PUBCOMP: packet identifier must not be 0"),
        ("90 03 0000 00", "SUBACK: packet identifier must not be 0"),
        ("B0 02 0000", "UNSUBACK: packet identifier must not be 0"),
        ("40 03 0001 00", "PUBACK: extra data in remaining length left after packet parsing"),
        ("50 03 0001 00", "PUBREC: extra data in remaining length left after packet parsing"),
        ("62 04 0001 00 00", "PUBREL: extra data in remaining length left after packet parsing"),
        ("70 03 0001 00", "PUBCOMP: extra data in remaining length left after packet parsing"),
        ("B0 03 0001 00", "UNSUBACK: extra data in remaining length left after packet parsing"),
        ("40 01 01", "PUBACK: not enough bytes for packet identifier: expected 2, got 1"),
        ("90 02 0001", "SUBACK: empty reason code list"),
        ("90 03 0001 03", "SUBACK: unexpected reason code: 0x03"),
        ("90 03 0001 81", "SUBACK: unexpected reason code: 0x81"),
    ] {
        assert_ends(true, bytes, None, text);
    }
}

#[test]
#[rustfmt::skip]
fn a_packet_of_v50_that_breaks_a_rule() {
    for (bytes, reason, text) in [
        ("20 03 00 00 00", 0x82, "CONNACK: received a second time"),
        // Only clients send these packets.
        ("C0 00", 0x82, "PINGREQ: only a client sends it"),
        ("82 07 0001 00 0001 61 00", 0x82, "SUBSCRIBE: only a client sends it"),
        ("A2 06 0001 00 0001 61", 0x82, "UNSUBSCRIBE: only a client sends it"),
        ("10 0D 0004 4D515454 05 02 0000 00 0000", 0x82, "CONNECT: only a client sends it"),
        // The packets are refused for their sender, whatever else is wrong: an unknown protocol, a bad filter, bad
        // flags.
        ("10 0D 0004 4D515455 05 02 0000 00 0000", 0x82, "CONNECT: only a client sends it"),
        ("82 06 0001 00 0000 00", 0x82, "SUBSCRIBE: only a client sends it"),
        ("C1 00", 0x82, "PINGREQ: only a client sends it"),
        ("E0 01 04", 0x82, "DISCONNECT: unexpected reason code: 0x04"),
        ("E0 07 00 05 11 00000001", 0x82, "DISCONNECT: session_expiry_interval: only a client sends it"),
        ("F0 02 18 00", 0x82, "AUTH: CONNECT had no authentication method"),
        // Fixed headers.
        ("00 00", 0x81, "packet type 0 is reserved in MQTT 5.0"),
        ("36 06 0001 61 0001 00", 0x81, "PUBLISH: QoS must be 0, 1 or 2, got 3"),
        ("41 02 0001", 0x81, "PUBACK: unexpected flags value: 1"),
        ("52 02 0001", 0x81, "PUBREC: unexpected flags value: 2"),
        ("60 02 0001", 0x81, "PUBREL: unexpected flags value: 0"),
        ("78 02 0001", 0x81, "PUBCOMP: unexpected flags value: 8"),
        ("92 04 0001 00 00", 0x81, "SUBACK: unexpected flags value: 2"),
        ("B2 04 0001 00 00", 0x81, "UNSUBACK: unexpected flags value: 2"),
        ("D1 00", 0x81, "PINGRESP: unexpected flags value: 1"),
        ("E1 00", 0x81, "DISCONNECT: unexpected flags value: 1"),
        ("F4 00", 0x81, "AUTH: unexpected flags value: 4"),
        ("30 FF FF FF FF 01", 0x81, "PUBLISH: remaining length must end by its fourth byte"),
        ("D0 80 00", 0x81, "PINGRESP: remaining length must take as few bytes as it needs"),
        ("D0 01 00", 0x81, "PINGRESP: extra data in remaining length left after packet parsing"),
        ("30 63", 0x95, "PUBLISH: packet must be at most 100 bytes long, got 101"),
        ("30 FF FF FF 7F", 0x95, "PUBLISH: packet must be at most 100 bytes long, got 268435460"),
        // Topics.
        ("30 03 0000 00", 0x82, "PUBLISH: topic must not be empty"),
        ("30 06 0003 61 2F 23 00", 0x90, "PUBLISH: topic must not contain wildcards, got \"a/#\""),
        ("30 06 0003 61 2F 2B 00", 0x90, "PUBLISH: topic must not contain wildcards, got \"a/+\""),
        ("30 05 0002 61 00 00", 0x81, "PUBLISH: topic must not contain U+0000"),
        ("30 05 0002 61 FF 00", 0x81, "PUBLISH: topic must be well-formed UTF-8, got bad bytes at 1"),
        ("30 06 0003 ED A0 80 00", 0x81, "PUBLISH: topic must be well-formed UTF-8, got bad bytes at 0"),
        ("30 05 0002 C0 AF 00", 0x81, "PUBLISH: topic must be well-formed UTF-8, got bad bytes at 0"),
        ("30 08 0001 61 04 08 0001 23", 0x90, "PUBLISH: failed to parse packet properties: response_topic must not contain wildcards, got \"#\""),
        ("30 07 0001 61 03 08 0000", 0x90, "PUBLISH: failed to parse packet properties: response_topic must not be empty"),
        ("30 08 0001 61 04 08 0001 00", 0x81, "PUBLISH: failed to parse packet properties: response_topic must not contain U+0000"),
        ("30 08 0001 61 04 08 0001 FF", 0x81, "PUBLISH: failed to parse packet properties: response_topic must be well-formed UTF-8, got bad bytes at 0"),
        ("30 07 0001 61 03 23 0004", 0x94, "PUBLISH: topic alias must be at most 3, got 4"),
        ("30 07 0001 61 03 23 0000", 0x94, "PUBLISH: failed to parse packet properties: property topic_alias (35) must not be 0"),
        ("30 06 0000 03 23 0003", 0x82, "PUBLISH: topic alias 3 stands for no topic"),
        // Properties.
        ("30 08 0001 61 04 01 01 01 01", 0x82, "PUBLISH: failed to parse packet properties: it is a Protocol Error to include the payload_format_indicator (1) property more than once"),
        ("30 06 0001 61 02 01 02", 0x82, "PUBLISH: failed to parse packet properties: property payload_format_indicator (1) must be 0 or 1, got 2"),
        ("30 06 0001 61 02 0B 00", 0x82, "PUBLISH: failed to parse packet properties: property subscription_identifiers (11) must not be 0"),
        ("30 06 0001 61 02 7F 00", 0x81, "PUBLISH: failed to parse packet properties: 127 is not the identifier of a property"),
        ("30 09 0001 61 05 11 00000001", 0x81, "PUBLISH: failed to parse packet properties: property session_expiry_interval (17) is not allowed for that packet type"),
        ("30 07 0001 61 02 02 0000", 0x81, "PUBLISH: failed to parse packet properties: not enough bytes for message_expiry_interval: expected 4, got 1"),
        ("30 06 0001 61 05 01 01", 0x81, "PUBLISH: failed to parse packet properties: not enough bytes for property list: expected 5, got 2"),
        ("40 09 0001 00 05 1F 0003 61 62", 0x81, "PUBACK: failed to parse packet properties: not enough bytes for reason_string: expected 3, got 2"),
        ("40 08 0001 00 04 1F 0001 00", 0x81, "PUBACK: failed to parse packet properties: reason_string must not contain U+0000"),
        ("40 09 0001 00 05 26 0000 0001", 0x81, "PUBACK: failed to parse packet properties: not enough bytes for user_property: expected 1, got 0"),
        ("50 06 0001 00 02 01 00", 0x81, "PUBREC: failed to parse packet properties: property payload_format_indicator (1) is not allowed for that packet type"),
        ("62 0A 0001 00 06 1F 0000 1F 0000", 0x82, "PUBREL: failed to parse packet properties: it is a Protocol Error to include the reason_string (31) property more than once"),
        ("90 09 0001 05 1F 0000 0B 01 00", 0x81, "SUBACK: failed to parse packet properties: property subscription_identifiers (11) is not allowed for that packet type"),
        ("40 05 0001 00 80 00", 0x81, "PUBACK: failed to parse packet properties: property length must take as few bytes as it needs"),
        // Packet identifiers and reason codes.
        ("32 06 0001 61 0000 00", 0x82, "PUBLISH: packet identifier must not be 0"),
        ("40 02 0000", 0x82, "PUBACK: packet identifier must not be 0"),
        ("50 03 0000 00", 0x82, "PUBREC: packet identifier must not be 0"),
        ("62 04 0000 00 00", 0x82, "PUBREL: packet identifier must not be 0"),
        ("70 02 0000", 0x82, "PUBCOMP: packet identifier must not be 0"),
        ("90 04 0000 00 00", 0x82, "SUBACK: packet identifier must not be 0"),
        ("B0 04 0000 00 00", 0x82, "UNSUBACK: packet identifier must not be 0"),
        ("40 03 0001 01", 0x82, "PUBACK: unexpected reason code: 0x01"),
        ("50 03 0001 92", 0x82, "PUBREC: unexpected reason code: 0x92"),
        ("62 03 0001 80", 0x82, "PUBREL: unexpected reason code: 0x80"),
        ("70 03 0001 10", 0x82, "PUBCOMP: unexpected reason code: 0x10"),
        ("90 04 0001 00 03", 0x82, "SUBACK: unexpected reason code: 0x03"),
        ("B0 04 0001 00 01", 0x82, "UNSUBACK: unexpected reason code: 0x01"),
        ("E0 01 84", 0x82, "DISCONNECT: unexpected reason code: 0x84"),
        ("90 03 0001 00", 0x82, "SUBACK: empty reason code list"),
        ("B0 03 0001 00", 0x82, "UNSUBACK: empty reason code list"),
    ] {
        assert_ends(true, bytes, Some(reason), text);
    }
}

/// A TLS server to which a client speaks without TLS answers with an alert, from TLS 1.0 on.
#[test]
fn a_server_of_tls_is_recognized() {
    for version in BOTH {
        for alert in ["15 03 01 00 02 02 46", "15 03 03 00 02 02 32"] {
            let mut pair = Pair::connecting(client(version));
            pair.server.send_bytes(&hex(alert));
            assert_eq!(
                pair.failure(None),
                "the server expects TLS on this port: use mqtts:// or the option secure"
            );
        }
        // After CONNACK these bytes are read as MQTT.
        let mut pair = Pair::connected(version);
        pair.server.send_bytes(&hex("15 03 01 00 02 02 46"));
        let message = pair.failure((version == Version::V50).then_some(0x82));
        assert_eq!(message, "CONNECT: only a client sends it");
    }
}

/// Every length that 3.4.2.1, 3.5.2.1, 3.6.2.1 and 3.7.2.1 allow.
#[test]
fn acknowledgements_of_every_length_are_read() {
    let reason = |packet: &str| match packet {
        "62" | "70" => 0x92,
        _ => 0x10,
    };
    for packet in ["40", "50", "62", "70"] {
        let code = reason(packet);
        let (text, user) = ("1F 0002 6F6B", "26 0001 61 0001 62");
        for (body, expected, properties) in [
            ("02 0007".to_owned(), 0, 0),
            (format!("03 0007 {code:02X}"), code, 0),
            (format!("04 0007 {code:02X} 00"), code, 0),
            (format!("09 0007 {code:02X} 05 {text}"), code, 1),
            (
                format!("17 0007 {code:02X} 13 {text} {user} {user}"),
                code,
                3,
            ),
        ] {
            let bytes = hex(&format!("{packet} {body}"));
            let mut pair = Pair::connected(Version::V50);
            for _ in 0..7 {
                pair.publish(if packet == "40" {
                    QoS::AtLeastOnce
                } else {
                    QoS::ExactlyOnce
                });
            }
            if packet == "70" {
                pair.deliver(pubrec(7, 0));
            }
            pair.drive();
            pair.server.received();
            pair.server.send_bytes(&bytes);
            pair.drive();
            match (packet, &pair.packets()[..]) {
                ("40", [Packet::Puback(ack)]) | ("50", [Packet::Pubrec(ack)]) => {
                    assert_eq!((ack.packet_id, ack.reason), (7, expected), "{body}");
                    assert_eq!(ack.properties.len(), properties, "{body}");
                }
                ("62" | "70", []) => {}
                (_, other) => panic!("{packet} {body}: {other:?}"),
            }
            let answers = match packet {
                "50" => vec![pubrel(7, 0)],
                "62" => vec![pubcomp(7, 0x92)],
                _ => vec![],
            };
            assert_eq!(pair.server.received(), answers, "{packet} {body}");
            assert_eq!(pair.client.state(), State::Connected);
        }
    }
}

#[test]
fn every_pubrec_and_pubrel_is_answered_whatever_its_packet_id() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(pair.publish(QoS::ExactlyOnce), 1);
        pair.deliver(publish(QoS::ExactlyOnce, 1));
        pair.server.received();
        for id in [1, 2, 0x7FFF, u16::MAX] {
            let known = if id == 1 { 0 } else { not_found(version) };
            pair.deliver(pubrec(id, 0));
            pair.deliver(pubrel(id, 0));
            assert_eq!(pair.answers(), [pubrel(id, known), pubcomp(id, known)]);
        }
    }
}

/// The reason says that the message was not taken. So there is no message to release (4.3.3).
#[test]
fn a_pubrec_with_any_error_frees_its_slot() {
    for reason in [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
        let one = properties([(PropertyId::ReceiveMaximum, PropertyValue::TwoByte(1))]);
        let mut pair = Pair::accepted(connect(Version::V50), one);
        let id = pair.publish(QoS::ExactlyOnce);
        pair.drive();
        pair.server.received();
        assert_eq!(pair.deliver(pubrec(id, reason)), [pubrec(id, reason)]);
        assert_eq!(pair.answers(), []);
        // The only slot is free again.
        pair.publish(QoS::ExactlyOnce);
        assert_eq!(pair.answers().len(), 1);
        assert_eq!(pair.client.state(), State::Connected);
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent_change_nothing() {
    for version in BOTH {
        let codes = match version {
            Version::V311 => vec![],
            Version::V50 => vec![0],
        };
        let mut pair = Pair::connected(version);
        for id in [1, 9, u16::MAX] {
            pair.deliver(puback(id, 0));
            pair.deliver(pubcomp(id, 0));
            pair.deliver(suback(id, vec![0, 1, 2]));
            pair.deliver(unsuback(id, codes.clone()));
        }
        pair.deliver(Packet::Pingresp);
        assert_eq!(pair.answers(), []);
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
        assert_eq!(pair.deliver(puback(1, 0)), [puback(1, 0)]);
        assert_eq!(pair.client.state(), State::Connected);
    }
}

#[test]
fn as_many_user_properties_as_there_are_come_through() {
    const COUNT: usize = 65_535;
    let user = || Property {
        id: PropertyId::UserProperty,
        value: PropertyValue::Pair(Str::default(), Str::default()),
    };
    let many: Properties = std::iter::repeat_with(user).take(COUNT).collect();
    let mut pair = Pair::connecting(connect(Version::V50));
    let packets = [
        Packet::Connack(Connack {
            session_present: false,
            reason: 0,
            properties: many.clone(),
        }),
        Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: true,
            topic: Str::from_static("t"),
            packet_id: 0,
            properties: many.clone(),
            payload: "x".into(),
        }),
        Packet::Disconnect(Disconnect {
            reason: 0,
            properties: many,
        }),
    ];
    for packet in packets {
        assert_eq!(pair.deliver(packet.clone()), [packet]);
    }
    assert_eq!(pair.client.state(), State::Disconnected);
}

#[test]
fn a_topic_may_be_as_long_as_a_string() {
    for version in BOTH {
        let topic = |name: String| {
            Packet::Publish(Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic: Str::try_from(name).unwrap(),
                packet_id: 0,
                properties: Properties::new(),
                payload: "x".into(),
            })
        };
        let mut pair = Pair::connected(version);
        for name in ["a".repeat(65_535), "/".repeat(65_535), "é".repeat(32_767)] {
            assert_eq!(pair.deliver(topic(name.clone())), [topic(name)]);
        }
    }
}

/// The rest of a packet that is too large, or of any packet behind a fault, is neither awaited nor kept.
#[test]
fn a_fault_is_seen_before_the_packet_is_there() {
    for version in BOTH {
        for bytes in [
            &[0x36, 0xFF, 0xFF, 0xFF, 0x7F][..],
            &[0x31, 0xFF, 0xFF, 0x7F],
        ] {
            let settings = Settings {
                max_packet_size: 1000,
                ..Settings::default()
            };
            let mut pair = Pair::with_settings(version, settings);
            pair.connect(connect(version));
            pair.deliver(connack(0));
            let mut buffer = BytesMut::from(bytes);
            pair.client.receive(&mut buffer, pair.now);
            assert!(buffer.is_empty());
            let event = pair.client.poll_event();
            assert!(matches!(event, Some(Event::Failed(_))), "{event:?}");
            assert_eq!(pair.client.state(), State::Disconnected);
        }
    }
}
