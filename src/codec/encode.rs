//! Encodes packets (3.1 to 3.15). A packet that the standard does not allow is an error.

use bytes::{BufMut, BytesMut};

use super::error::Fault;
use super::wire::{MAX_VAR_INT, put_prefixed, put_var_int, var_int_len};
use super::{
    Ack, Connack, Connect, Disconnect, EncodeError, Packet, PacketType, Properties, PropertyHolder,
    Publish, QoS, Suback, Subscribe, Unsubscribe, Version, reason, rules, string,
};

/// Appends a packet's bytes to `out`, which stays as it was if the packet breaks a rule.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    let packet_type = packet.packet_type();
    let mut body = BytesMut::new();
    let written = match packet {
        Packet::Publish(publish) => return encode_publish(&publish.into(), version, out),
        Packet::Connect(packet) => connect(packet, version, &mut body),
        Packet::Connack(packet) => connack(packet, version, &mut body),
        Packet::Puback(packet)
        | Packet::Pubrec(packet)
        | Packet::Pubrel(packet)
        | Packet::Pubcomp(packet) => ack(packet, version, packet_type, &mut body),
        Packet::Subscribe(packet) => return encode_subscribe(packet, version, out),
        Packet::Suback(packet) => suback(packet, version, packet_type, &mut body),
        Packet::Unsubscribe(packet) => return encode_unsubscribe(packet, version, out),
        Packet::Unsuback(packet) => suback(packet, version, packet_type, &mut body),
        Packet::Pingreq | Packet::Pingresp => Ok(()),
        Packet::Disconnect(packet) => disconnect(packet, version, packet_type, &mut body),
        Packet::Auth(_) if version == Version::V311 => Err(needs_v50("an AUTH packet")),
        Packet::Auth(packet) => disconnect(packet, version, packet_type, &mut body),
    };
    put_packet(packet_type, written, &body, out)
}

/// Appends a SUBSCRIBE's bytes as [`encode`] does.
pub fn encode_subscribe(
    packet: &Subscribe,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut body = BytesMut::new();
    let written = subscribe(packet, version, &mut body);
    put_packet(PacketType::Subscribe, written, &body, out)
}

/// Appends an UNSUBSCRIBE's bytes as [`encode`] does.
pub fn encode_unsubscribe(
    packet: &Unsubscribe,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut body = BytesMut::new();
    let written = unsubscribe(packet, version, &mut body);
    put_packet(PacketType::Unsubscribe, written, &body, out)
}

/// Appends a packet whose body has been written.
fn put_packet(
    packet_type: PacketType,
    written: Result<(), Fault>,
    body: &[u8],
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let length = written.and_then(|()| remaining_length(body.len()));
    let length = length.map_err(|fault| fault.encoding(packet_type))?;
    out.reserve(1 + var_int_len(length) + body.len());
    out.put_u8((packet_type as u8) << 4 | rules::fixed_flags(packet_type));
    put_var_int(out, length);
    out.put_slice(body);
    Ok(())
}

/// A PUBLISH with borrowed parts.
#[derive(Clone, Copy, Debug)]
pub struct PublishRef<'a> {
    /// Duplicate delivery flag.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name; empty only with a topic alias (5.0).
    pub topic: &'a str,
    /// Packet identifier, 0 exactly when `qos` is 0.
    pub packet_id: u16,
    /// PUBLISH properties.
    pub properties: &'a Properties,
    /// Payload.
    pub payload: &'a [u8],
}

impl<'a> From<&'a Publish> for PublishRef<'a> {
    fn from(publish: &'a Publish) -> Self {
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: &publish.topic,
            packet_id: publish.packet_id,
            properties: &publish.properties,
            payload: &publish.payload,
        }
    }
}

/// Appends a PUBLISH as [`encode`] does, from its parts. Allocates only in `out`.
pub fn encode_publish(
    publish: &PublishRef<'_>,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    append_publish_head(publish, version, publish.payload.len(), out)?;
    out.put_slice(publish.payload);
    Ok(())
}

/// Appends a PUBLISH without its payload. The caller has to append or send the payload.
pub fn encode_publish_head(
    publish: &PublishRef<'_>,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    append_publish_head(publish, version, 0, out)
}

/// Appends the part of a PUBLISH before its payload, and reserves `room` bytes for the payload.
#[inline]
fn append_publish_head(
    publish: &PublishRef<'_>,
    version: Version,
    room: usize,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let (properties_size, length) =
        check_publish(publish, version).map_err(|fault| fault.encoding(PacketType::Publish))?;
    out.reserve(1 + var_int_len(length) + length as usize - publish.payload.len() + room);
    let flags = (publish.dup as u8) << 3 | (publish.qos as u8) << 1 | publish.retain as u8;
    out.put_u8((PacketType::Publish as u8) << 4 | flags);
    put_var_int(out, length);
    put_prefixed(out, publish.topic.as_bytes());
    if publish.qos != QoS::AtMostOnce {
        out.put_u16(publish.packet_id);
    }
    if version == Version::V50 {
        publish.properties.write(properties_size, out);
    }
    Ok(())
}

/// Checks a PUBLISH. Returns how many bytes the properties take, and the remaining length.
fn check_publish(publish: &PublishRef<'_>, version: Version) -> Result<(u32, u32), Fault> {
    let mut size = 2 + publish.topic.len() + publish.payload.len();
    match publish.qos {
        QoS::AtMostOnce if publish.dup => return Err(Fault::protocol(rules::DUP_WITH_QOS_0)),
        QoS::AtMostOnce if publish.packet_id != 0 => {
            let got = publish.packet_id;
            let rule = format!("packet identifier must be 0 with QoS 0, got {got}");
            return Err(Fault::protocol(rule));
        }
        QoS::AtMostOnce => {}
        QoS::AtLeastOnce | QoS::ExactlyOnce => {
            rules::packet_id(publish.packet_id)?;
            size += 2;
        }
    }
    string::check(publish.topic).map_err(|error| Fault::malformed(format!("topic {error}")))?;
    let properties = check_properties(publish.properties, version, PacketType::Publish.into())?;
    if version == Version::V50 {
        size += var_int_len(properties) + properties as usize;
    }
    rules::publish_topic(publish.topic.as_bytes(), publish.properties)?;
    Ok((properties, remaining_length(size)?))
}

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP that reports success and has no properties: the same bytes in both
/// versions.
pub fn encode_ack(packet_type: PacketType, packet_id: u16, out: &mut BytesMut) {
    debug_assert!(matches!(
        packet_type,
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp
    ));
    debug_assert_ne!(packet_id, 0);
    let [high, low] = packet_id.to_be_bytes();
    let first_byte = (packet_type as u8) << 4 | rules::fixed_flags(packet_type);
    out.put_slice(&[first_byte, 2, high, low]);
}

fn remaining_length(size: usize) -> Result<u32, Fault> {
    match u32::try_from(size) {
        Ok(length) if length <= MAX_VAR_INT => Ok(length),
        _ => {
            let rule = format!("remaining length must be at most {MAX_VAR_INT}, got {size}");
            Err(Fault::new(reason::PACKET_TOO_LARGE, rule))
        }
    }
}

fn needs_v50(what: &str) -> Fault {
    Fault::protocol(format!("{what} needs MQTT 5.0"))
}

/// Checks a packet. Returns how many bytes the properties take.
#[inline]
fn check_properties(
    properties: &Properties,
    version: Version,
    holder: PropertyHolder,
) -> Result<u32, Fault> {
    match version {
        Version::V311 if properties.is_empty() => Ok(0),
        Version::V311 => Err(needs_v50("a property")),
        Version::V50 => properties.check(holder),
    }
}

fn put_properties(
    properties: &Properties,
    version: Version,
    holder: impl Into<PropertyHolder>,
    out: &mut BytesMut,
) -> Result<(), Fault> {
    let size = check_properties(properties, version, holder.into())?;
    if version == Version::V50 {
        properties.write(size, out);
    }
    Ok(())
}

fn connect(packet: &Connect, version: Version, out: &mut BytesMut) -> Result<(), Fault> {
    if packet.version != version {
        let got = packet.version;
        let rule = format!("protocol version must be {version}, got {got}");
        return Err(Fault::new(reason::UNSUPPORTED_PROTOCOL_VERSION, rule));
    }
    let (has_username, has_password) = (packet.username.is_some(), packet.password.is_some());
    rules::credentials(version, has_username, has_password)?;
    // [MQTT-3.1.3-7].
    if version == Version::V311 && packet.client_id.is_empty() && !packet.clean {
        return Err(Fault::protocol(
            "client identifier must not be empty without clean session in MQTT 3.1.1",
        ));
    }
    let mut flags =
        (packet.clean as u8) << 1 | (has_password as u8) << 6 | (has_username as u8) << 7;
    if let Some(will) = &packet.will {
        flags |= 1 << 2 | (will.qos as u8) << 3 | (will.retain as u8) << 5;
    }
    put_prefixed(out, b"MQTT");
    out.put_u8(version as u8);
    out.put_u8(flags);
    out.put_u16(packet.keep_alive);
    put_properties(&packet.properties, version, PacketType::Connect, out)?;
    put_prefixed(out, packet.client_id.as_bytes());
    if let Some(will) = &packet.will {
        put_properties(&will.properties, version, PropertyHolder::Will, out)?;
        rules::topic_name(will.topic.as_bytes(), "will topic")?;
        put_prefixed(out, will.topic.as_bytes());
        rules::binary(&will.payload, "will payload")?;
        put_prefixed(out, &will.payload);
    }
    if let Some(username) = &packet.username {
        put_prefixed(out, username.as_bytes());
    }
    if let Some(password) = &packet.password {
        rules::binary(password, "password")?;
        put_prefixed(out, password);
    }
    Ok(())
}

fn connack(packet: &Connack, version: Version, out: &mut BytesMut) -> Result<(), Fault> {
    out.put_u8(packet.session_present.into());
    out.put_u8(packet.reason);
    put_properties(&packet.properties, version, PacketType::Connack, out)
}

fn ack(
    packet: &Ack,
    version: Version,
    packet_type: PacketType,
    out: &mut BytesMut,
) -> Result<(), Fault> {
    rules::packet_id(packet.packet_id)?;
    out.put_u16(packet.packet_id);
    put_outcome(packet.reason, &packet.properties, version, packet_type, out)
}

fn disconnect(
    packet: &Disconnect,
    version: Version,
    packet_type: PacketType,
    out: &mut BytesMut,
) -> Result<(), Fault> {
    put_outcome(packet.reason, &packet.properties, version, packet_type, out)
}

/// Appends the reason code and properties at the end of a packet. Leaves both out if the code is 0 and there are no
/// properties (3.4.2.1, 3.14.2.1).
fn put_outcome(
    reason: u8,
    properties: &Properties,
    version: Version,
    packet_type: PacketType,
    out: &mut BytesMut,
) -> Result<(), Fault> {
    if reason == 0 && properties.is_empty() {
        return Ok(());
    }
    if version == Version::V311 && reason != 0 {
        return Err(needs_v50("a reason code"));
    }
    out.put_u8(reason);
    put_properties(properties, version, packet_type, out)
}

fn subscribe(packet: &Subscribe, version: Version, out: &mut BytesMut) -> Result<(), Fault> {
    rules::packet_id(packet.packet_id)?;
    out.put_u16(packet.packet_id);
    put_properties(&packet.properties, version, PacketType::Subscribe, out)?;
    rules::subscriptions(packet.subscriptions.len())?;
    for subscription in &packet.subscriptions {
        let options = subscription.qos as u8
            | (subscription.no_local as u8) << 2
            | (subscription.retain_as_published as u8) << 3
            | subscription.retain_handling << 4;
        if version == Version::V311 && options > 2 {
            return Err(needs_v50("a subscription option other than the QoS"));
        }
        rules::topic_filter(&subscription.filter, version)?;
        rules::subscription(subscription)?;
        put_prefixed(out, subscription.filter.as_bytes());
        out.put_u8(options);
    }
    Ok(())
}

fn suback(
    packet: &Suback,
    version: Version,
    packet_type: PacketType,
    out: &mut BytesMut,
) -> Result<(), Fault> {
    rules::packet_id(packet.packet_id)?;
    out.put_u16(packet.packet_id);
    put_properties(&packet.properties, version, packet_type, out)?;
    match (version, packet_type) {
        (Version::V311, PacketType::Unsuback) if packet.reasons.is_empty() => {}
        (Version::V311, PacketType::Unsuback) => return Err(needs_v50("a reason code")),
        _ => rules::reasons(packet.reasons.len())?,
    }
    out.put_slice(&packet.reasons);
    Ok(())
}

fn unsubscribe(packet: &Unsubscribe, version: Version, out: &mut BytesMut) -> Result<(), Fault> {
    rules::packet_id(packet.packet_id)?;
    out.put_u16(packet.packet_id);
    put_properties(&packet.properties, version, PacketType::Unsubscribe, out)?;
    rules::subscriptions(packet.filters.len())?;
    for filter in &packet.filters {
        rules::topic_filter(filter, version)?;
        put_prefixed(out, filter.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
