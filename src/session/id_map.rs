//! A map keyed by packet identifier, or topic alias, which looks the same.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Map keyed by 16 bits. Owns no memory while it has never been used.
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
