//! The life of a connection: CONNECT, CONNACK, the packets that the server may send at each time, and every end.

use std::mem::size_of;
use std::time::Duration;

use bytes::BytesMut;
use mqtt_core::codec::*;
use mqtt_core::session::{Event, RequestError, Session, Settings, State};
use proptest::prelude::*;

use crate::pair::*;

/// Every request but CONNECT, with its packet's name.
fn requests(pair: &mut Pair) -> Vec<(&'static str, Result<(), RequestError>)> {
    let (client, now) = (&mut pair.client, pair.now);
    let none = Properties::new;
    vec![
        (
            "PUBLISH",
            client.publish(&message(QoS::AtMostOnce)).map(drop),
        ),
        (
            "PUBLISH",
            client.publish(&message(QoS::ExactlyOnce)).map(drop),
        ),
        (
            "SUBSCRIBE",
            client.subscribe(vec![subscription("t")], none()).map(drop),
        ),
        (
            "UNSUBSCRIBE",
            client
                .unsubscribe(vec![Str::from_static("t")], none())
                .map(drop),
        ),
        ("PINGREQ", client.ping(now)),
    ]
}

#[test]
fn requests_need_a_connection() {
    for version in BOTH {
        let mut pair = Pair::open(version);
        for (name, result) in requests(&mut pair) {
            let error = result.unwrap_err().to_string();
            assert_eq!(error, format!("{name}: CONNECT must be sent first"));
        }
        let error = pair.client.auth(0x18, Properties::new()).unwrap_err();
        assert_eq!(error, RequestError::ConnectFirst(PacketType::Auth));

        pair.client.close();
        let mut results = requests(&mut pair);
        let (client, none) = (&mut pair.client, Properties::new);
        results.push(("CONNECT", client.connect(&connect(version))));
        results.push(("AUTH", client.auth(0x18, none())));
        results.push(("DISCONNECT", client.disconnect(0, none())));
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            results.push(("acknowledge", client.acknowledge(1, qos, 0, none())));
        }
        for (_, result) in results {
            let error = result.unwrap_err().to_string();
            assert_eq!(error, "network connection is not opened");
        }
        assert!(pair.client.fill().is_empty());
    }
}

#[test]
fn connect_then_connack() {
    for version in BOTH {
        let mut pair = Pair::open(version);
        assert_eq!(pair.client.state(), State::Open);
        pair.connect(connect(version));
        assert_eq!(pair.client.state(), State::Connecting);
        let again = pair.client.connect(&connect(version));
        assert_eq!(again, Err(RequestError::ConnectAgain));
        assert_eq!(pair.deliver(connack(0)), [connack(0)]);
        assert_eq!(pair.client.state(), State::Connected);
        assert!(!pair.client.session_present());
        assert_eq!(pair.client.keep_alive(), 60);
        assert!(pair.server.received().is_empty());
    }
}

#[test]
fn a_connect_that_breaks_a_rule_leaves_the_connection_open() {
    let mut pair = Pair::open(Version::V311);
    let error = pair.client.connect(&connect(Version::V50)).unwrap_err();
    assert!(error.to_string().starts_with("CONNECT: "), "{error}");
    assert_eq!(pair.client.state(), State::Open);
    pair.connect(connect(Version::V311));
}

#[test]
fn requests_need_not_wait_for_connack() {
    for version in BOTH {
        let mut pair = Pair::connecting(connect(version));
        for (name, result) in requests(&mut pair) {
            assert_eq!(result, Ok(()), "{name}");
        }
        let types = |pair: &mut Pair| {
            pair.drive();
            let received = pair.server.received();
            received.iter().map(Packet::packet_type).collect::<Vec<_>>()
        };
        use PacketType::*;
        match version {
            Version::V311 => {
                let all = [Publish, Publish, Subscribe, Unsubscribe, Pingreq];
                assert_eq!(types(&mut pair), all);
                assert_eq!(pair.deliver(connack(0)), [connack(0)]);
            }
            // Only CONNACK tells what the server accepts.
            Version::V50 => {
                assert_eq!(types(&mut pair), [Pingreq]);
                assert_eq!(pair.deliver(connack(0)), [connack(0)]);
                let all = [Publish, Publish, Subscribe, Unsubscribe];
                assert_eq!(types(&mut pair), all);
            }
        }
        assert_eq!(pair.deliver(pubrec(1, 0)), [pubrec(1, 0)]);
    }
}

#[test]
fn the_first_packet_must_be_connack() {
    for version in BOTH {
        for packet in [
            publish(QoS::AtMostOnce, 0),
            puback(1, 0),
            pubrel(1, 0),
            suback(1, vec![0]),
            Packet::Pingresp,
            Packet::Pingreq,
            disconnect_packet(0),
        ] {
            let number = packet.packet_type() as u8;
            let expected = format!("expecting CONNACK but received {number}");
            let mut pair = Pair::connecting(connect(version));
            assert_eq!(pair.violation(packet.clone(), 0x82), expected);

            // Before CONNECT not even a DISCONNECT may be sent.
            let mut pair = Pair::open(version);
            pair.server.send(packet);
            assert_eq!(pair.failure(None), expected);
        }
        let mut pair = Pair::open(version);
        pair.server.send(connack(0));
        let message = pair.failure(None);
        assert_eq!(message, "CONNACK: received before CONNECT was sent");
    }
}

#[test]
fn a_second_connack_is_refused() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        let message = pair.violation(connack(0), 0x82);
        assert_eq!(message, "CONNACK: received a second time");
    }
}

#[test]
fn a_refusal_ends_the_connection() {
    for (version, reason) in [(Version::V311, 5), (Version::V50, 0x87)] {
        let mut pair = Pair::connecting(connect(version));
        pair.server.send(connack(reason));
        pair.server.send(publish(QoS::AtMostOnce, 0));
        pair.drive();
        assert_eq!(pair.packets(), [connack(reason)]);
        assert_eq!(pair.client.state(), State::Disconnected);
        assert_eq!(pair.client.poll_timeout(), None);
        assert!(pair.server.received().is_empty());
    }
}

#[test]
fn session_present_needs_a_session() {
    for version in BOTH {
        let mut pair = Pair::connecting(connect(version));
        let message = pair.violation(session_present(0), 0x82);
        assert_eq!(message, "CONNACK: session present after a clean start");

        let unclean = Connect {
            clean: false,
            ..connect(version)
        };
        let mut pair = Pair::connecting(unclean.clone());
        pair.deliver(session_present(0));
        assert_eq!(pair.client.state(), State::Connected);
        assert!(pair.client.session_present());

        let refusal = match version {
            Version::V311 => 2,
            Version::V50 => 0x85,
        };
        let mut pair = Pair::connecting(unclean);
        let message = pair.violation(session_present(refusal), 0x82);
        assert!(message.starts_with("CONNACK: session present"), "{message}");
    }
}

#[test]
fn a_server_may_not_forbid_every_publish() {
    let receive_maximum = &[0x20, 6, 0, 0, 3, 0x21, 0, 0][..];
    let maximum_packet_size = &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 0][..];
    for (name, bytes) in [
        ("receive_maximum", receive_maximum),
        ("maximum_packet_size", maximum_packet_size),
    ] {
        let mut pair = Pair::connecting(connect(Version::V50));
        pair.server.send_bytes(bytes);
        let message = pair.failure(Some(0x82));
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn unlisted_reason_codes_are_refused() {
    let mut pair = Pair::connecting(connect(Version::V311));
    let message = pair.violation(connack(6), 0x82);
    assert_eq!(message, "CONNACK: unexpected reason code: 0x06");
    let mut pair = Pair::connected(Version::V311);
    pair.server.send_bytes(&[0x90, 3, 0, 1, 3]);
    assert_eq!(pair.failure(None), "SUBACK: unexpected reason code: 0x03");

    let mut pair = Pair::connecting(connect(Version::V50));
    let message = pair.violation(connack(1), 0x82);
    assert_eq!(message, "CONNACK: unexpected reason code: 0x01");
    for packet in [
        puback(1, 0x11),
        pubrec(1, 0x92),
        pubrel(1, 0x10),
        pubcomp(1, 0x80),
        suback(1, vec![0, 3]),
        unsuback(1, vec![0x11, 0x9E]),
        disconnect_packet(0x18),
    ] {
        let name = packet.packet_type();
        let mut pair = Pair::connected(Version::V50);
        let message = pair.violation(packet, 0x82);
        let expected = format!("{name}: unexpected reason code: 0x");
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn what_only_clients_send_is_refused() {
    for version in BOTH {
        for packet in [
            Packet::Connect(Box::new(connect(version))),
            Packet::Subscribe(Subscribe {
                packet_id: 1,
                subscriptions: vec![subscription("t")],
                properties: Properties::new(),
            }),
            Packet::Unsubscribe(Unsubscribe {
                packet_id: 1,
                filters: vec![Str::from_static("t")],
                properties: Properties::new(),
            }),
            Packet::Pingreq,
        ] {
            let expected = format!("{}: only a client sends it", packet.packet_type());
            let mut pair = Pair::connected(version);
            assert_eq!(pair.violation(packet, 0x82), expected);
        }
    }
}

#[test]
fn malformed_packets_end_the_connection() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        pair.server.send(publish(QoS::AtMostOnce, 0));
        // QoS 3.
        pair.server.send_bytes(&[0x36, 5, 0, 1, b't', 0, 1]);
        pair.server.send(publish(QoS::AtMostOnce, 0));
        pair.drive();
        // Packets before the fault are delivered, packets behind it are not.
        assert_eq!(
            pair.client.poll_event(),
            Some(Event::Packet(publish(QoS::AtMostOnce, 0)))
        );
        let message = pair.failure((version == Version::V50).then_some(0x81));
        assert!(message.starts_with("PUBLISH: "), "{message}");

        pair.server.send(publish(QoS::AtMostOnce, 0));
        pair.drive();
        assert_eq!(pair.client.poll_event(), None);
    }
}

#[test]
fn the_codec_names_the_reason_code() {
    let mut pair = Pair::connected(Version::V50);
    pair.server.send_bytes(&[0x30, 4, 0, 1, b'#', 0]);
    pair.failure(Some(0x90));
}

#[test]
fn packets_larger_than_the_limit_are_refused() {
    let size = {
        let mut bytes = BytesMut::new();
        encode(&publish(QoS::AtMostOnce, 0), Version::V50, &mut bytes).unwrap();
        bytes.len() as u32
    };
    for (limit, property, fits) in [
        (size, None, true),
        (size - 1, None, false),
        (size, Some(size - 1), false),
        (size - 1, Some(size), false),
    ] {
        let limits = Settings {
            max_packet_size: limit,
            ..Settings::default()
        };
        let mut pair = Pair::with_settings(Version::V50, limits);
        pair.connect(Connect {
            properties: property
                .map(|size| Property {
                    id: PropertyId::MaximumPacketSize,
                    value: PropertyValue::FourByte(size),
                })
                .into_iter()
                .collect(),
            ..connect(Version::V50)
        });
        pair.deliver(connack(0));
        pair.server.send(publish(QoS::AtMostOnce, 0));
        match fits {
            true => {
                pair.drive();
                assert_eq!(pair.packets().len(), 1);
            }
            false => drop(pair.failure(Some(0x95))),
        }
    }
}

#[test]
fn disconnect_is_the_last_packet() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        pair.publish(QoS::AtMostOnce);
        pair.client.disconnect(0, Properties::new()).unwrap();
        assert_eq!(pair.client.state(), State::Disconnected);
        for (name, result) in requests(&mut pair) {
            assert_eq!(result, Err(RequestError::NotConnected), "{name}");
        }
        pair.server.send(publish(QoS::AtMostOnce, 0));
        let received = pair.answers();
        assert_eq!(
            received,
            [publish(QoS::AtMostOnce, 0), disconnect_packet(0)]
        );
    }
}

#[test]
fn disconnect_before_connect_sends_nothing() {
    let mut pair = Pair::open(Version::V50);
    pair.client.disconnect(4, Properties::new()).unwrap();
    assert_eq!(pair.client.state(), State::Disconnected);
    assert!(pair.client.fill().is_empty());
}

#[test]
fn the_reason_of_a_disconnect_exists_in_v50_only() {
    let reason = || {
        properties([(
            PropertyId::ReasonString,
            PropertyValue::String(Str::from_static("bye")),
        )])
    };
    let mut pair = Pair::connected(Version::V311);
    pair.client.disconnect(4, reason()).unwrap();
    assert_eq!(pair.answers(), [disconnect_packet(0)]);

    let mut pair = Pair::connected(Version::V50);
    let error = pair.client.disconnect(1, reason()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "DISCONNECT: unexpected reason code: 0x01"
    );
    assert_eq!(pair.client.state(), State::Connected);
    pair.client.disconnect(4, reason()).unwrap();
    assert_eq!(
        pair.answers(),
        [Packet::Disconnect(Disconnect {
            reason: 4,
            properties: reason()
        })]
    );
}

#[test]
fn disconnect_cannot_prolong_a_session_that_was_to_end() {
    let expiry = |seconds| {
        properties([(
            PropertyId::SessionExpiryInterval,
            PropertyValue::FourByte(seconds),
        )])
    };
    let mut pair = Pair::connected(Version::V50);
    let error = pair.client.disconnect(0, expiry(10)).unwrap_err();
    assert_eq!(error, RequestError::SessionExpiry);
    assert!(pair.client.fill().is_empty());
    assert_eq!(pair.client.disconnect(0, expiry(0)), Ok(()));

    let lasting = Connect {
        properties: expiry(1),
        ..connect(Version::V50)
    };
    let mut pair = Pair::accepted(lasting, Properties::new());
    assert_eq!(pair.client.disconnect(0, expiry(10)), Ok(()));
}

#[test]
fn the_server_may_disconnect_in_v50_only() {
    let mut pair = Pair::connected(Version::V50);
    pair.server.send(disconnect_packet(0x8B));
    pair.server.send(publish(QoS::AtMostOnce, 0));
    pair.drive();
    assert_eq!(pair.packets(), [disconnect_packet(0x8B)]);
    assert_eq!(pair.client.state(), State::Disconnected);
    assert_eq!(pair.client.poll_timeout(), None);
    assert!(pair.server.received().is_empty());

    let mut pair = Pair::connected(Version::V311);
    let message = pair.violation(disconnect_packet(0), 0x82);
    assert_eq!(message, "DISCONNECT: only a client sends it");

    let mut pair = Pair::connected(Version::V50);
    let expiry = Packet::Disconnect(Disconnect {
        reason: 0,
        properties: properties([(
            PropertyId::SessionExpiryInterval,
            PropertyValue::FourByte(1),
        )]),
    });
    let message = pair.violation(expiry, 0x82);
    assert!(message.contains("session_expiry_interval"), "{message}");
}

#[test]
fn events_outlive_the_connection() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
        assert_eq!(pair.publish(QoS::AtLeastOnce), 2);
        pair.server.send(puback(1, 0));
        pair.drive();
        pair.reconnect();
        assert!(pair.client.has_events());
        assert_eq!(pair.packets(), [puback(1, 0)]);
        pair.server.received();

        pair.connect(connect(version));
        pair.deliver(connack(0));
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
    }
}

#[test]
fn closing_drops_what_was_not_written() {
    let mut pair = Pair::connected(Version::V311);
    pair.publish(QoS::AtMostOnce);
    pair.client.close();
    assert!(pair.client.fill().is_empty());
    assert_eq!(pair.client.state(), State::Disconnected);
}

#[test]
fn any_split_of_the_streams_is_the_same_conversation() {
    for version in BOTH {
        let mut conversations = Vec::new();
        for chunk in [usize::MAX, 1, 2, 3, 7] {
            let mut pair = Pair::open(version);
            pair.chunk = chunk;
            pair.server.answers = true;
            pair.client.connect(&connect(version)).unwrap();
            for (name, result) in requests(&mut pair) {
                assert_eq!(result, Ok(()), "{name}");
            }
            pair.drive();
            pair.server.send(publish(QoS::ExactlyOnce, 9));
            pair.drive();
            pair.acknowledge(9, QoS::ExactlyOnce);
            pair.drive();
            let received = pair.server.received();
            assert_eq!(received.last(), Some(&pubcomp(9, 0)));
            conversations.push((pair.packets(), received));
        }
        let first = conversations.remove(0);
        for other in conversations {
            assert_eq!(first, other);
        }
    }
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 872, "{}", size_of::<Session>());
}

#[test]
fn queued_events_are_counted_until_they_are_taken() {
    let mut pair = Pair::connected(Version::V311);
    assert_eq!(pair.client.queued_bytes(), 0);
    pair.server.send(publish(QoS::AtMostOnce, 0));
    pair.drive();
    let one = pair.client.queued_bytes();
    assert!(one >= "t".len() + "payload".len());
    pair.server.send(publish(QoS::AtMostOnce, 0));
    pair.drive();
    assert_eq!(pair.client.queued_bytes(), 2 * one);
    pair.client.poll_event();
    assert_eq!(pair.client.queued_bytes(), one);
    pair.client.poll_event();
    assert_eq!(pair.client.queued_bytes(), 0);
    assert!(!pair.client.has_events());
}

#[test]
fn properties_count_as_queued() {
    let user_property = || Property {
        id: PropertyId::UserProperty,
        value: PropertyValue::Pair(Str::from_static("name"), Str::from_static("value")),
    };
    let mut sizes = Vec::new();
    for count in [0, 1, 2] {
        let mut pair = Pair::connected(Version::V50);
        pair.server.send(Packet::Puback(Ack {
            packet_id: 1,
            reason: 0,
            properties: std::iter::repeat_with(user_property).take(count).collect(),
        }));
        pair.drive();
        sizes.push(pair.client.queued_bytes());
        pair.packets();
        assert_eq!(pair.client.queued_bytes(), 0);
    }
    assert!(sizes[1] >= sizes[0] + "namevalue".len());
    assert_eq!(sizes[2] - sizes[1], sizes[1] - sizes[0]);
}

#[test]
fn reading_stops_while_too_much_is_queued() {
    let limits = Settings {
        max_queued_bytes: 0,
        ..Settings::default()
    };
    let mut pair = Pair::with_settings(Version::V311, limits);
    pair.connect(connect(Version::V311));
    pair.deliver(connack(0));
    assert!(pair.client.wants_receive());
    pair.server.send(publish(QoS::AtMostOnce, 0));
    pair.drive();
    assert!(!pair.client.wants_receive());
    pair.packets();
    assert!(pair.client.wants_receive());
}

proptest! {
    #![proptest_config(repeatable())]

    #[test]
    fn no_bytes_of_a_server_do_harm(
        version in prop::sample::select(&BOTH[..]),
        connected in any::<bool>(),
        parts in prop::collection::vec(
            prop_oneof![
                // A type byte and a remaining length that fits make the decoder look at the rest.
                (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(first, body)| {
                    let mut packet = vec![first, body.len() as u8];
                    packet.extend(body);
                    packet
                }),
                prop::collection::vec(any::<u8>(), 0..8),
            ],
            0..20,
        ),
    ) {
        let mut pair = match connected {
            true => Pair::connected(version),
            false => Pair::connecting(connect(version)),
        };
        for part in parts {
            pair.server.send_bytes(&part);
            pair.drive();
            pair.advance(Duration::from_secs(1));
        }
        let failures = std::iter::from_fn(|| pair.client.poll_event())
            .filter(|event| matches!(event, Event::Failed(_)))
            .count();
        prop_assert!(failures <= 1);
        prop_assert_eq!(pair.client.queued_bytes(), 0);
    }
}
