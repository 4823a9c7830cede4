//! Messages both ways while the connection is cut at arbitrary bytes. No message is lost. A QoS 2 message comes to the
//! server exactly once, and to the program until the program has acknowledged it. The order is kept, and every
//! acknowledgement is told once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt_core::codec::*;
use mqtt_core::session::{Settings, State};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::pair::*;

#[derive(Clone, Debug)]
enum Step {
    Publish(QoS),
    ServerPublish(QoS),
    /// The program takes all events.
    Look,
    /// The program acknowledges one of the messages that it has received.
    Acknowledge(Index),
    ToServer(usize),
    ToClient(usize),
    /// The connection breaks, and a new one is opened. CONNECT is sent.
    Cut,
    /// The program gives up the connection, with the events that it has not taken.
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let qos = || prop::sample::select(&[QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    let step = prop_oneof![
        4 => qos().prop_map(Step::Publish),
        4 => qos().prop_map(Step::ServerPublish),
        3 => Just(Step::Look),
        4 => any::<Index>().prop_map(Step::Acknowledge),
        6 => (1..80usize).prop_map(Step::ToServer),
        6 => (1..80usize).prop_map(Step::ToClient),
        2 => Just(Step::Cut),
        1 => Just(Step::Close),
    ];
    prop::collection::vec(step, 1..200)
}

/// A message that the server has sent and not finished.
struct Sent {
    packet: Publish,
    released: bool,
}

/// The server's session, and the messages that both sides have received so far. Payloads are running numbers.
struct World {
    pair: Pair,
    maximum: u16,
    /// The program's messages by packet identifier, until acknowledged.
    unacknowledged: BTreeMap<u16, (QoS, u32)>,
    published: Vec<(QoS, u32)>,
    server_got: Vec<(QoS, u32)>,
    /// Identifiers of the client's QoS 2 messages that the server has not released.
    held: Vec<u16>,
    sent: BTreeMap<u16, Sent>,
    /// The order of `sent`.
    order: VecDeque<u16>,
    server_published: Vec<(QoS, u32)>,
    got: Vec<(QoS, u32)>,
    to_acknowledge: Vec<(u16, QoS)>,
    /// Identifiers of the server's QoS 2 messages that the program has acknowledged. None is used again.
    acknowledged: BTreeSet<u16>,
    next: u32,
    last_id: u16,
    unanswered: u32,
}

impl World {
    fn new(version: Version, maximum: u16) -> Self {
        let settings = Settings {
            keep_exchanges: true,
            ..Settings::default()
        };
        let mut world = Self {
            pair: Pair::with_settings(version, settings),
            maximum,
            unacknowledged: BTreeMap::new(),
            published: Vec::new(),
            server_got: Vec::new(),
            held: Vec::new(),
            sent: BTreeMap::new(),
            order: VecDeque::new(),
            server_published: Vec::new(),
            got: Vec::new(),
            to_acknowledge: Vec::new(),
            acknowledged: BTreeSet::new(),
            next: 0,
            last_id: 0,
            unanswered: 0,
        };
        world.connect();
        world
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn connect(&mut self) {
        let connect = Connect {
            clean: false,
            ..connect(self.pair.client.version())
        };
        self.pair.client.connect(&connect).unwrap();
    }

    fn cut(&mut self) {
        // The server keeps bytes that it has read.
        self.serve();
        self.pair.reconnect();
        self.unanswered = 0;
        self.connect();
    }

    /// The server handles the packets that it has received.
    fn serve(&mut self) {
        for packet in self.pair.server.received() {
            match packet {
                Packet::Connect(_) => {
                    let properties = match self.pair.client.version() {
                        Version::V311 => Properties::new(),
                        Version::V50 => properties([(
                            PropertyId::ReceiveMaximum,
                            PropertyValue::TwoByte(self.maximum),
                        )]),
                    };
                    self.pair.server.send(Packet::Connack(Connack {
                        session_present: true,
                        reason: 0,
                        properties,
                    }));
                    for id in &self.order {
                        let sent = &self.sent[id];
                        let again = Publish {
                            dup: true,
                            ..sent.packet.clone()
                        };
                        self.pair.server.send(match sent.released {
                            true => pubrel(*id, 0),
                            false => Packet::Publish(again),
                        });
                    }
                }
                Packet::Publish(publish) => {
                    let number = u32::from_be_bytes(publish.payload[..].try_into().unwrap());
                    let id = publish.packet_id;
                    self.unanswered += 1;
                    if self.pair.client.version() == Version::V50 {
                        assert!(self.unanswered <= u32::from(self.maximum));
                    }
                    if publish.qos == QoS::AtLeastOnce {
                        self.server_got.push((publish.qos, number));
                        self.unanswered -= 1;
                        self.pair.server.send(puback(id, 0));
                    } else {
                        if !self.held.contains(&id) {
                            self.held.push(id);
                            self.server_got.push((publish.qos, number));
                        }
                        self.pair.server.send(pubrec(id, 0));
                    }
                }
                Packet::Pubrel(ack) => {
                    self.held.retain(|id| *id != ack.packet_id);
                    self.unanswered = self.unanswered.saturating_sub(1);
                    self.pair.server.send(pubcomp(ack.packet_id, 0));
                }
                Packet::Puback(ack) => {
                    assert!(self.sent.remove(&ack.packet_id).is_some(), "{ack:?}");
                    self.order.retain(|id| *id != ack.packet_id);
                }
                Packet::Pubcomp(ack) => {
                    assert!(self.sent.remove(&ack.packet_id).is_some(), "{ack:?}");
                    self.order.retain(|id| *id != ack.packet_id);
                }
                Packet::Pubrec(ack) => {
                    if let Some(sent) = self.sent.get_mut(&ack.packet_id) {
                        sent.released = true;
                    }
                    self.pair.server.send(pubrel(ack.packet_id, 0));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The program takes all events.
    fn look(&mut self) {
        for packet in self.pair.packets() {
            match packet {
                Packet::Connack(_) => {}
                Packet::Publish(publish) => {
                    let number = u32::from_be_bytes(publish.payload[..].try_into().unwrap());
                    assert!(!self.acknowledged.contains(&publish.packet_id), "{number}");
                    self.got.push((publish.qos, number));
                    self.to_acknowledge.push((publish.packet_id, publish.qos));
                }
                Packet::Puback(ack) | Packet::Pubrec(ack) => {
                    let known = self.unacknowledged.remove(&ack.packet_id);
                    assert!(known.is_some(), "told twice: {ack:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Publish(qos) => {
                let number = self.number();
                let message = PublishRef {
                    payload: &number.to_be_bytes(),
                    ..message(qos)
                };
                let id = self.pair.client.publish(&message).unwrap();
                self.published.push((qos, number));
                assert_eq!(self.unacknowledged.insert(id, (qos, number)), None);
            }
            Step::ServerPublish(qos) => {
                // Not before CONNECT is answered, nor with an identifier in use.
                if self.pair.client.state() != State::Connected {
                    return;
                }
                self.last_id += 1;
                let number = self.number();
                let Packet::Publish(packet) = publish(qos, self.last_id) else {
                    unreachable!()
                };
                let packet = Publish {
                    payload: number.to_be_bytes().to_vec().into(),
                    ..packet
                };
                self.pair.server.send(Packet::Publish(packet.clone()));
                self.server_published.push((qos, number));
                let released = false;
                self.sent.insert(self.last_id, Sent { packet, released });
                self.order.push_back(self.last_id);
            }
            Step::Look => self.look(),
            Step::Acknowledge(index) => {
                if !self.to_acknowledge.is_empty() {
                    let i = index.index(self.to_acknowledge.len());
                    let (id, qos) = self.to_acknowledge.remove(i);
                    self.acknowledge(id, qos);
                }
            }
            Step::ToServer(most) => {
                self.pair.carry_to_server(most);
                self.serve();
            }
            Step::ToClient(most) => {
                self.pair.carry_to_client(most);
            }
            Step::Cut => self.cut(),
            Step::Close => {
                self.pair.client.close();
                self.pair.client.discard_events();
                self.cut();
            }
        }
    }

    fn acknowledge(&mut self, id: u16, qos: QoS) {
        // For a QoS 1 message of an earlier connection this is refused, and the message comes again.
        let _ = self.pair.client.acknowledge(id, qos, 0, Properties::new());
        if qos == QoS::ExactlyOnce {
            self.acknowledged.insert(id);
        }
    }

    /// The link heals, and all exchanges come to their end.
    fn settle(&mut self) {
        self.cut();
        loop {
            let moved =
                self.pair.carry_to_server(usize::MAX) | self.pair.carry_to_client(usize::MAX);
            self.serve();
            self.look();
            let acknowledged = !self.to_acknowledge.is_empty();
            for (id, qos) in std::mem::take(&mut self.to_acknowledge) {
                self.acknowledge(id, qos);
            }
            if !moved && !acknowledged {
                break;
            }
        }
        assert!(self.unacknowledged.is_empty(), "{:?}", self.unacknowledged);
        assert!(self.sent.is_empty() && self.held.is_empty());
        assert_eq!(self.pair.client.stats().in_flight, 0);
        assert_eq!(self.pair.client.stored_bytes(), 0);
        compare(&self.published, &self.server_got);
        compare(&self.server_published, &self.got);
        // The server has each QoS 2 message once.
        let qos = QoS::ExactlyOnce;
        assert_eq!(of(&self.published, qos), of(&self.server_got, qos));
    }
}

/// Checks that every message has come, in order if repetitions are left out.
fn compare(sent: &[(QoS, u32)], got: &[(QoS, u32)]) {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut first = Vec::new();
        for number in of(got, qos) {
            if !first.contains(&number) {
                first.push(number);
            }
        }
        assert_eq!(of(sent, qos), first);
    }
}

/// The messages of one QoS.
fn of(list: &[(QoS, u32)], wanted: QoS) -> Vec<u32> {
    let alike = list.iter().filter(|(qos, _)| *qos == wanted);
    alike.map(|(_, number)| *number).collect()
}

proptest! {
    #![proptest_config(repeatable())]

    #[test]
    fn nothing_is_lost(steps in steps(), maximum in 1..20u16) {
        for version in BOTH {
            let mut world = World::new(version, maximum);
            for step in &steps {
                world.run(step.clone());
            }
            world.settle();
        }
    }
}
