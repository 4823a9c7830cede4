//! A session, a server that speaks the codec, the link between them, and the time. Nothing here judges the session.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mqtt_core::codec::*;
use mqtt_core::session::{Event, Session, Settings, State};
use proptest::test_runner::{Config as ProptestConfig, RngSeed};

pub const BOTH: [Version; 2] = [Version::V311, Version::V50];

/// Proptest draws the same cases every time, unless `PROPTEST_RNG_SEED` asks for others.
pub fn repeatable() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        rng_seed: match asked.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            fixed => fixed,
        },
        failure_persistence: None,
        ..asked
    }
}

/// The far end. It decodes the client's packets, sends the test's packets, and answers by itself if asked to.
pub struct Server {
    version: Version,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    received: Vec<Packet>,
    /// Whether CONNECT, PINGREQ, SUBSCRIBE, UNSUBSCRIBE and the packets of QoS 1 and 2 get the plain answer.
    pub answers: bool,
}

impl Server {
    pub fn send(&mut self, packet: Packet) {
        encode(&packet, self.version, &mut self.output).unwrap();
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// The packets received since the last call.
    pub fn received(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.received)
    }

    fn read(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
            if self.answers {
                self.answer(&packet);
            }
            self.received.push(packet);
        }
    }

    fn answer(&mut self, packet: &Packet) {
        let codes = |codes: Vec<u8>| match self.version {
            Version::V311 => Vec::new(),
            Version::V50 => codes,
        };
        let answer = match packet {
            Packet::Connect(_) => connack(0),
            Packet::Pingreq => Packet::Pingresp,
            Packet::Publish(publish) => match publish.qos {
                QoS::AtMostOnce => return,
                QoS::AtLeastOnce => puback(publish.packet_id, 0),
                QoS::ExactlyOnce => pubrec(publish.packet_id, 0),
            },
            Packet::Pubrec(ack) => pubrel(ack.packet_id, 0),
            Packet::Pubrel(ack) => pubcomp(ack.packet_id, 0),
            Packet::Subscribe(subscribe) => suback(
                subscribe.packet_id,
                subscribe
                    .subscriptions
                    .iter()
                    .map(|s| s.qos as u8)
                    .collect(),
            ),
            Packet::Unsubscribe(unsubscribe) => unsuback(
                unsubscribe.packet_id,
                codes(vec![0; unsubscribe.filters.len()]),
            ),
            _ => return,
        };
        self.send(answer);
    }
}

/// Both ends, the link and the clock.
pub struct Pair {
    pub client: Session,
    pub server: Server,
    pub now: Instant,
    /// The most bytes that the link moves at a time.
    pub chunk: usize,
    /// Bytes that the client's driver has read and the session has not taken.
    input: BytesMut,
}

impl Pair {
    /// The transport is up. No packet has been sent.
    pub fn open(version: Version) -> Self {
        Self::with_settings(version, Settings::default())
    }

    pub fn with_settings(version: Version, settings: Settings) -> Self {
        let mut pair = Self {
            client: Session::new(version, settings),
            server: Server {
                version,
                decoder: Decoder::new(version),
                input: BytesMut::new(),
                output: BytesMut::new(),
                received: Vec::new(),
                answers: false,
            },
            now: Instant::now(),
            chunk: usize::MAX,
            input: BytesMut::new(),
        };
        pair.client.open(pair.now);
        pair
    }

    /// CONNECT has been sent and received.
    pub fn connecting(connect: Connect) -> Self {
        let mut pair = Self::open(connect.version);
        pair.connect(connect);
        pair
    }

    /// The server has accepted. No packet is under way.
    pub fn connected(version: Version) -> Self {
        Self::accepted(connect(version), Properties::new())
    }

    /// The server has accepted this CONNECT with these properties.
    pub fn accepted(connect: Connect, properties: Properties) -> Self {
        let mut pair = Self::connecting(connect);
        pair.server.send(Packet::Connack(Connack {
            session_present: false,
            reason: 0,
            properties,
        }));
        pair.drive();
        assert_eq!(pair.client.state(), State::Connected);
        pair.packets();
        pair
    }

    /// Sends CONNECT on an open connection.
    pub fn connect(&mut self, connect: Connect) {
        self.client.connect(&connect).unwrap();
        self.drive();
        assert_eq!(self.server.received(), [Packet::Connect(Box::new(connect))]);
    }

    /// The connection breaks, and a new one is opened. Bytes under way are lost.
    pub fn reconnect(&mut self) {
        self.client.close();
        self.server.input.clear();
        self.server.output.clear();
        self.input.clear();
        self.client.open(self.now);
    }

    /// Lets the link move bytes until all is quiet.
    pub fn drive(&mut self) {
        while self.carry_to_server(self.chunk) | self.carry_to_client(self.chunk) {}
    }

    /// Moves up to `most` bytes. Returns whether there were any.
    pub fn carry_to_server(&mut self, most: usize) -> bool {
        let waiting = self.client.fill();
        let bytes = waiting.split_to(most.min(waiting.len()));
        if !bytes.is_empty() {
            self.client.transmitted(bytes.len(), self.now);
            self.server.read(&bytes);
        }
        !bytes.is_empty()
    }

    /// Moves up to `most` bytes. Returns whether there were any.
    pub fn carry_to_client(&mut self, most: usize) -> bool {
        let waiting = &mut self.server.output;
        let bytes = waiting.split_to(most.min(waiting.len()));
        self.input.extend_from_slice(&bytes);
        self.client.receive(&mut self.input, self.now);
        !bytes.is_empty()
    }

    /// Lets time pass, and stops at every deadline on the way.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.client.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(deadline);
            self.client.handle_timeout(self.now);
            self.drive();
        }
        self.now = end;
    }

    pub fn advance_seconds(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    /// The server sends this packet. Returns the packets that the user sees of it.
    pub fn deliver(&mut self, packet: Packet) -> Vec<Packet> {
        self.server.send(packet);
        self.drive();
        self.packets()
    }

    /// All events since the last call, none of which may be a failure.
    pub fn packets(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.client.poll_event())
            .map(|event| match event {
                Event::Packet(packet) => packet,
                Event::Dropped { packet_id, reason } => panic!("dropped {packet_id}: {reason}"),
                Event::Discarded(message) => panic!("discarded {message:?}"),
                Event::Withdrawn { packet_id, .. } => panic!("withdrawn {packet_id}"),
                Event::Identified { packet_id, .. } => panic!("identified {packet_id}"),
                Event::Unrenewed(unrenewed) => panic!("{unrenewed}"),
                Event::Failed(failure) => panic!("failed: {failure}"),
            })
            .collect()
    }

    /// The packets that the server receives. The user must see none.
    pub fn answers(&mut self) -> Vec<Packet> {
        self.drive();
        assert_eq!(self.packets(), []);
        self.server.received()
    }

    /// The failure's text. The failure must be the only event. The server gets a DISCONNECT with this reason code, or
    /// none.
    pub fn failure(&mut self, disconnect: Option<u8>) -> String {
        self.drive();
        let Some(Event::Failed(failure)) = self.client.poll_event() else {
            panic!("expected a failure");
        };
        assert_eq!(self.client.poll_event(), None);
        assert_eq!(self.client.state(), State::Disconnected);
        assert_eq!(self.client.poll_timeout(), None);
        assert!(self.input.is_empty(), "bytes are left");
        let received = self.server.received();
        let expected: Vec<Packet> = disconnect.map(disconnect_packet).into_iter().collect();
        assert_eq!(received, expected, "{failure}");
        failure.to_string()
    }

    /// The server sends this packet, which breaks a rule. A server of 5.0 is told `reason`.
    pub fn violation(&mut self, packet: Packet, reason: u8) -> String {
        self.server.send(packet);
        let version = self.client.version();
        self.failure((version == Version::V50).then_some(reason))
    }

    pub fn publish(&mut self, qos: QoS) -> u16 {
        self.client.publish(&message(qos)).unwrap()
    }

    pub fn acknowledge(&mut self, packet_id: u16, qos: QoS) {
        self.client
            .acknowledge(packet_id, qos, 0, Properties::new())
            .unwrap();
    }
}

pub const NO_PROPERTIES: &Properties = &Properties::new();

/// A PUBLISH for the client to send.
pub fn message(qos: QoS) -> PublishRef<'static> {
    PublishRef {
        dup: false,
        qos,
        retain: false,
        topic: "t",
        packet_id: 0,
        properties: NO_PROPERTIES,
        payload: b"payload",
    }
}

/// A PUBLISH for the server to send.
pub fn publish(qos: QoS, packet_id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Str::from_static("t"),
        packet_id,
        properties: Properties::new(),
        payload: Bytes::from_static(b"payload"),
    })
}

pub fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean: true,
        keep_alive: 60,
        client_id: Str::from_static("client"),
        username: None,
        password: None,
        will: None,
        properties: Properties::new(),
    }
}

pub fn subscription(filter: &'static str) -> Subscription {
    Subscription {
        filter: Str::from_static(filter),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    }
}

pub fn properties<const N: usize>(list: [(PropertyId, PropertyValue); N]) -> Properties {
    list.into_iter()
        .map(|(id, value)| Property { id, value })
        .collect()
}

pub fn connack(reason: u8) -> Packet {
    Packet::Connack(Connack {
        session_present: false,
        reason,
        properties: Properties::new(),
    })
}

pub fn session_present(reason: u8) -> Packet {
    Packet::Connack(Connack {
        session_present: true,
        reason,
        properties: Properties::new(),
    })
}

fn ack(packet_id: u16, reason: u8) -> Ack {
    Ack {
        packet_id,
        reason,
        properties: Properties::new(),
    }
}

pub fn puback(packet_id: u16, reason: u8) -> Packet {
    Packet::Puback(ack(packet_id, reason))
}

pub fn pubrec(packet_id: u16, reason: u8) -> Packet {
    Packet::Pubrec(ack(packet_id, reason))
}

pub fn pubrel(packet_id: u16, reason: u8) -> Packet {
    Packet::Pubrel(ack(packet_id, reason))
}

pub fn pubcomp(packet_id: u16, reason: u8) -> Packet {
    Packet::Pubcomp(ack(packet_id, reason))
}

pub fn suback(packet_id: u16, reasons: Vec<u8>) -> Packet {
    Packet::Suback(Suback {
        packet_id,
        reasons,
        properties: Properties::new(),
    })
}

pub fn unsuback(packet_id: u16, reasons: Vec<u8>) -> Packet {
    Packet::Unsuback(Suback {
        packet_id,
        reasons,
        properties: Properties::new(),
    })
}

pub fn disconnect_packet(reason: u8) -> Packet {
    Packet::Disconnect(Disconnect {
        reason,
        ..Disconnect::default()
    })
}

/// "Packet Identifier not found", which only 5.0 has.
pub fn not_found(version: Version) -> u8 {
    match version {
        Version::V311 => 0,
        Version::V50 => 0x92,
    }
}
