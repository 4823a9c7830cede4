//! What `mqtt.packet`, `mqtt.protocol` and `mqtt.topics` call. Connections and clients are not known here.

use std::fmt;

use bytes::BytesMut;
use mlua::{Lua, LuaString, Table};

use super::args::{Args, Checked, PublishArgs, Scalar, packet_from_lua};
use super::stack::{RawFunction, Stack, create_raw_function};
use super::values::push_packet;
use crate::codec::{
    Packet, PacketType, Properties, QoS, Version, check_topic_filter, check_topic_name,
    decode_connect, decode_frame, encode, encode_publish, reason_name,
};

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(lua: &Lua, core: &Table) -> mlua::Result<()> {
    let codecs = lua.create_table()?;
    for version in [Version::V311, Version::V50] {
        codecs.set(version as u8, codec(lua, version)?)?;
    }
    core.set("codec", codecs)?;
    core.set(
        "decode_connect",
        create_raw_function(lua, DecodeConnect, ())?,
    )?;
    // check_topic_name(topic), check_topic_filter(topic): nil, or the broken rule.
    core.set(
        "check_topic_name",
        lua.create_function(|_, topic: LuaString| Ok(check_topic(&topic, check_topic_name)))?,
    )?;
    core.set(
        "check_topic_filter",
        lua.create_function(|_, topic: LuaString| Ok(check_topic(&topic, check_topic_filter)))?,
    )
}

/// The codec of one protocol version.
fn codec(lua: &Lua, version: Version) -> mlua::Result<Table> {
    let codec = lua.create_table()?;
    codec.set("decode", create_raw_function(lua, Decode(version), ())?)?;
    codec.set(
        "encode_publish",
        create_raw_function(lua, EncodePublish(version), ())?,
    )?;
    // encode(packet): bytes, or nil and an error.
    codec.set(
        "encode",
        lua.create_function(move |lua, packet: Table| {
            let mut out = BytesMut::new();
            let written = packet_from_lua(&Args::new(&packet), version)
                .and_then(|packet| encode(&packet, version, &mut out).map_err(|e| e.to_string()));
            Ok(match written {
                Ok(()) => Ok(lua.create_string(&out)?),
                Err(error) => Err(error),
            })
        })?,
    )?;
    // reason_names(packet_type): the standard's names of its reason codes, by code.
    codec.set(
        "reason_names",
        lua.create_function(move |lua, packet: u8| {
            let names = lua.create_table()?;
            if let Some(packet) = PacketType::from_code(packet) {
                for code in 0..=u8::MAX {
                    if let Some(name) = reason_name(version, packet, code) {
                        names.raw_set(code, name)?;
                    }
                }
            }
            Ok(names)
        })?,
    )?;
    Ok(codec)
}

/// A decoded packet and the version that shapes it, or what is wrong with the bytes.
type Decoded = Result<(Packet, Version), String>;

/// Pushes the values of the packet, or nil and the error.
fn push_decoded(decoded: &Decoded, results: &Stack) {
    match decoded {
        Ok((packet, version)) => push_packet(packet, *version, results),
        Err(error) => push_failure(error, results),
    }
}

pub(crate) fn push_failure(error: &str, results: &Stack) {
    results.push_nil();
    results.push_bytes(error.as_bytes());
}

/// `decode(first_byte, body)`: the packet's values, or nil and an error.
struct Decode(Version);

impl RawFunction for Decode {
    type Output = Decoded;

    fn run(&self, arguments: &Stack) -> Decoded {
        let first = arguments.argument(1).integer(0, 0xFF, &"first byte")?;
        // SAFETY: only the packet slices the body, and it is dropped when its values are pushed.
        let body = unsafe { arguments.argument_bytes(2) }.unwrap_or_default();
        let packet = decode_frame(self.0, first as u8, body).map_err(|e| e.to_string())?;
        Ok((packet, self.0))
    }

    fn push(decoded: &Decoded, results: &Stack) {
        push_decoded(decoded, results);
    }
}

/// `decode_connect(body[, version])`: the values of a CONNECT, or nil and an error.
struct DecodeConnect;

impl RawFunction for DecodeConnect {
    type Output = Decoded;

    fn run(&self, arguments: &Stack) -> Decoded {
        // SAFETY: as in Decode.
        let body = unsafe { arguments.argument_bytes(1) }.unwrap_or_default();
        let expected = match arguments.argument(2) {
            Scalar::Nil => None,
            version => Version::from_code(version.integer(4, 5, &"version")? as u8),
        };
        let connect = decode_connect(0x10, body, expected).map_err(|e| e.to_string())?;
        let version = connect.version;
        Ok((Packet::Connect(connect.into()), version))
    }

    fn push(decoded: &Decoded, results: &Stack) {
        push_decoded(decoded, results);
    }
}

/// `encode_publish(topic, payload, qos, retain, dup, packet_id)`: the bytes of a PUBLISH without properties, or nil and
/// an error.
struct EncodePublish(Version);

impl RawFunction for EncodePublish {
    type Output = Checked<BytesMut>;

    fn run(&self, arguments: &Stack) -> Checked<BytesMut> {
        let argument = |index| arguments.argument(index);
        let publish = PublishArgs::new(
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        )?;
        let packet_id = match publish.qos {
            QoS::AtMostOnce => 0,
            _ => argument(6).packet_id()?,
        };
        let mut out = BytesMut::new();
        let properties = Properties::new();
        let packet = publish.packet(packet_id, &properties);
        encode_publish(&packet, self.0, &mut out).map_err(|e| e.to_string())?;
        Ok(out)
    }

    fn push(encoded: &Checked<BytesMut>, results: &Stack) {
        match encoded {
            Ok(bytes) => results.push_bytes(bytes),
            Err(error) => push_failure(error, results),
        }
    }
}

/// What is wrong with a topic.
fn check_topic<E: fmt::Display>(
    topic: &LuaString,
    check: fn(&str) -> Result<(), E>,
) -> Option<String> {
    let broken = match str::from_utf8(&topic.as_bytes()) {
        Ok(text) => check(text).err()?.to_string(),
        Err(_) => "must be well-formed UTF-8".to_owned(),
    };
    Some(format!("topic {broken}"))
}
