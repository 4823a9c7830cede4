//! Packet identifiers (2.2.1): a map keyed by them, and the exchanges that hold those this client hands out.
//! What the exchanges mean stands in `request` and `receive`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU16;

use crate::codec::PacketType;

/// Map keyed by packet identifier (or topic alias, which looks the same). Owns no memory while it has never been used.
pub(super) type IdMap<T> = HashMap<u16, T, BuildHasherDefault<IdHasher>>;

/// Spreads 16 bits over 64 without a collision: identifiers need no better hash, there are only 65,535.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u16(u16::from(*byte));
        }
    }

    fn write_u16(&mut self, id: u16) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// An exchange that this client began, named by the packet it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// QoS 1: PUBLISH was sent.
    Puback,
    /// QoS 2: PUBLISH was sent.
    Pubrec,
    /// QoS 2: PUBREL was sent.
    Pubcomp,
    /// SUBSCRIBE with this many topic filters was sent.
    Suback(usize),
    /// UNSUBSCRIBE with this many topic filters was sent.
    Unsuback(usize),
}

impl Exchange {
    /// The packet it waits for.
    pub(super) fn awaits(self) -> PacketType {
        match self {
            Self::Puback => PacketType::Puback,
            Self::Pubrec => PacketType::Pubrec,
            Self::Pubcomp => PacketType::Pubcomp,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsuback(_) => PacketType::Unsuback,
        }
    }
}

/// The exchanges this client began and has not finished, by packet identifier [MQTT-2.2.1-3].
#[derive(Default)]
pub(super) struct Outgoing {
    exchanges: IdMap<Exchange>,
    /// The identifier handed out last, 0 before the first.
    last: u16,
}

impl Outgoing {
    /// The identifier that comes next, skipping those in use; `None` when all are. Nothing changes until [`begin`](Self::begin).
    ///
    /// With `f` identifiers free, a full turn of the counter looks at 65,535 and hands out at least `f`: with 60,000
    /// exchanges in flight an identifier costs 12 lookups on average, whatever the order in which they end.
    pub(super) fn next_id(&self) -> Option<NonZeroU16> {
        if self.exchanges.len() == usize::from(u16::MAX) {
            return None;
        }
        let mut id = self.last;
        loop {
            id = id.wrapping_add(1);
            match NonZeroU16::new(id) {
                Some(free) if !self.exchanges.contains_key(&id) => return Some(free),
                _ => {}
            }
        }
    }

    /// Whether an exchange holds this identifier.
    pub(super) fn in_use(&self, id: u16) -> bool {
        self.exchanges.contains_key(&id)
    }

    /// Begins an exchange with an identifier from [`next_id`](Self::next_id).
    pub(super) fn begin(&mut self, id: NonZeroU16, exchange: Exchange) {
        self.last = id.get();
        self.exchanges.insert(id.get(), exchange);
    }

    /// Begins an exchange with a free identifier of the program's own choice: the counter stays where it is.
    pub(super) fn begin_given(&mut self, id: u16, exchange: Exchange) {
        self.exchanges.insert(id, exchange);
    }

    /// The exchange that holds this identifier.
    pub(super) fn get(&self, id: u16) -> Option<Exchange> {
        self.exchanges.get(&id).copied()
    }

    /// Takes a QoS 2 exchange from PUBREC to PUBCOMP.
    pub(super) fn released(&mut self, id: u16) {
        self.exchanges.insert(id, Exchange::Pubcomp);
    }

    /// Ends an exchange: its identifier is free again.
    pub(super) fn end(&mut self, id: u16) {
        self.exchanges.remove(&id);
    }

    /// Gives back memory that a burst needed.
    pub(super) fn shrink(&mut self) {
        self.exchanges.shrink_to_fit();
    }
}
