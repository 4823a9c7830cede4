//! A whole session under arbitrary calls of its driver and its program, fed with arbitrary bytes of a broker. What the
//! session promises whatever they do is checked after each step.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::codec::*;
use crate::script::Script;
use crate::session::{Event, Limits, Session, State};

/// Plays `data`: the first byte chooses the version, the rest is a sequence of steps.
pub fn check_session(data: &[u8]) {
    let mut script = Script::new(data);
    let mut client = Client::new(&mut script);
    while !script.is_over() {
        client.step(&mut script);
        client.check();
    }
}

/// Bytes of queued events above which the session wants no more.
const MAX_QUEUED: usize = 2000;
/// What an event costs at most, and each byte of its packet: the shortest packets and properties have two bytes.
const EVENT: usize = 500;
const BYTE: usize = 150;

/// A session, what its driver knows, and what is expected of it.
struct Client {
    version: Version,
    session: Session,
    now: Instant,
    /// What was read and not taken yet.
    input: BytesMut,
    /// What was written, up to the last complete packet.
    output: BytesMut,
    /// Reads what was written, as a server does.
    server: Decoder,
    sent: Sent,
    /// A failure was reported on this connection.
    failed: bool,
    /// QoS 2 messages given to the program whose exchange has not ended. Kept if prompt.
    delivered: HashSet<u16>,
    /// Whether every packet is read alone and its event taken at once. Otherwise what is read and taken when is left to
    /// the script, and less can be said about it.
    prompt: bool,
}

/// How far the client's side of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sent {
    Nothing,
    Connect,
    Disconnect,
}

impl Client {
    fn new(script: &mut Script) -> Self {
        let options = script.byte();
        let version = match options & 1 {
            0 => Version::V311,
            _ => Version::V50,
        };
        let limits = Limits {
            max_packet_size: if options & 2 == 0 { 1 << 20 } else { 100 },
            max_queued_bytes: MAX_QUEUED,
            connack_timeout: (options & 4 == 0).then_some(Duration::from_secs(30)),
        };
        Self {
            version,
            session: Session::new(version, limits),
            now: Instant::now(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            server: Decoder::new(version),
            sent: Sent::Nothing,
            failed: false,
            delivered: HashSet::new(),
            prompt: options & 8 == 0,
        }
    }

    fn step(&mut self, script: &mut Script) {
        match script.byte() % 19 {
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
            17 => self.write(usize::from(script.byte())),
            _ => self.take_event(),
        }
        if self.prompt {
            while self.session.has_events() {
                self.take_event();
            }
        }
    }

    fn open(&mut self) {
        self.session.open(self.now);
        self.forget_connection();
    }

    fn close(&mut self) {
        self.session.close();
        self.forget_connection();
        assert_eq!(self.session.state(), State::Disconnected);
    }

    fn forget_connection(&mut self) {
        assert!(self.session.transmit().is_empty());
        self.input.clear();
        self.output.clear();
        self.sent = Sent::Nothing;
        self.failed = false;
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
        let _ = self.session.connect(&connect);
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
        let payload = vec![b'.'; usize::from(script.byte())];
        let published = self.session.publish(&PublishRef {
            dup: flags & 8 != 0,
            qos,
            retain: flags & 16 != 0,
            topic: &topic,
            packet_id,
            properties: &properties,
            payload: &payload,
        });
        if let Ok(id) = published {
            assert_eq!(id == 0, qos == QoS::AtMostOnce);
            assert!(packet_id == 0 || id == packet_id || id == 0);
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
        if let Ok(id) = self.session.subscribe(subscriptions, properties) {
            assert_ne!(id, 0);
        }
    }

    fn unsubscribe(&mut self, script: &mut Script) {
        let (filters, properties) = (filters(script), properties(script, self.version));
        if let Ok(id) = self.session.unsubscribe(filters, properties) {
            assert_ne!(id, 0);
        }
    }

    fn acknowledge(&mut self, script: &mut Script) {
        let id = u16::from(script.byte() % 8);
        let qos = QoS::from_code(script.byte() & 3).unwrap_or_default();
        let reason = script.pick(&[0, 0, 0, 0x10, 0x80, 0x97, 0x92]);
        let properties = properties(script, self.version);
        let connected = self.session.state() == State::Connected;
        let done = self.session.acknowledge(id, qos, reason, properties);
        let refused = self.version == Version::V50 && reason >= 0x80;
        if qos == QoS::ExactlyOnce && refused && (done.is_ok() || !connected) {
            self.delivered.remove(&id);
        }
    }

    /// The broker sends a packet that is as it should be in itself.
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
        // What may not be sent is not sent.
        let _ = encode(&packet, version, &mut self.input);
        self.receive();
    }

    /// The driver gives the session what was read, unless it wants nothing.
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
            let mut bytes = self.input.split_to(self.input.len() - rest.len());
            let (state, unsent) = (self.session.state(), self.session.transmit().len());
            self.session.receive(&mut bytes, self.now);
            assert!(bytes.is_empty());
            if state == State::Connected && self.session.state() == state {
                let answers = self.session.transmit()[unsent..].into();
                self.check_answered(&packet, answers);
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

    /// The exchanges of QoS 2 go on whether their identifier is known or not.
    fn check_answered(&self, packet: &Packet, mut answers: BytesMut) {
        let answers = std::iter::from_fn(|| self.server.decode(&mut answers).unwrap());
        let (kind, id) = match packet {
            Packet::Pubrec(ack) if ack.reason < 0x80 => (PacketType::Pubrel, ack.packet_id),
            Packet::Pubrel(ack) => (PacketType::Pubcomp, ack.packet_id),
            _ => return,
        };
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

    /// A packet is one event at most. A message of QoS 2 comes once.
    fn take_event_of(&mut self, packet: &Packet) {
        match packet {
            Packet::Pubrel(ack) => drop(self.delivered.remove(&ack.packet_id)),
            Packet::Connack(connack) if !connack.session_present => self.delivered.clear(),
            _ => {}
        }
        match self.session.poll_event() {
            Some(Event::Packet(event)) => {
                assert_eq!(event.packet_type(), packet.packet_type());
                assert!(!self.failed);
                if let Packet::Publish(publish) = event
                    && publish.qos == QoS::ExactlyOnce
                {
                    assert!(self.delivered.insert(publish.packet_id), "{publish:?}");
                }
            }
            Some(Event::Failed { message }) => self.fail(&message),
            None => {}
        }
        assert_eq!(self.session.poll_event(), None);
    }

    fn take_event(&mut self) {
        let (had, queued) = (self.session.has_events(), self.session.queued_bytes());
        let event = self.session.poll_event();
        assert_eq!(event.is_some(), had);
        match event {
            Some(_) => assert!(self.session.queued_bytes() < queued),
            None => assert_eq!(queued, 0),
        }
        if let Some(Event::Failed { message }) = event {
            self.fail(&message);
        }
    }

    /// A connection fails once, for a reason.
    fn fail(&mut self, message: &str) {
        assert!(!message.is_empty());
        assert!(!self.failed || !self.prompt, "{message}");
        self.failed = true;
    }

    /// Time passes, and what is due happens, once.
    fn pass(&mut self, seconds: u8) {
        self.now += Duration::from_secs(seconds.into());
        // PINGREQ, its answer, CONNACK.
        for _ in 0..3 {
            if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
                self.session.handle_timeout(self.now);
                self.write(usize::MAX);
            }
        }
        assert!(self.session.poll_timeout().is_none_or(|at| at > self.now));
    }

    /// The driver writes so many bytes, and a server reads them.
    fn write(&mut self, most: usize) {
        let waiting = self.session.transmit();
        let bytes = waiting.split_to(most.min(waiting.len()));
        if bytes.is_empty() {
            return;
        }
        self.session.transmitted(self.now);
        self.output.extend_from_slice(&bytes);
        while let Some(packet) = self.server.decode(&mut self.output).expect("well-formed") {
            self.check_sent(&packet);
        }
    }

    /// CONNECT first and once [MQTT-3.1.0-1, MQTT-3.1.0-2], nothing after DISCONNECT [MQTT-3.14.4-2], and nothing that
    /// only a server sends.
    fn check_sent(&mut self, packet: &Packet) {
        self.sent = match (self.sent, packet) {
            (Sent::Nothing, Packet::Connect(_)) => Sent::Connect,
            (Sent::Connect, Packet::Disconnect(_)) => Sent::Disconnect,
            (
                Sent::Connect,
                Packet::Publish(_)
                | Packet::Puback(_)
                | Packet::Pubrec(_)
                | Packet::Pubrel(_)
                | Packet::Pubcomp(_)
                | Packet::Subscribe(_)
                | Packet::Unsubscribe(_)
                | Packet::Pingreq
                | Packet::Auth(_),
            ) => Sent::Connect,
            (sent, packet) => panic!("{packet:?} after {sent:?}"),
        };
    }

    /// What holds at any time.
    fn check(&mut self) {
        if matches!(self.session.state(), State::Disconnected | State::Open) {
            assert_eq!(self.session.poll_timeout(), None);
        }
        assert_eq!(self.session.has_events(), self.session.queued_bytes() > 0);
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

/// A few properties, whether allowed where they go or not; mostly none.
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
