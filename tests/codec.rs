//! Properties of any packet and any bytes: round trips, any split of a stream, no panic.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use mqtt_core::codec::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V311), Just(Version::V50)]
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..=2u8).prop_map(|code| QoS::from_code(code).unwrap())
}

fn str(text: impl Strategy<Value = String>) -> impl Strategy<Value = Str> {
    text.prop_map(|text| Str::try_from(text).unwrap())
}

fn text() -> impl Strategy<Value = Str> {
    str("[^\0]{0,40}")
}

fn topic_name() -> impl Strategy<Value = Str> {
    str("[^\0+#]{1,40}")
}

fn topic_filter() -> impl Strategy<Value = Str> {
    str("[^\0+#/$]{1,8}(/([+]|[^\0+#/]{0,8})){0,5}(/#)?|#|[$]share/g/[+]/#")
}

fn binary() -> impl Strategy<Value = Bytes> {
    // Sometimes long enough for a remaining length of three bytes.
    prop_oneof![4 => vec(any::<u8>(), 0..200), 1 => vec(any::<u8>(), 16_000..17_000)]
        .prop_map(Bytes::from)
}

/// Values that are allowed for every property of the kind.
fn property_value(kind: PropertyKind) -> BoxedStrategy<PropertyValue> {
    use PropertyValue::*;
    match kind {
        PropertyKind::Byte => (0..=1u8).prop_map(Byte).boxed(),
        PropertyKind::TwoByte => (1..=u16::MAX).prop_map(TwoByte).boxed(),
        PropertyKind::FourByte => (1..=u32::MAX).prop_map(FourByte).boxed(),
        PropertyKind::VarInt => (1..=268_435_455u32).prop_map(VarInt).boxed(),
        PropertyKind::String => topic_name().prop_map(String).boxed(),
        PropertyKind::Binary => binary().prop_map(Binary).boxed(),
        PropertyKind::Pair => (text(), text())
            .prop_map(|(name, value)| Pair(name, value))
            .boxed(),
    }
}

/// Properties that the holder may carry, in any order. None in 3.1.1.
fn properties(version: Version, holder: impl Into<PropertyHolder>) -> BoxedStrategy<Properties> {
    if version == Version::V311 {
        return Just(Properties::new()).boxed();
    }
    let holder = holder.into();
    let allowed: Vec<_> = PropertyId::ALL
        .iter()
        .copied()
        .filter(|id| id.allowed_in(holder))
        .collect();
    let property = prop::sample::select(allowed).prop_flat_map(|id| {
        property_value(id.kind()).prop_map(move |value| Property { id, value })
    });
    let list = vec(property, 0..8).prop_map(move |list| {
        let mut properties = Properties::new();
        for property in list {
            if property.id.repeats_in(holder) || properties.first(property.id).is_none() {
                properties.push(property);
            }
        }
        let is_auth = holder == PacketType::Auth.into() && !properties.is_empty();
        let needs_method = is_auth || properties.first(PropertyId::AuthenticationData).is_some();
        if needs_method && properties.first(PropertyId::AuthenticationMethod).is_none() {
            let value = PropertyValue::String(Str::from_static("method"));
            properties.push(Property {
                id: PropertyId::AuthenticationMethod,
                value,
            });
        }
        properties
    });
    list.boxed()
}

fn connect(version: Version) -> impl Strategy<Value = Packet> {
    let will = (
        topic_name(),
        binary(),
        qos(),
        any::<bool>(),
        properties(version, PropertyHolder::Will),
    )
        .prop_map(|(topic, payload, qos, retain, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            properties,
        });
    (
        any::<bool>(),
        any::<u16>(),
        text(),
        option::of(text()),
        option::of(binary()),
        option::of(will),
        properties(version, PacketType::Connect),
    )
        .prop_map(
            move |(clean, keep_alive, client_id, username, password, will, properties)| {
                let is_v311 = version == Version::V311;
                Packet::Connect(Box::new(Connect {
                    version,
                    clean: clean || is_v311 && client_id.is_empty(),
                    keep_alive,
                    client_id,
                    password: password.filter(|_| !is_v311 || username.is_some()),
                    username,
                    will,
                    properties,
                }))
            },
        )
}

fn connack(version: Version) -> impl Strategy<Value = Packet> {
    (
        any::<bool>(),
        any::<u8>(),
        properties(version, PacketType::Connack),
    )
        .prop_map(|(session_present, reason, properties)| {
            Packet::Connack(Connack {
                session_present,
                reason,
                properties,
            })
        })
}

fn publish(version: Version) -> impl Strategy<Value = Packet> {
    let flags = (any::<bool>(), qos(), any::<bool>());
    (
        flags,
        topic_name(),
        any::<bool>(),
        1..=u16::MAX,
        properties(version, PacketType::Publish),
        binary(),
    )
        .prop_map(
            |((dup, qos, retain), topic, use_alias, packet_id, properties, payload)| {
                let has_alias = properties.first(PropertyId::TopicAlias).is_some();
                let has_id = qos != QoS::AtMostOnce;
                Packet::Publish(Publish {
                    dup: dup && has_id,
                    qos,
                    retain,
                    topic: if use_alias && has_alias {
                        Str::default()
                    } else {
                        topic
                    },
                    packet_id: if has_id { packet_id } else { 0 },
                    properties,
                    payload,
                })
            },
        )
}

/// A reason code and properties, if the version has them.
fn outcome(version: Version, packet_type: PacketType) -> impl Strategy<Value = Disconnect> {
    (any::<u8>(), properties(version, packet_type)).prop_map(move |(reason, properties)| {
        let reason = if version == Version::V311 { 0 } else { reason };
        Disconnect { reason, properties }
    })
}

fn ack(
    version: Version,
    packet_type: PacketType,
    packet: fn(Ack) -> Packet,
) -> BoxedStrategy<Packet> {
    (1..=u16::MAX, outcome(version, packet_type))
        .prop_map(move |(packet_id, Disconnect { reason, properties })| {
            packet(Ack {
                packet_id,
                reason,
                properties,
            })
        })
        .boxed()
}

fn subscribe(version: Version) -> impl Strategy<Value = Packet> {
    let subscription = (topic_filter(), qos(), any::<bool>(), any::<bool>(), 0..=2u8).prop_map(
        move |(filter, qos, no_local, retain_as_published, retain_handling)| {
            let has_options = version == Version::V50;
            Subscription {
                qos,
                no_local: has_options && no_local && !filter.starts_with("$share/"),
                retain_as_published: has_options && retain_as_published,
                retain_handling: if has_options { retain_handling } else { 0 },
                filter,
            }
        },
    );
    (
        1..=u16::MAX,
        vec(subscription, 1..5),
        properties(version, PacketType::Subscribe),
    )
        .prop_map(|(packet_id, subscriptions, properties)| {
            Packet::Subscribe(Subscribe {
                packet_id,
                subscriptions,
                properties,
            })
        })
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Packet> {
    (
        1..=u16::MAX,
        vec(topic_filter(), 1..5),
        properties(version, PacketType::Unsubscribe),
    )
        .prop_map(|(packet_id, filters, properties)| {
            Packet::Unsubscribe(Unsubscribe {
                packet_id,
                filters,
                properties,
            })
        })
}

fn suback(
    version: Version,
    packet_type: PacketType,
    packet: fn(Suback) -> Packet,
    count: Range<usize>,
) -> BoxedStrategy<Packet> {
    (
        1..=u16::MAX,
        vec(any::<u8>(), count),
        properties(version, packet_type),
    )
        .prop_map(move |(packet_id, reasons, properties)| {
            packet(Suback {
                packet_id,
                reasons,
                properties,
            })
        })
        .boxed()
}

/// Any packet that the version has and allows.
fn packet(version: Version) -> BoxedStrategy<Packet> {
    use PacketType as Type;
    let unsuback_count = if version == Version::V311 { 0..1 } else { 1..5 };
    let common = prop_oneof![
        connect(version),
        connack(version),
        publish(version),
        ack(version, Type::Puback, Packet::Puback),
        ack(version, Type::Pubrec, Packet::Pubrec),
        ack(version, Type::Pubrel, Packet::Pubrel),
        ack(version, Type::Pubcomp, Packet::Pubcomp),
        subscribe(version),
        suback(version, Type::Suback, Packet::Suback, 1..5),
        unsubscribe(version),
        suback(version, Type::Unsuback, Packet::Unsuback, unsuback_count),
        Just(Packet::Pingreq),
        Just(Packet::Pingresp),
        outcome(version, Type::Disconnect).prop_map(Packet::Disconnect),
    ];
    match version {
        Version::V311 => common.boxed(),
        Version::V50 => {
            prop_oneof![14 => common, 1 => outcome(version, Type::Auth).prop_map(Packet::Auth)]
                .boxed()
        }
    }
}

/// A stream of packets with their version.
fn stream() -> impl Strategy<Value = (Version, Vec<Packet>)> {
    version().prop_flat_map(|version| (Just(version), vec(packet(version), 1..6)))
}

fn encode_all(version: Version, packets: &[Packet]) -> BytesMut {
    let mut out = BytesMut::new();
    for packet in packets {
        encode(packet, version, &mut out).unwrap();
    }
    out
}

/// All packets that come out when the bytes arrive in such pieces, up to the first error.
fn decode_pieces<'a>(
    version: Version,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Packet>, Option<DecodeError>) {
    let decoder = Decoder::new(version);
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back((version, packets) in stream()) {
        let bytes = encode_all(version, &packets);
        prop_assert_eq!(decode_pieces(version, [&bytes[..]]), (packets, None));
    }

    #[test]
    fn any_split_reads_alike(
        (version, packets) in stream(),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = encode_all(version, &packets);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        prop_assert_eq!(decode_pieces(version, pieces), (packets, None));
    }

    #[test]
    fn broken_packets_fail_alike_in_any_split(
        (version, packets) in stream(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode_all(version, &packets);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let whole = decode_pieces(version, [&bytes[..]]);
        prop_assert_eq!(decode_pieces(version, bytes.chunks(1)), whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(version in version(), bytes in vec(any::<u8>(), 0..100)) {
        let whole = decode_pieces(version, [&bytes[..]]);
        prop_assert_eq!(decode_pieces(version, bytes.chunks(1)), whole);
        if let Some((first_byte, body)) = bytes.split_first() {
            let body = Bytes::copy_from_slice(body);
            let _ = decode_connect(*first_byte, body.clone(), None);
            let _ = decode_frame(version, *first_byte, body);
        }
    }

    #[test]
    fn a_connect_says_its_version(
        (version, connect) in version().prop_flat_map(|version| (Just(version), connect(version))),
    ) {
        let bytes = encode_all(version, std::slice::from_ref(&connect)).freeze();
        let header = decode_header(version, &bytes).unwrap().unwrap();
        let read = decode_connect(bytes[0], bytes.slice(header.size..), None);
        prop_assert_eq!(Packet::Connect(Box::new(read.unwrap())), connect);
    }
}

#[test]
fn debug_hides_secrets() {
    let data = |id, value: &'static str| Property {
        id,
        value: PropertyValue::Binary(Bytes::from_static(value.as_bytes())),
    };
    let packet = Packet::Connect(Box::new(Connect {
        version: Version::V50,
        clean: true,
        keep_alive: 0,
        client_id: Str::from_static("client"),
        username: Some(Str::from_static("user")),
        password: Some("hunter2".into()),
        will: None,
        properties: [
            data(PropertyId::AuthenticationData, "hunter3"),
            data(PropertyId::CorrelationData, "shown"),
        ]
        .into_iter()
        .collect(),
    }));
    let shown = format!("{packet:?}");
    assert!(
        shown.contains("\"user\"") && shown.contains("shown"),
        "{shown}"
    );
    assert!(!shown.contains("hunter"), "{shown}");
}
