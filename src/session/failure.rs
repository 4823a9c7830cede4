//! Why a session ends a connection by itself, and why it cannot renew a subscription: the decisions and their words.

use std::fmt;
use std::time::Duration;

use super::{KeepError, RequestError};
use crate::codec::{DecodeError, PacketType, PropertyId, Str, reason};

/// Why the session has ended the connection. Shown to the user as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server answers in TLS.
    TlsExpected,
    /// The user did not send CONNECT in this time.
    NoConnect(Duration),
    /// The server did not answer CONNECT in this time.
    NoConnack(Duration),
    /// The server did not answer PINGREQ in this time.
    NoPingresp(Duration),
    /// The server broke a rule of the standard (4.13).
    Violation(Violation),
    /// The store has not kept what would have been sent.
    Store(KeepError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (packet, time) = match self {
            Self::TlsExpected => {
                return f.write_str(
                    "the server expects TLS on this port: use mqtts:// or the option secure",
                );
            }
            Self::Violation(violation) => return violation.fmt(f),
            Self::Store(error) => return error.fmt(f),
            Self::NoConnect(time) => {
                let seconds = time.as_secs_f64();
                return write!(f, "CONNECT was not sent within {seconds} seconds");
            }
            Self::NoConnack(time) => (PacketType::Connack, time),
            Self::NoPingresp(time) => (PacketType::Pingresp, time),
        };
        let seconds = time.as_secs_f64();
        write!(
            f,
            "failed to receive {packet} within {seconds} seconds: timeout"
        )
    }
}

impl std::error::Error for Failure {}

/// A rule of the standard that the server broke. Shown as `NAME: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The bytes are no packet, or the packet by itself breaks a rule.
    Decode(DecodeError),
    /// Only a client may send this packet.
    OnlyFromClients(PacketType),
    /// Another packet came first [MQTT-3.2.0-1].
    ConnackExpected(PacketType),
    /// CONNACK before CONNECT.
    ConnackTooEarly,
    /// A second CONNACK [MQTT-3.2.0-2].
    ConnackAgain,
    /// Session present in a CONNACK that refuses [MQTT-3.2.2-6].
    RefusedWithSession,
    /// Session present after a clean start [MQTT-3.2.2-2].
    CleanStartWithSession,
    /// AUTH, although CONNECT had no authentication method (4.12).
    NoAuthenticationMethod,
    /// AUTH without the authentication method that it needs (3.15.2.2.2).
    AuthenticationMethodMissing,
    /// The authentication method differs from that of CONNECT [MQTT-4.12.0-5].
    AuthenticationMethod(PacketType),
    /// The standard does not list the reason code for this packet, for a server, or for this moment.
    ReasonCode(PacketType, u8),
    /// The number of reason codes is not the number of topic filters [MQTT-3.8.4-6], [MQTT-3.11.3-1].
    ReasonCodeCount {
        /// SUBACK or UNSUBACK.
        packet: PacketType,
        /// The number of topic filters.
        expected: usize,
        /// The number of reason codes.
        got: usize,
    },
    /// The exchange with this packet identifier waits for another packet.
    Unexpected {
        /// The packet that came.
        packet: PacketType,
        /// The packet identifier.
        packet_id: u16,
        /// The packet that is awaited.
        awaited: PacketType,
    },
    /// The Session Expiry Interval in a DISCONNECT is for clients only [MQTT-3.14.2-2].
    SessionExpiry,
    /// A reason string or user property, although CONNECT asked for none (3.1.2.11.7).
    ProblemInformation(PacketType, PropertyId),
    /// The topic alias is higher than CONNECT allowed [MQTT-3.3.2-11].
    TopicAlias {
        /// The alias of the message.
        alias: u16,
        /// The maximum that CONNECT allowed, 0 for none.
        max: u16,
    },
    /// No message has given the topic alias a topic on this connection (3.3.2.3.4).
    TopicAliasUnknown(u16),
    /// More unacknowledged messages than CONNECT allowed [MQTT-3.3.4-9].
    ReceiveMaximum(u16),
}

impl Violation {
    /// The reason code of the DISCONNECT that answers this violation.
    pub(super) fn reason_code(&self) -> u8 {
        match self {
            Self::Decode(error) => error.reason_code(),
            Self::TopicAlias { .. } => reason::TOPIC_ALIAS_INVALID,
            Self::ReceiveMaximum(_) => reason::RECEIVE_MAXIMUM_EXCEEDED,
            _ => reason::PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::OnlyFromClients(packet) => write!(f, "{packet}: only a client sends it"),
            Self::ConnackExpected(packet) => {
                write!(f, "expecting CONNACK but received {}", *packet as u8)
            }
            Self::ConnackTooEarly => f.write_str("CONNACK: received before CONNECT was sent"),
            Self::ConnackAgain => f.write_str("CONNACK: received a second time"),
            Self::RefusedWithSession => {
                f.write_str("CONNACK: session present together with a refusal")
            }
            Self::CleanStartWithSession => {
                f.write_str("CONNACK: session present after a clean start")
            }
            Self::NoAuthenticationMethod => {
                f.write_str("AUTH: CONNECT had no authentication method")
            }
            Self::AuthenticationMethodMissing => {
                f.write_str("AUTH: authentication method is missing")
            }
            Self::AuthenticationMethod(packet) => {
                write!(f, "{packet}: authentication method is not that of CONNECT")
            }
            Self::ReasonCode(packet, code) => {
                write!(f, "{packet}: unexpected reason code: 0x{code:02X}")
            }
            Self::ReasonCodeCount {
                packet,
                expected,
                got,
            } => write!(f, "{packet}: expected {expected} reason codes, got {got}"),
            Self::Unexpected {
                packet,
                packet_id,
                awaited,
            } => write!(
                f,
                "{packet}: packet identifier {packet_id} waits for {awaited}"
            ),
            Self::SessionExpiry => {
                f.write_str("DISCONNECT: session_expiry_interval: only a client sends it")
            }
            Self::ProblemInformation(packet, property) => {
                let name = property.name();
                write!(
                    f,
                    "{packet}: {name}: CONNECT had request_problem_information = 0"
                )
            }
            Self::TopicAlias { alias, max } => {
                write!(f, "PUBLISH: topic alias must be at most {max}, got {alias}")
            }
            Self::TopicAliasUnknown(alias) => {
                write!(f, "PUBLISH: topic alias {alias} stands for no topic")
            }
            Self::ReceiveMaximum(maximum) => write!(
                f,
                "PUBLISH: more than {maximum} unacknowledged, our receive maximum"
            ),
        }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        use PacketType::{Connect, Pingreq, Subscribe, Unsubscribe};
        match error.packet() {
            // The packet is refused for its sender, whatever else is wrong: also for reason codes that a client may
            // send (table 3-10).
            Some(packet @ (Connect | Subscribe | Unsubscribe | Pingreq)) => {
                Self::OnlyFromClients(packet)
            }
            _ => Self::Decode(error),
        }
    }
}

/// A subscription that the server has lost with its session and that could not be renewed. Shown to the user as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrenewed {
    /// The topic filter.
    pub filter: Str,
    /// The reason.
    pub reason: NotRenewed,
}

/// Why a subscription could not be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    /// The request could not be made.
    Request(RequestError),
    /// The server refused it with this reason code.
    Refused(u8),
}

impl fmt::Display for Unrenewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = &self.filter;
        write!(f, "failed to renew the subscription to '{filter}': ")?;
        match &self.reason {
            NotRenewed::Request(error) => error.fmt(f),
            NotRenewed::Refused(code) => {
                write!(f, "the server refused it with reason code 0x{code:02X}")
            }
        }
    }
}
