//! A whole session under arbitrary calls of its driver and its program, fed with arbitrary bytes of a broker. After
//! each step, the promises that the session keeps in any case are checked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::codec::*;
use crate::script::Script;
use crate::server::{Server, V311_RECEIVE_MAXIMUM};
use crate::session::{
    Backlog, Discarded, Event, Failure, QueueLimits, RequestError, Session, Settings, State,
};

/// Plays `data`. The first bytes choose version and settings. The rest is a sequence of steps.
pub fn check_session(data: &[u8]) {
    let mut script = Script::new(data);
    let mut client = Client::new(&mut script);
    while !script.is_over() {
        client.step(&mut script);
        if client.prompt {
            client.settle();
        }
        client.check();
    }
}

/// Bytes of queued events above which the session wants no more.
const MAX_QUEUED: usize = 2000;
/// The most memory that an event takes, and that each byte of its packet takes: the shortest packets and properties
/// have two bytes.
const EVENT: usize = 500;
const BYTE: usize = 150;

/// The state of a QoS 2 message that the program was given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Now,
    /// Given on an earlier connection: the message may come again.
    Before,
    Acknowledged,
}

/// A session, its driver's knowledge, and the expectations of it.
struct Client {
    version: Version,
    session: Session,
    now: Instant,
    /// Bytes that were read and not taken yet.
    input: BytesMut,
    server: Server,
    /// A failure was reported on this connection.
    failed: bool,
    /// Whether all sent bytes are read at once, every packet of the broker alone, and every event taken at once.
    /// Otherwise the script decides all that, and fewer promises can be checked.
    prompt: bool,
    /// QoS 2 messages given to the program whose exchange has not ended.
    delivered: HashMap<u16, Delivery>,
    /// The number of each accepted and unacknowledged QoS 1 and 2 message, by packet identifier.
    accepted: BTreeMap<u16, u32>,
    /// The packet identifiers of accepted and unanswered SUBSCRIBE and UNSUBSCRIBE packets, which have no number.
    requests: HashSet<u16>,
    /// The number of published messages.
    published: u32,
}

impl Client {
    fn new(script: &mut Script) -> Self {
        let (options, queue) = (script.byte(), script.byte());
        let version = match options & 1 {
            0 => Version::V311,
            _ => Version::V50,
        };
        let settings = Settings {
            max_packet_size: if options & 2 == 0 { 1 << 20 } else { 100 },
            max_queued_bytes: MAX_QUEUED,
            max_outgoing_bytes: 1 << 20,
            connack_timeout: (options & 4 == 0).then_some(Duration::from_secs(30)),
            pingresp_timeout: (options & 32 != 0).then_some(Duration::from_secs(3)),
            keep_exchanges: options & 16 != 0,
            queue: (queue & 1 != 0).then(|| QueueLimits {
                max_messages: u32::from(queue >> 1 & 7),
                max_bytes: if queue & 16 == 0 { 10_000 } else { 100 },
                drop_oldest: queue & 32 != 0,
            }),
            backlog: Some(Box::new(Backlog {
                expires_in: None,
                latest: queue & 128 != 0,
                rate: (queue & 192 == 192).then_some(NonZeroU32::MIN),
            })),
            clock: Some(Instant::now),
            resubscribe: options & 64 != 0,
            server_receive_maximum: V311_RECEIVE_MAXIMUM,
            topic_aliases: options & 128 != 0,
            // With an empty prefix every message with correlation data is a request.
            requests: (queue & 64 != 0).then(Box::default),
        };
        Self {
            version,
            session: Session::new(version, settings),
            now: Instant::now(),
            input: BytesMut::new(),
            server: Server::new(version),
            failed: false,
            prompt: options & 8 == 0,
            delivered: HashMap::new(),
            accepted: BTreeMap::new(),
            requests: HashSet::new(),
            published: 0,
        }
    }

    fn step(&mut self, script: &mut Script) {
        match script.byte() % 20 {
            0 => self.open(),
            1 => self.close(),
            2 | 3 => self.connect(script),
            4 | 5 => self.publish(script),
            6 => self.subscribe(script),
            7 => self.unsubscribe(script),
            8 => self.acknowledge(script),
            9 => {
                let (reason, properties) = (script.byte(), properties(script, self.version));
                let _ = self.session.auth(reason, properties);
            }
            10 => drop(self.session.ping(self.now)),
            11 => {
                let (reason, properties) = (script.byte(), properties(script, self.version));
                let _ = self.session.disconnect(reason, properties);
            }
            12 => self.input.extend_from_slice(script.bytes()),
            13 | 14 => self.broker_packet(script),
            15 => self.receive(),
            16 => self.pass(script.byte()),
            17 => drop(self.write(usize::from(script.byte()))),
            18 => self.take_event(),
            // The program does not see events that it gives up. So nobody knows any more which messages it has.
            _ if !self.prompt => self.session.discard_events(),
            _ => {}
        }
    }

    /// All bytes are written and read, and every event is taken.
    fn settle(&mut self) {
        while self.write(usize::MAX) || self.session.has_events() {
            self.take_event();
        }
    }

    fn open(&mut self) {
        self.session.open(self.now);
        self.forget_connection();
        assert_eq!(self.session.state(), State::Open);
    }

    fn close(&mut self) {
        self.session.close();
        self.forget_connection();
        assert_eq!(self.session.state(), State::Disconnected);
    }

    fn forget_connection(&mut self) {
        assert!(self.session.fill().is_empty());
        self.input.clear();
        self.server.open();
        self.failed = false;
        for delivery in self.delivered.values_mut() {
            if *delivery == Delivery::Now {
                *delivery = Delivery::Before;
            }
        }
    }

    fn connect(&mut self, script: &mut Script) {
        let flags = script.byte();
        let connect = Connect {
            version: self.version,
            clean: flags & 1 == 0,
            keep_alive: u16::from(flags >> 1 & 3) * 10,
            client_id: Str::from_static(if flags & 8 == 0 { "id" } else { "" }),
            username: (flags & 16 != 0).then(|| Str::from_static("user")),
            password: (flags & 32 != 0).then(|| "secret".into()),
            will: (flags & 64 != 0).then(|| Will {
                topic: Str::from_static("will"),
                payload: Bytes::new(),
                qos: QoS::AtLeastOnce,
                retain: false,
                properties: properties(script, self.version),
            }),
            properties: properties(script, self.version),
        };
        let connected = self.session.connect(&connect);
        if connected.is_ok() && connect.clean && !self.session.settings().keep_exchanges {
            self.accepted.clear();
            self.requests.clear();
        }
    }

    fn publish(&mut self, script: &mut Script) {
        let flags = script.byte();
        let qos = QoS::from_code(flags & 3).unwrap_or_default();
        let packet_id = match flags & 4 {
            0 => 0,
            _ => u16::from(script.byte() % 8),
        };
        let properties = properties(script, self.version);
        let topic = topic(script);
        self.published += 1;
        let mut payload = self.published.to_be_bytes().to_vec();
        payload.resize(4 + usize::from(script.byte()), b'.');
        let unsent = self.session.fill().len();
        let queued = self.session.stats().queued;
        let published = self.session.publish(&PublishRef {
            dup: false,
            qos,
            retain: flags & 16 != 0,
            topic: &topic,
            packet_id,
            properties: &properties,
            payload: &payload,
        });
        // Messages given up for this one.
        for message in self.session.take_discarded() {
            self.accepted.remove(&message.packet_id);
        }
        match published {
            Ok(id) => {
                assert_eq!(id == 0, qos == QoS::AtMostOnce);
                assert!(packet_id == 0 || id == packet_id || id == 0);
                if id > 0 {
                    self.begin(id, Some(self.published));
                }
            }
            // A refused message is neither sent nor kept.
            Err(_) => {
                assert_eq!(self.session.fill().len(), unsent);
                assert!(self.session.stats().queued <= queued);
            }
        }
    }

    /// An exchange has begun. No other holds its identifier.
    fn begin(&mut self, id: u16, number: Option<u32>) {
        if self.prompt {
            let free = !self.accepted.contains_key(&id) && !self.requests.contains(&id);
            assert!(free && !self.server.awaits_answer(id), "{id} is in use");
        }
        match number {
            Some(number) => drop(self.accepted.insert(id, number)),
            None => drop(self.requests.insert(id)),
        }
    }

    fn subscribe(&mut self, script: &mut Script) {
        let options = script.byte();
        let subscription = |filter| Subscription {
            filter,
            qos: QoS::from_code(options & 3).unwrap_or_default(),
            no_local: options & 4 != 0,
            retain_as_published: options & 8 != 0,
            retain_handling: options >> 4 & 3,
        };
        let subscriptions = filters(script).into_iter().map(subscription).collect();
        let properties = properties(script, self.version);
        let unsent = self.session.fill().len();
        match self.session.subscribe(subscriptions, properties) {
            Ok(id) => self.begin(id, None),
            Err(_) => assert_eq!(self.session.fill().len(), unsent),
        }
    }

    fn unsubscribe(&mut self, script: &mut Script) {
        let (filters, properties) = (filters(script), properties(script, self.version));
        let unsent = self.session.fill().len();
        match self.session.unsubscribe(filters, properties) {
            Ok(id) => self.begin(id, None),
            Err(_) => assert_eq!(self.session.fill().len(), unsent),
        }
    }

    fn acknowledge(&mut self, script: &mut Script) {
        let id = u16::from(script.byte() % 8);
        let qos = QoS::from_code(script.byte() & 3).unwrap_or_default();
        let reason = script.pick(&[0, 0, 0, 0x10, 0x80, 0x97, 0x92]);
        let properties = properties(script, self.version);
        let done = self.session.acknowledge(id, qos, reason, properties);
        let refused = self.version == Version::V50 && reason >= 0x80;
        let counts = matches!(done, Ok(()) | Err(RequestError::NotConnected));
        if qos == QoS::ExactlyOnce
            && counts
            && let Some(delivery) = self.delivered.get_mut(&id)
            && *delivery != Delivery::Acknowledged
        {
            match refused {
                true => drop(self.delivered.remove(&id)),
                false => *delivery = Delivery::Acknowledged,
            }
        }
    }

    /// The broker sends a packet that is well-formed by itself.
    fn broker_packet(&mut self, script: &mut Script) {
        let (kind, id) = (script.byte(), u16::from(script.byte() % 8));
        let ack = |script: &mut Script, version| Ack {
            packet_id: id,
            reason: match version {
                Version::V311 => 0,
                Version::V50 => script.pick(&[0, 0, 0, 0x10, 0x80, 0x92]),
            },
            properties: properties(script, version),
        };
        let last = |script: &mut Script, version| Disconnect {
            reason: script.pick(&[0x18, 0, 0x8B, 0x19, 0x9C]),
            properties: properties(script, version),
        };
        let suback = |script: &mut Script, version| Suback {
            packet_id: id,
            reasons: script.bytes().to_vec(),
            properties: properties(script, version),
        };
        let version = self.version;
        let packet = match kind % 13 {
            0 | 1 => {
                let flags = script.byte();
                Packet::Connack(Connack {
                    session_present: flags & 1 != 0,
                    reason: if flags & 2 == 0 { 0 } else { flags },
                    properties: properties(script, version),
                })
            }
            2..=4 => {
                let flags = script.byte();
                let qos = QoS::from_code(flags & 3).unwrap_or_default();
                Packet::Publish(Publish {
                    dup: flags & 4 != 0,
                    qos,
                    retain: flags & 8 != 0,
                    packet_id: if qos == QoS::AtMostOnce { 0 } else { id },
                    properties: properties(script, version),
                    topic: Str::try_from(topic(script)).unwrap_or_default(),
                    payload: Bytes::copy_from_slice(script.bytes()),
                })
            }
            5 => Packet::Puback(ack(script, version)),
            6 => Packet::Pubrec(ack(script, version)),
            7 => Packet::Pubrel(ack(script, version)),
            8 => Packet::Pubcomp(ack(script, version)),
            9 => Packet::Suback(suback(script, version)),
            10 => Packet::Unsuback(suback(script, version)),
            11 => Packet::Pingresp,
            _ if script.byte() & 1 == 0 => Packet::Disconnect(last(script, version)),
            _ => Packet::Auth(last(script, version)),
        };
        // A packet that may not be sent is not sent.
        let _ = encode(&packet, version, &mut self.input);
        self.receive();
    }

    /// The driver gives the session the bytes that it has read, unless the session wants none.
    fn receive(&mut self) {
        while self.session.wants_receive() && !self.input.is_empty() {
            let mut rest = self.input.clone();
            let packet = match Decoder::new(self.version).decode(&mut rest) {
                Ok(packet) if self.prompt => packet,
                _ => None,
            };
            let Some(packet) = packet else {
                return self.receive_all();
            };
            self.settle();
            let mut bytes = self.input.split_to(self.input.len() - rest.len());
            let (state, unsent) = (self.session.state(), self.session.fill().len());
            self.session.receive(&mut bytes, self.now);
            assert!(bytes.is_empty());
            if self.session.state() == State::Connected {
                self.server.sends(&packet);
                if state == State::Connected {
                    let answers = self.session.fill()[unsent..].into();
                    self.check_answered(&packet, answers);
                }
            }
            self.take_event_of(&packet);
        }
    }

    fn receive_all(&mut self) {
        let before = self.session.queued_bytes();
        let most = before + EVENT + self.input.len() * BYTE;
        self.session.receive(&mut self.input, self.now);
        assert!(self.session.queued_bytes() <= most);
        assert!(self.input.is_empty() || self.session.state() != State::Disconnected);
    }

    /// QoS 2 exchanges go on whether their identifier is known or not.
    fn check_answered(&self, packet: &Packet, mut answers: BytesMut) {
        let (kind, id) = match packet {
            Packet::Pubrec(ack) if ack.reason < 0x80 => (PacketType::Pubrel, ack.packet_id),
            Packet::Pubrel(ack) => (PacketType::Pubcomp, ack.packet_id),
            _ => return,
        };
        let decoder = Decoder::new(self.version);
        let answers = std::iter::from_fn(|| decoder.decode(&mut answers).unwrap());
        let count = answers
            .filter(|answer| match answer {
                Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
                    answer.packet_type() == kind && ack.packet_id == id
                }
                _ => false,
            })
            .count();
        assert_eq!(count, 1, "answers to {packet:?}");
    }

    /// A packet is at most one event. A QoS 2 message comes once on a connection, and never after it was acknowledged.
    fn take_event_of(&mut self, packet: &Packet) {
        match packet {
            Packet::Pubrel(ack) => drop(self.delivered.remove(&ack.packet_id)),
            Packet::Connack(connack) if !connack.session_present => self.delivered.clear(),
            // The server uses the identifier for another message.
            Packet::Publish(publish) if publish.qos == QoS::AtLeastOnce => {
                self.delivered.remove(&publish.packet_id);
            }
            _ => {}
        }
        match self.session.poll_event() {
            Some(Event::Packet(event)) => {
                assert_eq!(event.packet_type(), packet.packet_type());
                assert!(!self.failed);
                if let Packet::Publish(publish) = &event
                    && publish.qos == QoS::ExactlyOnce
                {
                    let before = self.delivered.insert(publish.packet_id, Delivery::Now);
                    assert!(
                        matches!(before, None | Some(Delivery::Before)),
                        "{publish:?}"
                    );
                }
                self.end(&event);
            }
            Some(Event::Failed(failure)) => self.fail(&failure),
            Some(dropped) => panic!("{dropped:?} because of {packet:?}"),
            None => {}
        }
        // The program hears of each lost subscription and request.
        while let Some(event) = self.session.poll_event() {
            match (event, packet) {
                (Event::Withdrawn { packet_id, .. }, Packet::Connack(_)) => {
                    self.accepted.remove(&packet_id);
                }
                (Event::Unrenewed(_), Packet::Connack(_) | Packet::Suback(_)) => {}
                (event, packet) => panic!("{event:?} because of {packet:?}"),
            }
        }
    }

    /// The program learns that an exchange is over.
    fn end(&mut self, event: &Packet) {
        match event {
            Packet::Puback(ack) | Packet::Pubrec(ack) => {
                self.accepted.remove(&ack.packet_id);
            }
            Packet::Suback(suback) | Packet::Unsuback(suback) => {
                self.requests.remove(&suback.packet_id);
            }
            _ => {}
        }
    }

    fn take_event(&mut self) {
        let (had, queued) = (self.session.has_events(), self.session.queued_bytes());
        let event = self.session.poll_event();
        assert_eq!(event.is_some(), had);
        match event {
            Some(_) => assert!(self.session.queued_bytes() < queued),
            None => assert_eq!(queued, 0),
        }
        match event {
            Some(Event::Packet(packet)) => self.end(&packet),
            Some(
                Event::Dropped { packet_id, .. }
                | Event::Withdrawn { packet_id, .. }
                | Event::Discarded(Discarded { packet_id, .. }),
            ) => {
                self.accepted.remove(&packet_id);
                self.requests.remove(&packet_id);
            }
            Some(Event::Failed(failure)) => self.fail(&failure),
            Some(Event::Unrenewed(_) | Event::Identified { .. }) | None => {}
        }
    }

    /// A connection fails once, and gives a reason.
    fn fail(&mut self, failure: &Failure) {
        assert!(!failure.to_string().is_empty());
        assert!(!self.failed || !self.prompt, "{failure}");
        self.failed = true;
    }

    /// Time passes, and the session does its due work once.
    fn pass(&mut self, seconds: u8) {
        self.now += Duration::from_secs(seconds.into());
        // The deadlines: PINGREQ, its answer, CONNACK, and the pace of messages that have waited.
        for _ in 0..4 {
            if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
                self.session.handle_timeout(self.now);
                self.write(usize::MAX);
            }
        }
        assert!(self.session.poll_timeout().is_none_or(|at| at > self.now));
    }

    /// The driver writes up to `most` bytes, and the server reads them. Returns whether there were any.
    fn write(&mut self, most: usize) -> bool {
        let waiting = self.session.fill();
        let bytes = waiting.split_to(most.min(waiting.len()));
        if bytes.is_empty() {
            return false;
        }
        self.session.transmitted(bytes.len(), self.now);
        self.server.receives(&bytes, self.prompt);
        true
    }

    /// Checks the promises that hold at any time.
    fn check(&mut self) {
        let stats = self.session.stats();
        if self.session.state() == State::Disconnected {
            assert_eq!(self.session.poll_timeout(), None);
        }
        assert_eq!(self.session.has_events(), self.session.queued_bytes() > 0);
        assert!(stats.queued_bytes <= self.session.stored_bytes());
        if self.prompt && self.session.state() == State::Connected {
            self.check_nothing_lost(stats.queued);
        }
    }

    /// Each accepted and unacknowledged packet is with the server. Only a message may wait, and only because the
    /// server's receive maximum is reached, or for its turn among those that have waited for the connection.
    fn check_nothing_lost(&self, queued: usize) {
        for id in &self.requests {
            assert!(self.server.awaits_answer(*id), "{id}");
        }
        let backlog = self.session.settings().backlog.as_ref();
        let is_paced = backlog.is_some_and(|backlog| backlog.rate.is_some());
        if self.server.has_quota() && !is_paced {
            assert_eq!(queued, 0);
            for (id, number) in &self.accepted {
                assert_eq!(self.server.number(*id), Some(*number), "{id}");
            }
        } else {
            let unsent = self.accepted.iter().filter(|(id, number)| {
                !self.server.awaits_answer(**id) && !self.server.has_seen(**number)
            });
            assert!(unsent.count() <= queued);
        }
    }
}

/// A topic name or filter, well-formed or not.
fn topic(script: &mut Script) -> String {
    match script.byte() {
        0 => String::from_utf8_lossy(script.bytes()).into_owned(),
        1 => "a".repeat(200),
        choice => {
            ["a", "b", "", "a/+", "#", "$share/g/a", "a\0", "é"][usize::from(choice) % 8].into()
        }
    }
}

fn filters(script: &mut Script) -> Vec<Str> {
    let count = script.byte() % 4;
    (0..count)
        .filter_map(|_| Str::try_from(topic(script)).ok())
        .collect()
}

/// A few properties, allowed in their place or not. Mostly none.
fn properties(script: &mut Script, version: Version) -> Properties {
    if version == Version::V311 {
        return Properties::new();
    }
    let count = script.byte() % 16;
    let count = if count < 4 { count } else { 0 };
    let property = |_| {
        let id = script.pick(PropertyId::ALL);
        let value = match id.kind() {
            PropertyKind::Byte => PropertyValue::Byte(script.byte() % 3),
            PropertyKind::TwoByte => PropertyValue::TwoByte(u16::from(script.byte() % 8)),
            PropertyKind::FourByte => PropertyValue::FourByte(script.byte().into()),
            PropertyKind::VarInt => PropertyValue::VarInt(script.byte().into()),
            PropertyKind::String => PropertyValue::String(text(script)),
            PropertyKind::Binary => PropertyValue::Binary(Bytes::copy_from_slice(script.bytes())),
            PropertyKind::Pair => PropertyValue::Pair(text(script), text(script)),
        };
        Property { id, value }
    };
    (0..count).map(property).collect()
}

fn text(script: &mut Script) -> Str {
    Str::try_from(topic(script)).unwrap_or_default()
}
