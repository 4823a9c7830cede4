//! Decodes packets: the incremental decoder, and the layout of each packet (3.1 to 3.15).

use bytes::{Buf, Bytes, BytesMut};

use super::error::Fault;
use super::wire::{self, Reader, VarInt};
use super::{
    Ack, Connack, Connect, DecodeError, Disconnect, Packet, PacketType, Properties, PropertyHolder,
    Publish, QoS, Str, Suback, Subscribe, Subscription, Unsubscribe, Version, Will, reason, rules,
};

/// Takes packets off the front of a byte stream, in whatever pieces the stream arrives.
#[derive(Clone, Debug)]
pub struct Decoder {
    version: Version,
    max_packet_size: u32,
}

impl Decoder {
    /// A decoder for a connection of a version. Only the protocol limits its packets.
    pub fn new(version: Version) -> Self {
        let max_packet_size = u32::MAX;
        Self {
            version,
            max_packet_size,
        }
    }

    /// Refuses packets of more bytes than this, fixed header included (3.1.2.11.4).
    pub fn set_max_packet_size(&mut self, size: u32) {
        self.max_packet_size = size;
    }

    /// Takes a packet off the buffer. Returns None, and leaves the buffer alone, if it holds no complete packet. Long
    /// strings and the payload are slices of the buffer's memory. After an error, the rest of the stream has no
    /// meaning.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = decode_header(self.version, buffer)? else {
            return Ok(None);
        };
        let length = header.remaining_length as usize;
        let size = header.size + length;
        if size > self.max_packet_size as usize {
            let max = self.max_packet_size;
            let rule = format!("packet must be at most {max} bytes long, got {size}");
            return Err(Fault::new(reason::PACKET_TOO_LARGE, rule).decoding(header.packet_type));
        }
        if buffer.len() < size {
            return Ok(None);
        }
        buffer.advance(header.size);
        let body = buffer.split_to(length).freeze();
        decode_body(self.version, header.packet_type, header.flags, body).map(Some)
    }
}

/// Fixed header of a packet (2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// Type of the packet.
    pub packet_type: PacketType,
    /// The low half of the first byte.
    pub flags: u8,
    /// How many bytes follow the fixed header.
    pub remaining_length: u32,
    /// How many bytes the fixed header takes.
    pub size: usize,
}

/// Reads the fixed header at the start of the bytes. Returns None if they do not hold all of it.
pub fn decode_header(version: Version, bytes: &[u8]) -> Result<Option<FixedHeader>, DecodeError> {
    let Some((&first_byte, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let (packet_type, flags) = check_first_byte(version, first_byte)?;
    match VarInt::peek(rest) {
        // 3.1.1 does not ask for the shortest form (2.2.3).
        VarInt::Complete(length, size)
            if version == Version::V311 || size == wire::var_int_len(length) =>
        {
            Ok(Some(FixedHeader {
                packet_type,
                flags,
                remaining_length: length,
                size: 1 + size,
            }))
        }
        VarInt::Complete(..) => Err(wire::not_minimal("remaining length").decoding(packet_type)),
        VarInt::Incomplete => Ok(None),
        VarInt::TooLong => Err(wire::too_long("remaining length").decoding(packet_type)),
    }
}

/// Decodes a packet from its first byte and all that follows its fixed header.
pub fn decode_frame(version: Version, first_byte: u8, body: Bytes) -> Result<Packet, DecodeError> {
    let (packet_type, flags) = check_first_byte(version, first_byte)?;
    decode_body(version, packet_type, flags, body)
}

/// Decodes a CONNECT as [`decode_frame`] does, of the expected version, or of either version if none is expected.
pub fn decode_connect(
    first_byte: u8,
    body: Bytes,
    expected: Option<Version>,
) -> Result<Connect, DecodeError> {
    let (packet_type, _) = check_first_byte(expected.unwrap_or(Version::V50), first_byte)?;
    if packet_type != PacketType::Connect {
        let fault = Fault::protocol("expecting a CONNECT as the first packet");
        return Err(fault.decoding(packet_type));
    }
    connect(Reader::new(body), expected).map_err(|fault| fault.decoding(packet_type))
}

/// Splits a packet's first byte into type and flags (2.1.2, 2.1.3).
#[inline]
fn check_first_byte(version: Version, first_byte: u8) -> Result<(PacketType, u8), DecodeError> {
    let (code, flags) = (first_byte >> 4, first_byte & 0x0F);
    let packet_type = match PacketType::from_code(code) {
        Some(PacketType::Auth) if version == Version::V311 => None,
        packet_type => packet_type,
    };
    let Some(packet_type) = packet_type else {
        let rule = format!("packet type {code} is reserved in MQTT {version}");
        return Err(Fault::malformed(rule).decoding(None));
    };
    let expected = match packet_type {
        PacketType::Publish => return check_publish_flags(version, flags),
        _ => rules::fixed_flags(packet_type),
    };
    match flags == expected {
        true => Ok((packet_type, flags)),
        false => {
            let rule = format!("unexpected flags value: {flags}");
            Err(Fault::malformed(rule).decoding(packet_type))
        }
    }
}

#[inline]
fn check_publish_flags(version: Version, flags: u8) -> Result<(PacketType, u8), DecodeError> {
    let fault = match (flags >> 1 & 3, flags & 8 != 0) {
        (3, _) => Fault::malformed("QoS must be 0, 1 or 2, got 3"),
        // [MQTT-3.3.1-2] holds in 5.0 too, but the original library reads such a packet.
        (0, true) if version == Version::V311 => Fault::protocol(rules::DUP_WITH_QOS_0),
        _ => return Ok((PacketType::Publish, flags)),
    };
    Err(fault.decoding(PacketType::Publish))
}

#[inline]
fn decode_body(
    version: Version,
    packet_type: PacketType,
    flags: u8,
    body: Bytes,
) -> Result<Packet, DecodeError> {
    let from = Reader::new(body);
    let packet = match packet_type {
        PacketType::Connect => {
            connect(from, Some(version)).map(|connect| Packet::Connect(Box::new(connect)))
        }
        PacketType::Connack => connack(from, version).map(Packet::Connack),
        PacketType::Publish => publish(from, version, flags).map(Packet::Publish),
        PacketType::Puback => ack(from, version, packet_type).map(Packet::Puback),
        PacketType::Pubrec => ack(from, version, packet_type).map(Packet::Pubrec),
        PacketType::Pubrel => ack(from, version, packet_type).map(Packet::Pubrel),
        PacketType::Pubcomp => ack(from, version, packet_type).map(Packet::Pubcomp),
        PacketType::Subscribe => subscribe(from, version).map(Packet::Subscribe),
        PacketType::Suback => suback(from, version, packet_type).map(Packet::Suback),
        PacketType::Unsubscribe => unsubscribe(from, version).map(Packet::Unsubscribe),
        PacketType::Unsuback => suback(from, version, packet_type).map(Packet::Unsuback),
        PacketType::Pingreq => from.finish().map(|()| Packet::Pingreq),
        PacketType::Pingresp => from.finish().map(|()| Packet::Pingresp),
        PacketType::Disconnect => disconnect(from, version, packet_type).map(Packet::Disconnect),
        PacketType::Auth => disconnect(from, version, packet_type).map(Packet::Auth),
    };
    packet.map_err(|fault| fault.decoding(packet_type))
}

#[inline]
fn properties(
    from: &mut Reader,
    version: Version,
    holder: impl Into<PropertyHolder>,
) -> Result<Properties, Fault> {
    match version {
        Version::V311 => Ok(Properties::new()),
        Version::V50 => Properties::read(from, holder.into()),
    }
}

#[inline]
fn packet_id(from: &mut Reader) -> Result<u16, Fault> {
    let packet_id = from.two_byte("packet identifier")?;
    rules::packet_id(packet_id)?;
    Ok(packet_id)
}

fn connect(mut from: Reader, expected: Option<Version>) -> Result<Connect, Fault> {
    let name = from.binary("protocol name")?;
    if name != "MQTT" {
        let name = String::from_utf8_lossy(&name);
        let rule = format!("protocol name must be \"MQTT\", got {name:?}");
        return Err(Fault::new(reason::UNSUPPORTED_PROTOCOL_VERSION, rule));
    }
    let level = from.byte("protocol version")?;
    let version = match (Version::from_code(level), expected) {
        (Some(version), None) => version,
        (Some(version), Some(expected)) if version == expected => version,
        _ => {
            let expected = match expected {
                Some(version) => (version as u8).to_string(),
                None => "4 or 5".to_owned(),
            };
            let rule = format!("protocol version must be {expected}, got {level}");
            return Err(Fault::new(reason::UNSUPPORTED_PROTOCOL_VERSION, rule));
        }
    };
    let flags = from.byte("connect flags")?;
    let is_set = |bit: u8| flags & 1 << bit != 0;
    if is_set(0) {
        return Err(Fault::malformed("connect flags must have bit 0 clear"));
    }
    let (has_will, has_password, has_username) = (is_set(2), is_set(6), is_set(7));
    let Some(will_qos) = QoS::from_code(flags >> 3 & 3) else {
        return Err(Fault::malformed("will QoS must be 0, 1 or 2, got 3"));
    };
    let will_retain = is_set(5);
    if !has_will && (will_qos != QoS::AtMostOnce || will_retain) {
        return Err(Fault::malformed(
            "will QoS and will retain must be 0 without a will",
        ));
    }
    rules::credentials(version, has_username, has_password)?;
    let keep_alive = from.two_byte("keep alive")?;
    let connect_properties = properties(&mut from, version, PacketType::Connect)?;
    let client_id = from.string("client identifier")?;
    let will = match has_will {
        true => Some(will(&mut from, version, will_qos, will_retain)?),
        false => None,
    };
    let username = match has_username {
        true => Some(from.string("user name")?),
        false => None,
    };
    let password = match has_password {
        true => Some(from.binary("password")?),
        false => None,
    };
    from.finish()?;
    Ok(Connect {
        version,
        clean: is_set(1),
        keep_alive,
        client_id,
        username,
        password,
        will,
        properties: connect_properties,
    })
}

fn will(from: &mut Reader, version: Version, qos: QoS, retain: bool) -> Result<Will, Fault> {
    let properties = properties(from, version, PropertyHolder::Will)?;
    let topic = from.string("will topic")?;
    rules::topic_name(topic.as_bytes(), "will topic")?;
    Ok(Will {
        topic,
        payload: from.binary("will payload")?,
        qos,
        retain,
        properties,
    })
}

fn connack(mut from: Reader, version: Version) -> Result<Connack, Fault> {
    let flags = from.byte("connect acknowledge flags")?;
    if flags > 1 {
        let rule = format!("connect acknowledge flags must be 0 or 1, got {flags}");
        return Err(Fault::malformed(rule));
    }
    // Session present with a refusal breaks [MQTT-3.2.2-6], but the original library reads such a packet.
    let session_present = flags == 1;
    let mut reason = from.byte("reason code")?;
    let properties = if version == Version::V50 && reason == 1 && from.is_empty() {
        // A server of 3.1.1 refuses 5.0 by a CONNACK of 3.1.1 (3.1.1: 3.2.2.3).
        reason = reason::UNSUPPORTED_PROTOCOL_VERSION;
        Properties::default()
    } else {
        properties(&mut from, version, PacketType::Connack)?
    };
    from.finish()?;
    Ok(Connack {
        session_present,
        reason,
        properties,
    })
}

#[inline]
fn publish(mut from: Reader, version: Version, flags: u8) -> Result<Publish, Fault> {
    let qos = QoS::from_code(flags >> 1 & 3).unwrap_or_default();
    let topic = from.string("topic")?;
    let packet_id = match qos {
        QoS::AtMostOnce => 0,
        _ => packet_id(&mut from)?,
    };
    let properties = properties(&mut from, version, PacketType::Publish)?;
    rules::publish_topic(topic.as_bytes(), &properties)?;
    Ok(Publish {
        dup: flags & 8 != 0,
        qos,
        retain: flags & 1 != 0,
        topic,
        packet_id,
        properties,
        payload: from.rest(),
    })
}

fn ack(mut from: Reader, version: Version, packet_type: PacketType) -> Result<Ack, Fault> {
    let packet_id = packet_id(&mut from)?;
    let Disconnect { reason, properties } = disconnect(from, version, packet_type)?;
    Ok(Ack {
        packet_id,
        reason,
        properties,
    })
}

/// Reads the reason code and properties at the end of a packet. Either may be missing (3.4.2.1, 3.14.2). 3.15.2 does
/// not know an AUTH of a single byte, but it does no harm.
fn disconnect(
    mut from: Reader,
    version: Version,
    packet_type: PacketType,
) -> Result<Disconnect, Fault> {
    let mut packet = Disconnect::default();
    if version == Version::V50 && !from.is_empty() {
        packet.reason = from.byte("reason code")?;
        if !from.is_empty() {
            packet.properties = Properties::read(&mut from, packet_type.into())?;
        }
    }
    from.finish()?;
    Ok(packet)
}

fn subscribe(mut from: Reader, version: Version) -> Result<Subscribe, Fault> {
    let packet_id = packet_id(&mut from)?;
    let properties = properties(&mut from, version, PacketType::Subscribe)?;
    rules::subscriptions(from.len())?;
    let mut subscriptions = Vec::new();
    while !from.is_empty() {
        subscriptions.push(subscription(&mut from, version)?);
    }
    Ok(Subscribe {
        packet_id,
        subscriptions,
        properties,
    })
}

fn subscription(from: &mut Reader, version: Version) -> Result<Subscription, Fault> {
    let filter = topic_filter(from, version)?;
    let options = from.byte("subscription options")?;
    let reserved = match version {
        Version::V311 => 0b1111_1100,
        Version::V50 => 0b1100_0000,
    };
    if options & reserved != 0 {
        let rule =
            format!("subscription options must have reserved bits clear, got {options:#04x}");
        return Err(Fault::malformed(rule));
    }
    let Some(qos) = QoS::from_code(options & 3) else {
        return Err(Fault::protocol("QoS must be 0, 1 or 2, got 3"));
    };
    let subscription = Subscription {
        filter,
        qos,
        no_local: options & 4 != 0,
        retain_as_published: options & 8 != 0,
        retain_handling: options >> 4,
    };
    rules::subscription(&subscription)?;
    Ok(subscription)
}

fn topic_filter(from: &mut Reader, version: Version) -> Result<Str, Fault> {
    let filter = from.string("topic filter")?;
    rules::topic_filter(&filter, version)?;
    Ok(filter)
}

fn suback(mut from: Reader, version: Version, packet_type: PacketType) -> Result<Suback, Fault> {
    let packet_id = packet_id(&mut from)?;
    let properties = properties(&mut from, version, packet_type)?;
    // Any code passes, against [MQTT-3.9.3-2] in 3.1.1: the original library expects it.
    let reasons = match (version, packet_type) {
        (Version::V311, PacketType::Unsuback) => {
            from.finish()?;
            Vec::new()
        }
        _ => {
            rules::reasons(from.len())?;
            from.rest().to_vec()
        }
    };
    Ok(Suback {
        packet_id,
        reasons,
        properties,
    })
}

fn unsubscribe(mut from: Reader, version: Version) -> Result<Unsubscribe, Fault> {
    let packet_id = packet_id(&mut from)?;
    let properties = properties(&mut from, version, PacketType::Unsubscribe)?;
    rules::subscriptions(from.len())?;
    let mut filters = Vec::new();
    while !from.is_empty() {
        filters.push(topic_filter(&mut from, version)?);
    }
    Ok(Unsubscribe {
        packet_id,
        filters,
        properties,
    })
}

#[cfg(test)]
mod tests;
