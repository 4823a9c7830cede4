//! Packets as bytes, reason codes and the rules for topics, for `mqtt.packet`, `mqtt.protocol` and `mqtt.topics`. This
//! file knows no connection and no client.

use std::fmt;

use bytes::BytesMut;

use super::args::{Args, Checked, PublishArgs, Scalar, packet_from_lua};
use super::results::{push_failure, push_packet, set};
use super::stack::{RawFunction, Stack};
use crate::codec::{
    Packet, PacketType, Properties, QoS, Version, check_topic_filter, check_topic_name,
    decode_connect, decode_frame, encode, encode_publish, reason, reason_name,
};

/// Adds the functions of this file to `mqtt.core`.
pub(crate) fn register(core: &Stack) {
    core.push_bytes(b"codec");
    core.push_table();
    register_codec::<{ Version::V311 as u8 }>(core);
    register_codec::<{ Version::V50 as u8 }>(core);
    core.set();
    // The reason codes that Lua decides by, and the least one that refuses.
    core.push_bytes(b"reason_codes");
    core.push_table();
    for (name, code) in [
        ("refused", reason::REFUSED),
        ("session_taken_over", reason::SESSION_TAKEN_OVER),
        ("use_another_server", reason::USE_ANOTHER_SERVER),
        ("server_moved", reason::SERVER_MOVED),
    ] {
        set(core, name, |core| core.push_integer(code));
    }
    core.set();
    core.set_raw("decode_connect", DecodeConnect);
    // check_topic_name(topic), check_topic_filter(topic): nil, or the broken rule.
    core.set_function("check_topic_name", |arguments| {
        Ok(check_topic(arguments, check_topic_name)?)
    });
    core.set_function("check_topic_filter", |arguments| {
        Ok(check_topic(arguments, check_topic_filter)?)
    });
}

/// Adds the codec of a protocol version to a table of codecs. The version is part of the functions' types, so a call
/// need not check an object that holds it.
fn register_codec<const VERSION: u8>(codecs: &Stack) {
    codecs.push_integer(VERSION);
    codecs.push_table();
    codecs.set_raw("decode", Decode::<VERSION>);
    codecs.set_raw("encode_publish", EncodePublish::<VERSION>);
    codecs.set_raw("encode", Encode::<VERSION>);
    codecs.set_raw("reason_names", ReasonNames::<VERSION>);
    codecs.set();
}

/// The version with a protocol level (3.1.2.2), which is 4 or 5.
const fn version(level: u8) -> Version {
    match level {
        4 => Version::V311,
        _ => Version::V50,
    }
}

/// `encode(packet)`: the packet's bytes, or nil and an error.
struct Encode<const VERSION: u8>;

impl<const VERSION: u8> RawFunction for Encode<VERSION> {
    type Output = Checked<BytesMut>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let packet = arguments.value(1)?;
        let packet = packet_from_lua(&Args::new(packet.table(&"packet")?), version(VERSION))?;
        let mut out = BytesMut::new();
        encode(&packet, version(VERSION), &mut out).map_err(|e| e.to_string())?;
        Ok(out)
    }

    fn push(encoded: &Self::Output, results: &Stack) {
        push_encoded(encoded, results);
    }
}

fn push_encoded(encoded: &Checked<BytesMut>, results: &Stack) {
    match encoded {
        Ok(bytes) => results.push_bytes(bytes),
        Err(error) => push_failure(error, results),
    }
}

/// `reason_names(packet_type)`: a table of the standard's names of the packet's reason codes, by code; or nil and an
/// error.
struct ReasonNames<const VERSION: u8>;

impl<const VERSION: u8> RawFunction for ReasonNames<VERSION> {
    type Output = Checked<(Version, Option<PacketType>)>;

    fn run(&self, arguments: &Stack) -> Self::Output {
        let code = arguments.argument(1).integer(0, 0xFF, &"packet type")?;
        Ok((version(VERSION), PacketType::from_code(code as u8)))
    }

    fn push(output: &Self::Output, results: &Stack) {
        let (version, packet) = match output {
            Ok((version, packet)) => (*version, packet),
            Err(error) => return push_failure(error, results),
        };
        results.push_table();
        for code in 0..=u8::MAX {
            if let Some(name) = packet.and_then(|packet| reason_name(version, packet, code)) {
                results.push_integer(code);
                results.push_bytes(name.as_bytes());
                results.set();
            }
        }
    }
}

/// A decoded packet and its protocol version, or an error.
type Decoded = Result<(Packet, Version), String>;

/// Pushes the values of the packet, or nil and the error.
fn push_decoded(decoded: &Decoded, results: &Stack) {
    match decoded {
        Ok((packet, version)) => push_packet(packet, *version, results),
        Err(error) => push_failure(error, results),
    }
}

/// `decode(first_byte, body)`: the packet's values, or nil and an error.
struct Decode<const VERSION: u8>;

impl<const VERSION: u8> RawFunction for Decode<VERSION> {
    type Output = Decoded;

    fn run(&self, arguments: &Stack) -> Decoded {
        let first = arguments.argument(1).integer(0, 0xFF, &"first byte")?;
        // SAFETY: only the packet slices the body, and `call` drops the packet before it returns to Lua.
        let body = unsafe { arguments.argument_bytes(2) }.unwrap_or_default();
        let packet =
            decode_frame(version(VERSION), first as u8, body).map_err(|e| e.to_string())?;
        Ok((packet, version(VERSION)))
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
///
/// The hot copy of `encode`: a PUBLISH takes 9,500 instructions with it, 17,400 without.
struct EncodePublish<const VERSION: u8>;

impl<const VERSION: u8> RawFunction for EncodePublish<VERSION> {
    type Output = Checked<BytesMut>;

    fn run(&self, arguments: &Stack) -> Checked<BytesMut> {
        let publish = PublishArgs::read(arguments, 1)?;
        let packet_id = match publish.qos {
            QoS::AtMostOnce => 0,
            _ => arguments.argument(6).packet_id()?,
        };
        let mut out = BytesMut::new();
        let properties = Properties::new();
        let packet = publish.packet(packet_id, &properties);
        encode_publish(&packet, version(VERSION), &mut out).map_err(|e| e.to_string())?;
        Ok(out)
    }

    fn push(encoded: &Checked<BytesMut>, results: &Stack) {
        push_encoded(encoded, results);
    }
}

/// The rule that the first argument, a topic, breaks; None for a valid topic.
fn check_topic<E: fmt::Display>(
    arguments: &Stack,
    check: fn(&str) -> Result<(), E>,
) -> Checked<Option<String>> {
    let broken = match str::from_utf8(arguments.argument(1).bytes(&"topic")?) {
        Ok(text) => check(text).err().map(|rule| rule.to_string()),
        Err(_) => Some("must be well-formed UTF-8".to_owned()),
    };
    Ok(broken.map(|broken| format!("topic {broken}")))
}
