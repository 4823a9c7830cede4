//! Rules about fields of received and of sent packets, each stated once.

use super::error::Fault;
use super::string::MAX_LEN;
use super::topic::{check_filter, check_name, check_share, is_shared};
use super::{PacketType, Properties, PropertyId, Subscription, Version, reason};

/// The reserved flags of a fixed header (2.1.3); a PUBLISH has its own.
#[inline]
pub(super) fn fixed_flags(packet_type: PacketType) -> u8 {
    match packet_type {
        PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
        _ => 0,
    }
}

/// [MQTT-3.3.1-2].
pub(super) const DUP_WITH_QOS_0: &str = "DUP must not be set with QoS 0";

/// [MQTT-2.2.1-3], [MQTT-2.2.1-4]; [MQTT-2.3.1-1] in 3.1.1.
#[inline]
pub(super) fn packet_id(packet_id: u16) -> Result<(), Fault> {
    match packet_id {
        0 => Err(Fault::protocol("packet identifier must not be 0")),
        _ => Ok(()),
    }
}

/// Binary data has at most 65,535 bytes (1.5.6).
pub(super) fn binary(bytes: &[u8], field: &str) -> Result<(), Fault> {
    match bytes.len() {
        0..=MAX_LEN => Ok(()),
        len => {
            let rule = format!("{field} must be at most {MAX_LEN} bytes long, got {len}");
            Err(Fault::malformed(rule))
        }
    }
}

/// [MQTT-4.7.0-1], [MQTT-4.7.3-1]; [MQTT-4.7.1-1] in place of the first in 3.1.1.
#[inline]
pub(super) fn topic_name(name: &[u8], field: &str) -> Result<(), Fault> {
    check_name(name).map_err(|error| error.of(field, reason::TOPIC_NAME_INVALID))
}

/// A PUBLISH may have an empty topic name only if it has a topic alias; otherwise it is a Protocol Error (3.3.2.1).
#[inline]
pub(super) fn publish_topic(name: &[u8], properties: &Properties) -> Result<(), Fault> {
    match name.is_empty() {
        true if properties.first(PropertyId::TopicAlias).is_some() => Ok(()),
        true => check_name(name).map_err(|error| error.of("topic", reason::PROTOCOL_ERROR)),
        false => topic_name(name, "topic"),
    }
}

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1]; in 5.0 [MQTT-4.8.2-1], [MQTT-4.8.2-2]. In 3.1.1 `$share` is a level
/// like any other.
pub(super) fn topic_filter(filter: &str, version: Version) -> Result<(), Fault> {
    let checked = match version {
        Version::V311 => check_filter(filter),
        Version::V50 => check_filter(filter).and_then(|()| check_share(filter)),
    };
    checked.map_err(|error| error.of("topic filter", reason::TOPIC_FILTER_INVALID))
}

/// [MQTT-3.8.3-4], 3.8.3.1.
pub(super) fn subscription(subscription: &Subscription) -> Result<(), Fault> {
    if subscription.retain_handling > 2 {
        let got = subscription.retain_handling;
        let rule = format!("retain handling must be 0, 1 or 2, got {got}");
        return Err(Fault::protocol(rule));
    }
    if subscription.no_local && is_shared(&subscription.filter) {
        let filter = &subscription.filter;
        let rule = format!("no local must not be set on a shared subscription, got {filter:?}");
        return Err(Fault::protocol(rule));
    }
    Ok(())
}

/// [MQTT-3.8.3-2], [MQTT-3.10.3-2].
pub(super) fn subscriptions(count: usize) -> Result<(), Fault> {
    match count {
        0 => Err(Fault::protocol("empty subscriptions list")),
        _ => Ok(()),
    }
}

/// A reason code for each topic filter [MQTT-3.8.4-6], [MQTT-3.11.3-1], so at least one.
pub(super) fn reasons(count: usize) -> Result<(), Fault> {
    match count {
        0 => Err(Fault::protocol("empty reason code list")),
        _ => Ok(()),
    }
}

/// In 3.1.1 a password needs a user name [MQTT-3.1.2-22].
pub(super) fn credentials(
    version: Version,
    has_username: bool,
    has_password: bool,
) -> Result<(), Fault> {
    match version == Version::V311 && has_password && !has_username {
        true => Err(Fault::protocol(
            "password must not be given without a user name in MQTT 3.1.1",
        )),
        false => Ok(()),
    }
}
