//! Errors of packets that break a rule, received or sent. The rules stand where they are checked.

use std::borrow::Cow;
use std::fmt;

use super::{PacketType, reason};

/// A broken rule, not yet with the type of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Reason code that tells the other side (2.4).
    reason: u8,
    rule: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(reason: u8, rule: impl Into<Cow<'static, str>>) -> Self {
        let rule = rule.into();
        Self { reason, rule }
    }

    /// The fault of bytes that cannot be a packet (4.13.1, Malformed Packet).
    pub(super) fn malformed(rule: impl Into<Cow<'static, str>>) -> Self {
        Self::new(reason::MALFORMED_PACKET, rule)
    }

    /// The fault of a packet that the standard does not allow (4.13.1, Protocol Error).
    pub(super) fn protocol(rule: impl Into<Cow<'static, str>>) -> Self {
        Self::new(reason::PROTOCOL_ERROR, rule)
    }

    /// Puts the place of the fault in front of the rule.
    pub(super) fn within(self, place: &str) -> Self {
        Self::new(self.reason, format!("{place}{}", self.rule))
    }

    pub(super) fn decoding(self, packet: impl Into<Option<PacketType>>) -> DecodeError {
        let packet = packet.into();
        DecodeError {
            packet,
            fault: self,
        }
    }

    pub(super) fn encoding(self, packet: PacketType) -> EncodeError {
        EncodeError {
            packet,
            rule: self.rule,
        }
    }
}

/// Received bytes that break a rule of the standard. Shown as `NAME: broken rule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    packet: Option<PacketType>,
    fault: Fault,
}

impl DecodeError {
    /// Type of the packet; None if the fixed header has no valid type.
    pub fn packet(&self) -> Option<PacketType> {
        self.packet
    }

    /// Reason code for a DISCONNECT or CONNACK that answers the fault (2.4).
    pub fn reason_code(&self) -> u8 {
        self.fault.reason
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packet {
            Some(packet) => write!(f, "{packet}: {}", self.fault.rule),
            None => f.write_str(&self.fault.rule),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A packet that the standard does not allow to be sent. Shown as `NAME: broken rule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    packet: PacketType,
    rule: Cow<'static, str>,
}

impl EncodeError {
    /// Type of the packet.
    pub fn packet(&self) -> PacketType {
        self.packet
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.packet, self.rule)
    }
}

impl std::error::Error for EncodeError {}
