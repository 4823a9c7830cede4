//! The exchanges that the client begins: PUBLISH in every QoS, SUBSCRIBE, UNSUBSCRIBE, their packet identifiers, the
//! server's limits.

use std::collections::BTreeSet;
use std::ops::Bound;

use mqtt_core::codec::*;
use mqtt_core::session::{RequestError, State};

use crate::pair::*;

fn given(qos: QoS, packet_id: u16) -> PublishRef<'static> {
    PublishRef {
        packet_id,
        ..message(qos)
    }
}

fn with_properties(qos: QoS, properties: &Properties) -> PublishRef<'_> {
    PublishRef {
        properties,
        ..message(qos)
    }
}

fn subscribe(pair: &mut Pair, filters: &[&'static str]) -> Result<u16, RequestError> {
    let list = filters.iter().map(|filter| subscription(filter)).collect();
    pair.client.subscribe(list, Properties::new())
}

fn unsubscribe(pair: &mut Pair, filters: &[&'static str]) -> Result<u16, RequestError> {
    let list = filters
        .iter()
        .map(|filter| Str::from_static(filter))
        .collect();
    pair.client.unsubscribe(list, Properties::new())
}

#[test]
fn qos_0_has_no_packet_id() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(pair.client.publish(&given(QoS::AtMostOnce, 7)), Ok(0));
        assert_eq!(pair.answers(), [publish(QoS::AtMostOnce, 0)]);
        // The first identifier has not been used.
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
    }
}

#[test]
fn flags_and_contents_are_sent_as_given() {
    let pieces = properties([(PropertyId::TopicAlias, PropertyValue::TwoByte(3))]);
    let alias_maximum = properties([(PropertyId::TopicAliasMaximum, PropertyValue::TwoByte(3))]);
    let mut pair = Pair::accepted(connect(Version::V50), alias_maximum);
    let sent = PublishRef {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        topic: "a/b",
        packet_id: 77,
        properties: &pieces,
        payload: b"\0\xFF",
    };
    assert_eq!(pair.client.publish(&sent), Ok(77));
    assert_eq!(
        pair.answers(),
        [Packet::Publish(Publish {
            dup: true,
            qos: QoS::ExactlyOnce,
            retain: true,
            topic: Str::from_static("a/b"),
            packet_id: 77,
            properties: pieces,
            payload: (&b"\0\xFF"[..]).into(),
        })]
    );
}

#[test]
fn qos_1_ends_with_puback() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
        assert_eq!(pair.answers(), [publish(QoS::AtLeastOnce, 1)]);
        let given_1 = given(QoS::AtLeastOnce, 1);
        assert_eq!(
            pair.client.publish(&given_1),
            Err(RequestError::PacketIdInUse(1))
        );
        assert_eq!(pair.deliver(puback(1, 0)), [puback(1, 0)]);
        assert_eq!(pair.client.publish(&given_1), Ok(1));
    }
}

#[test]
fn a_puback_with_an_error_ends_it_too() {
    let mut pair = Pair::connected(Version::V50);
    assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
    assert_eq!(pair.deliver(puback(1, 0x97)), [puback(1, 0x97)]);
    assert_eq!(pair.client.publish(&given(QoS::AtLeastOnce, 1)), Ok(1));
}

#[test]
fn qos_2_goes_by_pubrec_pubrel_pubcomp() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(pair.publish(QoS::ExactlyOnce), 1);
        assert_eq!(pair.answers(), [publish(QoS::ExactlyOnce, 1)]);
        assert_eq!(pair.deliver(pubrec(1, 0)), [pubrec(1, 0)]);
        assert_eq!(pair.answers(), [pubrel(1, 0)]);
        // The identifier is in use until PUBCOMP, which the user does not see.
        let again = pair.client.publish(&given(QoS::ExactlyOnce, 1));
        assert_eq!(again, Err(RequestError::PacketIdInUse(1)));
        assert_eq!(pair.deliver(pubcomp(1, 0)), []);
        let again = pair.client.publish(&given(QoS::ExactlyOnce, 1));
        assert_eq!(again, Ok(1));
    }
}

/// MQTT 3.1.1 has no maximum QoS. RabbitMQ 3.10 takes a message of QoS 2 as QoS 1 in this way.
#[test]
fn in_v311_a_puback_ends_an_exchange_of_qos_2() {
    let mut pair = Pair::connected(Version::V311);
    assert_eq!(pair.publish(QoS::ExactlyOnce), 1);
    pair.drive();
    pair.server.received();
    assert_eq!(pair.deliver(puback(1, 0)), [puback(1, 0)]);
    assert_eq!(pair.answers(), []);
    assert_eq!(pair.client.publish(&given(QoS::ExactlyOnce, 1)), Ok(1));
}

#[test]
fn a_pubrec_with_an_error_gets_no_pubrel() {
    let mut pair = Pair::connected(Version::V50);
    assert_eq!(pair.publish(QoS::ExactlyOnce), 1);
    pair.drive();
    pair.server.received();
    assert_eq!(pair.deliver(pubrec(1, 0x87)), [pubrec(1, 0x87)]);
    assert_eq!(pair.answers(), []);
    assert_eq!(pair.client.publish(&given(QoS::ExactlyOnce, 1)), Ok(1));
    // After a PUBREC without an error the exchange goes on.
    pair.drive();
    pair.server.received();
    assert_eq!(pair.deliver(pubrec(1, 0x10)), [pubrec(1, 0x10)]);
    assert_eq!(pair.answers(), [pubrel(1, 0)]);
}

#[test]
fn every_pubrec_is_answered_with_pubrel() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(pair.publish(QoS::ExactlyOnce), 1);
        pair.deliver(pubrec(1, 0));
        pair.answers();
        // A repeated PUBREC and an unexpected one are no events. But both are answered.
        pair.server.send(pubrec(1, 0));
        assert_eq!(pair.answers(), [pubrel(1, 0)]);
        pair.server.send(pubrec(2, 0));
        assert_eq!(pair.answers(), [pubrel(2, not_found(version))]);
    }
    let mut pair = Pair::connected(Version::V50);
    pair.server.send(pubrec(2, 0x80));
    assert_eq!(pair.answers(), []);
}

#[test]
fn unknown_acknowledgements_do_no_harm() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        let codes = |code| match version {
            Version::V311 => vec![],
            Version::V50 => vec![code],
        };
        assert_eq!(pair.deliver(puback(9, 0)), [puback(9, 0)]);
        assert_eq!(pair.deliver(suback(9, vec![1])), [suback(9, vec![1])]);
        assert_eq!(pair.deliver(unsuback(9, codes(0))), [unsuback(9, codes(0))]);
        assert_eq!(pair.deliver(pubcomp(9, 0)), []);
        assert_eq!(pair.answers(), []);
        assert_eq!(pair.client.state(), State::Connected);
    }
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_is_refused() {
    for version in BOTH {
        let codes = match version {
            Version::V311 => vec![],
            Version::V50 => vec![0],
        };
        let answers = [
            puback(1, 0),
            pubrec(1, 0),
            pubcomp(1, 0),
            suback(1, vec![0]),
            unsuback(1, codes),
        ];
        type Begin = fn(&mut Pair) -> u16;
        let exchanges: [(PacketType, Begin); 4] = [
            (PacketType::Puback, |pair| pair.publish(QoS::AtLeastOnce)),
            (PacketType::Pubrec, |pair| pair.publish(QoS::ExactlyOnce)),
            (PacketType::Suback, |pair| subscribe(pair, &["t"]).unwrap()),
            (PacketType::Unsuback, |pair| {
                unsubscribe(pair, &["t"]).unwrap()
            }),
        ];
        for (awaited, begin) in exchanges {
            for answer in &answers {
                let got = answer.packet_type();
                let mut pair = Pair::connected(version);
                assert_eq!(begin(&mut pair), 1);
                pair.drive();
                pair.server.received();
                let downgraded = version == Version::V311
                    && (awaited, got) == (PacketType::Pubrec, PacketType::Puback);
                if got == awaited || downgraded {
                    assert_eq!(pair.deliver(answer.clone()), std::slice::from_ref(answer));
                } else {
                    let message = pair.violation(answer.clone(), 0x82);
                    let expected = format!("{got}: packet identifier 1 waits for {awaited}");
                    assert_eq!(message, expected);
                }
            }
        }
        // After PUBREL only PUBREC and PUBCOMP may come.
        let mut pair = Pair::connected(version);
        pair.publish(QoS::ExactlyOnce);
        pair.deliver(pubrec(1, 0));
        pair.answers();
        let message = pair.violation(puback(1, 0), 0x82);
        assert_eq!(message, "PUBACK: packet identifier 1 waits for PUBCOMP");
    }
}

#[test]
fn subscribe_and_unsubscribe_end_with_their_acknowledgements() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(subscribe(&mut pair, &["a/#", "$share/g/b"]), Ok(1));
        assert_eq!(unsubscribe(&mut pair, &["c", "d"]), Ok(2));
        assert_eq!(
            pair.answers(),
            [
                Packet::Subscribe(Subscribe {
                    packet_id: 1,
                    subscriptions: vec![subscription("a/#"), subscription("$share/g/b")],
                    properties: Properties::new(),
                }),
                Packet::Unsubscribe(Unsubscribe {
                    packet_id: 2,
                    filters: vec![Str::from_static("c"), Str::from_static("d")],
                    properties: Properties::new(),
                })
            ]
        );
        let codes = match version {
            Version::V311 => vec![],
            Version::V50 => vec![0x11, 0],
        };
        let taken = |pair: &mut Pair, id| pair.client.publish(&given(QoS::AtLeastOnce, id));
        for id in [1, 2] {
            assert_eq!(taken(&mut pair, id), Err(RequestError::PacketIdInUse(id)));
        }
        for answer in [suback(1, vec![0, 0x80]), unsuback(2, codes)] {
            assert_eq!(pair.deliver(answer.clone()), [answer]);
        }
        for id in [1, 2] {
            assert_eq!(taken(&mut pair, id), Ok(id));
        }
    }
}

#[test]
fn each_filter_gets_a_reason_code() {
    for version in BOTH {
        for codes in [vec![0], vec![0, 0, 0]] {
            let mut pair = Pair::connected(version);
            subscribe(&mut pair, &["a", "b"]).unwrap();
            pair.answers();
            let got = codes.len();
            let message = pair.violation(suback(1, codes), 0x82);
            let expected = format!("SUBACK: expected 2 reason codes, got {got}");
            assert_eq!(message, expected);
        }
    }
    let mut pair = Pair::connected(Version::V50);
    unsubscribe(&mut pair, &["a", "b"]).unwrap();
    pair.answers();
    let message = pair.violation(unsuback(1, vec![0]), 0x82);
    assert_eq!(message, "UNSUBACK: expected 2 reason codes, got 1");
}

#[test]
fn a_refused_request_leaves_no_trace() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        for topic in ["", "a/+", "#", "nul\0"] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                for packet_id in [0, 9] {
                    let wrong = PublishRef {
                        topic,
                        ..given(qos, packet_id)
                    };
                    let error = pair.client.publish(&wrong).unwrap_err().to_string();
                    assert!(error.starts_with("PUBLISH: "), "{error}");
                }
            }
        }
        let error = subscribe(&mut pair, &["a/#/b"]).unwrap_err().to_string();
        assert!(error.starts_with("SUBSCRIBE: "), "{error}");
        let error = subscribe(&mut pair, &[]).unwrap_err().to_string();
        assert!(error.starts_with("SUBSCRIBE: "), "{error}");
        let error = unsubscribe(&mut pair, &[""]).unwrap_err().to_string();
        assert!(error.starts_with("UNSUBSCRIBE: "), "{error}");

        assert!(pair.client.fill().is_empty());
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
        assert_eq!(pair.client.publish(&given(QoS::AtLeastOnce, 9)), Ok(9));
    }
}

#[test]
fn packet_ids_count_up_and_skip_those_in_use() {
    for version in BOTH {
        let mut pair = Pair::connected(version);
        assert_eq!(pair.publish(QoS::AtLeastOnce), 1);
        // The counter skips the program's own identifier too, which does not move the counter.
        assert_eq!(pair.client.publish(&given(QoS::ExactlyOnce, 4)), Ok(4));
        assert_eq!(subscribe(&mut pair, &["t"]), Ok(2));
        assert_eq!(unsubscribe(&mut pair, &["t"]), Ok(3));
        assert_eq!(pair.publish(QoS::ExactlyOnce), 5);
    }
}

#[test]
fn after_the_highest_packet_id_comes_the_lowest_free_one() {
    let mut pair = Pair::connected(Version::V311);
    for expected in 1..=u16::MAX {
        assert_eq!(pair.publish(QoS::AtLeastOnce), expected);
        pair.client.fill().clear();
        // Three messages are never acknowledged.
        if ![1, 2, u16::MAX].contains(&expected) {
            pair.server.send(puback(expected, 0));
        }
    }
    pair.drive();
    assert_eq!(pair.packets().len(), 65_532);
    assert_eq!(pair.publish(QoS::ExactlyOnce), 3);
    assert_eq!(subscribe(&mut pair, &["t"]), Ok(4));
}

#[test]
fn with_every_packet_id_in_use_there_is_none() {
    let mut pair = Pair::connected(Version::V311);
    for expected in 1..=u16::MAX {
        assert_eq!(pair.publish(QoS::AtLeastOnce), expected);
    }
    pair.drive();
    pair.server.received();
    let refused = pair.client.publish(&message(QoS::AtLeastOnce));
    assert_eq!(refused, Err(RequestError::NoPacketId));
    assert_eq!(subscribe(&mut pair, &["t"]), Err(RequestError::NoPacketId));
    assert!(pair.client.fill().is_empty());
    assert_eq!(pair.publish(QoS::AtMostOnce), 0);

    pair.deliver(puback(40_000, 0));
    assert_eq!(pair.publish(QoS::AtLeastOnce), 40_000);
}

#[test]
fn the_counter_goes_on_from_where_it_is_among_60_000_in_flight() {
    let mut pair = Pair::connected(Version::V311);
    let mut last = 0;
    for _ in 0..60_000 {
        last = pair.publish(QoS::AtLeastOnce);
    }
    pair.client.fill().clear();
    let mut free: BTreeSet<u16> = (60_001..=u16::MAX).collect();
    let mut in_flight: Vec<u16> = (1..=60_000).collect();
    // The newest exchange ends first, so the free identifiers lie right behind the counter.
    for _ in 0..20_000 {
        let ended = in_flight.pop().unwrap();
        pair.server.send(puback(ended, 0));
        pair.carry_to_client(usize::MAX);
        assert_eq!(pair.packets().len(), 1);
        free.insert(ended);
        let above = free
            .range((Bound::Excluded(last), Bound::Unbounded))
            .next()
            .copied();
        let expected = above.or(free.first().copied()).unwrap();
        last = pair.publish(QoS::AtLeastOnce);
        assert_eq!(last, expected);
        free.remove(&last);
        in_flight.push(last);
        pair.client.fill().clear();
    }
}

#[test]
fn the_servers_limits_are_kept() {
    use PropertyId::*;
    let limits = properties([
        (MaximumQoS, PropertyValue::Byte(1)),
        (RetainAvailable, PropertyValue::Byte(0)),
        (ReceiveMaximum, PropertyValue::TwoByte(20)),
        (MaximumPacketSize, PropertyValue::FourByte(30)),
        (TopicAliasMaximum, PropertyValue::TwoByte(5)),
        (WildcardSubscriptionAvailable, PropertyValue::Byte(0)),
        (SubscriptionIdentifierAvailable, PropertyValue::Byte(0)),
        (SharedSubscriptionAvailable, PropertyValue::Byte(0)),
    ]);
    let mut pair = Pair::accepted(connect(Version::V50), limits);
    let client = &mut pair.client;
    assert_eq!(client.server_limits().receive_maximum, 20);

    let mut refusals = vec![
        client.publish(&message(QoS::ExactlyOnce)),
        client.publish(&PublishRef {
            retain: true,
            ..message(QoS::AtMostOnce)
        }),
        client.publish(&with_properties(
            QoS::AtMostOnce,
            &properties([(TopicAlias, PropertyValue::TwoByte(6))]),
        )),
    ];
    for filter in ["a/+", "#", "$share/g/t"] {
        refusals.push(client.subscribe(vec![subscription(filter)], Properties::new()));
    }
    refusals.push(client.subscribe(
        vec![subscription("t")],
        properties([(SubscriptionIdentifier, PropertyValue::VarInt(1))]),
    ));
    let texts: Vec<_> = refusals
        .into_iter()
        .map(|refusal| refusal.unwrap_err().to_string())
        .collect();
    assert_eq!(
        texts,
        [
            "the server supports QoS 1 at most, got 2",
            "the server does not support retained messages",
            "the server accepts topic aliases up to 5, got 6",
            "the server does not support wildcards in topic filters",
            "the server does not support wildcards in topic filters",
            "the server does not support shared subscriptions",
            "the server does not support subscription identifiers",
        ]
    );

    // 2 bytes of fixed header, 3 of topic, 2 of packet identifier, 1 of property length.
    for (size, fits) in [(22, true), (23, false)] {
        let sized = PublishRef {
            payload: &vec![0; size],
            ..message(QoS::AtLeastOnce)
        };
        let result = client.publish(&sized);
        match fits {
            true => assert_eq!(result, Ok(1)),
            false => assert_eq!(
                result.unwrap_err().to_string(),
                "the server accepts packets of at most 30 bytes, got 31"
            ),
        }
    }
    let long = "t".repeat(30);
    let filter = Str::try_from(long.as_str()).unwrap();
    let refused = client.unsubscribe(vec![filter], Properties::new());
    assert!(matches!(
        refused,
        Err(RequestError::PacketTooLarge { max: 30, .. })
    ));
    // Only the message that fitted was sent.
    assert_eq!(pair.answers().len(), 1);
    assert_eq!(pair.publish(QoS::AtLeastOnce), 2);
}

/// [MQTT-3.2.2-10]: a server "that does not support QoS 1 or QoS 2 PUBLISH packets MUST still accept SUBSCRIBE packets
/// containing a Requested QoS of 0, 1 or 2". Only PUBLISH is limited [MQTT-3.2.2-11].
#[test]
fn subscribe_may_ask_for_any_qos() {
    let limit = properties([(PropertyId::MaximumQoS, PropertyValue::Byte(0))]);
    for connected in [false, true] {
        let mut pair = match connected {
            true => Pair::accepted(connect(Version::V50), limit.clone()),
            false => Pair::connecting(connect(Version::V50)),
        };
        let asked = vec![
            subscription("a"),
            Subscription {
                qos: QoS::ExactlyOnce,
                ..subscription("b")
            },
        ];
        let id = pair.client.subscribe(asked, Properties::new()).unwrap();
        if !connected {
            pair.deliver(Packet::Connack(Connack {
                session_present: false,
                reason: 0,
                properties: limit.clone(),
            }));
        }
        assert!(matches!(&pair.answers()[..], [Packet::Subscribe(sent)]
            if sent.subscriptions[1].qos == QoS::ExactlyOnce));
        let granted = suback(id, vec![0, 0]);
        assert_eq!(pair.deliver(granted.clone()), [granted]);
    }
}

#[test]
fn what_the_server_says_is_available_is_not_refused() {
    use PropertyId::*;
    let available = [
        MaximumQoS,
        RetainAvailable,
        WildcardSubscriptionAvailable,
        SubscriptionIdentifierAvailable,
        SharedSubscriptionAvailable,
    ];
    let limits = properties(available.map(|id| (id, PropertyValue::Byte(1))));
    let mut pair = Pair::accepted(connect(Version::V50), limits);
    let retained = PublishRef {
        retain: true,
        ..message(QoS::AtLeastOnce)
    };
    assert_eq!(pair.client.publish(&retained), Ok(1));
    let result = pair.client.subscribe(
        vec![subscription("a/+"), subscription("$share/g/#")],
        properties([(SubscriptionIdentifier, PropertyValue::VarInt(1))]),
    );
    assert_eq!(result, Ok(2));
    assert_eq!(pair.answers().len(), 2);
}

#[test]
fn the_limits_end_with_the_connection() {
    let no_retain = properties([(PropertyId::RetainAvailable, PropertyValue::Byte(0))]);
    let mut pair = Pair::accepted(connect(Version::V50), no_retain);
    pair.reconnect();
    pair.connect(connect(Version::V50));
    pair.deliver(connack(0));
    assert!(pair.client.server_limits().retain_available);
}

#[test]
fn a_client_sends_no_subscription_identifier() {
    let mut pair = Pair::connected(Version::V50);
    let identifier = properties([(PropertyId::SubscriptionIdentifier, PropertyValue::VarInt(1))]);
    let refused = pair
        .client
        .publish(&with_properties(QoS::AtMostOnce, &identifier));
    assert_eq!(refused, Err(RequestError::SubscriptionIdentifier));
}

#[test]
fn a_server_that_names_no_maximum_accepts_no_topic_alias() {
    let mut pair = Pair::connected(Version::V50);
    let alias = properties([(PropertyId::TopicAlias, PropertyValue::TwoByte(1))]);
    let error = pair
        .client
        .publish(&with_properties(QoS::AtMostOnce, &alias))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server accepts no topic alias, got 1"
    );
}

#[test]
fn a_message_may_be_begun_without_its_payload() {
    for version in BOTH {
        let limits = properties([(PropertyId::MaximumPacketSize, PropertyValue::FourByte(20))]);
        let mut pair = match version {
            Version::V311 => Pair::connected(version),
            Version::V50 => Pair::accepted(connect(version), limits),
        };
        let client = &mut pair.client;
        assert!(client.publish_head(&given(QoS::AtMostOnce, 7)));
        client.fill().extend_from_slice(b"payload");
        assert_eq!(client.stats().messages_sent, 1);
        assert_eq!(pair.answers(), [publish(QoS::AtMostOnce, 0)]);

        // `publish` takes all other messages, or refuses them.
        let client = &mut pair.client;
        let user = properties([(
            PropertyId::UserProperty,
            PropertyValue::Pair(Str::from_static("k"), Str::from_static("v")),
        )]);
        for other in [
            message(QoS::AtLeastOnce),
            PublishRef {
                topic: "a/+",
                ..message(QoS::AtMostOnce)
            },
            with_properties(QoS::AtMostOnce, &user),
        ] {
            assert!(!client.publish_head(&other));
        }
        let large = PublishRef {
            payload: b"more than 20 bytes together",
            ..message(QoS::AtMostOnce)
        };
        assert_eq!(client.publish_head(&large), version == Version::V311);
        client.fill().clear();
        client.close();
        assert!(!client.publish_head(&message(QoS::AtMostOnce)));
        assert!(client.fill().is_empty());
    }
}
