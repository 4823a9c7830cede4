//! The bytes of a network connection that are on their way, and its deadlines. They last from `Session::open` to
//! `Session::close`: longer than the connection of `connection.rs`, whose last bytes are written after its end.

use std::time::Instant;

use bytes::BytesMut;

use super::timers::Timers;
use crate::codec::{Decoder, Version};

/// The most answers to the server that may wait to be written. Above it, reading stops.
const MOST_ANSWERS: u32 = 1 << 16;

pub(super) struct Transport {
    pub(super) decoder: Decoder,
    /// Bytes to be written, except those that have been taken.
    pub(super) transmit: BytesMut,
    /// Bytes that the driver has taken and not yet written, or has to write before `transmit`.
    pub(super) taken: usize,
    /// Answers sent since `transmit` was last empty.
    answers: u32,
    pub(super) timers: Timers,
    /// Whether reading has been held back since the last PINGREQ. If so, the PINGRESP may lie unread.
    pub(super) held_back: bool,
}

impl Transport {
    pub(super) fn new(version: Version, timers: Timers) -> Self {
        Self {
            decoder: Decoder::new(version),
            transmit: BytesMut::new(),
            taken: 0,
            answers: 0,
            timers,
            held_back: false,
        }
    }

    /// Puts bytes back that were taken, or were to be written before the others.
    pub(super) fn put_back(&mut self, head: &[u8], payload: &[u8]) {
        let size = head.len() + payload.len();
        self.taken = self.taken.saturating_sub(size);
        let later = self.transmit.split();
        self.transmit.reserve(size + later.len());
        self.transmit.extend_from_slice(head);
        self.transmit.extend_from_slice(payload);
        self.transmit.extend_from_slice(&later);
    }

    /// The driver has written `bytes` bytes.
    pub(super) fn transmitted(&mut self, bytes: usize, now: Instant) {
        self.taken = self.taken.saturating_sub(bytes);
        self.timers.transmitted(bytes, self.taken > 0, now);
    }

    /// The number of bytes that have not been written.
    pub(super) fn unwritten(&self) -> usize {
        self.taken + self.transmit.len()
    }

    /// An answer to the server is about to be sent.
    pub(super) fn count_answer(&mut self) {
        if self.transmit.is_empty() {
            self.answers = 0;
        }
        self.answers += 1;
    }

    /// Whether the server does not read our answers.
    pub(super) fn is_unread(&self) -> bool {
        self.answers > MOST_ANSWERS && !self.transmit.is_empty()
    }

    /// Gives back memory that a burst needed.
    pub(super) fn shrink(&mut self) {
        if self.transmit.is_empty() {
            self.transmit = BytesMut::new();
        }
    }
}
