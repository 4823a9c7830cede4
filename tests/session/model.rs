//! Arbitrary conversations in QoS 1 and 2 against a model of the exchanges that may be under way. Both directions run
//! at once, and the link holds bytes back at will.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_core::codec::*;
use mqtt_core::session::RequestError;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::pair::*;

#[derive(Clone, Debug)]
enum Step {
    /// The program publishes.
    Publish(QoS),
    /// The program publishes with an identifier of its own.
    PublishAs(QoS, u16),
    /// The program acknowledges one of the messages that it has received.
    Acknowledge(Index),
    /// The server publishes.
    ServerPublish(QoS),
    /// The server answers one of the packets that it has received, in 5.0 perhaps with an error.
    ServerAnswer(Index, bool),
    /// The server repeats a PUBREC, PUBREL or QoS 2 PUBLISH that is not settled.
    ServerRepeat(Index),
    /// The link moves up to this many bytes.
    ToServer(usize),
    ToClient(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    prop_oneof![
        3 => qos.clone().prop_map(Step::Publish),
        1 => (qos.clone(), 1..20u16).prop_map(|(qos, id)| Step::PublishAs(qos, id)),
        3 => any::<Index>().prop_map(Step::Acknowledge),
        3 => qos.prop_map(Step::ServerPublish),
        4 => (any::<Index>(), prop::bool::weighted(0.2)).prop_map(|(i, e)| Step::ServerAnswer(i, e)),
        1 => any::<Index>().prop_map(Step::ServerRepeat),
        4 => (1..60usize).prop_map(Step::ToServer),
        4 => (1..60usize).prop_map(Step::ToClient),
    ]
}

/// The state on which both sides must agree in the end. Payloads are running numbers, which tell messages apart.
struct Model {
    pair: Pair,
    version: Version,
    /// Identifiers that the client may not give out, with their messages.
    in_flight: BTreeMap<u16, (QoS, u32)>,
    /// Identifiers whose PUBCOMP is on its way to the client, or has arrived. The program sees no PUBCOMP.
    completing: BTreeSet<u16>,
    /// Identifiers that were ever used.
    used: BTreeSet<u16>,
    /// Messages that the client sent and messages that the server received, in order.
    sent: Vec<u32>,
    server_got: Vec<u32>,
    /// Identifiers of the client's QoS 2 messages that the server has not released. They tell repeats apart.
    server_holds: BTreeSet<u16>,
    /// Packets that the server will answer, in any order.
    to_answer: Vec<Packet>,
    /// Packets that the server may repeat.
    repeatable: Vec<Packet>,
    /// Messages whose acknowledgement the program has seen.
    acknowledged: Vec<u32>,
    /// The same for the other direction.
    server_in_flight: BTreeMap<u16, (QoS, u32)>,
    server_sent: Vec<u32>,
    client_got: Vec<u32>,
    to_acknowledge: Vec<(u16, QoS)>,
    next: u32,
    last_server_id: u16,
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

impl Model {
    fn new(version: Version) -> Self {
        Self {
            pair: Pair::connected(version),
            version,
            in_flight: BTreeMap::new(),
            completing: BTreeSet::new(),
            used: BTreeSet::new(),
            sent: Vec::new(),
            server_got: Vec::new(),
            server_holds: BTreeSet::new(),
            to_answer: Vec::new(),
            repeatable: Vec::new(),
            acknowledged: Vec::new(),
            server_in_flight: BTreeMap::new(),
            server_sent: Vec::new(),
            client_got: Vec::new(),
            to_acknowledge: Vec::new(),
            next: 0,
            last_server_id: 0,
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Publish(qos) => self.publish(qos, 0),
            Step::PublishAs(qos, id) => self.publish(qos, id),
            Step::Acknowledge(index) => {
                if !self.to_acknowledge.is_empty() {
                    let at = index.index(self.to_acknowledge.len());
                    let (id, qos) = self.to_acknowledge.remove(at);
                    self.pair.acknowledge(id, qos);
                }
            }
            Step::ServerPublish(qos) => self.server_publish(qos),
            Step::ServerAnswer(index, refuse) => {
                if !self.to_answer.is_empty() {
                    let at = index.index(self.to_answer.len());
                    let packet = self.to_answer.remove(at);
                    self.server_answer(packet, refuse);
                }
            }
            Step::ServerRepeat(index) => {
                if !self.repeatable.is_empty() {
                    let packet = index.get(&self.repeatable).clone();
                    self.pair.server.send(packet);
                }
            }
            Step::ToServer(bytes) => drop(self.pair.carry_to_server(bytes)),
            Step::ToClient(bytes) => drop(self.pair.carry_to_client(bytes)),
        }
        self.server_reads();
        self.program_reads();
    }

    fn publish(&mut self, qos: QoS, packet_id: u16) {
        let number = self.number();
        let message = PublishRef {
            packet_id,
            payload: &number.to_be_bytes(),
            ..message(qos)
        };
        let result = self.pair.client.publish(&message);
        if qos == QoS::AtMostOnce {
            assert_eq!(result, Ok(0));
        } else if self.in_flight.contains_key(&packet_id) {
            assert_eq!(result, Err(RequestError::PacketIdInUse(packet_id)));
            return;
        } else if result.is_err() && self.completing.contains(&packet_id) {
            return;
        } else {
            let id = result.unwrap();
            assert!(packet_id == 0 || packet_id == id);
            assert_eq!(self.in_flight.insert(id, (qos, number)), None);
            self.completing.remove(&id);
            self.used.insert(id);
        }
        self.sent.push(number);
    }

    fn server_publish(&mut self, qos: QoS) {
        let number = self.number();
        let id = match qos {
            QoS::AtMostOnce => 0,
            _ => {
                self.last_server_id += 1;
                self.server_in_flight
                    .insert(self.last_server_id, (qos, number));
                self.last_server_id
            }
        };
        let Packet::Publish(template) = publish(qos, id) else {
            unreachable!()
        };
        let packet = Publish {
            payload: number.to_be_bytes().to_vec().into(),
            ..template
        };
        self.server_sent.push(number);
        self.pair.server.send(Packet::Publish(packet.clone()));
        if qos == QoS::ExactlyOnce {
            self.repeatable.push(Packet::Publish(Publish {
                dup: true,
                ..packet
            }));
        }
    }

    /// From here on the server does not repeat this packet.
    fn settle(&mut self, kind: PacketType, id: u16) {
        self.repeatable.retain(|packet| {
            let of = match packet {
                Packet::Publish(publish) => publish.packet_id,
                Packet::Pubrec(ack) | Packet::Pubrel(ack) => ack.packet_id,
                _ => unreachable!(),
            };
            packet.packet_type() != kind || of != id
        });
    }

    fn server_answer(&mut self, packet: Packet, refuse: bool) {
        let error = match self.version {
            Version::V50 if refuse => 0x97,
            _ => 0,
        };
        let answer = match packet {
            Packet::Publish(publish) if publish.qos == QoS::AtLeastOnce => {
                puback(publish.packet_id, error)
            }
            Packet::Publish(publish) if error != 0 => {
                self.server_holds.remove(&publish.packet_id);
                pubrec(publish.packet_id, error)
            }
            Packet::Publish(publish) => {
                self.repeatable.push(pubrec(publish.packet_id, 0));
                pubrec(publish.packet_id, 0)
            }
            Packet::Pubrel(ack) => {
                self.server_holds.remove(&ack.packet_id);
                self.in_flight.remove(&ack.packet_id);
                self.completing.insert(ack.packet_id);
                pubcomp(ack.packet_id, 0)
            }
            Packet::Pubrec(ack) => {
                self.repeatable.push(pubrel(ack.packet_id, 0));
                pubrel(ack.packet_id, 0)
            }
            other => unreachable!("{other:?}"),
        };
        self.pair.server.send(answer);
    }

    fn server_reads(&mut self) {
        for packet in self.pair.server.received() {
            match &packet {
                Packet::Publish(publish) => {
                    let id = publish.packet_id;
                    self.server_got.push(number(&publish.payload));
                    if publish.qos == QoS::ExactlyOnce {
                        assert!(self.server_holds.insert(id), "{id} is handed out twice");
                    }
                    if publish.qos != QoS::AtMostOnce {
                        self.to_answer.push(packet);
                    }
                }
                // A repeated PUBREC has a repeated PUBREL, which is not answered again.
                Packet::Pubrel(ack) => {
                    let held = self.server_holds.contains(&ack.packet_id);
                    self.settle(PacketType::Pubrec, ack.packet_id);
                    if held && !self.to_answer.contains(&packet) {
                        self.to_answer.push(packet);
                    }
                }
                Packet::Puback(ack) => {
                    let (qos, _) = self.server_in_flight.remove(&ack.packet_id).unwrap();
                    assert_eq!(qos, QoS::AtLeastOnce);
                }
                Packet::Pubrec(ack) => {
                    let id = ack.packet_id;
                    self.settle(PacketType::Publish, id);
                    let (qos, _) = self.server_in_flight[&id];
                    assert_eq!(qos, QoS::ExactlyOnce);
                    let answered = self.repeatable.contains(&pubrel(id, 0));
                    if !answered && !self.to_answer.contains(&packet) {
                        self.to_answer.push(packet);
                    }
                }
                Packet::Pubcomp(ack) => {
                    self.settle(PacketType::Pubrel, ack.packet_id);
                    self.server_in_flight.remove(&ack.packet_id);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn program_reads(&mut self) {
        for packet in self.pair.packets() {
            match packet {
                Packet::Publish(publish) => {
                    self.client_got.push(number(&publish.payload));
                    self.to_acknowledge.push((publish.packet_id, publish.qos));
                }
                Packet::Puback(ack) => {
                    let (qos, number) = self.in_flight.remove(&ack.packet_id).unwrap();
                    assert_eq!(qos, QoS::AtLeastOnce);
                    self.acknowledged.push(number);
                }
                Packet::Pubrec(ack) => {
                    let (qos, number) = self.in_flight[&ack.packet_id];
                    assert_eq!(qos, QoS::ExactlyOnce);
                    self.acknowledged.push(number);
                    if ack.reason >= 0x80 {
                        self.in_flight.remove(&ack.packet_id);
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// All exchanges come to their end.
    fn finish(&mut self) {
        loop {
            self.pair.drive();
            self.server_reads();
            self.program_reads();
            if let Some(packet) = self.to_answer.pop() {
                self.server_answer(packet, false);
            } else if let Some((id, qos)) = self.to_acknowledge.pop() {
                self.pair.acknowledge(id, qos);
            } else {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(repeatable())]

    #[test]
    fn every_message_arrives_once_and_in_order(
        version in prop::sample::select(&BOTH[..]),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut model = Model::new(version);
        for step in steps {
            model.run(step);
        }
        model.finish();
        prop_assert_eq!(&model.server_got, &model.sent);
        prop_assert_eq!(&model.client_got, &model.server_sent);
        prop_assert!(model.server_in_flight.is_empty());
        prop_assert!(model.server_holds.is_empty());

        // The program saw the acknowledgement of each QoS 1 and 2 message once.
        let mut acknowledged = model.acknowledged.clone();
        acknowledged.sort_unstable();
        acknowledged.dedup();
        prop_assert_eq!(acknowledged.len(), model.acknowledged.len());
        // Every identifier is free again.
        prop_assert!(model.in_flight.is_empty());
        for packet_id in model.used {
            let again = PublishRef { packet_id, ..message(QoS::AtLeastOnce) };
            prop_assert_eq!(model.pair.client.publish(&again), Ok(packet_id));
        }
    }
}
