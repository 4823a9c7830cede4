//! The limits that each side of a connection sets the other. `request` and `receive` enforce them.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::codec::{Properties, PropertyId, QoS};

/// What this client accepts, how long it waits, and what it keeps. The defaults accept everything that the standard
/// allows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest packet accepted from the server, in bytes with its fixed header. A smaller Maximum Packet Size among
    /// the CONNECT properties takes precedence.
    pub max_packet_size: u32,
    /// Bytes of queued events above which [`Session::wants_receive`](super::Session::wants_receive) says no.
    pub max_queued_bytes: usize,
    /// Bytes waiting to be written or acknowledged above which the driver should accept no more messages.
    pub max_outgoing_bytes: usize,
    /// How long the user may take for CONNECT, and how long the server may take from CONNECT to CONNACK, AUTH packets
    /// between them included. `None` waits forever.
    pub connack_timeout: Option<Duration>,
    /// How long the server may take to answer a PINGREQ that has been written. The time begins anew with each KiB that
    /// arrives before the answer, for at most ten times as long; after that only while one packet is still arriving. It
    /// is also how long a transport may take no bytes while PINGREQ waits to be written. `None` means the keep alive
    /// interval.
    pub pingresp_timeout: Option<Duration>,
    /// Whether exchanges that a connection's end has interrupted continue on the next connection even if that starts a
    /// clean session. Without a clean start they always continue [MQTT-4.4.0-1].
    pub keep_exchanges: bool,
    /// Whether messages are accepted without a connection, and how many.
    pub queue: Option<QueueLimits>,
    /// How messages wait to be sent for the first time, if the user has said so.
    pub backlog: Option<Box<Backlog>>,
    /// Tells the time when a message begins to wait, and when it is sent at last. Without it no message of the queue
    /// expires.
    pub clock: Option<fn() -> Instant>,
    /// Whether subscriptions are renewed when the server has no session.
    pub resubscribe: bool,
    /// The most QoS 2 messages that a server of 3.1.1 is given at a time. Such a server cannot say how many it takes,
    /// and mosquitto 2.0 drops messages above its `max_inflight_messages` (20 by default) with a PUBREC that looks like
    /// success. Messages of QoS 1 do not count, but it drops them as well, so they wait too. A message stops counting when
    /// its PUBREL has been sent: the server sees the PUBREL before later packets.
    pub server_receive_maximum: u16,
    /// The beginning of the correlation data of the user's requests (4.10), if there are any. Their responses come by
    /// subscriptions of the session. When the server has no session, the requests come
    /// [back](super::Event::Withdrawn).
    pub requests: Option<Box<[u8]>>,
    /// Whether topic aliases replace topics where the server accepts any (3.3.2.3.4).
    pub topic_aliases: bool,
}

impl Settings {
    /// Whether a waiting message gives way to a newer one of its topic.
    pub fn gives_way(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.latest)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_packet_size: 268_435_460,
            max_queued_bytes: 1 << 20,
            max_outgoing_bytes: 16 << 20,
            connack_timeout: Some(Duration::from_secs(30)),
            pingresp_timeout: None,
            keep_exchanges: false,
            queue: None,
            backlog: None,
            clock: None,
            resubscribe: false,
            server_receive_maximum: 20,
            requests: None,
            topic_aliases: false,
        }
    }
}

/// How messages wait that were never sent, in memory or in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How long a message may wait for which the program says nothing. `None`: for ever.
    pub expires_in: Option<Duration>,
    /// Whether a message gives way to a newer one of its topic. Messages with a response topic never do.
    pub latest: bool,
    /// How many of the messages that have waited for the connection are sent in a second. `None`: as many as the server
    /// takes. It ends when none waits any more.
    pub rate: Option<NonZeroU32>,
}

/// The limits of the queue of messages that wait for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// The most packets.
    pub max_messages: u32,
    /// The most bytes of these packets.
    pub max_bytes: u32,
    /// Whether the oldest message that was never sent makes room for a new one. If not, the new one is refused.
    pub drop_oldest: bool,
}

/// The server's limits on this connection: the properties of its CONNACK, or the standard's defaults for absent ones
/// (3.2.2.3). With 3.1.1, before CONNACK and after the connection's end, these are the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// The most QoS 1 and 2 messages that may be unacknowledged at a time.
    pub receive_maximum: u16,
    /// The largest packet that the server accepts, in bytes with its fixed header.
    pub maximum_packet_size: u32,
    /// The highest QoS of a PUBLISH.
    pub maximum_qos: QoS,
    /// Whether a PUBLISH may be retained.
    pub retain_available: bool,
    /// The highest topic alias of a PUBLISH, 0 for none.
    pub topic_alias_maximum: u16,
    /// Whether topic filters may have wildcards.
    pub wildcard_subscription_available: bool,
    /// Whether a SUBSCRIBE may carry a subscription identifier.
    pub subscription_identifiers_available: bool,
    /// Whether subscriptions may be shared.
    pub shared_subscription_available: bool,
}

impl ServerLimits {
    /// The standard's defaults.
    pub(super) const ASSUMED: Self = Self {
        receive_maximum: u16::MAX,
        maximum_packet_size: u32::MAX,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        topic_alias_maximum: 0,
        wildcard_subscription_available: true,
        subscription_identifiers_available: true,
        shared_subscription_available: true,
    };

    /// Reads the properties of a CONNACK.
    pub(super) fn new(connack: &Properties) -> Self {
        let assumed = Self::ASSUMED;
        let available = |id| connack.byte(id) != Some(0);
        Self {
            receive_maximum: connack
                .two_byte(PropertyId::ReceiveMaximum)
                .unwrap_or(assumed.receive_maximum),
            maximum_packet_size: connack
                .four_byte(PropertyId::MaximumPacketSize)
                .unwrap_or(assumed.maximum_packet_size),
            maximum_qos: connack
                .byte(PropertyId::MaximumQoS)
                .and_then(QoS::from_code)
                .unwrap_or(assumed.maximum_qos),
            retain_available: available(PropertyId::RetainAvailable),
            topic_alias_maximum: connack
                .two_byte(PropertyId::TopicAliasMaximum)
                .unwrap_or(assumed.topic_alias_maximum),
            wildcard_subscription_available: available(PropertyId::WildcardSubscriptionAvailable),
            subscription_identifiers_available: available(
                PropertyId::SubscriptionIdentifierAvailable,
            ),
            shared_subscription_available: available(PropertyId::SharedSubscriptionAvailable),
        }
    }
}
