//! A session with a store, a server that keeps its session, and processes and machines that die: what was accepted
//! arrives, in order, what is of QoS 2 once, whatever happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mqtt_core::codec::*;
use mqtt_core::driver::store::Journal;
use mqtt_core::session::{Event, Keeping, Label, Mark, Session, Settings, State};
use mqtt_core::store::{Options, Store, Sync};

use crate::disk::{Death, Random, Simulated};

/// A server with the session of one client.
#[derive(Default)]
struct Server {
    has_session: bool,
    /// Identifiers of QoS 2 messages whose PUBREL has not come.
    received: BTreeSet<u16>,
    /// What it has taken from the client, in order: QoS and number.
    taken: Vec<(QoS, u64)>,
    /// QoS 2 messages for the client: identifier, number, and whether PUBREC has come.
    outgoing: BTreeMap<u16, (u64, bool)>,
    sent: u64,
    last_id: u16,
}

impl Server {
    fn connect(&mut self) -> Vec<Packet> {
        let session_present = std::mem::replace(&mut self.has_session, true);
        let mut packets = vec![Packet::Connack(Connack {
            session_present,
            reason: 0,
            properties: Properties::new(),
        })];
        for (&id, &(number, is_released)) in &self.outgoing {
            packets.push(match is_released {
                true => Packet::Pubrel(ack(id)),
                false => message(id, QoS::ExactlyOnce, number, true),
            });
        }
        packets
    }

    /// Sends the client a message.
    fn send(&mut self) -> Packet {
        loop {
            self.last_id = self.last_id % 7 + 1;
            if !self.outgoing.contains_key(&self.last_id) {
                break;
            }
        }
        self.sent += 1;
        self.outgoing.insert(self.last_id, (self.sent, false));
        message(self.last_id, QoS::ExactlyOnce, self.sent, false)
    }

    fn handle(&mut self, packet: &Packet) -> Vec<Packet> {
        match packet {
            Packet::Connect(_) => self.connect(),
            Packet::Publish(publish) => {
                let number = number_of(publish);
                match publish.qos {
                    QoS::AtLeastOnce => {
                        self.taken.push((publish.qos, number));
                        vec![Packet::Puback(ack(publish.packet_id))]
                    }
                    _ => {
                        if self.received.insert(publish.packet_id) {
                            self.taken.push((publish.qos, number));
                        }
                        vec![Packet::Pubrec(ack(publish.packet_id))]
                    }
                }
            }
            Packet::Pubrel(pubrel) => {
                self.received.remove(&pubrel.packet_id);
                vec![Packet::Pubcomp(ack(pubrel.packet_id))]
            }
            Packet::Pubrec(pubrec) => {
                if let Some((_, is_released)) = self.outgoing.get_mut(&pubrec.packet_id) {
                    *is_released = true;
                }
                vec![Packet::Pubrel(ack(pubrec.packet_id))]
            }
            Packet::Pubcomp(pubcomp) => {
                self.outgoing.remove(&pubcomp.packet_id);
                Vec::new()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn ack(packet_id: u16) -> Ack {
    Ack {
        packet_id,
        reason: 0,
        properties: Properties::new(),
    }
}

fn message(packet_id: u16, qos: QoS, number: u64, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic: "t".try_into().unwrap(),
        packet_id,
        payload: Bytes::from(number.to_string()),
        properties: Properties::new(),
    })
}

fn number_of(publish: &Publish) -> u64 {
    std::str::from_utf8(&publish.payload)
        .unwrap()
        .parse()
        .unwrap()
}

/// The client's process, and the network between it and the server.
struct World {
    random: Random,
    version: Version,
    sync: Sync,
    now: Instant,
    server: Server,
    disk: Simulated,
    session: Session,
    /// Bytes on their way.
    to_server: BytesMut,
    to_client: BytesMut,
    server_decoder: Decoder,
    input: BytesMut,
    published: u64,
    /// What `publish` has accepted: by number, its QoS, and how far the store has to be safe for it.
    accepted: BTreeMap<u64, (QoS, Mark)>,
    /// Messages that the client has acknowledged, and those that it has got.
    acknowledged: BTreeSet<u64>,
    unacknowledged: VecDeque<(u16, u64)>,
    deaths: u32,
}

impl World {
    fn new(seed: u64, version: Version, sync: Sync) -> Self {
        let disk = Simulated::new(seed);
        Self {
            random: Random::new(seed),
            version,
            sync,
            now: Instant::now(),
            server: Server::default(),
            session: open(&disk, version, sync),
            disk,
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
            server_decoder: Decoder::new(version),
            input: BytesMut::new(),
            published: 0,
            accepted: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            unacknowledged: VecDeque::new(),
            deaths: 0,
        }
    }

    fn cut(&mut self) {
        self.to_server.clear();
        self.to_client.clear();
        self.input.clear();
        self.server_decoder = Decoder::new(self.version);
    }

    fn connect(&mut self) {
        self.cut();
        self.session.open(self.now);
        let connect = Connect {
            version: self.version,
            clean: false,
            keep_alive: 0,
            client_id: "c".try_into().unwrap(),
            username: None,
            password: None,
            will: None,
            properties: Properties::new(),
        };
        self.session.connect(&connect).unwrap();
    }

    fn publish(&mut self) {
        self.published += 1;
        let qos = match self.random.chance(50) {
            true => QoS::AtLeastOnce,
            false => QoS::ExactlyOnce,
        };
        let payload = self.published.to_string();
        let message = PublishRef {
            dup: false,
            qos,
            retain: false,
            topic: "t",
            packet_id: 0,
            payload: payload.as_bytes(),
            properties: &Properties::new(),
        };
        if self
            .session
            .publish_kept(&message, &Label::default())
            .is_ok()
        {
            let store = self.session.store().expect("one");
            let mark = store.flush().unwrap_or_default();
            self.accepted.insert(self.published, (qos, mark));
        }
    }

    /// Moves bytes over the network, some of them.
    fn transfer(&mut self) {
        if let Some(store) = self.session.store()
            && let Some(job) = store.sync()
        {
            let result = job();
            let _ = store.synced(result);
        }
        let bytes = self.session.take();
        self.session.transmitted(bytes.len(), self.now);
        self.to_server.extend_from_slice(&bytes);
        while let Some(packet) = self.server_decoder.decode(&mut self.to_server).unwrap() {
            for answer in self.server.handle(&packet) {
                encode(&answer, self.version, &mut self.to_client).unwrap();
            }
            if self.random.chance(20) {
                break;
            }
        }
        let count = self.random.below(self.to_client.len() as u64 + 1) as usize;
        self.input.unsplit(self.to_client.split_to(count));
        self.session.receive(&mut self.input, self.now);
        while let Some(event) = self.session.poll_event() {
            if let Event::Packet(Packet::Publish(publish)) = event {
                let number = number_of(&publish);
                assert!(
                    !self.acknowledged.contains(&number),
                    "{number} comes again after its acknowledgement"
                );
                self.unacknowledged.push_back((publish.packet_id, number));
            }
        }
    }

    fn acknowledge(&mut self) {
        if let Some((packet_id, number)) = self.unacknowledged.pop_front()
            && self
                .session
                .acknowledge(packet_id, QoS::ExactlyOnce, 0, Properties::new())
                .is_ok()
        {
            // It counts when the server has the PUBREC.
            if self.session.state() == State::Connected {
                self.transfer();
            }
            if self
                .server
                .outgoing
                .get(&packet_id)
                .is_none_or(|&(other, is_released)| other != number || is_released)
            {
                self.acknowledged.insert(number);
            }
        }
    }

    /// The process or its machine dies, perhaps in the middle of a write, and comes back.
    fn die(&mut self) {
        let death = match self.sync {
            Sync::Power if self.random.chance(50) => Death::Machine,
            _ => Death::Process,
        };
        self.deaths += 1;
        if death == Death::Machine {
            let safe = self.session.store().expect("one").safe();
            self.accepted.retain(|_, (_, mark)| *mark <= safe);
        }
        self.disk = self.disk.after(death, self.random.below(1 << 32));
        self.session = open(&self.disk, self.version, self.sync);
        self.unacknowledged.clear();
        self.cut();
    }

    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.random.below(100) {
                0..30 => self.publish(),
                30..34 => {
                    if self.session.state() == State::Connected && self.server.outgoing.len() < 6 {
                        let packet = self.server.send();
                        encode(&packet, self.version, &mut self.to_client).unwrap();
                    }
                }
                34..50 => self.acknowledge(),
                50..52 => {
                    self.session.close();
                    self.cut();
                }
                52..54 => self.disk.dies_in(self.random.below(30)),
                54..56 => self.die(),
                _ if self.session.state() == State::Disconnected => self.connect(),
                _ => self.transfer(),
            }
        }
        self.die();
        let patience = 20 * self.accepted.len() + 1000;
        for _ in 0..patience {
            match self.session.state() {
                State::Disconnected => self.connect(),
                _ => self.transfer(),
            }
            self.acknowledge();
            let stats = self.session.stats();
            if self.session.state() == State::Connected
                && stats.queued == 0
                && stats.in_flight == 0
                && self.server.outgoing.is_empty()
            {
                return self.judge();
            }
        }
        panic!("it does not come to an end: {:?}", self.session.stats());
    }

    fn judge(&self) {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let taken: Vec<u64> = self
                .server
                .taken
                .iter()
                .filter(|(taken, _)| *taken == qos)
                .map(|&(_, number)| number)
                .collect();
            let mut seen = BTreeSet::new();
            let mut order = Vec::new();
            for &number in &taken {
                let is_new = seen.insert(number);
                assert!(
                    is_new || qos == QoS::AtLeastOnce,
                    "{number} was taken twice"
                );
                if is_new {
                    order.push(number);
                }
            }
            assert!(order.is_sorted(), "{qos:?} out of order: {order:?}");
            for (number, _) in self.accepted.iter().filter(|(_, (of, _))| *of == qos) {
                assert!(seen.contains(number), "{number} of {qos:?} is lost");
            }
        }
    }
}

fn open(disk: &Simulated, version: Version, sync: Sync) -> Session {
    let options = Options {
        sync,
        segment_size: 2000,
        ..Options::default()
    };
    let (store, _) = Store::open(disk.clone(), options).unwrap();
    let mut session = Session::new(version, Settings::default());
    let keeping = Keeping {
        version,
        drops_oldest: false,
        latest: false,
    };
    session
        .keep_in(Box::new(Journal::new(store, || 0, version)), keeping)
        .unwrap();
    session
}

/// A waiting message of QoS 0 is kept too. What identifies a message outlives the connection, as its answer does.
#[test]
fn what_waits_is_named_when_it_is_sent() {
    let mut world = World::new(1, Version::V311, Sync::Process);
    let message = |qos| PublishRef {
        dup: false,
        qos,
        retain: false,
        topic: "t",
        packet_id: 0,
        payload: b"1",
        properties: &NONE,
    };
    let label = Label {
        tag: b"tag",
        ..Label::default()
    };
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let kept = world.session.publish_kept(&message(qos), &label);
        assert_eq!(kept.unwrap().0, 0);
    }
    assert_eq!(world.session.stats().queued, 2);
    world.connect();
    encode(&world.server.connect()[0], Version::V311, &mut world.input).unwrap();
    world.session.take();
    world.session.receive(&mut world.input, world.now);
    assert!(!world.session.take().is_empty());
    world.session.close();
    world.session.discard_events();
    let ids: Vec<u16> = std::iter::from_fn(|| world.session.poll_event())
        .map(|event| match event {
            Event::Identified { packet_id, tag, .. } if tag == "tag" => packet_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [0, 1]);
}

static NONE: Properties = Properties::new();

#[test]
fn what_was_accepted_arrives_whatever_dies() {
    let (mut deaths, mut accepted) = (0, 0);
    for seed in 0..400 {
        for version in [Version::V311, Version::V50] {
            for sync in [Sync::Process, Sync::Power] {
                let result = std::panic::catch_unwind(|| {
                    let mut world = World::new(seed, version, sync);
                    world.run(400);
                    (world.deaths, world.accepted.len())
                });
                match result {
                    Ok((died, count)) => {
                        deaths += died;
                        accepted += count;
                    }
                    Err(error) => {
                        eprintln!("seed {seed}, {version:?}, {sync:?}");
                        std::panic::resume_unwind(error);
                    }
                }
            }
        }
    }
    assert!(deaths > 5000 && accepted > 50_000, "{deaths} {accepted}");
}
