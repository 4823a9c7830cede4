//! The exchanges that the server begins: PUBLISH in every QoS, its acknowledgement by the program, topic aliases.

use std::collections::VecDeque;

use mqtt_core::codec::*;
use mqtt_core::session::{RequestError, State};

use crate::pair::*;

#[test]
fn every_qos_is_delivered_and_nothing_acknowledged_by_itself() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        for packet in [
            publish(QoS::AtMostOnce, 0),
            publish(QoS::AtLeastOnce, 5),
            publish(QoS::ExactlyOnce, 6),
        ] {
            assert_eq!(pair.deliver(packet.clone()), [packet]);
        }
        assert_eq!(pair.answers(), []);
    }
}

#[test]
fn the_program_acknowledges() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        pair.deliver(publish(QoS::AtLeastOnce, 5));
        pair.deliver(publish(QoS::ExactlyOnce, 6));
        pair.acknowledge(0, QoS::AtMostOnce);
        assert_eq!(pair.answers(), []);
        pair.acknowledge(5, QoS::AtLeastOnce);
        pair.acknowledge(6, QoS::ExactlyOnce);
        assert_eq!(pair.answers(), [puback(5, 0), pubrec(6, 0)]);
        // A second acknowledgement does nothing.
        pair.acknowledge(6, QoS::ExactlyOnce);
        assert_eq!(pair.answers(), []);
        assert_eq!(pair.deliver(pubrel(6, 0)), []);
        assert_eq!(pair.answers(), [pubcomp(6, 0)]);
    }
}

#[test]
fn acknowledgements_carry_reason_and_properties_in_v50() {
    let reason = || {
        properties([(
            PropertyId::ReasonString,
            PropertyValue::String(Str::from_static("full")),
        )])
    };
    for version in BOTH {
        let mut pair = Pair::connected(version);
        pair.deliver(publish(QoS::AtLeastOnce, 5));
        pair.deliver(publish(QoS::ExactlyOnce, 6));
        for (id, qos) in [(5, QoS::AtLeastOnce), (6, QoS::ExactlyOnce)] {
            pair.client.acknowledge(id, qos, 0x97, reason()).unwrap();
        }
        let ack = |packet_id| Ack {
            packet_id,
            reason: 0x97,
            properties: reason(),
        };
        let expected = match version {
            Version::V311 => [puback(5, 0), pubrec(6, 0)],
            Version::V50 => [Packet::Puback(ack(5)), Packet::Pubrec(ack(6))],
        };
        assert_eq!(pair.answers(), expected);
    }
    let mut pair = Pair::connected(Version::V50);
    pair.deliver(publish(QoS::AtLeastOnce, 5));
    let refused = pair
        .client
        .acknowledge(5, QoS::AtLeastOnce, 0x92, Properties::new());
    assert_eq!(
        refused,
        Err(RequestError::ReasonCode(PacketType::Puback, 0x92))
    );
    assert_eq!(pair.answers(), []);
}

#[test]
fn what_was_not_received_is_not_acknowledged() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        for (id, qos) in [
            (9, QoS::ExactlyOnce),
            (0, QoS::ExactlyOnce),
            (0, QoS::AtLeastOnce),
        ] {
            let refused = pair.client.acknowledge(id, qos, 0, Properties::new());
            assert_eq!(refused, Err(RequestError::NotReceived(id)));
        }
        assert_eq!(pair.answers(), []);
    }
}

#[test]
fn a_repeated_qos_2_message_is_delivered_once() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        let Packet::Publish(first) = publish(QoS::ExactlyOnce, 6) else {
            unreachable!()
        };
        let repeated = || {
            Packet::Publish(Publish {
                dup: true,
                ..first.clone()
            })
        };
        assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 6)).len(), 1);
        pair.server.send(repeated());
        assert_eq!(pair.answers(), []);
        pair.acknowledge(6, QoS::ExactlyOnce);
        assert_eq!(pair.answers(), [pubrec(6, 0)]);
        // The server acts as if the PUBREC was lost.
        pair.server.send(repeated());
        assert_eq!(pair.answers(), [pubrec(6, 0)]);
        pair.server.send(pubrel(6, 0));
        assert_eq!(pair.answers(), [pubcomp(6, 0)]);
        // Once released, the identifier belongs to a new message.
        assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 6)).len(), 1);
        // A QoS 1 message may come more than once.
        for _ in 0..2 {
            assert_eq!(pair.deliver(publish(QoS::AtLeastOnce, 7)).len(), 1);
        }
    }
}

#[test]
fn every_pubrel_is_answered_with_pubcomp() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        pair.server.send(pubrel(9, 0));
        assert_eq!(pair.answers(), [pubcomp(9, not_found(version))]);
        // The server need not wait for PUBREC. After PUBREL there is no message left to acknowledge.
        pair.deliver(publish(QoS::ExactlyOnce, 6));
        pair.server.send(pubrel(6, 0));
        assert_eq!(pair.answers(), [pubcomp(6, 0)]);
        let late = pair
            .client
            .acknowledge(6, QoS::ExactlyOnce, 0, Properties::new());
        assert_eq!(late, Err(RequestError::NotReceived(6)));
    }
}

#[test]
fn a_pubrec_with_an_error_frees_the_packet_id() {
    let mut pair = Pair::connected(Version::V50);
    pair.deliver(publish(QoS::ExactlyOnce, 6));
    pair.client
        .acknowledge(6, QoS::ExactlyOnce, 0x80, Properties::new())
        .unwrap();
    assert_eq!(pair.answers(), [pubrec(6, 0x80)]);
    assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 6)).len(), 1);
    pair.deliver(pubrel(9, 0));
    assert_eq!(pair.answers(), [pubcomp(9, 0x92)]);
}

/// A pair whose connection broke after the QoS 2 message 6 was delivered. The client asks to resume its session.
fn resuming(version: Version, acknowledged: bool) -> Pair {
    let unclean = Connect {
        clean: false,
        ..connect(version)
    };
    let mut pair = Pair::accepted(unclean.clone(), Properties::new());
    pair.deliver(publish(QoS::ExactlyOnce, 6));
    if acknowledged {
        pair.acknowledge(6, QoS::ExactlyOnce);
        pair.drive();
    }
    pair.reconnect();
    pair.server.received();
    pair.connect(unclean);
    pair
}

#[test]
fn qos_2_outlives_the_connection_with_the_session() {
    for version in BOTH {
        let mut pair = resuming(version, true);
        pair.deliver(session_present(0));
        pair.server.send(publish(QoS::ExactlyOnce, 6));
        assert_eq!(pair.answers(), [pubrec(6, 0)]);

        for acknowledged in [false, true] {
            let mut pair = resuming(version, acknowledged);
            pair.deliver(connack(0));
            assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 6)).len(), 1);
            assert_eq!(pair.answers(), []);
        }
    }
}

/// [MQTT-4.4.0-1], [MQTT-4.3.3-9]: a message that the program has not acknowledged has had no PUBREC, so the server
/// repeats it. It comes again, once on each connection, and keeps no slot of the server's window for good.
#[test]
fn qos_2_that_is_not_acknowledged_comes_again_on_the_next_connection() {
    for version in BOTH {
        let mut pair = resuming(version, false);
        for connections in 2..=4 {
            pair.deliver(session_present(0));
            assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 6)).len(), 1);
            pair.server.send(publish(QoS::ExactlyOnce, 6));
            assert_eq!(pair.answers(), []);
            assert_eq!(pair.client.stats().messages_received, connections);
            if connections < 4 {
                pair.reconnect();
                pair.connect(Connect {
                    clean: false,
                    ..connect(version)
                });
            }
        }
        // The program may mean the first delivery or the last: they are the same message.
        for _ in 0..2 {
            pair.acknowledge(6, QoS::ExactlyOnce);
        }
        assert_eq!(pair.answers(), [pubrec(6, 0)]);
        pair.server.send(publish(QoS::ExactlyOnce, 6));
        assert_eq!(pair.answers(), [pubrec(6, 0)]);
        pair.server.send(pubrel(6, 0));
        assert_eq!(pair.answers(), [pubcomp(6, 0)]);
        assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 6)).len(), 1);
    }
}

/// The program acknowledges on the connection after the one that delivered the message. The client sends nothing before
/// the server repeats the message: on this connection the server has not sent it yet.
#[test]
fn qos_2_may_be_acknowledged_before_it_is_repeated() {
    for version in BOTH {
        let mut pair = resuming(version, false);
        pair.deliver(session_present(0));
        pair.acknowledge(6, QoS::ExactlyOnce);
        assert_eq!(pair.answers(), []);
        pair.server.send(publish(QoS::ExactlyOnce, 6));
        assert_eq!(pair.answers(), [pubrec(6, 0)]);
        pair.server.send(pubrel(6, 0));
        assert_eq!(pair.answers(), [pubcomp(6, 0)]);
    }
}

/// The program acknowledges the message of the first connection while the server's repeat waits for it on the next one.
#[test]
fn qos_2_that_is_acknowledged_while_its_repeat_waits_does_not_come_again() {
    for version in BOTH {
        for reason in [0, 0x80] {
            let mut pair = resuming(version, false);
            pair.deliver(session_present(0));
            for id in 5..=7 {
                pair.server.send(publish(QoS::ExactlyOnce, id));
            }
            pair.drive();
            pair.client
                .acknowledge(6, QoS::ExactlyOnce, reason, Properties::new())
                .unwrap();
            assert_eq!(
                pair.packets(),
                [publish(QoS::ExactlyOnce, 5), publish(QoS::ExactlyOnce, 7)]
            );
            assert_eq!(pair.client.queued_bytes(), 0);
            let reason = if version == Version::V311 { 0 } else { reason };
            assert_eq!(pair.answers(), [pubrec(6, reason)]);
        }
    }
}

/// The same for a repeat whose connection is gone too, and for one among many, which the driver takes at once.
#[test]
fn qos_2_that_is_acknowledged_never_comes_again_whatever_waits() {
    for version in BOTH {
        let mut pair = resuming(version, false);
        pair.deliver(session_present(0));
        pair.server.send(publish(QoS::ExactlyOnce, 6));
        pair.drive();
        pair.client.close();
        let late = pair
            .client
            .acknowledge(6, QoS::ExactlyOnce, 0, Properties::new());
        assert_eq!(late, Err(RequestError::NotConnected));
        assert_eq!(pair.packets(), []);

        let mut pair = resuming(version, false);
        pair.deliver(session_present(0));
        for id in 1..=100 {
            pair.server.send(publish(QoS::ExactlyOnce, id));
        }
        pair.drive();
        let mut at_hand = VecDeque::new();
        pair.client.take_messages(&mut at_hand);
        pair.acknowledge(6, QoS::ExactlyOnce);
        pair.client.give_back(at_hand);
        let repeat = publish(QoS::ExactlyOnce, 6);
        let rest = pair.packets();
        assert_eq!(rest.len(), 99);
        assert!(!rest.contains(&repeat));
    }
}

/// 4.9: a message that comes again counts again. Refusing it makes room.
#[test]
fn qos_2_that_comes_again_counts_against_our_receive_maximum() {
    let connect = Connect {
        clean: false,
        properties: properties([(PropertyId::ReceiveMaximum, PropertyValue::TwoByte(2))]),
        ..connect(Version::V50)
    };
    let mut pair = Pair::accepted(connect.clone(), Properties::new());
    for id in 1..=2 {
        pair.deliver(publish(QoS::ExactlyOnce, id));
    }
    pair.reconnect();
    pair.connect(connect);
    pair.deliver(session_present(0));
    for id in 1..=2 {
        assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, id)).len(), 1);
    }
    pair.client
        .acknowledge(1, QoS::ExactlyOnce, 0x80, Properties::new())
        .unwrap();
    assert_eq!(pair.answers(), [pubrec(1, 0x80)]);
    assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 3)).len(), 1);
    pair.violation(publish(QoS::ExactlyOnce, 4), 0x93);
}

#[test]
fn qos_2_may_be_acknowledged_between_connections() {
    for version in BOTH {
        for connecting in [false, true] {
            let mut pair = resuming(version, false);
            if !connecting {
                pair.client.close();
            }
            let result = pair
                .client
                .acknowledge(6, QoS::ExactlyOnce, 0, Properties::new());
            match connecting {
                true => assert_eq!(result, Ok(())),
                false => {
                    assert_eq!(result, Err(RequestError::NotConnected));
                    pair.reconnect();
                    pair.connect(Connect {
                        clean: false,
                        ..connect(version)
                    });
                }
            }
            assert_eq!(pair.answers(), []);
            pair.deliver(session_present(0));
            pair.server.send(publish(QoS::ExactlyOnce, 6));
            assert_eq!(pair.answers(), [pubrec(6, 0)]);
        }
        // QoS 1 has no such memory. The server will repeat the message.
        let mut pair = resuming(version, false);
        let refused = pair
            .client
            .acknowledge(6, QoS::AtLeastOnce, 0, Properties::new());
        assert_eq!(refused, Err(RequestError::NotReceived(6)));
    }
}

#[test]
fn a_rejection_between_connections_lets_the_message_come_again() {
    let mut pair = resuming(Version::V50, false);
    pair.client
        .acknowledge(6, QoS::ExactlyOnce, 0x83, Properties::new())
        .unwrap();
    pair.deliver(session_present(0));
    assert_eq!(pair.deliver(publish(QoS::ExactlyOnce, 6)).len(), 1);
}

/// 3.1.2.11.7: with Request Problem Information 0 the server "MUST NOT send a Reason String or User Properties on any
/// packet other than PUBLISH, CONNACK, or DISCONNECT". If it does, the client "uses a DISCONNECT packet with Reason
/// Code 0x82".
#[test]
fn problem_information_comes_where_it_is_wanted() {
    let text = || Str::from_static("x");
    for (asked, property, name) in [
        (
            0,
            (PropertyId::ReasonString, PropertyValue::String(text())),
            "reason_string",
        ),
        (
            0,
            (
                PropertyId::UserProperty,
                PropertyValue::Pair(text(), text()),
            ),
            "user_property",
        ),
        (
            1,
            (PropertyId::ReasonString, PropertyValue::String(text())),
            "",
        ),
    ] {
        let all = || properties([property.clone()]);
        let ack = || Ack {
            packet_id: 1,
            reason: 0,
            properties: all(),
        };
        let suback = |reasons| Suback {
            packet_id: 1,
            reasons,
            properties: all(),
        };
        for packet in [
            Packet::Puback(ack()),
            Packet::Pubrec(ack()),
            Packet::Pubrel(ack()),
            Packet::Pubcomp(ack()),
            Packet::Suback(suback(vec![0])),
            Packet::Unsuback(suback(vec![0])),
        ] {
            let connect = Connect {
                properties: properties([(
                    PropertyId::RequestProblemInformation,
                    PropertyValue::Byte(asked),
                )]),
                ..connect(Version::V50)
            };
            let mut pair = Pair::accepted(connect, all());
            let kind = packet.packet_type();
            if asked == 1 {
                pair.deliver(packet);
                assert_eq!(pair.client.state(), State::Connected);
                continue;
            }
            assert_eq!(
                pair.violation(packet, 0x82),
                format!("{kind}: {name}: CONNECT had request_problem_information = 0")
            );
        }
    }
}

fn receive_maximum(version: Version, maximum: u16) -> Pair {
    let connect = Connect {
        properties: properties([(PropertyId::ReceiveMaximum, PropertyValue::TwoByte(maximum))]),
        ..connect(version)
    };
    Pair::accepted(connect, Properties::new())
}

#[test]
fn the_server_keeps_our_receive_maximum() {
    let mut pair = receive_maximum(Version::V50, 2);
    // Each way of acknowledging a message makes room.
    for id in (1..=30).step_by(3) {
        pair.deliver(publish(QoS::AtLeastOnce, id));
        pair.deliver(publish(QoS::ExactlyOnce, id + 1));
        pair.deliver(publish(QoS::AtMostOnce, 0));
        pair.deliver(publish(QoS::ExactlyOnce, id + 1));
        pair.acknowledge(id, QoS::AtLeastOnce);
        pair.deliver(publish(QoS::ExactlyOnce, id + 2));
        pair.client
            .acknowledge(id + 2, QoS::ExactlyOnce, 0x80, Properties::new())
            .unwrap();
        pair.acknowledge(id + 1, QoS::ExactlyOnce);
        pair.deliver(pubrel(id + 1, 0));
    }
    pair.deliver(publish(QoS::AtLeastOnce, 1));
    pair.deliver(publish(QoS::ExactlyOnce, 2));
    pair.acknowledge(2, QoS::ExactlyOnce);
    pair.answers();
    let message = pair.violation(publish(QoS::AtLeastOnce, 3), 0x93);
    assert_eq!(
        message,
        "PUBLISH: more than 2 unacknowledged, our receive maximum"
    );
}

#[test]
fn v311_has_no_receive_maximum() {
    let mut pair = Pair::connected(Version::V311);
    for _ in 0..2 {
        for id in 1..=u16::MAX {
            pair.server.send(publish(QoS::AtLeastOnce, id));
        }
    }
    pair.drive();
    assert_eq!(pair.packets().len(), 2 * 65_535);
}

fn aliased(topic: &'static str, alias: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Str::from_static(topic),
        packet_id: 0,
        properties: properties([(PropertyId::TopicAlias, PropertyValue::TwoByte(alias))]),
        payload: "x".into(),
    })
}

fn alias_maximum(maximum: u16) -> Pair {
    let connect = Connect {
        properties: properties([(
            PropertyId::TopicAliasMaximum,
            PropertyValue::TwoByte(maximum),
        )]),
        ..connect(Version::V50)
    };
    Pair::accepted(connect, Properties::new())
}

#[test]
fn topic_aliases_stand_for_topics() {
    let mut pair = alias_maximum(3);
    for (topic, alias, seen) in [
        ("a", 3, "a"),
        ("", 3, "a"),
        ("b", 1, "b"),
        ("", 1, "b"),
        ("", 3, "a"),
        ("c", 3, "c"),
        ("", 3, "c"),
    ] {
        assert_eq!(pair.deliver(aliased(topic, alias)), [aliased(seen, alias)]);
    }
    let message = pair.violation(aliased("", 2), 0x82);
    assert_eq!(message, "PUBLISH: topic alias 2 stands for no topic");
}

#[test]
fn topic_aliases_have_our_maximum() {
    let message = alias_maximum(3).violation(aliased("a", 4), 0x94);
    assert_eq!(message, "PUBLISH: topic alias must be at most 3, got 4");
    let message = Pair::connected(Version::V50).violation(aliased("a", 1), 0x94);
    assert_eq!(message, "PUBLISH: topic alias must be at most 0, got 1");
    let mut pair = alias_maximum(3);
    pair.server
        .send_bytes(&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0]);
    let message = pair.failure(Some(0x94));
    assert!(message.contains("topic_alias"), "{message}");
}

#[test]
fn topic_aliases_end_with_the_connection() {
    let mut pair = alias_maximum(3);
    pair.deliver(aliased("a", 1));
    pair.reconnect();
    pair.connect(Connect {
        properties: properties([(PropertyId::TopicAliasMaximum, PropertyValue::TwoByte(3))]),
        ..connect(Version::V50)
    });
    pair.deliver(connack(0));
    pair.violation(aliased("", 1), 0x82);
    assert_eq!(pair.client.state(), State::Disconnected);
}
