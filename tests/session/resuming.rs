//! The state that outlives a connection: exchanges under way, waiting messages, subscriptions.

use std::collections::VecDeque;

use mqtt_core::codec::*;
use mqtt_core::session::{Event, QueueLimits, RequestError, Settings, State, Why};

use crate::pair::*;

fn keeping() -> Settings {
    Settings {
        keep_exchanges: true,
        ..Settings::default()
    }
}

fn queueing(max_messages: u32, max_bytes: u32, drop_oldest: bool) -> Settings {
    Settings {
        queue: Some(QueueLimits {
            max_messages,
            max_bytes,
            drop_oldest,
        }),
        ..keeping()
    }
}

/// A connected client with these settings.
fn connected(version: Version, settings: Settings) -> Pair {
    let mut pair = Pair::with_settings(version, settings);
    pair.connect(connect(version));
    accept(&mut pair, false, Properties::new());
    pair
}

/// The server accepts. Returns the packets that it then receives.
fn accept(pair: &mut Pair, session_present: bool, properties: Properties) -> Vec<Packet> {
    let connack = Packet::Connack(Connack {
        session_present,
        reason: 0,
        properties,
    });
    pair.server.send(connack.clone());
    pair.drive();
    assert_eq!(pair.client.poll_event(), Some(Event::Packet(connack)));
    pair.server.received()
}

/// The connection breaks, and the server accepts another. Returns the packets that it then receives.
fn resume(pair: &mut Pair, session_present: bool, properties: Properties) -> Vec<Packet> {
    pair.reconnect();
    pair.server.received();
    pair.connect(Connect {
        clean: false,
        ..connect(pair.client.version())
    });
    accept(pair, session_present, properties)
}

fn repeated(qos: QoS, packet_id: u16) -> Packet {
    let Packet::Publish(publish) = publish(qos, packet_id) else {
        unreachable!()
    };
    Packet::Publish(Publish {
        dup: true,
        ..publish
    })
}

fn subscribe_packet(packet_id: u16, filters: &[&'static str]) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id,
        subscriptions: filters.iter().map(|filter| subscription(filter)).collect(),
        properties: Properties::new(),
    })
}

fn subscribe(pair: &mut Pair, filter: &'static str) -> u16 {
    let list = vec![subscription(filter)];
    pair.client.subscribe(list, Properties::new()).unwrap()
}

fn unsubscribe(pair: &mut Pair, filter: &'static str) -> u16 {
    let list = vec![Str::from_static(filter)];
    pair.client.unsubscribe(list, Properties::new()).unwrap()
}

fn limit(id: PropertyId, value: u16) -> Properties {
    properties([(id, PropertyValue::TwoByte(value))])
}

const QOS_1: QoS = QoS::AtLeastOnce;
const QOS_2: QoS = QoS::ExactlyOnce;

#[test]
fn a_resumed_session_gets_what_it_may_have_missed_in_the_original_order() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        for qos in [QOS_1, QOS_2, QOS_1, QOS_2, QOS_2] {
            pair.publish(qos);
        }
        pair.drive();
        pair.deliver(puback(3, 0));
        pair.deliver(pubrec(4, 0));
        assert_eq!(
            resume(&mut pair, true, Properties::new()),
            [
                repeated(QOS_1, 1),
                repeated(QOS_2, 2),
                pubrel(4, 0),
                repeated(QOS_2, 5)
            ]
        );
        // Each acknowledgement is told once, and all exchanges end.
        assert_eq!(pair.deliver(puback(1, 0)), [puback(1, 0)]);
        for id in [2, 5] {
            assert_eq!(pair.deliver(pubrec(id, 0)), [pubrec(id, 0)]);
        }
        for id in [2, 4, 5] {
            assert_eq!(pair.deliver(pubcomp(id, 0)), []);
        }
        assert_eq!(pair.client.stats().in_flight, 0);
        assert_eq!(pair.client.stored_bytes(), 0);
        assert_eq!(resume(&mut pair, true, Properties::new()), []);
    }
}

#[test]
fn without_a_session_they_are_new_messages_and_what_had_its_pubrec_is_done() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        for qos in [QOS_2, QOS_1, QOS_2] {
            pair.publish(qos);
        }
        pair.drive();
        pair.deliver(pubrec(1, 0));
        assert_eq!(
            resume(&mut pair, false, Properties::new()),
            [publish(QOS_1, 2), publish(QOS_2, 3)]
        );
        // A third connection resumes the session that the second began.
        assert_eq!(
            resume(&mut pair, true, Properties::new()),
            [repeated(QOS_1, 2), repeated(QOS_2, 3)]
        );
    }
}

#[test]
fn new_messages_wait_until_everything_old_has_been_repeated() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        pair.publish(QOS_1);
        pair.reconnect();
        pair.connect(Connect {
            clean: false,
            ..connect(version)
        });
        assert_eq!(pair.publish(QOS_1), 2);
        assert_eq!(pair.publish(QoS::AtMostOnce), 0);
        assert_eq!(subscribe(&mut pair, "a"), 3);
        assert_eq!(pair.answers(), []);
        assert_eq!(pair.client.stats().queued, 3);
        assert_eq!(
            accept(&mut pair, true, Properties::new()),
            [
                repeated(QOS_1, 1),
                publish(QOS_1, 2),
                publish(QoS::AtMostOnce, 0),
                subscribe_packet(3, &["a"])
            ]
        );
    }
}

#[test]
fn subscribe_and_unsubscribe_under_way_are_repeated() {
    for version in BOTH {
        for session_present in [true, false] {
            let mut pair = connected(version, keeping());
            subscribe(&mut pair, "a");
            unsubscribe(&mut pair, "b");
            pair.drive();
            let first = pair.server.received();
            let again = resume(&mut pair, session_present, Properties::new());
            assert_eq!(first, again);
            assert_eq!(pair.deliver(suback(1, vec![1])), [suback(1, vec![1])]);
        }
    }
}

#[test]
fn a_clean_start_forgets_unless_told_otherwise() {
    for version in BOTH {
        let mut pair = connected(version, Settings::default());
        pair.publish(QOS_1);
        pair.reconnect();
        pair.connect(connect(version));
        assert_eq!(accept(&mut pair, false, Properties::new()), []);
        assert_eq!(pair.publish(QOS_1), 1);

        // The next CONNECT decides.
        let mut pair = connected(version, Settings::default());
        pair.publish(QOS_1);
        let again = resume(&mut pair, true, Properties::new());
        assert_eq!(again, [repeated(QOS_1, 1)]);
    }
}

#[test]
fn a_pubrec_that_the_server_repeats_before_the_message_comes_again_counts() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        pair.publish(QOS_2);
        pair.publish(QOS_2);
        pair.reconnect();
        pair.connect(Connect {
            clean: false,
            ..connect(version)
        });
        pair.server.send(session_present(0));
        pair.server.send(pubrec(2, 0));
        // Both packets have reached the client before it sends any.
        pair.carry_to_client(usize::MAX);
        pair.drive();
        assert_eq!(pair.packets(), [session_present(0), pubrec(2, 0)]);
        let received = pair.server.received();
        assert_eq!(received.len(), 2, "{received:?}");
        assert!(received.contains(&repeated(QOS_2, 1)));
        assert!(received.contains(&pubrel(2, 0)));
    }
}

#[test]
fn answers_outlive_a_connection_that_the_user_gives_up() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        pair.publish(QOS_1);
        pair.drive();
        pair.server.send(puback(1, 0));
        pair.server.send(publish(QOS_1, 1));
        pair.server.send(publish(QOS_2, 2));
        pair.drive();
        pair.client.close();
        pair.client.discard_events();
        assert_eq!(pair.packets(), [puback(1, 0)]);
        assert_eq!(pair.client.queued_bytes(), 0);
        // The messages come again, and are delivered then.
        assert_eq!(resume(&mut pair, true, Properties::new()), []);
        assert_eq!(
            pair.deliver(repeated(QOS_1, 1)),
            [repeated(QOS_1, 1)],
            "QoS 1"
        );
        assert_eq!(
            pair.deliver(repeated(QOS_2, 2)),
            [repeated(QOS_2, 2)],
            "QoS 2"
        );
    }
}

#[test]
fn messages_taken_at_once_and_given_back_come_again_with_the_others() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        let mut taken = VecDeque::new();
        for id in 1..=30 {
            pair.server.send(publish(QOS_2, id));
        }
        pair.drive();
        let bytes = pair.client.queued_bytes();
        assert!(pair.client.take_messages(&mut taken));
        assert_eq!(taken.len(), 30);
        assert_eq!(pair.client.queued_bytes(), 0);
        // The user goes through ten messages, acknowledges them, and gives up the connection.
        taken.drain(..10);
        for id in 1..=10 {
            pair.acknowledge(id, QOS_2);
        }
        pair.server.send(publish(QOS_2, 31));
        pair.drive();
        pair.client.give_back(taken);
        assert_eq!(pair.client.queued_bytes(), bytes / 30 * 21);
        pair.client.close();
        pair.client.discard_events();
        assert_eq!(pair.client.queued_bytes(), 0);
        resume(&mut pair, true, Properties::new());
        for id in 1..=31 {
            let packet = repeated(QOS_2, id);
            let delivered = pair.deliver(packet.clone());
            let expected = if id <= 10 { vec![] } else { vec![packet] };
            assert_eq!(delivered, expected, "{id}");
        }
    }
}

#[test]
fn only_many_messages_and_nothing_else_are_taken_at_once() {
    let mut pair = connected(Version::V311, keeping());
    let mut taken = VecDeque::new();
    pair.server.send(publish(QOS_1, 1));
    pair.drive();
    assert!(!pair.client.take_messages(&mut taken), "one");
    pair.publish(QOS_1);
    pair.drive();
    for id in 2..=30 {
        pair.server.send(publish(QOS_1, id));
    }
    pair.server.send(puback(1, 0));
    pair.drive();
    assert!(!pair.client.take_messages(&mut taken), "with a PUBACK");
    assert_eq!(pair.packets().len(), 31);
    pair.server.send(publish(QOS_1, 31));
    pair.drive();
    assert!(!pair.client.take_messages(&mut taken), "one again");
}

#[test]
fn a_qos_1_message_is_acknowledged_once_and_on_its_own_connection() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        let acknowledge = |pair: &mut Pair| {
            let result = pair.client.acknowledge(7, QOS_1, 0, Properties::new());
            pair.drive();
            result
        };
        pair.deliver(publish(QOS_1, 7));
        assert_eq!(resume(&mut pair, true, Properties::new()), []);
        assert_eq!(acknowledge(&mut pair), Err(RequestError::NotReceived(7)));
        pair.deliver(repeated(QOS_1, 7));
        assert_eq!(acknowledge(&mut pair), Ok(()));
        assert_eq!(pair.server.received(), [puback(7, 0)]);
        assert_eq!(acknowledge(&mut pair), Err(RequestError::NotReceived(7)));
        assert_eq!(pair.server.received(), []);
    }
}

#[test]
fn the_servers_receive_maximum_makes_messages_wait_in_order() {
    let maximum = limit(PropertyId::ReceiveMaximum, 2);
    let mut pair = Pair::accepted(connect(Version::V50), maximum);
    for (id, qos) in [QOS_1, QOS_2, QOS_1, QoS::AtMostOnce, QOS_2]
        .into_iter()
        .enumerate()
    {
        let id = match qos {
            QoS::AtMostOnce => 0,
            _ if id > 3 => id as u16,
            _ => id as u16 + 1,
        };
        assert_eq!(pair.publish(qos), id);
    }
    assert_eq!(pair.answers(), [publish(QOS_1, 1), publish(QOS_2, 2)]);
    assert_eq!(pair.client.stats().queued, 3);
    // The acknowledgement of a message that was never sent has no effect.
    assert_eq!(pair.deliver(puback(3, 0)), []);
    assert_eq!(pair.deliver(pubrec(2, 0)), [pubrec(2, 0)]);
    // PUBREC does not end the exchange.
    assert_eq!(pair.answers(), [pubrel(2, 0)]);
    assert_eq!(pair.deliver(puback(1, 0)), [puback(1, 0)]);
    assert_eq!(
        pair.answers(),
        [publish(QOS_1, 3), publish(QoS::AtMostOnce, 0)]
    );
    assert_eq!(pair.deliver(pubcomp(2, 0)), []);
    assert_eq!(pair.answers(), [publish(QOS_2, 4)]);
    // A PUBREC with an error ends the exchange.
    pair.publish(QOS_1);
    assert_eq!(pair.answers(), []);
    assert_eq!(pair.deliver(pubrec(4, 0x97)), [pubrec(4, 0x97)]);
    assert_eq!(pair.answers(), [publish(QOS_1, 5)]);
}

/// [MQTT-3.3.4-8]: "The Client MUST NOT delay the sending of any packets other than PUBLISH packets due to having sent
/// Receive Maximum PUBLISH packets". The same holds for the limit that we assume of 3.1.1.
#[test]
fn only_publish_waits_for_the_receive_maximum() {
    for version in BOTH {
        let maximum = || match version {
            Version::V311 => Properties::new(),
            Version::V50 => limit(PropertyId::ReceiveMaximum, 2),
        };
        let settings = Settings {
            server_receive_maximum: 2,
            ..keeping()
        };
        let mut pair = Pair::with_settings(version, settings);
        pair.connect(connect(version));
        accept(&mut pair, false, maximum());
        for _ in 0..3 {
            pair.publish(QOS_2);
        }
        pair.publish(QoS::AtMostOnce);
        subscribe(&mut pair, "a");
        unsubscribe(&mut pair, "b");
        pair.publish(QOS_1);
        let unsubscribe_packet = || {
            Packet::Unsubscribe(Unsubscribe {
                packet_id: 5,
                filters: vec![Str::from_static("b")],
                properties: Properties::new(),
            })
        };
        assert_eq!(
            pair.answers(),
            [
                publish(QOS_2, 1),
                publish(QOS_2, 2),
                subscribe_packet(4, &["a"]),
                unsubscribe_packet(),
            ]
        );
        assert!(pair.client.holds_back());
        pair.client.ping(pair.now).unwrap();
        assert_eq!(pair.answers(), [Packet::Pingreq]);

        // The other packets keep their order.
        for id in 1..=2 {
            pair.deliver(pubrec(id, 0));
            pair.deliver(pubcomp(id, 0));
        }
        pair.drive();
        let messages = pair.server.received();
        let messages = messages
            .iter()
            .filter(|packet| matches!(packet, Packet::Publish(_)));
        assert!(messages.eq(&[
            publish(QOS_2, 3),
            publish(QoS::AtMostOnce, 0),
            publish(QOS_1, 6),
        ]));
    }
}

/// Nor is a PUBREL to be repeated a message, even behind waiting messages.
#[test]
fn pubrel_does_not_wait_for_the_receive_maximum() {
    let mut pair = connected(Version::V50, keeping());
    for _ in 0..3 {
        pair.publish(QOS_2);
    }
    pair.drive();
    pair.deliver(pubrec(3, 0));
    let maximum = limit(PropertyId::ReceiveMaximum, 1);
    let received = resume(&mut pair, true, maximum);
    assert_eq!(received, [repeated(QOS_2, 1), pubrel(3, 0)]);
    pair.deliver(pubrec(1, 0));
    pair.deliver(pubcomp(1, 0));
    assert_eq!(pair.answers(), [pubrel(1, 0), repeated(QOS_2, 2)]);
}

/// Packets that wait for CONNACK go on waiting for it.
#[test]
fn subscribe_waits_for_connack_where_messages_do() {
    let mut pair = Pair::connecting(connect(Version::V50));
    pair.publish(QOS_1);
    subscribe(&mut pair, "a");
    assert_eq!(pair.answers(), []);
    let received = accept(&mut pair, false, limit(PropertyId::ReceiveMaximum, 1));
    assert_eq!(received, [publish(QOS_1, 1), subscribe_packet(2, &["a"])]);
}

#[test]
fn a_server_of_v311_gets_20_messages_of_qos_2_at_a_time() {
    let mut pair = connected(Version::V311, keeping());
    for _ in 0..30 {
        pair.publish(QOS_1);
    }
    assert_eq!(pair.answers().len(), 30);
    for id in 31..=60 {
        assert_eq!(pair.publish(QOS_2), id);
    }
    assert_eq!(pair.answers().len(), 20);
    // The server sees the PUBREL first, and then has room.
    pair.deliver(pubrec(31, 0));
    assert_eq!(pair.answers(), [pubrel(31, 0), publish(QOS_2, 51)]);
    pair.deliver(pubcomp(31, 0));
    assert_eq!(pair.answers(), []);
    // The same holds on the next connection.
    pair.deliver(pubrec(32, 0));
    let again = resume(&mut pair, true, Properties::new());
    assert_eq!(again.len(), 30 + 1 + 20);
    assert_eq!(again[30], pubrel(32, 0));
    assert_eq!(again.last(), Some(&repeated(QOS_2, 52)));
    pair.deliver(pubcomp(32, 0));
    assert_eq!(pair.answers(), []);
}

#[test]
fn how_many_a_server_of_v311_gets_can_be_set() {
    let settings = Settings {
        server_receive_maximum: 100,
        ..keeping()
    };
    let mut pair = connected(Version::V311, settings);
    for id in 1..=101 {
        assert_eq!(pair.publish(QOS_2), id);
    }
    assert_eq!(pair.answers().len(), 100);
    // From the next message on, the new limit counts on this connection too.
    pair.client.configure(Settings {
        server_receive_maximum: 102,
        ..keeping()
    });
    pair.publish(QOS_2);
    assert_eq!(pair.answers(), [publish(QOS_2, 101), publish(QOS_2, 102)]);
}

/// A server of 3.1.1 that holds as many QoS 2 messages as it takes may refuse any message, of QoS 1 too, with an
/// acknowledgement that looks like success: mosquitto 2.0 does.
#[test]
fn a_message_of_qos_1_waits_for_qos_2_in_v311() {
    let settings = Settings {
        server_receive_maximum: 2,
        queue: Some(QueueLimits {
            max_messages: 10,
            max_bytes: 1000,
            drop_oldest: false,
        }),
        ..keeping()
    };
    let mut pair = connected(Version::V311, settings);
    pair.publish(QOS_1);
    for _ in 0..2 {
        pair.publish(QOS_2);
    }
    pair.publish(QOS_1);
    pair.publish(QOS_1);
    let first = [publish(QOS_1, 1), publish(QOS_2, 2), publish(QOS_2, 3)];
    assert_eq!(pair.answers(), first);
    pair.deliver(puback(1, 0));
    assert_eq!(pair.answers(), []);
    // The server sees the PUBREL first. Messages of QoS 1 do not count themselves.
    pair.deliver(pubrec(2, 0));
    let then = [pubrel(2, 0), publish(QOS_1, 4), publish(QOS_1, 5)];
    assert_eq!(pair.answers(), then);

    // The same for messages that waited for a connection, and for repeated ones.
    pair.client.close();
    pair.publish(QOS_2);
    pair.publish(QOS_1);
    let received = resume(&mut pair, true, Properties::new());
    let repeated = [
        pubrel(2, 0),
        repeated(QOS_2, 3),
        repeated(QOS_1, 4),
        repeated(QOS_1, 5),
        publish(QOS_2, 6),
    ];
    assert_eq!(received, repeated);
    pair.deliver(pubrec(3, 0));
    assert_eq!(pair.answers(), [pubrel(3, 0), publish(QOS_1, 7)]);
}

#[test]
fn a_repeated_pubrel_does_not_count_against_the_receive_maximum() {
    let mut pair = connected(Version::V50, keeping());
    for _ in 0..3 {
        pair.publish(QOS_2);
    }
    pair.drive();
    pair.deliver(pubrec(1, 0));
    let maximum = limit(PropertyId::ReceiveMaximum, 1);
    let received = resume(&mut pair, true, maximum);
    assert_eq!(received, [pubrel(1, 0), repeated(QOS_2, 2)]);
    assert_eq!(pair.deliver(pubcomp(1, 0)), []);
    assert_eq!(pair.answers(), []);
    pair.deliver(pubrec(2, 0));
    pair.deliver(pubcomp(2, 0));
    assert_eq!(pair.answers(), [pubrel(2, 0), repeated(QOS_2, 3)]);
}

#[test]
fn the_queue_accepts_messages_without_a_connection() {
    for version in BOTH {
        let mut pair = Pair::with_settings(version, queueing(10, 1000, false));
        pair.client.close();
        assert_eq!(pair.publish(QOS_1), 1);
        assert_eq!(pair.publish(QoS::AtMostOnce), 0);
        assert_eq!(pair.publish(QOS_2), 2);
        assert_eq!(pair.client.stats().queued, 3);
        pair.client.open(pair.now);
        assert_eq!(pair.publish(QOS_1), 3);
        pair.connect(connect(version));
        assert_eq!(
            accept(&mut pair, false, Properties::new()),
            [
                publish(QOS_1, 1),
                publish(QoS::AtMostOnce, 0),
                publish(QOS_2, 2),
                publish(QOS_1, 3)
            ]
        );
        assert_eq!(pair.client.stats().queued, 0);
        assert_eq!(pair.client.stats().messages_sent, 4);
        // Only messages and SUBSCRIBE wait for a connection.
        pair.client.close();
        let refused = pair
            .client
            .unsubscribe(vec![Str::from_static("a")], Properties::new());
        assert_eq!(refused, Err(RequestError::NotConnected));
        let accepted = pair
            .client
            .subscribe(vec![subscription("a")], Properties::new());
        assert_eq!(accepted, Ok(4));
    }
}

#[test]
fn a_full_queue_refuses_or_drops_the_oldest() {
    for version in BOTH {
        for limits in [queueing(2, 1000, false), queueing(1000, 30, false)] {
            let full = limits.queue.unwrap();
            let mut pair = Pair::with_settings(version, limits);
            pair.publish(QOS_1);
            pair.publish(QoS::AtMostOnce);
            let refused = pair.client.publish(&message(QOS_2));
            assert_eq!(refused, Err(RequestError::QueueFull(full)));
            assert_eq!(pair.client.stats().queued, 2);
        }
        let mut pair = connected(version, queueing(2, 1000, true));
        pair.publish(QOS_1);
        pair.reconnect();
        // A message sent already does not count, and is not dropped.
        for _ in 0..2 {
            pair.publish(QoS::AtMostOnce);
        }
        assert_eq!(pair.publish(QOS_2), 2);
        assert_eq!(pair.publish(QOS_2), 3);
        assert_eq!(pair.publish(QOS_2), 4);
        let dropped = pair.client.take_discarded();
        let dropped: Vec<_> = dropped.iter().map(|it| (it.packet_id, it.why)).collect();
        assert_eq!(dropped, [(0, Why::Full), (0, Why::Full), (2, Why::Full)]);
        assert!(pair.client.take_discarded().is_empty());
        assert!(!pair.client.has_events());
        assert_eq!(pair.client.stats().dropped, 3);
        pair.connect(Connect {
            clean: false,
            ..connect(version)
        });
        assert_eq!(
            accept(&mut pair, true, Properties::new()),
            [repeated(QOS_1, 1), publish(QOS_2, 3), publish(QOS_2, 4)]
        );
        // A message for which no room can be made.
        let mut pair = Pair::with_settings(version, queueing(2, 5, true));
        assert!(pair.client.publish(&message(QOS_1)).is_err());
    }
}

#[test]
fn what_the_server_does_not_take_is_dropped_with_a_reason() {
    let byte = |id| properties([(id, PropertyValue::Byte(0))]);
    let size = |size| properties([(PropertyId::MaximumPacketSize, PropertyValue::FourByte(size))]);
    let retained = PublishRef {
        retain: true,
        ..message(QOS_1)
    };
    // PUBLISH: 2 + 3 ("t") + 2 (identifier) + 1 (properties) + 7 bytes.
    for (properties, message, expected) in [
        (byte(PropertyId::MaximumQoS), message(QOS_1), "QoS 0"),
        (byte(PropertyId::RetainAvailable), retained, "retained"),
        (size(14), message(QOS_1), "at most 14 bytes, got 15"),
    ] {
        let mut pair = Pair::connecting(connect(Version::V50));
        assert_eq!(pair.client.publish(&message), Ok(1));
        assert_eq!(accept(&mut pair, false, properties), []);
        match pair.client.poll_event() {
            Some(Event::Dropped {
                packet_id: 1,
                reason,
            }) => assert!(reason.to_string().contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(pair.client.stats().dropped, 1);
        assert_eq!(pair.client.stored_bytes(), 0);
        assert_eq!(pair.publish(QoS::AtMostOnce), 0);
    }
    // The exact size is allowed.
    let mut pair = Pair::connecting(connect(Version::V50));
    pair.publish(QOS_1);
    let received = accept(&mut pair, false, size(15));
    assert_eq!(received, [publish(QOS_1, 1)]);
}

fn small() -> Properties {
    properties([(PropertyId::MaximumPacketSize, PropertyValue::FourByte(14))])
}

/// [MQTT-4.3.3-10]: a server whose PUBREC was lost takes the next message of the same identifier for a repeat.
#[test]
fn a_packet_id_that_the_server_may_hold_for_qos_2_is_not_used_again() {
    let mut pair = connected(Version::V50, keeping());
    assert_eq!(pair.publish(QOS_1), 1);
    assert_eq!(pair.publish(QOS_2), 2);
    pair.drive();
    // Both messages are too large now.
    assert_eq!(resume(&mut pair, true, small()), []);
    for id in 1..=2 {
        let event = pair.client.poll_event();
        assert!(
            matches!(&event, Some(Event::Dropped { packet_id, .. }) if *packet_id == id),
            "{event:?}"
        );
    }
    // This holds as long as the session lasts: no other identifier is in use, and the counter does not begin anew.
    assert_eq!(resume(&mut pair, true, Properties::new()), []);
    let again = PublishRef {
        packet_id: 2,
        ..message(QOS_2)
    };
    assert_eq!(
        pair.client.publish(&again),
        Err(RequestError::PacketIdInUse(2))
    );
    let mut seen = Vec::new();
    for _ in 0..u16::MAX - 1 {
        let id = pair.publish(QOS_1);
        seen.push(id);
        pair.drive();
        pair.deliver(puback(id, 0));
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq((1..=u16::MAX).filter(|id| *id != 2)));
    assert_eq!(resume(&mut pair, false, Properties::new()), []);
    assert_eq!(pair.client.publish(&again), Ok(2));

    // To a server that has lost the session the message was new. The server knows nothing of it.
    let mut pair = connected(Version::V50, keeping());
    assert_eq!(pair.publish(QOS_2), 1);
    pair.drive();
    resume(&mut pair, false, small());
    assert!(pair.client.poll_event().is_some());
    resume(&mut pair, true, Properties::new());
    assert_eq!(pair.publish(QOS_2), 1);
}

/// A clean start of which the server never hears ends no session there.
#[test]
fn a_clean_start_that_fails_frees_no_packet_id() {
    for version in BOTH {
        let mut pair = connected(version, Settings::default());
        for released in [false, true] {
            pair.publish(QOS_2);
            pair.drive();
            if released {
                pair.deliver(pubrec(2, 0));
            }
        }
        pair.reconnect();
        pair.client.connect(&connect(version)).unwrap();
        pair.reconnect();
        pair.server.received();
        pair.connect(Connect {
            clean: false,
            ..connect(version)
        });
        assert_eq!(pair.deliver(session_present(0)), [connack(0)]);
        assert_eq!(pair.publish(QOS_2), 3);

        // A clean start of which the server hears ends it.
        pair.reconnect();
        pair.server.received();
        pair.connect(connect(version));
        accept(&mut pair, false, Properties::new());
        assert_eq!(pair.publish(QOS_2), 1);
    }
}

#[test]
fn subscriptions_are_renewed_when_the_session_is_lost() {
    for version in BOTH {
        let settings = Settings {
            resubscribe: true,
            ..keeping()
        };
        let mut pair = connected(version, settings);
        let codes = |codes: &[u8]| match version {
            Version::V311 => vec![],
            Version::V50 => codes.to_vec(),
        };
        for (id, filter, reason) in [(1, "a", 1), (2, "b/#", 1), (3, "c", 0x80), (4, "d", 1)] {
            assert_eq!(subscribe(&mut pair, filter), id);
            pair.drive();
            pair.deliver(suback(id, vec![reason]));
        }
        unsubscribe(&mut pair, "a");
        pair.drive();
        pair.deliver(unsuback(5, codes(&[0])));
        pair.publish(QOS_1);
        pair.drive();
        // With a session there is nothing to renew.
        let again = resume(&mut pair, true, Properties::new());
        assert_eq!(again, [repeated(QOS_1, 6)]);
        let again = resume(&mut pair, false, Properties::new());
        assert_eq!(
            again,
            [subscribe_packet(7, &["b/#", "d"]), publish(QOS_1, 6)]
        );
        // The answer counts. A subscription refused now is not renewed again, and the program is told.
        pair.server.send(suback(7, vec![1, 0x80]));
        pair.drive();
        let answer = pair.client.poll_event();
        assert_eq!(answer, Some(Event::Packet(suback(7, vec![1, 0x80]))));
        assert_eq!(
            unrenewed(&mut pair),
            [
                "failed to renew the subscription to 'd': the server refused it with reason code 0x80"
            ]
        );
        pair.deliver(puback(6, 0));
        let again = resume(&mut pair, false, Properties::new());
        assert_eq!(again, [subscribe_packet(1, &["b/#"])]);
    }
}

/// The news of subscriptions that are not renewed. There must be no other events.
fn unrenewed(pair: &mut Pair) -> Vec<String> {
    std::iter::from_fn(|| pair.client.poll_event())
        .map(|event| match event {
            Event::Unrenewed(unrenewed) => unrenewed.to_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The user hears of each subscription that the server does not take (3.2.2.3). The others are renewed. The next server
/// may take all.
#[test]
fn a_subscription_that_cannot_be_renewed_is_told() {
    use PropertyId::*;
    let no = |id| properties([(id, PropertyValue::Byte(0))]);
    let long: &'static str = "a/filter/of/thirty/characters/";
    let settings = Settings {
        resubscribe: true,
        ..keeping()
    };
    let mut pair = connected(Version::V50, settings);
    let identifier = properties([(SubscriptionIdentifier, PropertyValue::VarInt(1))]);
    for (id, filter, properties) in [
        (1, "a", Properties::new()),
        (2, "b/#", Properties::new()),
        (3, "$share/g/c", Properties::new()),
        (4, long, Properties::new()),
        (5, "e", identifier),
    ] {
        let asked = vec![subscription(filter)];
        assert_eq!(pair.client.subscribe(asked, properties), Ok(id));
        pair.drive();
        pair.deliver(suback(id, vec![1]));
    }
    for (limit, lost, why) in [
        (no(MaximumQoS), None, ""),
        (
            no(WildcardSubscriptionAvailable),
            Some("b/#"),
            "the server does not support wildcards in topic filters",
        ),
        (
            no(SharedSubscriptionAvailable),
            Some("$share/g/c"),
            "the server does not support shared subscriptions",
        ),
        (
            no(SubscriptionIdentifierAvailable),
            Some("e"),
            "the server does not support subscription identifiers",
        ),
        (
            properties([(MaximumPacketSize, PropertyValue::FourByte(30))]),
            Some(long),
            "the server accepts packets of at most 30 bytes, got 38",
        ),
    ] {
        let sent = resume(&mut pair, false, limit);
        let mut renewed = Vec::new();
        for packet in sent {
            let Packet::Subscribe(subscribe) = packet else {
                panic!("{packet:?}")
            };
            renewed.extend(subscribe.subscriptions.into_iter().map(|s| s.filter));
        }
        let expected = ["a", "b/#", "$share/g/c", long, "e"];
        let expected = expected.into_iter().filter(|filter| Some(*filter) != lost);
        assert!(renewed.iter().map(Str::as_str).eq(expected), "{renewed:?}");
        let told: Vec<_> = lost
            .map(|filter| format!("failed to renew the subscription to '{filter}': {why}"))
            .into_iter()
            .collect();
        assert_eq!(unrenewed(&mut pair), told);
    }
    // A renewal that is under way when the connection breaks, and too large for the next server.
    let sent = resume(&mut pair, false, Properties::new());
    assert_eq!(sent.len(), 2);
    let small = properties([(MaximumPacketSize, PropertyValue::FourByte(20))]);
    resume(&mut pair, true, small);
    assert_eq!(unrenewed(&mut pair).len(), 4);
    assert_eq!(pair.client.stats().dropped, 0);
}

#[test]
fn an_alias_of_the_programs_lasts_as_long_as_the_connection() {
    let maximum = || limit(PropertyId::TopicAliasMaximum, 5);
    let mut pair = Pair::with_settings(Version::V50, queueing(10, 1000, false));
    pair.connect(connect(Version::V50));
    accept(&mut pair, false, maximum());
    let alias = limit(PropertyId::TopicAlias, 5);
    let publish_to = |pair: &mut Pair, topic| {
        pair.client.publish(&PublishRef {
            topic,
            properties: &alias,
            ..message(QOS_1)
        })
    };
    assert_eq!(
        publish_to(&mut pair, ""),
        Err(RequestError::TopicAliasUnknown(5))
    );
    assert_eq!(publish_to(&mut pair, "t"), Ok(1));
    assert_eq!(publish_to(&mut pair, ""), Ok(2));
    let sent: Vec<_> = pair.answers().iter().map(topic_and_alias).collect();
    assert_eq!(sent, [("t".into(), Some(5)), ("".into(), Some(5))]);
    // Repeated messages need no alias.
    let again = resume(&mut pair, true, maximum());
    assert_eq!(again, [repeated(QOS_1, 1), repeated(QOS_1, 2)]);
    assert_eq!(
        publish_to(&mut pair, ""),
        Err(RequestError::TopicAliasUnknown(5))
    );
    // Nor do messages that wait for a connection.
    pair.reconnect();
    assert_eq!(publish_to(&mut pair, "t"), Ok(3));
    pair.connect(Connect {
        clean: false,
        ..connect(Version::V50)
    });
    let received = accept(&mut pair, true, Properties::new());
    assert_eq!(received[2], publish(QOS_1, 3));
}

#[test]
fn an_alias_that_had_to_wait_was_not_sent() {
    let both = properties([
        (PropertyId::TopicAliasMaximum, PropertyValue::TwoByte(5)),
        (PropertyId::ReceiveMaximum, PropertyValue::TwoByte(1)),
    ]);
    let mut pair = Pair::accepted(connect(Version::V50), both);
    pair.publish(QOS_1);
    let alias = limit(PropertyId::TopicAlias, 5);
    for qos in [QOS_1, QoS::AtMostOnce] {
        let aliased = PublishRef {
            properties: &alias,
            ..message(qos)
        };
        pair.client.publish(&aliased).unwrap();
        let topic = "";
        let refused = pair.client.publish(&PublishRef { topic, ..aliased });
        assert_eq!(refused, Err(RequestError::TopicAliasUnknown(5)));
    }
    pair.deliver(puback(1, 0));
    assert_eq!(
        pair.answers()[1..],
        [publish(QOS_1, 2), publish(QoS::AtMostOnce, 0)]
    );
}

#[test]
fn what_could_not_be_repeated_is_not_sent() {
    let limits = || {
        properties([
            (PropertyId::TopicAliasMaximum, PropertyValue::TwoByte(5)),
            (PropertyId::MaximumPacketSize, PropertyValue::FourByte(40)),
        ])
    };
    let topic = "a/topic/of/twenty/ch";
    let long = PublishRef {
        topic,
        payload: b"0123456789012345",
        ..message(QOS_1)
    };
    let settings = Settings {
        topic_aliases: true,
        ..keeping()
    };
    let mut pair = Pair::with_settings(Version::V50, settings);
    pair.connect(connect(Version::V50));
    accept(&mut pair, false, limits());
    let short = PublishRef {
        payload: b"",
        ..long
    };
    pair.client.publish(&short).unwrap();
    assert_eq!(pair.answers().len(), 1);
    // The message would fit with the alias alone.
    let refused = pair.client.publish(&long);
    assert!(matches!(refused, Err(RequestError::PacketTooLarge { .. })));
    assert_eq!(pair.answers(), []);
    // An empty topic has no alias.
    let refused = pair.client.publish(&PublishRef {
        topic: "",
        ..message(QoS::AtMostOnce)
    });
    assert!(refused.is_err());
    assert_eq!(pair.answers(), []);
}

fn topic_and_alias(packet: &Packet) -> (String, Option<u16>) {
    let Packet::Publish(publish) = packet else {
        panic!("{packet:?}")
    };
    let alias = publish.properties.two_byte(PropertyId::TopicAlias);
    (publish.topic.to_string(), alias)
}

#[test]
fn aliases_are_given_out_where_the_server_takes_them() {
    let settings = Settings {
        topic_aliases: true,
        ..keeping()
    };
    let mut pair = Pair::with_settings(Version::V50, settings);
    pair.connect(connect(Version::V50));
    accept(&mut pair, false, limit(PropertyId::TopicAliasMaximum, 2));
    let publish_to = |pair: &mut Pair, topic| {
        let message = PublishRef {
            topic,
            ..message(QOS_1)
        };
        pair.client.publish(&message).unwrap();
    };
    for topic in ["a", "b", "a", "c", "b", "c"] {
        publish_to(&mut pair, topic);
    }
    let sent: Vec<_> = pair.answers().iter().map(topic_and_alias).collect();
    let expected = [
        ("a", Some(1)),
        ("b", Some(2)),
        ("", Some(1)),
        ("c", None),
        ("", Some(2)),
        ("c", None),
    ]
    .map(|(topic, alias)| (topic.to_owned(), alias));
    assert_eq!(sent, expected);
    // A repetition gets an alias of the new connection.
    let maximum = limit(PropertyId::TopicAliasMaximum, 1);
    let again = resume(&mut pair, true, maximum);
    let again: Vec<_> = again.iter().map(topic_and_alias).collect();
    let expected = [
        ("a", Some(1)),
        ("b", None),
        ("", Some(1)),
        ("c", None),
        ("b", None),
        ("c", None),
    ]
    .map(|(topic, alias)| (topic.to_owned(), alias));
    assert_eq!(again, expected);
    // The program's own alias would get in the way.
    let alias = limit(PropertyId::TopicAlias, 1);
    let refused = pair.client.publish(&PublishRef {
        properties: &alias,
        ..message(QOS_1)
    });
    assert_eq!(refused, Err(RequestError::TopicAliasAutomatic));
}

#[test]
fn disconnect_sends_first_what_waits_for_connack() {
    let mut pair = Pair::connecting(connect(Version::V50));
    pair.publish(QoS::AtMostOnce);
    pair.publish(QOS_1);
    pair.client.disconnect(0, Properties::new()).unwrap();
    assert_eq!(
        pair.answers(),
        [
            publish(QoS::AtMostOnce, 0),
            publish(QOS_1, 1),
            disconnect_packet(0)
        ]
    );
}

#[test]
fn stats_count() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        pair.publish(QOS_1);
        pair.publish(QOS_2);
        pair.drive();
        pair.deliver(publish(QOS_1, 1));
        pair.deliver(pubrec(2, 0));
        let stats = pair.client.stats();
        assert_eq!((stats.messages_sent, stats.messages_received), (2, 1));
        assert_eq!((stats.in_flight, stats.queued, stats.dropped), (2, 0, 0));
        assert_eq!(stats.connections, 1);
        assert!(stats.bytes_sent > 20 && stats.bytes_received > 10);
        assert_eq!(stats.ping_round_trip, None);
        pair.client.ping(pair.now).unwrap();
        pair.carry_to_server(usize::MAX);
        pair.server.send(Packet::Pingresp);
        pair.now += std::time::Duration::from_millis(30);
        pair.drive();
        let round_trip = pair.client.stats().ping_round_trip;
        assert_eq!(round_trip, Some(std::time::Duration::from_millis(30)));
        resume(&mut pair, true, Properties::new());
        assert_eq!(pair.client.stats().connections, 2);
        assert_eq!(pair.client.stats().messages_sent, 2);
    }
}

#[test]
fn many_exchanges_are_repeated_in_portions() {
    let mut pair = connected(Version::V311, keeping());
    for _ in 0..60_000 {
        pair.publish(QOS_1);
    }
    pair.drive();
    pair.server.received();
    pair.reconnect();
    pair.connect(Connect {
        clean: false,
        ..connect(Version::V311)
    });
    pair.server.send(session_present(0));
    pair.carry_to_client(usize::MAX);
    // The bytes that wait to be written are bounded.
    assert!(pair.client.fill().len() < 70_000);
    pair.drive();
    let ids: Vec<u16> = pair
        .server
        .received()
        .iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => publish.packet_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, (1..=60_000).collect::<Vec<_>>());
}

#[test]
fn a_packet_id_is_not_used_again_before_its_answer_was_taken() {
    for version in BOTH {
        let mut pair = connected(version, Settings::default());
        let given = |qos| PublishRef {
            packet_id: 7,
            ..message(qos)
        };
        for qos in [QOS_1, QOS_2] {
            assert_eq!(pair.client.publish(&given(qos)), Ok(7));
            pair.drive();
            match qos {
                QOS_1 => pair.server.send(puback(7, 0)),
                _ => {
                    pair.server.send(pubrec(7, 0));
                    pair.server.send(pubcomp(7, 0));
                }
            }
            pair.drive();
            let refused = pair.client.publish(&given(qos));
            assert_eq!(refused, Err(RequestError::PacketIdInUse(7)));
            assert_eq!(pair.packets().len(), 1);
        }
        assert_eq!(pair.client.publish(&given(QOS_1)), Ok(7));
    }
}

#[test]
fn answers_do_not_stop_reading() {
    let settings = Settings {
        max_queued_bytes: 1000,
        ..Settings::default()
    };
    let mut pair = connected(Version::V311, settings);
    for id in 1..=100 {
        assert_eq!(pair.publish(QOS_1), id);
        pair.server.send(puback(id, 0));
    }
    pair.drive();
    assert_eq!(pair.client.stored_bytes(), 0);
    assert!(pair.client.wants_receive());
    assert_eq!(pair.packets().len(), 100);
    for _ in 0..100 {
        pair.server.send(publish(QoS::AtMostOnce, 0));
    }
    pair.drive();
    assert!(!pair.client.wants_receive());
}

#[test]
fn subscriptions_are_renewed_once_however_often_the_session_is_lost() {
    for version in BOTH {
        let settings = Settings {
            resubscribe: true,
            ..keeping()
        };
        let mut pair = connected(version, settings);
        subscribe(&mut pair, "a");
        pair.drive();
        pair.deliver(suback(1, vec![1]));
        for _ in 0..3 {
            let again = resume(&mut pair, false, Properties::new());
            assert_eq!(again.len(), 1, "{again:?}");
        }
    }
}

/// The server has lost the session, and the connection ends before the user takes the CONNACK that says so.
#[test]
fn a_lost_session_counts_although_its_connack_was_not_taken() {
    for version in BOTH {
        for resubscribe in [false, true] {
            let mut pair = connected(
                version,
                Settings {
                    resubscribe,
                    ..keeping()
                },
            );
            subscribe(&mut pair, "a");
            pair.drive();
            pair.deliver(suback(1, vec![1]));
            let mut renewal = 0;
            for session_present in [false, true, true] {
                pair.reconnect();
                pair.client.discard_events();
                pair.server.received();
                pair.connect(Connect {
                    clean: false,
                    ..connect(version)
                });
                pair.server.send(Packet::Connack(Connack {
                    session_present,
                    reason: 0,
                    properties: Properties::new(),
                }));
                pair.drive();
                assert_eq!(pair.client.session_present(), session_present);
                // The renewal is repeated until it is answered.
                if resubscribe {
                    let [Packet::Subscribe(subscribe)] = &pair.server.received()[..] else {
                        panic!("nothing was renewed");
                    };
                    renewal = subscribe.packet_id;
                    let filter = &subscribe.subscriptions[0].filter;
                    assert_eq!(filter.as_str(), "a");
                }
            }
            // The user hears of a session that knows nothing of the user's earlier requests.
            assert_eq!(pair.packets(), [connack(0)]);
            if resubscribe {
                pair.deliver(suback(renewal, vec![1]));
            }
            // From then on the session is the user's.
            pair.reconnect();
            pair.server.received();
            pair.connect(Connect {
                clean: false,
                ..connect(version)
            });
            assert_eq!(pair.deliver(session_present(0)), [session_present(0)]);
            assert_eq!(pair.server.received(), []);
        }
    }
}

/// A connection that ends before its CONNACK may have begun a session, without the subscriptions of earlier ones. The
/// server then has a session, and the user's subscriptions may be missing from it.
#[test]
fn after_an_unanswered_connect_no_subscription_counts_as_kept() {
    for version in BOTH {
        for resubscribe in [false, true] {
            for clean in [false, true] {
                for user_parts in [false, true] {
                    let mut pair = connected(
                        version,
                        Settings {
                            resubscribe,
                            ..keeping()
                        },
                    );
                    subscribe(&mut pair, "a");
                    pair.drive();
                    pair.deliver(suback(1, vec![1]));
                    pair.publish(QOS_2);
                    pair.reconnect();
                    pair.server.received();
                    pair.connect(Connect {
                        clean,
                        ..connect(version)
                    });
                    if user_parts {
                        pair.client.disconnect(0, Properties::new()).unwrap();
                    }
                    pair.reconnect();
                    pair.server.received();
                    pair.connect(Connect {
                        clean: false,
                        ..connect(version)
                    });
                    // The exchange goes on, since the server may know it.
                    pair.server.send(session_present(0));
                    pair.drive();
                    assert_eq!(pair.packets(), [connack(0)]);
                    let received = pair.server.received();
                    let expected = if resubscribe {
                        vec![subscribe_packet(3, &["a"]), repeated(QOS_2, 2)]
                    } else {
                        vec![repeated(QOS_2, 2)]
                    };
                    assert_eq!(received, expected);
                    if resubscribe {
                        pair.deliver(suback(3, vec![1]));
                    }
                    pair.deliver(pubrec(2, 0));
                    pair.deliver(pubcomp(2, 0));
                    // From then on the session is the user's.
                    pair.reconnect();
                    pair.server.received();
                    pair.connect(Connect {
                        clean: false,
                        ..connect(version)
                    });
                    assert_eq!(pair.deliver(session_present(0)), [session_present(0)]);
                    assert_eq!(pair.server.received(), []);
                }
            }
        }
    }
}

/// A server that refuses a CONNECT begins no session.
#[test]
fn a_refused_connect_is_answered() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        for reason in [if version == Version::V50 { 0x88 } else { 3 }, 0] {
            pair.reconnect();
            pair.server.received();
            pair.connect(Connect {
                clean: false,
                ..connect(version)
            });
            let answer = match reason {
                0 => session_present(0),
                _ => connack(reason),
            };
            assert_eq!(pair.deliver(answer.clone()), [answer]);
        }
    }
}

#[test]
fn a_connack_that_refuses_tells_of_no_lost_session() {
    for version in BOTH {
        let mut pair = connected(version, keeping());
        for (answer, told) in [
            (connack(0), None),
            (
                connack(5 | if version == Version::V50 { 0x80 } else { 0 }),
                Some(()),
            ),
            (session_present(0), None),
        ] {
            pair.reconnect();
            pair.client.discard_events();
            pair.server.received();
            pair.connect(Connect {
                clean: false,
                ..connect(version)
            });
            pair.server.send(answer.clone());
            pair.drive();
            if told.is_some() {
                assert_eq!(pair.packets(), [answer]);
            }
        }
        assert_eq!(pair.packets(), [connack(0)]);
    }
}

#[test]
fn that_a_subscription_has_ended_is_told_after_the_connection_too() {
    let settings = Settings {
        resubscribe: true,
        ..keeping()
    };
    let mut pair = connected(Version::V50, settings);
    subscribe(&mut pair, "a/#");
    pair.drive();
    pair.deliver(suback(1, vec![1]));
    pair.reconnect();
    pair.server.received();
    pair.connect(connect(Version::V50));
    pair.server.send(Packet::Connack(Connack {
        session_present: false,
        reason: 0,
        properties: properties([(
            PropertyId::WildcardSubscriptionAvailable,
            PropertyValue::Byte(0),
        )]),
    }));
    pair.drive();
    pair.client.close();
    pair.client.discard_events();
    assert_eq!(
        unrenewed(&mut pair),
        [
            "failed to renew the subscription to 'a/#': the server does not support wildcards in topic filters"
        ]
    );
}

#[test]
fn subscriptions_are_renewed_after_a_clean_start_too() {
    for version in BOTH {
        for resubscribe in [false, true] {
            let settings = Settings {
                resubscribe,
                ..Settings::default()
            };
            let mut pair = connected(version, settings);
            subscribe(&mut pair, "a");
            pair.drive();
            pair.deliver(suback(1, vec![1]));
            pair.reconnect();
            pair.server.received();
            pair.connect(connect(version));
            let renewed = match resubscribe {
                false => vec![],
                true => vec![subscribe_packet(1, &["a"])],
            };
            assert_eq!(accept(&mut pair, false, Properties::new()), renewed);
        }
    }
}

#[test]
fn an_automatic_alias_is_left_out_where_the_packet_would_be_too_large() {
    let settings = Settings {
        topic_aliases: true,
        ..keeping()
    };
    // PUBLISH: 2 + 3 ("t") + 2 (identifier) + 1 (properties) + 7 bytes. An alias takes 3, and saves 1 when it is known.
    for (maximum, expected) in [
        (15, [("t", None), ("t", None)]),
        (17, [("t", None), ("t", None)]),
        (18, [("t", Some(1)), ("", Some(1))]),
    ] {
        let mut pair = Pair::with_settings(Version::V50, settings.clone());
        pair.connect(connect(Version::V50));
        let limits = properties([
            (PropertyId::TopicAliasMaximum, PropertyValue::TwoByte(1)),
            (
                PropertyId::MaximumPacketSize,
                PropertyValue::FourByte(maximum),
            ),
        ]);
        accept(&mut pair, false, limits);
        pair.publish(QOS_1);
        pair.publish(QOS_1);
        let sent: Vec<_> = pair.answers().iter().map(topic_and_alias).collect();
        assert_eq!(
            sent,
            expected.map(|(topic, alias)| (topic.to_owned(), alias))
        );
    }
}

/// A program was started again. Its knowledge is gone, its session at the server is not.
#[test]
fn a_session_that_only_the_server_knows_is_taken_over() {
    for version in BOTH {
        let mut pair = Pair::connecting(Connect {
            clean: false,
            ..connect(version)
        });
        assert_eq!(
            accept(&mut pair, true, Properties::new()),
            [],
            "nothing is repeated that nobody knows of"
        );
        assert!(pair.client.session_present());

        // A message that the server repeats is delivered once.
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let Packet::Publish(publish) = publish(qos, 7) else {
                unreachable!()
            };
            let repeated = Packet::Publish(Publish {
                dup: true,
                ..publish
            });
            assert_eq!(pair.deliver(repeated.clone()), [repeated]);
            pair.acknowledge(7, qos);
            let answer = match qos {
                QoS::AtLeastOnce => puback(7, 0),
                _ => pubrec(7, 0),
            };
            assert_eq!(pair.answers(), [answer]);
        }
        // An exchange that the server resumes in the middle is led to its end.
        for (taken_up, answer) in [
            (pubrel(9, 0), pubcomp(9, not_found(version))),
            (pubrec(9, 0), pubrel(9, not_found(version))),
        ] {
            pair.server.send(taken_up);
            assert_eq!(pair.answers(), [answer]);
        }
        pair.server.send(pubcomp(9, 0));
        assert_eq!(pair.answers(), []);
        assert_eq!(pair.client.state(), State::Connected);
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
    }
}

/// A server without a session would send the responses to nobody. So the user hears of each request that is not sent
/// again.
#[test]
fn requests_are_given_back_when_the_server_has_no_session() {
    let settings = || Settings {
        requests: Some(b"mine-".as_slice().into()),
        ..queueing(10, 1000, false)
    };
    let with_data = |data: &'static str| {
        properties([(
            PropertyId::CorrelationData,
            PropertyValue::Binary(data.into()),
        )])
    };
    let send = |pair: &mut Pair, qos, data: &'static str| {
        let properties = &with_data(data);
        let request = PublishRef {
            properties,
            ..message(qos)
        };
        pair.client.publish(&request).unwrap()
    };
    let withdrawn = |pair: &mut Pair| {
        let mut list: Vec<_> = std::iter::from_fn(|| pair.client.poll_event())
            .map(|event| match event {
                Event::Withdrawn {
                    packet_id,
                    correlation_data,
                } => (packet_id, correlation_data),
                event => panic!("{event:?}"),
            })
            .collect();
        list.sort();
        list
    };
    let mut pair = Pair::with_settings(Version::V50, settings());
    pair.connect(connect(Version::V50));
    accept(&mut pair, false, limit(PropertyId::ReceiveMaximum, 3));
    assert_eq!(send(&mut pair, QOS_1, "mine-1"), 1);
    assert_eq!(send(&mut pair, QOS_2, "mine-2"), 2);
    assert_eq!(send(&mut pair, QOS_2, "mine-3"), 3);
    pair.drive();
    pair.deliver(pubrec(3, 0));
    // These messages wait.
    assert_eq!(send(&mut pair, QOS_1, "yours"), 4);
    pair.publish(QOS_1);
    assert_eq!(send(&mut pair, QOS_1, "mine-6"), 6);
    send(&mut pair, QoS::AtMostOnce, "mine-7");
    pair.drive();

    // If the server has the session, all messages are repeated.
    let again = resume(&mut pair, true, Properties::new());
    assert_eq!(again.len(), 7);
    assert_eq!(withdrawn(&mut pair), []);
    send(&mut pair, QoS::AtMostOnce, "mine-8");
    pair.drive();
    pair.server.received();

    // If not, only the user's other messages are.
    pair.client.close();
    send(&mut pair, QoS::AtMostOnce, "mine-9");
    pair.reconnect();
    pair.connect(connect(Version::V50));
    let sent = accept(&mut pair, false, Properties::new());
    let sent: Vec<u16> = sent
        .iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => publish.packet_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sent, [4, 5]);
    // Their identifiers are free once the user knows.
    assert_eq!(pair.publish(QOS_1), 7);
    assert_eq!(
        withdrawn(&mut pair),
        [
            (0, "mine-9".into()),
            (1, "mine-1".into()),
            (2, "mine-2".into()),
            (6, "mine-6".into())
        ]
    );
    for id in [4, 5, 7] {
        pair.deliver(puback(id, 0));
    }
    assert_eq!(pair.client.stored_bytes(), 0);
    assert_eq!(pair.client.stats().queued_bytes, 0);

    // The user has not taken the CONNACK of a session without subscriptions. Requests are given back in that session
    // too.
    for session_present in [false, true] {
        pair.client.close();
        pair.client.discard_events();
        send(&mut pair, QOS_1, "mine-10");
        pair.reconnect();
        pair.server.received();
        pair.connect(Connect {
            clean: false,
            ..connect(Version::V50)
        });
        pair.server.send(Packet::Connack(Connack {
            session_present,
            reason: 0,
            properties: Properties::new(),
        }));
        pair.drive();
        assert_eq!(pair.server.received(), []);
    }
    // The first request comes back before the CONNACK that the user takes.
    let given_back = pair.client.poll_event();
    assert!(matches!(given_back, Some(Event::Withdrawn { .. })));
    let accepted = pair.client.poll_event();
    assert_eq!(accepted, Some(Event::Packet(connack(0))));
    assert_eq!(withdrawn(&mut pair).len(), 1);

    // Nor is a request sent before the server has told which session there is.
    pair.server.received();
    pair.client.close();
    send(&mut pair, QOS_1, "mine-10");
    pair.client.open(pair.now);
    pair.connect(connect(Version::V50));
    pair.client.disconnect(0, Properties::new()).unwrap();
    pair.drive();
    let [Packet::Disconnect(_)] = pair.server.received()[..] else {
        panic!("a request was sent");
    };
    assert_eq!(withdrawn(&mut pair).len(), 1);
}
