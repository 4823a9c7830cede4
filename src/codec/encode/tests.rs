//! Each rule that a packet to be sent can break.

use bytes::Bytes;

use super::Version::{V50, V311};
use super::*;
use crate::codec::{Property, PropertyId as Id, PropertyValue as Value, Str, Subscription, Will};

/// Checks that each packet is refused with its text, and leaves the output unchanged.
fn assert_refused<const N: usize>(table: [(Version, Packet, &str); N]) {
    for (version, packet, text) in table {
        let mut out = BytesMut::from("before");
        let error = encode(&packet, version, &mut out).expect_err(text);
        assert_eq!(error.to_string(), text);
        assert_eq!(error.packet(), packet.packet_type());
        assert_eq!(out, "before");
    }
}

fn str(text: &str) -> Str {
    text.try_into().unwrap()
}

fn properties<const N: usize>(list: [(Id, Value); N]) -> Properties {
    list.into_iter()
        .map(|(id, value)| Property { id, value })
        .collect()
}

fn user_property() -> Properties {
    properties([(Id::UserProperty, Value::Pair(str("a"), str("b")))])
}

fn reason_string() -> Properties {
    properties([(Id::ReasonString, Value::String(str("a")))])
}

fn publish(change: impl Fn(&mut Publish)) -> Packet {
    let mut publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: str("a"),
        packet_id: 1,
        properties: Properties::new(),
        payload: Bytes::new(),
    };
    change(&mut publish);
    Packet::Publish(publish)
}

fn connect(version: Version, change: impl Fn(&mut Connect)) -> Packet {
    let mut connect = Connect {
        version,
        clean: true,
        keep_alive: 0,
        client_id: Str::default(),
        username: None,
        password: None,
        will: Some(Will {
            topic: str("a"),
            payload: Bytes::new(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Properties::new(),
        }),
        properties: Properties::new(),
    };
    change(&mut connect);
    Packet::Connect(Box::new(connect))
}

fn subscribe(change: impl Fn(&mut Subscription)) -> Packet {
    let mut subscription = Subscription {
        filter: str("a"),
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    };
    change(&mut subscription);
    Packet::Subscribe(Subscribe {
        packet_id: 1,
        subscriptions: vec![subscription],
        properties: Properties::new(),
    })
}

fn suback(packet_id: u16, reasons: &[u8]) -> Suback {
    let reasons = reasons.to_vec();
    Suback {
        packet_id,
        reasons,
        properties: Properties::new(),
    }
}

fn ack(packet_id: u16, reason: u8, properties: Properties) -> Ack {
    Ack {
        packet_id,
        reason,
        properties,
    }
}

fn connack(properties: Properties) -> Packet {
    Packet::Connack(Connack {
        session_present: false,
        reason: 0,
        properties,
    })
}

#[test]
#[rustfmt::skip]
fn publish_rules() {
    assert_refused([
        (V311, publish(|p| p.topic = str("a/+")), "PUBLISH: topic must not contain wildcards, got \"a/+\""),
        (V50, publish(|p| p.topic = str("#")), "PUBLISH: topic must not contain wildcards, got \"#\""),
        (V311, publish(|p| p.topic = str("")), "PUBLISH: topic must not be empty"),
        (V50, publish(|p| p.topic = str("")), "PUBLISH: topic must not be empty"),
        (V50, publish(|p| p.packet_id = 0), "PUBLISH: packet identifier must not be 0"),
        (V311, publish(|p| p.qos = QoS::AtMostOnce), "PUBLISH: packet identifier must be 0 with QoS 0, got 1"),
        (V50, publish(|p| (p.qos, p.packet_id, p.dup) = (QoS::AtMostOnce, 0, true)), "PUBLISH: DUP must not be set with QoS 0"),
        (V311, publish(|p| p.properties = user_property()), "PUBLISH: a property needs MQTT 5.0"),
        (V311, publish(|p| p.payload = vec![0; 268_435_455 - 4].into()), "PUBLISH: remaining length must be at most 268435455, got 268435456"),
    ]);
    for (topic, text) in [
        ("a\0".to_owned(), "PUBLISH: topic must not contain U+0000"),
        (
            "a".repeat(65536),
            "PUBLISH: topic must be at most 65535 bytes long, got 65536",
        ),
    ] {
        let publish = PublishRef {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: &topic,
            packet_id: 0,
            properties: &Properties::new(),
            payload: b"",
        };
        let error = encode_publish(&publish, V50, &mut BytesMut::new()).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[test]
#[rustfmt::skip]
fn connect_rules() {
    let will = |change: fn(&mut Will)| {
        move |connect: &mut Connect| change(connect.will.as_mut().unwrap())
    };
    assert_refused([
        (V50, connect(V311, |_| {}), "CONNECT: protocol version must be 5.0, got 3.1.1"),
        (V311, connect(V311, |c| c.clean = false), "CONNECT: client identifier must not be empty without clean session in MQTT 3.1.1"),
        (V311, connect(V311, |c| c.password = Some(Bytes::new())), "CONNECT: password must not be given without a user name in MQTT 3.1.1"),
        (V50, connect(V50, |c| c.password = Some(vec![0; 65536].into())), "CONNECT: password must be at most 65535 bytes long, got 65536"),
        (V50, connect(V50, will(|w| w.payload = vec![0; 65536].into())), "CONNECT: will payload must be at most 65535 bytes long, got 65536"),
        (V311, connect(V311, will(|w| w.topic = str("+"))), "CONNECT: will topic must not contain wildcards, got \"+\""),
        (V50, connect(V50, will(|w| w.topic = str(""))), "CONNECT: will topic must not be empty"),
        (V311, connect(V311, will(|w| w.properties = user_property())), "CONNECT: a property needs MQTT 5.0"),
        (V50, connect(V50, will(|w| w.properties = reason_string())), "CONNECT: property reason_string (31) is not allowed in a will"),
    ]);
}

#[test]
#[rustfmt::skip]
fn other_packets_rules() {
    let none = Properties::new;
    let no_filters = Packet::Unsubscribe(Unsubscribe {
        packet_id: 1,
        filters: vec![],
        properties: none(),
    });
    let no_subscriptions = Packet::Subscribe(Subscribe {
        packet_id: 1,
        subscriptions: vec![],
        properties: none(),
    });
    assert_refused([
        (V311, Packet::Puback(ack(0, 0, none())), "PUBACK: packet identifier must not be 0"),
        (V50, Packet::Pubrel(ack(0, 0, none())), "PUBREL: packet identifier must not be 0"),
        (V311, Packet::Pubrec(ack(1, 0x80, none())), "PUBREC: a reason code needs MQTT 5.0"),
        (V311, Packet::Pubcomp(ack(1, 0, user_property())), "PUBCOMP: a property needs MQTT 5.0"),
        (V311, no_subscriptions.clone(), "SUBSCRIBE: empty subscriptions list"),
        (V50, no_subscriptions, "SUBSCRIBE: empty subscriptions list"),
        (V311, subscribe(|s| s.filter = str("a#")), "SUBSCRIBE: topic filter must have \"#\" only as its last level, got \"a#\""),
        (V50, subscribe(|s| s.filter = str("$share/a")), "SUBSCRIBE: topic filter must be \"$share/NAME/FILTER\" to share a subscription, got \"$share/a\""),
        (V50, subscribe(|s| (s.filter, s.no_local) = (str("$share/a/b"), true)), "SUBSCRIBE: no local must not be set on a shared subscription, got \"$share/a/b\""),
        (V50, subscribe(|s| s.retain_handling = 3), "SUBSCRIBE: retain handling must be 0, 1 or 2, got 3"),
        (V311, subscribe(|s| s.no_local = true), "SUBSCRIBE: a subscription option other than the QoS needs MQTT 5.0"),
        (V50, Packet::Suback(suback(0, &[0])), "SUBACK: packet identifier must not be 0"),
        (V311, Packet::Suback(suback(1, &[])), "SUBACK: empty reason code list"),
        (V50, Packet::Unsuback(suback(1, &[])), "UNSUBACK: empty reason code list"),
        (V311, Packet::Unsuback(suback(1, &[0])), "UNSUBACK: a reason code needs MQTT 5.0"),
        (V311, no_filters, "UNSUBSCRIBE: empty subscriptions list"),
        (V311, Packet::Disconnect(Disconnect { reason: 4, properties: none() }), "DISCONNECT: a reason code needs MQTT 5.0"),
        (V311, Packet::Auth(Disconnect::default()), "AUTH: an AUTH packet needs MQTT 5.0"),
    ]);
}

#[test]
#[rustfmt::skip]
fn property_rules() {
    let long = || Value::Binary(vec![0; 65536].into());
    let response_topic = properties([(Id::ResponseTopic, Value::String(str("+")))]);
    let too_great = properties([(Id::SubscriptionIdentifier, Value::VarInt(MAX_VAR_INT + 1))]);
    let too_many = std::iter::repeat_n(
        Property {
            id: Id::UserProperty,
            value: Value::Pair(str(&"n".repeat(65535)), str(&"v".repeat(65535))),
        },
        2049,
    );
    assert_refused([
        (V50, connack(properties([(Id::TopicAlias, Value::TwoByte(1))])), "CONNACK: property topic_alias (35) is not allowed for that packet type"),
        (V50, connack(properties([(Id::MaximumQoS, Value::Byte(1)), (Id::MaximumQoS, Value::Byte(1))])), "CONNACK: it is a Protocol Error to include the maximum_qos (36) property more than once"),
        (V50, connack(properties([(Id::MaximumQoS, Value::Byte(2))])), "CONNACK: property maximum_qos (36) must be 0 or 1, got 2"),
        (V50, connack(properties([(Id::ReceiveMaximum, Value::TwoByte(0))])), "CONNACK: property receive_maximum (33) must not be 0"),
        (V50, connack(properties([(Id::ReceiveMaximum, Value::FourByte(1))])), "CONNACK: property receive_maximum (33) must be a TwoByte, got a FourByte"),
        (V50, connack(properties([(Id::AuthenticationData, long())])), "CONNACK: authentication_data must be at most 65535 bytes long, got 65536"),
        (V50, connack(properties([(Id::AuthenticationData, Value::Binary(Bytes::new()))])), "CONNACK: property authentication_data (22) must come with authentication_method (21)"),
        (V50, Packet::Auth(Disconnect { reason: 0x18, properties: user_property() }), "AUTH: property authentication_method (21) is missing"),
        (V50, publish(|p| p.properties = response_topic.clone()), "PUBLISH: response_topic must not contain wildcards, got \"+\""),
        (V50, publish(|p| p.properties = too_great.clone()), "PUBLISH: property subscription_identifiers (11) must be at most 268435455, got 268435456"),
        (V50, connack(too_many.collect()), "CONNACK: properties must be at most 268435455 bytes long, got 268572675"),
    ]);
}

#[test]
fn plain_ack_is_the_same_packet() {
    for version in [V311, V50] {
        for packet in [
            Packet::Puback,
            Packet::Pubrec,
            Packet::Pubrel,
            Packet::Pubcomp,
        ] {
            let packet = packet(ack(0x1234, 0, Properties::new()));
            let (mut short, mut full) = (BytesMut::new(), BytesMut::new());
            encode_ack(packet.packet_type(), 0x1234, &mut short);
            encode(&packet, version, &mut full).unwrap();
            assert_eq!(short, full);
        }
    }
}

#[test]
fn a_topic_alias_may_stand_for_the_topic() {
    let alias = properties([(Id::TopicAlias, Value::TwoByte(1))]);
    let packet = publish(|p| (p.topic, p.properties) = (Str::default(), alias.clone()));
    assert_eq!(encode(&packet, V50, &mut BytesMut::new()), Ok(()));
}
