//! The reason codes of 5.0 (2.4) and the return codes of 3.1.1 (3.2.2.3, 3.9.3): their names, their packets, and what
//! they decide. No other file has a number of theirs.

use super::PacketType::{self, *};
use super::Version;

// The reason codes that this library sends or decides by.
/// Of both versions.
pub const SUCCESS: u8 = 0x00;
/// Only a client disconnects so.
pub const DISCONNECT_WITH_WILL: u8 = 0x04;
/// A step of an authentication (4.12).
pub const CONTINUE_AUTHENTICATION: u8 = 0x18;
/// Only a client begins anew (4.12.1).
pub const RE_AUTHENTICATE: u8 = 0x19;
/// The bytes cannot be a packet (4.13.1).
pub const MALFORMED_PACKET: u8 = 0x81;
/// A packet, but not one the standard allows (4.13.1).
pub const PROTOCOL_ERROR: u8 = 0x82;
/// Of a CONNECT.
pub const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
/// Another client has connected with the same client identifier (3.14.2.1).
pub const SESSION_TAKEN_OVER: u8 = 0x8E;
/// See [`check_topic_filter`](super::check_topic_filter).
pub const TOPIC_FILTER_INVALID: u8 = 0x8F;
/// See [`check_topic_name`](super::check_topic_name).
pub const TOPIC_NAME_INVALID: u8 = 0x90;
/// Of a PUBREL or PUBREC that belongs to no exchange.
pub const PACKET_IDENTIFIER_NOT_FOUND: u8 = 0x92;
/// More unacknowledged messages than were asked for.
pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
/// None, or one above the Topic Alias Maximum.
pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
/// Above the Maximum Packet Size.
pub const PACKET_TOO_LARGE: u8 = 0x95;
/// The server refers to another one for this connection (4.11).
pub const USE_ANOTHER_SERVER: u8 = 0x9C;
/// The server refers to another one for good (4.11).
pub const SERVER_MOVED: u8 = 0x9D;

/// The least reason code that refuses (2.4), in a SUBACK of 3.1.1 too.
pub const REFUSED: u8 = 0x80;

/// Whether the reason code of an acknowledgement, a SUBACK or an UNSUBACK refuses.
#[inline]
pub fn is_refusal(code: u8) -> bool {
    code >= REFUSED
}

/// The standard's name of a reason code in a packet, if the standard lists the code for that packet.
pub fn reason_name(version: Version, packet: PacketType, code: u8) -> Option<&'static str> {
    let table = match version {
        Version::V311 => RETURN_CODES,
        Version::V50 => REASON_CODES,
    };
    let listed = table
        .iter()
        .find(|(listed, _, packets)| *listed == code && packets.contains(&packet));
    listed.map(|(_, name, _)| *name)
}

/// Whether the standard lists the reason code for a packet. Packets of 3.1.1 without a code have only 0.
pub fn reason_listed(version: Version, packet: PacketType, code: u8) -> bool {
    version == Version::V311 && code == 0 || reason_name(version, packet, code).is_some()
}

/// Code, name, and the packets that list it.
type Reason = (u8, &'static str, &'static [PacketType]);

/// Tables 3.1 and 3.4 of 3.1.1.
#[rustfmt::skip]
const RETURN_CODES: &[Reason] = &[
    (0x00, "Connection Accepted", &[Connack]),
    (0x01, "Connection Refused, unacceptable protocol version", &[Connack]),
    (0x02, "Connection Refused, identifier rejected", &[Connack]),
    (0x03, "Connection Refused, Server unavailable", &[Connack]),
    (0x04, "Connection Refused, bad user name or password", &[Connack]),
    (0x05, "Connection Refused, not authorized", &[Connack]),
    (0x00, "Success - Maximum QoS 0", &[Suback]),
    (0x01, "Success - Maximum QoS 1", &[Suback]),
    (0x02, "Success - Maximum QoS 2", &[Suback]),
    (0x80, "Failure", &[Suback]),
];

/// Table 2-6.
#[rustfmt::skip]
const REASON_CODES: &[Reason] = &[
    (0x00, "Success", &[Connack, Puback, Pubrec, Pubrel, Pubcomp, Unsuback, Auth]),
    (0x00, "Normal disconnection", &[Disconnect]),
    (0x00, "Granted QoS 0", &[Suback]),
    (0x01, "Granted QoS 1", &[Suback]),
    (0x02, "Granted QoS 2", &[Suback]),
    (0x04, "Disconnect with Will Message", &[Disconnect]),
    (0x10, "No matching subscribers", &[Puback, Pubrec]),
    (0x11, "No subscription existed", &[Unsuback]),
    (0x18, "Continue authentication", &[Auth]),
    (0x19, "Re-authenticate", &[Auth]),
    (0x80, "Unspecified error", &[Connack, Puback, Pubrec, Suback, Unsuback, Disconnect]),
    (0x81, "Malformed Packet", &[Connack, Disconnect]),
    (0x82, "Protocol Error", &[Connack, Disconnect]),
    (0x83, "Implementation specific error", &[Connack, Puback, Pubrec, Suback, Unsuback, Disconnect]),
    (0x84, "Unsupported Protocol Version", &[Connack]),
    (0x85, "Client Identifier not valid", &[Connack]),
    (0x86, "Bad User Name or Password", &[Connack]),
    (0x87, "Not authorized", &[Connack, Puback, Pubrec, Suback, Unsuback, Disconnect]),
    (0x88, "Server unavailable", &[Connack]),
    (0x89, "Server busy", &[Connack, Disconnect]),
    (0x8A, "Banned", &[Connack]),
    (0x8B, "Server shutting down", &[Disconnect]),
    (0x8C, "Bad authentication method", &[Connack, Disconnect]),
    (0x8D, "Keep Alive timeout", &[Disconnect]),
    (0x8E, "Session taken over", &[Disconnect]),
    (0x8F, "Topic Filter invalid", &[Suback, Unsuback, Disconnect]),
    (0x90, "Topic Name invalid", &[Connack, Puback, Pubrec, Disconnect]),
    (0x91, "Packet Identifier in use", &[Puback, Pubrec, Suback, Unsuback]),
    (0x92, "Packet Identifier not found", &[Pubrel, Pubcomp]),
    (0x93, "Receive Maximum exceeded", &[Disconnect]),
    (0x94, "Topic Alias invalid", &[Disconnect]),
    (0x95, "Packet too large", &[Connack, Disconnect]),
    (0x96, "Message rate too high", &[Disconnect]),
    (0x97, "Quota exceeded", &[Connack, Puback, Pubrec, Suback, Disconnect]),
    (0x98, "Administrative action", &[Disconnect]),
    (0x99, "Payload format invalid", &[Connack, Puback, Pubrec, Disconnect]),
    (0x9A, "Retain not supported", &[Connack, Disconnect]),
    (0x9B, "QoS not supported", &[Connack, Disconnect]),
    (0x9C, "Use another server", &[Connack, Disconnect]),
    (0x9D, "Server moved", &[Connack, Disconnect]),
    (0x9E, "Shared Subscriptions not supported", &[Suback, Disconnect]),
    (0x9F, "Connection rate exceeded", &[Connack, Disconnect]),
    (0xA0, "Maximum connect time", &[Disconnect]),
    (0xA1, "Subscription Identifiers not supported", &[Suback, Disconnect]),
    (0xA2, "Wildcard Subscriptions not supported", &[Suback, Disconnect]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_version_and_packet() {
        use super::Version::*;
        for (version, packet, code, name) in [
            (
                V311,
                Connack,
                1,
                Some("Connection Refused, unacceptable protocol version"),
            ),
            (V311, Connack, 32, None),
            (V311, Suback, 2, Some("Success - Maximum QoS 2")),
            (V311, Suback, 3, None),
            (V311, Suback, 0x80, Some("Failure")),
            (V311, Disconnect, 0, None),
            (V50, Connack, 0, Some("Success")),
            (V50, Connack, 1, None),
            (V50, Suback, 0, Some("Granted QoS 0")),
            (V50, Suback, 9, None),
            (V50, Unsuback, 0x11, Some("No subscription existed")),
            (V50, Disconnect, 0, Some("Normal disconnection")),
            (V50, Disconnect, 0x81, Some("Malformed Packet")),
            (V50, Auth, 0x18, Some("Continue authentication")),
            (V50, Pubrel, 0x92, Some("Packet Identifier not found")),
            (V50, Publish, 0, None),
        ] {
            assert_eq!(reason_name(version, packet, code), name);
        }
        assert!(reason_listed(V311, Puback, 0));
        assert!(!reason_listed(V311, Puback, 0x80));
        assert!(reason_listed(V50, Puback, 0x10));
        assert!(!reason_listed(V50, Pubcomp, 0x10));
    }

    #[test]
    fn the_codes_decided_by_are_those_of_the_table() {
        for (packet, code, name) in [
            (Auth, CONTINUE_AUTHENTICATION, "Continue authentication"),
            (Auth, RE_AUTHENTICATE, "Re-authenticate"),
            (
                Disconnect,
                DISCONNECT_WITH_WILL,
                "Disconnect with Will Message",
            ),
            (Disconnect, MALFORMED_PACKET, "Malformed Packet"),
            (Disconnect, PROTOCOL_ERROR, "Protocol Error"),
            (
                Connack,
                UNSUPPORTED_PROTOCOL_VERSION,
                "Unsupported Protocol Version",
            ),
            (Disconnect, SESSION_TAKEN_OVER, "Session taken over"),
            (Suback, TOPIC_FILTER_INVALID, "Topic Filter invalid"),
            (Puback, TOPIC_NAME_INVALID, "Topic Name invalid"),
            (
                Pubrel,
                PACKET_IDENTIFIER_NOT_FOUND,
                "Packet Identifier not found",
            ),
            (
                Disconnect,
                RECEIVE_MAXIMUM_EXCEEDED,
                "Receive Maximum exceeded",
            ),
            (Disconnect, TOPIC_ALIAS_INVALID, "Topic Alias invalid"),
            (Disconnect, PACKET_TOO_LARGE, "Packet too large"),
            (Disconnect, USE_ANOTHER_SERVER, "Use another server"),
            (Disconnect, SERVER_MOVED, "Server moved"),
        ] {
            assert_eq!(reason_name(Version::V50, packet, code), Some(name));
        }
    }

    #[test]
    fn no_code_has_two_names_in_one_packet() {
        for table in [RETURN_CODES, REASON_CODES] {
            for (i, (code, _, packets)) in table.iter().enumerate() {
                for (other, name, others) in &table[i + 1..] {
                    let both = code == other && packets.iter().any(|p| others.contains(p));
                    assert!(!both, "{name}");
                }
            }
        }
    }
}
