//! A refused request changes nothing. Two sessions live through the same steps, one of them without the requests that
//! the other was refused. Nobody can tell the two apart.

use std::time::Duration;

use mqtt_core::codec::*;
use mqtt_core::session::{Discarded, Event, QueueLimits, RequestError, Settings, State, Stats};
use proptest::prelude::*;

use crate::pair::*;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        qos: QoS,
        retain: bool,
        topic: &'static str,
        packet_id: u16,
        alias: Option<u16>,
        identifier: bool,
        size: usize,
    },
    /// Begins a message whose payload is not copied.
    Head(QoS),
    Subscribe(&'static str, QoS, bool),
    Unsubscribe(&'static str),
    Acknowledge(u16, QoS, u8, usize),
    Ping,
    Auth(u8),
    Disconnect(u8, usize),
    Connect,
    /// The server accepts, or sends a message.
    Accept,
    Deliver(QoS, u16),
    /// The connection breaks. A new one is opened.
    Break,
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = || prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    let topic = prop::sample::select(&["t", "u", "a/+", "", "long/topic/long/topic"][..]);
    let filter = || prop::sample::select(&["t", "a/+", "$share/g/t", "#/a", ""][..]);
    let reason = || prop::sample::select(&[0, 0x18, 0x19, 0x80, 0x77][..]);
    let alias = prop::option::weighted(0.3, 0..4u16);
    let size = || prop::sample::select(&[0, 3, 20, 60][..]);
    let flag = || prop::bool::weighted(0.1);
    let publish = (qos(), flag(), topic, 0..4u16, alias, flag(), size());
    prop_oneof![
        10 => publish.prop_map(|(qos, retain, topic, packet_id, alias, identifier, size)| {
            Step::Publish { qos, retain, topic, packet_id, alias, identifier, size }
        }),
        1 => qos().prop_map(Step::Head),
        2 => (filter(), qos(), flag()).prop_map(|(f, q, i)| Step::Subscribe(f, q, i)),
        1 => filter().prop_map(Step::Unsubscribe),
        2 => (1..4u16, qos(), reason(), size()).prop_map(|(i, q, r, s)| Step::Acknowledge(i, q, r, s)),
        1 => Just(Step::Ping),
        1 => reason().prop_map(Step::Auth),
        1 => (reason(), size()).prop_map(|(r, s)| Step::Disconnect(r, s)),
        3 => Just(Step::Connect),
        3 => Just(Step::Accept),
        2 => (qos(), 1..4u16).prop_map(|(q, i)| Step::Deliver(q, i)),
        2 => Just(Step::Break),
        3 => Just(Step::Open),
    ]
}

fn with_text(size: usize) -> Properties {
    match size {
        0 => Properties::new(),
        size => properties([(
            PropertyId::ReasonString,
            PropertyValue::String(Str::try_from("x".repeat(size).as_str()).unwrap()),
        )]),
    }
}

/// The limits of a server.
fn limits(version: Version) -> Properties {
    match version {
        Version::V311 => Properties::new(),
        Version::V50 => properties([
            (PropertyId::ReceiveMaximum, PropertyValue::TwoByte(2)),
            (PropertyId::MaximumQoS, PropertyValue::Byte(1)),
            (PropertyId::RetainAvailable, PropertyValue::Byte(0)),
            (PropertyId::MaximumPacketSize, PropertyValue::FourByte(50)),
            (PropertyId::TopicAliasMaximum, PropertyValue::TwoByte(2)),
            (
                PropertyId::WildcardSubscriptionAvailable,
                PropertyValue::Byte(0),
            ),
        ]),
    }
}

/// Takes the step. An error means that the session refused it.
fn apply(pair: &mut Pair, step: &Step) -> Result<(), RequestError> {
    let client = &mut pair.client;
    match *step {
        Step::Publish {
            qos,
            retain,
            topic,
            packet_id,
            alias,
            identifier,
            size,
        } => {
            let mut all = Vec::new();
            if let Some(alias) = alias {
                all.push((PropertyId::TopicAlias, PropertyValue::TwoByte(alias)));
            }
            if identifier {
                let id = PropertyId::SubscriptionIdentifier;
                all.push((id, PropertyValue::VarInt(1)));
            }
            client.publish(&PublishRef {
                dup: false,
                qos,
                retain,
                topic,
                packet_id,
                properties: &all
                    .into_iter()
                    .map(|(id, value)| Property { id, value })
                    .collect(),
                payload: &vec![b'x'; size],
            })?;
        }
        Step::Head(qos) => {
            let head = message(qos);
            match client.publish_head(&head) {
                true => client.fill().extend_from_slice(head.payload),
                false => return Err(RequestError::NotConnected),
            }
        }
        Step::Subscribe(filter, qos, identifier) => {
            let subscription = Subscription {
                filter: Str::try_from(filter).unwrap(),
                qos,
                no_local: false,
                retain_as_published: false,
                retain_handling: 0,
            };
            let all = match identifier {
                true => {
                    properties([(PropertyId::SubscriptionIdentifier, PropertyValue::VarInt(1))])
                }
                false => Properties::new(),
            };
            client.subscribe(vec![subscription], all)?;
        }
        Step::Unsubscribe(filter) => {
            client.unsubscribe(vec![Str::try_from(filter).unwrap()], Properties::new())?;
        }
        Step::Acknowledge(packet_id, qos, reason, size) => {
            client.acknowledge(packet_id, qos, reason, with_text(size))?;
        }
        Step::Ping => client.ping(pair.now)?,
        Step::Auth(reason) => client.auth(reason, Properties::new())?,
        Step::Disconnect(reason, size) => client.disconnect(reason, with_text(size))?,
        Step::Connect => {
            let version = client.version();
            client.connect(&Connect {
                clean: false,
                ..connect(version)
            })?;
        }
        Step::Accept if client.state() == State::Connecting => {
            let version = client.version();
            pair.server.send(Packet::Connack(Connack {
                session_present: false,
                reason: 0,
                properties: limits(version),
            }));
        }
        Step::Deliver(qos, packet_id) if client.state() == State::Connected => {
            let packet_id = match qos {
                QoS::AtMostOnce => 0,
                _ => packet_id,
            };
            pair.server.send(publish(qos, packet_id));
        }
        Step::Accept | Step::Deliver(..) => {}
        Step::Break => client.close(),
        Step::Open => pair.reconnect(),
    }
    Ok(())
}

/// The visible state of a session after a step.
#[derive(Debug, PartialEq)]
struct Seen {
    received: Vec<Packet>,
    events: Vec<Event>,
    dropped: Vec<Discarded>,
    stats: Stats,
    state: State,
    stored_bytes: usize,
    deadline: Option<Duration>,
}

fn look(pair: &mut Pair, start: std::time::Instant) -> Seen {
    pair.drive();
    Seen {
        received: pair.server.received(),
        events: std::iter::from_fn(|| pair.client.poll_event()).collect(),
        dropped: pair.client.take_discarded(),
        stats: pair.client.stats(),
        state: pair.client.state(),
        stored_bytes: pair.client.stored_bytes(),
        deadline: pair.client.poll_timeout().map(|at| at - start),
    }
}

/// An acknowledgement counts even if it cannot be sent. The error only reports that.
fn counts_all_the_same(step: &Step, error: &RequestError) -> bool {
    matches!(step, Step::Acknowledge(..)) && *error == RequestError::NotConnected
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..repeatable() })]

    #[test]
    fn nobody_can_tell_that_a_request_was_refused(
        version in prop::sample::select(&BOTH[..]),
        steps in prop::collection::vec(step(), 1..60),
        (max_messages, max_bytes) in (0..4u32, 0..120u32),
        (queue, drop_oldest, topic_aliases) in any::<(bool, bool, bool)>(),
    ) {
        let settings = Settings {
            keep_exchanges: true,
            queue: queue.then_some(QueueLimits { max_messages, max_bytes, drop_oldest }),
            topic_aliases,
            ..Settings::default()
        };
        let mut asked = Pair::with_settings(version, settings.clone());
        let mut spared = Pair::with_settings(version, settings);
        let (start_of_asked, start_of_spared) = (asked.now, spared.now);
        for step in &steps {
            match apply(&mut asked, step) {
                Err(error) if !counts_all_the_same(step, &error) => {}
                result => prop_assert_eq!(apply(&mut spared, step), result),
            }
            let seen = look(&mut asked, start_of_asked);
            prop_assert_eq!(seen, look(&mut spared, start_of_spared), "{:?}", step);
        }
    }
}

/// A request that is refused in the end drops no message before.
#[test]
fn a_message_that_the_queue_refuses_drops_no_other() {
    let settings = Settings {
        queue: Some(QueueLimits {
            max_messages: 3,
            max_bytes: 80,
            drop_oldest: true,
        }),
        keep_exchanges: true,
        ..Settings::default()
    };
    let mut pair = Pair::with_settings(Version::V50, settings);
    // Only messages are dropped from the queue.
    pair.connect(connect(Version::V50));
    let filter = Str::try_from("x".repeat(40).as_str()).unwrap();
    let subscription = Subscription {
        filter,
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    };
    pair.client
        .subscribe(vec![subscription], Properties::new())
        .unwrap();
    pair.client.close();
    let kept = pair.publish(QoS::AtLeastOnce);
    let before = pair.client.stats();
    let refused = pair.client.publish(&PublishRef {
        payload: &[b'x'; 40],
        ..message(QoS::AtLeastOnce)
    });
    assert!(matches!(refused, Err(RequestError::QueueFull(_))));
    assert!(pair.client.take_discarded().is_empty());
    assert_eq!(pair.client.stats(), before);
    assert_eq!(pair.publish(QoS::AtLeastOnce), kept + 1);
}
