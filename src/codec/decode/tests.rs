//! Each rule that a received packet can break, and the other promises of the decoder.

use super::Version::{V50, V311};
use super::*;

fn hex(text: &str) -> BytesMut {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn decode(version: Version, bytes: &[u8]) -> Result<Option<Packet>, DecodeError> {
    Decoder::new(version).decode(&mut BytesMut::from(bytes))
}

/// Checks that each row is refused with its reason code and text, and that no part of its bytes gives a packet or another
/// error.
fn assert_refused(table: &[(Version, &str, u8, &str)]) {
    for &(version, bytes, reason, text) in table {
        let bytes = hex(bytes);
        let error = decode(version, &bytes).expect_err(text);
        assert_eq!(error.to_string(), text);
        assert_eq!(error.reason_code(), reason, "{text}");
        let name = error.packet().map_or("packet type", PacketType::name);
        assert!(text.starts_with(name), "{text}");
        for end in 0..bytes.len() {
            match decode(version, &bytes[..end]) {
                Ok(None) => {}
                other => assert_eq!(other, Err(error.clone()), "{text}"),
            }
        }
    }
}

#[test]
#[rustfmt::skip]
fn fixed_header_rules() {
    assert_refused(&[
        (V311, "00 00", 0x81, "packet type 0 is reserved in MQTT 3.1.1"),
        (V50, "00 00", 0x81, "packet type 0 is reserved in MQTT 5.0"),
        (V311, "F0 00", 0x81, "packet type 15 is reserved in MQTT 3.1.1"),
        (V50, "21 03 000000", 0x81, "CONNACK: unexpected flags value: 1"),
        (V311, "36 05 0001 61 0001", 0x81, "PUBLISH: QoS must be 0, 1 or 2, got 3"),
        (V50, "3F 06 0001 61 0001 00", 0x81, "PUBLISH: QoS must be 0, 1 or 2, got 3"),
        (V311, "38 03 0001 61", 0x82, "PUBLISH: DUP must not be set with QoS 0"),
        (V311, "30 FFFFFFFF 01", 0x81, "PUBLISH: remaining length must end by its fourth byte"),
        (V50, "30 80808080 00", 0x81, "PUBLISH: remaining length must end by its fourth byte"),
        (V50, "C0 8000", 0x81, "PINGREQ: remaining length must take as few bytes as it needs"),
        (V311, "C0 01 00", 0x81, "PINGREQ: extra data in remaining length left after packet parsing"),
        (V50, "D0 01 00", 0x81, "PINGRESP: extra data in remaining length left after packet parsing"),
    ]);
    assert_eq!(decode(V311, &hex("C0 8000")), Ok(Some(Packet::Pingreq)));
}

/// 5.0: 3.1.2.2, 3.1.1: 3.1.2.2. Every other packet without a property length is malformed.
#[test]
fn a_server_of_3_1_1_refuses_5_0_in_its_own_words() {
    let refusal = Connack {
        session_present: false,
        reason: 0x84,
        properties: Properties::default(),
    };
    assert_eq!(
        decode(V50, &hex("20 02 00 01")),
        Ok(Some(Packet::Connack(refusal)))
    );
    assert!(decode(V50, &hex("20 02 00 05")).is_err());
    assert!(decode(V50, &hex("20 03 00 01 01")).is_err());
}

#[test]
fn reserved_flags_are_fixed() {
    for version in [V311, V50] {
        for first_byte in 0x10..=0xFF {
            let packet_type = PacketType::from_code(first_byte >> 4).unwrap();
            let expected = match packet_type {
                PacketType::Publish => continue,
                PacketType::Auth if version == V311 => continue,
                PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
                _ => 0,
            };
            // The fixed header is checked before the packet has arrived.
            let header = decode_header(version, &[first_byte, 5]);
            match first_byte & 0x0F {
                flags if flags == expected => {
                    assert_eq!(header.unwrap().unwrap().packet_type, packet_type);
                }
                flags => assert_eq!(
                    header.unwrap_err().to_string(),
                    format!("{packet_type}: unexpected flags value: {flags}")
                ),
            }
        }
    }
}

#[test]
fn packet_size_limit() {
    for (max, bytes, ok) in [
        (5, "30 03 0001 61", true),
        (4, "30 03 0001 61", false),
        // The packet is refused before it has arrived.
        (4, "30 03", false),
        (1000, "30 FFFFFF7F", false),
    ] {
        let mut decoder = Decoder::new(V311);
        decoder.set_max_packet_size(max);
        match decoder.decode(&mut hex(bytes)) {
            Ok(packet) => assert!(ok, "{packet:?}"),
            Err(error) => {
                assert!(!ok, "{error}");
                assert_eq!(error.reason_code(), 0x95);
                let text = format!("PUBLISH: packet must be at most {max} bytes long, got ");
                assert!(error.to_string().starts_with(&text), "{error}");
            }
        }
    }
}

#[test]
#[rustfmt::skip]
fn connect_rules() {
    assert_refused(&[
        (V311, "10 0C 0004 4D515455 04 02 0000 0000", 0x84, "CONNECT: protocol name must be \"MQTT\", got \"MQTU\""),
        (V50, "10 0E 0006 4D5149736470 03 02 0000 0000", 0x84, "CONNECT: protocol name must be \"MQTT\", got \"MQIsdp\""),
        (V311, "10 0D 0004 4D515454 05 02 0000 00 0000", 0x84, "CONNECT: protocol version must be 4, got 5"),
        (V50, "10 0D 0004 4D515454 06 02 0000 00 0000", 0x84, "CONNECT: protocol version must be 5, got 6"),
        (V311, "10 0C 0004 4D515454 04 03 0000 0000", 0x81, "CONNECT: connect flags must have bit 0 clear"),
        (V311, "10 0C 0004 4D515454 04 08 0000 0000", 0x81, "CONNECT: will QoS and will retain must be 0 without a will"),
        (V50, "10 0D 0004 4D515454 05 20 0000 00 0000", 0x81, "CONNECT: will QoS and will retain must be 0 without a will"),
        (V311, "10 12 0004 4D515454 04 1C 0000 0000 0001 61 0001 62", 0x81, "CONNECT: will QoS must be 0, 1 or 2, got 3"),
        (V311, "10 0F 0004 4D515454 04 40 0000 0000 0001 61", 0x82, "CONNECT: password must not be given without a user name in MQTT 3.1.1"),
        (V311, "10 12 0004 4D515454 04 04 0000 0000 0001 23 0001 62", 0x90, "CONNECT: will topic must not contain wildcards, got \"#\""),
        (V50, "10 12 0004 4D515454 05 04 0000 00 0000 00 0000 0001 62", 0x90, "CONNECT: will topic must not be empty"),
        (V50, "10 15 0004 4D515454 05 04 0000 00 0000 02 0101 0001 61 0001", 0x81, "CONNECT: not enough bytes for will payload: expected 1, got 0"),
        (V311, "10 0D 0004 4D515454 04 00 0000 0001 00", 0x81, "CONNECT: client identifier must not contain U+0000"),
        (V311, "10 0F 0004 4D515454 04 80 0000 0000 0001 FF", 0x81, "CONNECT: user name must be well-formed UTF-8, got bad bytes at 0"),
        (V311, "10 0D 0004 4D515454 04 00 0000 0000 00", 0x81, "CONNECT: extra data in remaining length left after packet parsing"),
        (V311, "10 0A 0004 4D515454 04 00 0000", 0x81, "CONNECT: not enough bytes for client identifier: expected 2, got 0"),
    ]);
}

#[test]
fn connect_of_either_version() {
    let v311 = hex("0004 4D515454 04 02 0000 0000").freeze();
    let v50 = hex("0004 4D515454 05 02 0000 00 0000").freeze();
    let connect = |first_byte, body: &Bytes, expected| {
        decode_connect(first_byte, body.clone(), expected).map_err(|error| error.to_string())
    };
    assert_eq!(connect(0x10, &v311, None).unwrap().version, V311);
    assert_eq!(connect(0x10, &v50, None).unwrap().version, V50);
    assert_eq!(connect(0x10, &v50, Some(V50)).unwrap().version, V50);
    for (first_byte, body, expected, text) in [
        (
            0x10,
            &v50,
            Some(V311),
            "CONNECT: protocol version must be 4, got 5",
        ),
        (
            0x10,
            &hex("0004 4D515454 03 02 0000 0000").freeze(),
            None,
            "CONNECT: protocol version must be 4 or 5, got 3",
        ),
        (0x12, &v50, None, "CONNECT: unexpected flags value: 2"),
        (
            0xC0,
            &v50,
            None,
            "PINGREQ: expecting a CONNECT as the first packet",
        ),
    ] {
        assert_eq!(connect(first_byte, body, expected).unwrap_err(), text);
    }
}

#[test]
#[rustfmt::skip]
fn publish_rules() {
    assert_refused(&[
        (V311, "30 05 0003 612F2B", 0x90, "PUBLISH: topic must not contain wildcards, got \"a/+\""),
        (V50, "30 04 0001 23 00", 0x90, "PUBLISH: topic must not contain wildcards, got \"#\""),
        (V311, "30 02 0000", 0x82, "PUBLISH: topic must not be empty"),
        (V50, "30 03 0000 00", 0x82, "PUBLISH: topic must not be empty"),
        (V311, "30 04 0002 6100", 0x81, "PUBLISH: topic must not contain U+0000"),
        (V50, "30 06 0003 EDA080 00", 0x81, "PUBLISH: topic must be well-formed UTF-8, got bad bytes at 0"),
        (V311, "30 03 0004 61", 0x81, "PUBLISH: not enough bytes for topic: expected 4, got 1"),
        (V311, "32 04 0001 61 00", 0x81, "PUBLISH: not enough bytes for packet identifier: expected 2, got 1"),
        (V311, "32 05 0001 61 0000", 0x82, "PUBLISH: packet identifier must not be 0"),
        (V50, "34 06 0001 61 0000 00", 0x82, "PUBLISH: packet identifier must not be 0"),
    ]);
    // The alias stands for the topic.
    let packet = decode(V50, &hex("30 06 0000 03 230001")).unwrap();
    assert!(matches!(packet, Some(Packet::Publish(publish)) if publish.topic.is_empty()));
}

#[test]
#[rustfmt::skip]
fn ack_rules() {
    for (first_byte, packet) in [
        (0x40, "PUBACK"),
        (0x50, "PUBREC"),
        (0x62, "PUBREL"),
        (0x70, "PUBCOMP"),
    ] {
        for (version, body, text) in [
            (V311, "02 0000", "packet identifier must not be 0"),
            (V50, "04 0000 00 00", "packet identifier must not be 0"),
            (V311, "01 00", "not enough bytes for packet identifier: expected 2, got 1"),
            (V311, "03 0001 00", "extra data in remaining length left after packet parsing"),
            (V50, "05 0001 00 00 00", "extra data in remaining length left after packet parsing"),
        ] {
            let bytes = hex(&format!("{first_byte:02X}{body}"));
            let error = decode(version, &bytes).unwrap_err().to_string();
            assert_eq!(error, format!("{packet}: {text}"));
        }
    }
}

#[test]
#[rustfmt::skip]
fn other_packets_rules() {
    assert_refused(&[
        (V311, "20 01 00", 0x81, "CONNACK: not enough bytes for reason code: expected 1, got 0"),
        (V50, "20 03 02 00 00", 0x81, "CONNACK: connect acknowledge flags must be 0 or 1, got 2"),
        (V311, "20 03 00 00 00", 0x81, "CONNACK: extra data in remaining length left after packet parsing"),
        (V311, "82 02 0001", 0x82, "SUBSCRIBE: empty subscriptions list"),
        (V50, "82 03 0005 00", 0x82, "SUBSCRIBE: empty subscriptions list"),
        (V311, "82 06 0000 0001 61 00", 0x82, "SUBSCRIBE: packet identifier must not be 0"),
        (V311, "82 05 0001 0001 61", 0x81, "SUBSCRIBE: not enough bytes for subscription options: expected 1, got 0"),
        (V311, "82 06 0001 0001 61 04", 0x81, "SUBSCRIBE: subscription options must have reserved bits clear, got 0x04"),
        (V50, "82 07 0001 00 0001 61 40", 0x81, "SUBSCRIBE: subscription options must have reserved bits clear, got 0x40"),
        (V311, "82 06 0001 0001 61 03", 0x82, "SUBSCRIBE: QoS must be 0, 1 or 2, got 3"),
        (V50, "82 07 0001 00 0001 61 30", 0x82, "SUBSCRIBE: retain handling must be 0, 1 or 2, got 3"),
        (V50, "82 10 0001 00 000A 2473686172652F672F61 04", 0x82, "SUBSCRIBE: no local must not be set on a shared subscription, got \"$share/g/a\""),
        (V50, "82 0C 0001 00 0006 247368617265 00", 0x8F, "SUBSCRIBE: topic filter must be \"$share/NAME/FILTER\" to share a subscription, got \"$share\""),
        (V311, "82 05 0001 0000 00", 0x8F, "SUBSCRIBE: topic filter must not be empty"),
        (V311, "82 07 0001 0002 6123 00", 0x8F, "SUBSCRIBE: topic filter must have \"#\" only as its last level, got \"a#\""),
        (V311, "A2 02 0001", 0x82, "UNSUBSCRIBE: empty subscriptions list"),
        (V50, "A2 03 0001 00", 0x82, "UNSUBSCRIBE: empty subscriptions list"),
        (V311, "A2 05 0000 0001 61", 0x82, "UNSUBSCRIBE: packet identifier must not be 0"),
        (V311, "A2 06 0001 0002 2B2B", 0x8F, "UNSUBSCRIBE: topic filter must have \"+\" only as a whole level, got \"++\""),
        (V311, "90 02 0001", 0x82, "SUBACK: empty reason code list"),
        (V50, "90 03 0001 00", 0x82, "SUBACK: empty reason code list"),
        (V311, "90 03 0000 00", 0x82, "SUBACK: packet identifier must not be 0"),
        (V50, "B0 03 0001 00", 0x82, "UNSUBACK: empty reason code list"),
        (V311, "B0 03 0001 00", 0x81, "UNSUBACK: extra data in remaining length left after packet parsing"),
        (V311, "E0 01 00", 0x81, "DISCONNECT: extra data in remaining length left after packet parsing"),
        (V50, "E0 03 00 00 00", 0x81, "DISCONNECT: extra data in remaining length left after packet parsing"),
        (V50, "F0 03 18 00 00", 0x81, "AUTH: extra data in remaining length left after packet parsing"),
    ]);
    // To 3.1.1, $share is a level like any other.
    assert!(decode(V311, &hex("82 0B 0001 0006 247368617265 00")).is_ok());
}

#[test]
#[rustfmt::skip]
fn property_rules() {
    assert_refused(&[
        (V50, "E0 04 00 02 7F00", 0x81, "DISCONNECT: failed to parse packet properties: 127 is not the identifier of a property"),
        (V50, "E0 05 00 03 A60100", 0x81, "DISCONNECT: failed to parse packet properties: 166 is not the identifier of a property"),
        (V50, "E0 05 00 03 A60000", 0x81, "DISCONNECT: failed to parse packet properties: property identifier must take as few bytes as it needs"),
        (V50, "A2 0C 0001 02 0B01 0005 7465737431", 0x81, "UNSUBSCRIBE: failed to parse packet properties: property subscription_identifiers (11) is not allowed for that packet type"),
        (V50, "10 15 0004 4D515454 05 04 0000 00 0000 02 1701 0001 61 0000", 0x81, "CONNECT: failed to parse will properties: property request_problem_information (23) is not allowed in a will"),
        (V50, "82 0E 0005 04 0B01 0B02 0004 74657374 00", 0x82, "SUBSCRIBE: failed to parse packet properties: it is a Protocol Error to include the subscription_identifiers (11) property more than once"),
        (V50, "30 06 0001 61 02 0102", 0x82, "PUBLISH: failed to parse packet properties: property payload_format_indicator (1) must be 0 or 1, got 2"),
        (V50, "30 06 0001 61 02 0B00", 0x82, "PUBLISH: failed to parse packet properties: property subscription_identifiers (11) must not be 0"),
        (V50, "30 07 0001 61 03 230000", 0x94, "PUBLISH: failed to parse packet properties: property topic_alias (35) must not be 0"),
        (V50, "30 08 0001 61 04 0800012B", 0x90, "PUBLISH: failed to parse packet properties: response_topic must not contain wildcards, got \"+\""),
        (V50, "30 07 0001 61 03 080000", 0x90, "PUBLISH: failed to parse packet properties: response_topic must not be empty"),
        (V50, "20 06 00 00 03 210000", 0x82, "CONNACK: failed to parse packet properties: property receive_maximum (33) must not be 0"),
        (V50, "20 08 00 00 05 2700000000", 0x82, "CONNACK: failed to parse packet properties: property maximum_packet_size (39) must not be 0"),
        (V50, "20 07 00 00 04 16000161", 0x82, "CONNACK: failed to parse packet properties: property authentication_data (22) must come with authentication_method (21)"),
        (V50, "F0 06 18 04 1F000161", 0x82, "AUTH: failed to parse packet properties: property authentication_method (21) is missing"),
        (V50, "40 08 0001 00 04 1F0001FF", 0x81, "PUBACK: failed to parse packet properties: reason_string must be well-formed UTF-8, got bad bytes at 0"),
        // The property list ends where its length says, before the end of the packet.
        (V50, "40 08 0001 00 03 1F000161", 0x81, "PUBACK: failed to parse packet properties: not enough bytes for reason_string: expected 1, got 0"),
        (V50, "40 05 0001 00 02 1F", 0x81, "PUBACK: failed to parse packet properties: not enough bytes for property list: expected 2, got 1"),
        (V50, "20 02 00 00", 0x81, "CONNACK: failed to parse packet properties: not enough bytes for property length: expected 1, got 0"),
        (V50, "20 04 00 00 8000", 0x81, "CONNACK: failed to parse packet properties: property length must take as few bytes as it needs"),
        (V50, "20 06 00 00 FFFFFFFF", 0x81, "CONNACK: failed to parse packet properties: property length must end by its fourth byte"),
    ]);
}

#[test]
fn reason_code_and_property_length_may_be_left_out() {
    let reason = |bytes: &str| match decode(V50, &hex(bytes)).unwrap().unwrap() {
        Packet::Puback(Ack { reason, .. })
        | Packet::Disconnect(Disconnect { reason, .. })
        | Packet::Auth(Disconnect { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    for (bytes, expected) in [
        ("40 02 0001", 0),
        ("40 03 0001 10", 0x10),
        ("40 04 0001 10 00", 0x10),
        ("E0 00", 0),
        ("E0 01 81", 0x81),
        ("E0 02 81 00", 0x81),
        ("F0 00", 0),
        ("F0 01 18", 0x18),
        ("F0 02 18 00", 0x18),
    ] {
        assert_eq!(reason(bytes), expected, "{bytes}");
    }
}

#[test]
fn long_strings_and_payload_are_slices_of_the_buffer() {
    let long = format!("30 20 0018 {} 00 7061796C6F", "61".repeat(24));
    for (bytes, is_slice) in [("30 0B 0003 612F62 00 7061796C6F", false), (&long, true)] {
        let mut buffer = hex(bytes);
        let memory = buffer.as_ptr_range();
        let Some(Packet::Publish(publish)) = Decoder::new(V50).decode(&mut buffer).unwrap() else {
            panic!("not a PUBLISH");
        };
        assert_eq!(
            memory.contains(&publish.topic.as_bytes().as_ptr()),
            is_slice
        );
        assert!(memory.contains(&publish.payload.as_ptr()));
        assert_eq!(publish.payload, "paylo");
    }
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut buffer = hex("30 FFFFFF7F 0001");
    let (capacity, bytes) = (buffer.capacity(), buffer.clone());
    assert_eq!(Decoder::new(V50).decode(&mut buffer), Ok(None));
    assert_eq!((buffer.capacity(), &buffer), (capacity, &bytes));
}
