//! Work that is the same each time, to count its instructions: `instructions CASE ROUNDS`; see scripts/instructions.

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mqtt_core::codec::*;
use mqtt_core::session::{Event, Session, Settings};
use mqtt_core::topics::Filters;

/// The number of messages of a round: fewer than the unacknowledged QoS 2 messages that a 3.1.1 session may have.
const MESSAGES: u16 = 16;
const TOPIC: &str = "home/living/thermostat/setpoint";
const PAYLOAD: &[u8] = &[b'x'; 64];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let case = arguments.next().unwrap_or_default();
    let rounds = arguments.next().and_then(|word| word.parse().ok());
    // cargo passes `--bench`, for which this program has nothing to measure.
    if let (Some(rounds), "match") = (rounds, &*case) {
        return match_filters(rounds);
    }
    let (Some(rounds), Some((name, version))) = (rounds, case.rsplit_once('-')) else {
        return;
    };
    let version = match version {
        "v5" => Version::V50,
        _ => Version::V311,
    };
    match name {
        "decode" => decode(version, rounds),
        "encode" => encode_messages(version, rounds),
        "receive0" => receive(version, QoS::AtMostOnce, rounds),
        "receive1" => receive(version, QoS::AtLeastOnce, rounds),
        "receive2" => receive(version, QoS::ExactlyOnce, rounds),
        "publish0" => publish(version, QoS::AtMostOnce, rounds),
        "publish1" => publish(version, QoS::AtLeastOnce, rounds),
        "publish2" => publish(version, QoS::ExactlyOnce, rounds),
        _ => panic!("there is no case {case}"),
    }
}

/// The properties of a message: none in 3.1.1.
fn properties(version: Version) -> Properties {
    let mut properties = Properties::new();
    if version == Version::V50 {
        properties.push(Property {
            id: PropertyId::MessageExpiryInterval,
            value: PropertyValue::FourByte(60),
        });
    }
    properties
}

fn message(version: Version, qos: QoS, packet_id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Str::from_static(TOPIC),
        packet_id: if qos == QoS::AtMostOnce { 0 } else { packet_id },
        properties: properties(version),
        payload: Bytes::from_static(PAYLOAD),
    })
}

/// The bytes of a packet for each of the packet identifiers of a round.
fn bytes(version: Version, packet: impl Fn(u16) -> Packet) -> BytesMut {
    let mut out = BytesMut::new();
    for packet_id in 1..=MESSAGES {
        encode(&packet(packet_id), version, &mut out).expect("it can be encoded");
    }
    out
}

/// The bytes of an acknowledgement of each message.
fn acknowledgements(packet_type: PacketType, ids: impl IntoIterator<Item = u16>) -> BytesMut {
    let mut out = BytesMut::new();
    for id in ids {
        encode_ack(packet_type, id, &mut out);
    }
    out
}

fn decode(version: Version, rounds: u32) {
    let bytes = bytes(version, |id| message(version, QoS::AtMostOnce, id));
    let decoder = Decoder::new(version);
    let mut buffer = BytesMut::new();
    for _ in 0..rounds {
        buffer.extend_from_slice(&bytes);
        while let Some(packet) = decoder.decode(&mut buffer).expect("it can be decoded") {
            black_box(packet);
        }
    }
}

fn encode_messages(version: Version, rounds: u32) {
    let properties = properties(version);
    let message = PublishRef {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: TOPIC,
        packet_id: 0,
        properties: &properties,
        payload: PAYLOAD,
    };
    let mut out = BytesMut::new();
    for _ in 0..rounds {
        for _ in 0..MESSAGES {
            encode_publish(black_box(&message), version, &mut out).expect("it can be encoded");
        }
        out.clear();
    }
}

/// A session, its input and its time.
struct Client {
    session: Session,
    input: BytesMut,
    now: Instant,
}

impl Client {
    fn connected(version: Version) -> Self {
        let mut client = Self {
            session: Session::new(version, Settings::default()),
            input: BytesMut::new(),
            now: Instant::now(),
        };
        client.session.open(client.now);
        let connect = Connect {
            version,
            clean: true,
            keep_alive: 60,
            client_id: Str::from_static("instructions"),
            username: None,
            password: None,
            will: None,
            properties: Properties::new(),
        };
        client
            .session
            .connect(&connect)
            .expect("CONNECT is accepted");
        client.write();
        let mut connack = BytesMut::new();
        let packet = Packet::Connack(Connack {
            session_present: false,
            reason: 0,
            properties: Properties::new(),
        });
        encode(&packet, version, &mut connack).expect("it can be encoded");
        client.read(&connack);
        assert!(client.session.poll_event().is_some(), "CONNACK is an event");
        client
    }

    fn read(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.session.receive(&mut self.input, self.now);
    }

    fn write(&mut self) {
        let transmit = self.session.fill();
        let count = transmit.len();
        transmit.clear();
        self.session.transmitted(count, self.now);
    }
}

/// Receives, takes and acknowledges messages, with the whole exchange of QoS 2.
fn receive(version: Version, qos: QoS, rounds: u32) {
    let messages = bytes(version, |id| message(version, qos, id));
    let releases = acknowledgements(PacketType::Pubrel, 1..=MESSAGES);
    let mut client = Client::connected(version);
    for _ in 0..rounds {
        client.read(&messages);
        let mut count = 0;
        while let Some(event) = client.session.poll_event() {
            if let Event::Packet(Packet::Publish(message)) = black_box(event) {
                count += 1;
                if qos != QoS::AtMostOnce {
                    let acknowledged =
                        client
                            .session
                            .acknowledge(message.packet_id, qos, 0, Properties::new());
                    acknowledged.expect("it can be acknowledged");
                }
            }
        }
        assert_eq!(count, MESSAGES);
        client.write();
        if qos == QoS::ExactlyOnce {
            client.read(&releases);
            client.write();
        }
    }
}

/// Publishes messages, with the whole exchange of QoS 1 and 2.
fn publish(version: Version, qos: QoS, rounds: u32) {
    let properties = properties(version);
    let message = PublishRef {
        dup: false,
        qos,
        retain: false,
        topic: TOPIC,
        packet_id: 0,
        properties: &properties,
        payload: PAYLOAD,
    };
    let mut client = Client::connected(version);
    for _ in 0..rounds {
        let mut ids = [0; MESSAGES as usize];
        for id in &mut ids {
            *id = client
                .session
                .publish(black_box(&message))
                .expect("it is accepted");
        }
        client.write();
        match qos {
            QoS::AtMostOnce => continue,
            QoS::AtLeastOnce => client.read(&acknowledgements(PacketType::Puback, ids)),
            QoS::ExactlyOnce => {
                client.read(&acknowledgements(PacketType::Pubrec, ids));
                client.write();
                client.read(&acknowledgements(PacketType::Pubcomp, ids));
            }
        }
        let mut count = 0;
        while let Some(event) = client.session.poll_event() {
            black_box(event);
            count += 1;
        }
        assert_eq!(count, MESSAGES);
    }
}

/// Matches topic names of five levels against 100,000 filters, a tenth of them with `+`, a tenth with `#`. Each name matches
/// a plain filter, a filter with `+`, a filter with `#`, and three filters that match every name.
fn match_filters(rounds: u32) {
    let name = |number: u64, device| {
        let (site, line, cell) = (number / 1000 % 10, number / 10 % 100, number % 10);
        format!("site-{site}/line-{line}/cell-{cell}/device-{device}/value")
    };
    let mut filters = Filters::default();
    for key in 0..100_000 {
        let (number, device) = (key / 10, key % 10);
        let plain = name(number, device);
        let filter = match device {
            8 => format!(
                "site-{}/line-{}/+/device-{}/value",
                number / 1000,
                number / 10 % 100,
                number % 10
            ),
            9 => plain.replace("device-9/value", "#"),
            _ => plain,
        };
        filters.insert(&filter, key);
    }
    for (key, filter) in (100_000..).zip(["#", "+/+/+/+/value", "+/+/#"]) {
        filters.insert(filter, key);
    }
    let names: Vec<String> = (0..100 * u64::from(MESSAGES))
        .map(|i| name(i * 6007, i * 6007 % 10 % 8))
        .collect();
    for name in names
        .chunks(MESSAGES.into())
        .cycle()
        .take(rounds as usize)
        .flatten()
    {
        let count = filters.matches(black_box(name.as_bytes())).iter().count();
        assert_eq!(count, 6, "{name}");
    }
}
