//! Accepted messages that the client itself gives up, as its options say.

use bytes::Bytes;

use super::kept::{qos_of, topic_of};
use crate::codec::QoS;

/// Why an accepted message is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It had to make room for another one.
    Full,
    /// It has waited for longer than it may.
    Expired,
    /// A newer message of its topic has taken its place.
    Replaced,
}

impl Why {
    /// The reason in one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
        }
    }
}

/// A message that is given up. It was never sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// The packet identifier, 0 for none.
    pub packet_id: u16,
    /// The place in the order of kept messages, if it was one.
    pub sequence: Option<u64>,
    /// The program's name for it, empty for none.
    pub tag: Bytes,
    /// The topic.
    pub topic: Bytes,
    /// The QoS.
    pub qos: QoS,
    /// Why.
    pub why: Why,
}

impl Discarded {
    /// A message of the queue in memory: the PUBLISH, as it was encoded.
    pub(super) fn queued(packet_id: u16, publish: &[u8], why: Why) -> Self {
        Self {
            packet_id,
            sequence: None,
            tag: Bytes::new(),
            topic: Bytes::copy_from_slice(topic_of(publish)),
            qos: qos_of(publish),
            why,
        }
    }

    /// A message of the store.
    pub(super) fn kept(sequence: u64, tag: &[u8], publish: &[u8], why: Why) -> Self {
        Self {
            sequence: Some(sequence),
            tag: Bytes::copy_from_slice(tag),
            ..Self::queued(0, publish, why)
        }
    }
}
