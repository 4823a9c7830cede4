//! The packets of both protocol versions as plain data. `encode.rs` and `decode.rs` know their bytes.

use std::fmt;

use bytes::Bytes;

use super::{Properties, Str};

/// Protocol version, as its level in CONNECT (3.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1.1.
    V311 = 4,
    /// MQTT 5.0.
    V50 = 5,
}

impl Version {
    /// The version with this protocol level, if it is 4 or 5.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            4 => Some(Self::V311),
            5 => Some(Self::V50),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V311 => "3.1.1",
            Self::V50 => "5.0",
        })
    }
}

/// Packet type, the high half of a packet's first byte (2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum PacketType {
    Connect = 1,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Pingreq,
    Pingresp,
    Disconnect,
    Auth,
}

impl PacketType {
    const ALL: [Self; 15] = [
        Self::Connect,
        Self::Connack,
        Self::Publish,
        Self::Puback,
        Self::Pubrec,
        Self::Pubrel,
        Self::Pubcomp,
        Self::Subscribe,
        Self::Suback,
        Self::Unsubscribe,
        Self::Unsuback,
        Self::Pingreq,
        Self::Pingresp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The packet type with this number; 0 is reserved.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).wrapping_sub(1)).copied()
    }

    /// Name as the standards write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Quality of service (4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service with this number, 0 to 2 [MQTT-3.3.1-4].
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet of either version. In 3.1.1, properties are empty and most reason codes are 0.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Packet {
    Connect(Box<Connect>),
    Connack(Connack),
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Subscribe(Subscribe),
    Suback(Suback),
    Unsubscribe(Unsubscribe),
    Unsuback(Suback),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect),
    Auth(Disconnect),
}

impl Packet {
    /// Packet type.
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT (3.1). `Debug` does not show the password.
#[derive(Clone, PartialEq)]
pub struct Connect {
    /// Protocol version asked for.
    pub version: Version,
    /// Clean session (3.1.1) or clean start (5.0).
    pub clean: bool,
    /// Keep alive in seconds, 0 switches it off.
    pub keep_alive: u16,
    /// Client identifier; may be empty.
    pub client_id: Str,
    /// User name.
    pub username: Option<Str>,
    /// Password, binary.
    pub password: Option<Bytes>,
    /// Will message.
    pub will: Option<Will>,
    /// CONNECT properties.
    pub properties: Properties,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean", &self.clean)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

/// Will message of a CONNECT (3.1.2.5).
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// Topic name.
    pub topic: Str,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Will properties.
    pub properties: Properties,
}

/// CONNACK (3.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Connack {
    /// Session present flag.
    pub session_present: bool,
    /// Return code (3.1.1) or reason code (5.0).
    pub reason: u8,
    /// CONNACK properties.
    pub properties: Properties,
}

/// PUBLISH (3.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Duplicate delivery flag.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name; empty only with a topic alias (5.0).
    pub topic: Str,
    /// Packet identifier, 0 exactly when `qos` is 0.
    pub packet_id: u16,
    /// PUBLISH properties.
    pub properties: Properties,
    /// Payload.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP (3.4 to 3.7).
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    /// Packet identifier, never 0.
    pub packet_id: u16,
    /// Reason code, 0 in 3.1.1.
    pub reason: u8,
    /// Properties.
    pub properties: Properties,
}

/// SUBSCRIBE (3.8).
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// Packet identifier, never 0.
    pub packet_id: u16,
    /// At least one.
    pub subscriptions: Vec<Subscription>,
    /// SUBSCRIBE properties.
    pub properties: Properties,
}

/// One subscription of a SUBSCRIBE (3.8.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Topic filter.
    pub filter: Str,
    /// Maximum quality of service.
    pub qos: QoS,
    /// No local (5.0).
    pub no_local: bool,
    /// Retain as published (5.0).
    pub retain_as_published: bool,
    /// Retain handling, 0 to 2 (5.0).
    pub retain_handling: u8,
}

/// SUBACK and UNSUBACK (3.9, 3.11). A 3.1.1 UNSUBACK has no reason codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Suback {
    /// Packet identifier, never 0.
    pub packet_id: u16,
    /// One reason code for each topic filter.
    pub reasons: Vec<u8>,
    /// Properties.
    pub properties: Properties,
}

/// UNSUBSCRIBE (3.10).
#[derive(Clone, Debug, PartialEq)]
pub struct Unsubscribe {
    /// Packet identifier, never 0.
    pub packet_id: u16,
    /// At least one topic filter.
    pub filters: Vec<Str>,
    /// UNSUBSCRIBE properties.
    pub properties: Properties,
}

/// DISCONNECT and AUTH (3.14, 3.15).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disconnect {
    /// Reason code, 0 in 3.1.1.
    pub reason: u8,
    /// Properties.
    pub properties: Properties,
}
