//! A map keyed by packet identifier or topic alias: both have 16 bits.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map keyed by 16 bits. Owns no memory until its first use.
pub(super) type IdMap<T> = HashMap<u16, T, BuildHasherDefault<IdHasher>>;

/// Spreads 16 bits over 64 without a collision. The 65,535 identifiers need no better hash.
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
