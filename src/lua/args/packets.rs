//! Packets from tables of their fields.

use std::fmt::Display;

use super::value::{byte_from_lua, bytes_from_lua, integer_from_lua, str_from_lua};
use super::{Args, Checked, Scalar, Value};
use crate::codec::{
    Ack, Connack, Connect, Disconnect, Packet, PacketType, Publish, QoS, Suback, Subscribe,
    Subscription, Unsubscribe, Version, Will,
};

/// The packet for `make_packet`, of the type in the field `type`.
pub(crate) fn packet_from_lua(args: &Args, version: Version) -> Checked<Packet> {
    let code = args.byte("type")?;
    let packet_type = PacketType::from_code(code)
        .ok_or_else(|| format!("expecting .type to be a packet type, 1 to 15, got: {code}"))?;
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(connect_from_lua(args, version)?.into()),
        PacketType::Connack => Packet::Connack(Connack {
            session_present: args.flag("sp")?,
            reason: args.byte("rc")?,
            properties: args.properties(version)?,
        }),
        PacketType::Publish => Packet::Publish(publish_from_lua(args, version)?),
        PacketType::Puback => Packet::Puback(ack_from_lua(args, version)?),
        PacketType::Pubrec => Packet::Pubrec(ack_from_lua(args, version)?),
        PacketType::Pubrel => Packet::Pubrel(ack_from_lua(args, version)?),
        PacketType::Pubcomp => Packet::Pubcomp(ack_from_lua(args, version)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe {
            packet_id: args.packet_id()?,
            subscriptions: args.list("subscriptions", |value, name| {
                subscription_from_lua(value, version, name)
            })?,
            properties: args.properties(version)?,
        }),
        PacketType::Suback => Packet::Suback(suback_from_lua(args, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
            packet_id: args.packet_id()?,
            filters: args.list("subscriptions", |value, name| {
                str_from_lua(value.scalar(), name)
            })?,
            properties: args.properties(version)?,
        }),
        PacketType::Unsuback if version == Version::V50 => {
            Packet::Unsuback(suback_from_lua(args, version)?)
        }
        PacketType::Unsuback => Packet::Unsuback(Suback {
            packet_id: args.packet_id()?,
            reasons: Vec::new(),
            properties: args.properties(version)?,
        }),
        PacketType::Pingreq => Packet::Pingreq,
        PacketType::Pingresp => Packet::Pingresp,
        PacketType::Disconnect => Packet::Disconnect(disconnect_from_lua(args, version)?),
        PacketType::Auth => Packet::Auth(disconnect_from_lua(args, version)?),
    })
}

/// A CONNECT from a table with `id`, `clean`, `keep_alive`, `username`, `password`, `will`, `properties` and
/// `user_properties`.
pub(crate) fn connect_from_lua(args: &Args, version: Version) -> Checked<Connect> {
    let keep_alive = args.optional("keep_alive", |value, name| {
        integer_from_lua(value, u16::MAX.into(), name)
    })?;
    Ok(Connect {
        version,
        clean: args.flag("clean")?,
        keep_alive: keep_alive.unwrap_or_default() as u16,
        client_id: args.string("id")?,
        username: args.optional("username", str_from_lua)?,
        password: args.optional("password", bytes_from_lua)?,
        will: match args.get("will") {
            Value::Nil => None,
            will => Some(will_from_lua(will, version, &args.name("will"))?),
        },
        properties: args.properties(version)?,
    })
}

fn will_from_lua(value: &Value, version: Version, name: &dyn Display) -> Checked<Will> {
    let args = Args::at(value.table(name)?, name);
    Ok(Will {
        topic: args.string("topic")?,
        payload: args.bytes("payload")?,
        qos: args.qos("qos")?,
        retain: args.flag("retain")?,
        properties: args.properties(version)?,
    })
}

fn publish_from_lua(args: &Args, version: Version) -> Checked<Publish> {
    let qos = args.qos("qos")?;
    Ok(Publish {
        dup: args.flag("dup")?,
        qos,
        retain: args.flag("retain")?,
        topic: args.string("topic")?,
        packet_id: match qos {
            QoS::AtMostOnce => 0,
            _ => args.packet_id()?,
        },
        properties: args.properties(version)?,
        payload: args
            .optional("payload", bytes_from_lua)?
            .unwrap_or_default(),
    })
}

fn ack_from_lua(args: &Args, version: Version) -> Checked<Ack> {
    Ok(Ack {
        packet_id: args.packet_id()?,
        reason: reason_from_lua(args, version)?,
        properties: args.properties(version)?,
    })
}

fn disconnect_from_lua(args: &Args, version: Version) -> Checked<Disconnect> {
    Ok(Disconnect {
        reason: reason_from_lua(args, version)?,
        properties: args.properties(version)?,
    })
}

/// The reason code; 0 in 3.1.1, which has none in acknowledgements and DISCONNECT.
fn reason_from_lua(args: &Args, version: Version) -> Checked<u8> {
    match version {
        Version::V311 => Ok(0),
        Version::V50 => args.byte("rc"),
    }
}

fn suback_from_lua(args: &Args, version: Version) -> Checked<Suback> {
    Ok(Suback {
        packet_id: args.packet_id()?,
        reasons: args.list("rc", |value, name| byte_from_lua(value.scalar(), name))?,
        properties: args.properties(version)?,
    })
}

fn subscription_from_lua(
    value: &Value,
    version: Version,
    name: &dyn Display,
) -> Checked<Subscription> {
    let args = Args::at(value.table(name)?, name);
    let mut subscription = Subscription {
        filter: args.string("topic")?,
        qos: args.qos("qos")?,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    };
    // 3.1.1 has none of these options. It ignores them, as it ignores properties, so that programs can serve both versions.
    if version == Version::V50 {
        subscription.no_local = args.flag("no_local")?;
        subscription.retain_as_published = args.flag("retain_as_published")?;
        subscription.retain_handling =
            args.field("retain_handling", |scalar, name| match scalar {
                Scalar::Nil => Ok(0),
                Scalar::Boolean(handling) => Ok(handling.into()),
                number => Ok(number.integer(0, 2, name)? as u8),
            })?;
    }
    Ok(subscription)
}
