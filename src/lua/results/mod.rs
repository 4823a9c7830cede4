//! Results of functions for Lua: the trait [`Results`], and packets in `packets.rs`. `args` is the other direction.

mod packets;

use bytes::BytesMut;

use super::stack::Stack;
use crate::session::Discarded;
pub(super) use packets::{BUILDS_MESSAGES, MESSAGE_FIELDS, push_message, push_packet};

/// The results of a function. `push` must hold nothing with a destructor: see [`RawFunction`](super::stack::RawFunction).
pub(crate) trait Results {
    /// Pushes the values.
    fn push(&self, to: &Stack);
}

impl Results for () {
    fn push(&self, _: &Stack) {}
}

impl Results for bool {
    fn push(&self, to: &Stack) {
        to.push_boolean(*self);
    }
}

impl Results for u16 {
    fn push(&self, to: &Stack) {
        to.push_integer(*self);
    }
}

impl Results for u32 {
    fn push(&self, to: &Stack) {
        to.push_integer(*self);
    }
}

impl Results for f64 {
    fn push(&self, to: &Stack) {
        to.push_number(*self);
    }
}

impl Results for str {
    fn push(&self, to: &Stack) {
        to.push_bytes(self.as_bytes());
    }
}

impl Results for &str {
    fn push(&self, to: &Stack) {
        to.push_bytes(self.as_bytes());
    }
}

impl Results for String {
    fn push(&self, to: &Stack) {
        to.push_bytes(self.as_bytes());
    }
}

impl Results for BytesMut {
    fn push(&self, to: &Stack) {
        to.push_bytes(self);
    }
}

/// A list.
impl Results for Vec<u16> {
    fn push(&self, to: &Stack) {
        to.push_table();
        for number in self {
            to.push_integer(*number);
            to.append();
        }
    }
}

/// A value or nil.
/// A list.
impl Results for Vec<Discarded> {
    fn push(&self, to: &Stack) {
        to.push_table();
        for message in self {
            message.push(to);
            to.append();
        }
    }
}

/// A table with `packet_id`, `sequence`, `tag`, `topic`, `qos` and `reason`; without what the message has not.
impl Results for Discarded {
    fn push(&self, to: &Stack) {
        to.push_table();
        if self.packet_id != 0 {
            set(to, "packet_id", |to| to.push_integer(self.packet_id));
        }
        if let Some(sequence) = self.sequence {
            set(to, "sequence", |to| to.push_count(sequence));
        }
        if !self.tag.is_empty() {
            set(to, "tag", |to| to.push_bytes(&self.tag));
        }
        set(to, "topic", |to| to.push_bytes(&self.topic));
        set(to, "qos", |to| to.push_integer(self.qos as u8));
        set(to, "reason", |to| to.push_bytes(self.why.word().as_bytes()));
    }
}

impl<T: Results> Results for Option<T> {
    fn push(&self, to: &Stack) {
        match self {
            Some(value) => value.push(to),
            None => to.push_nil(),
        }
    }
}

/// A value; or nil and an error.
impl<T: Results> Results for Result<T, String> {
    fn push(&self, to: &Stack) {
        match self {
            Ok(value) => value.push(to),
            Err(error) => push_failure(error, to),
        }
    }
}

impl<A: Results, B: Results> Results for (A, B) {
    fn push(&self, to: &Stack) {
        self.0.push(to);
        self.1.push(to);
    }
}

impl<A: Results, B: Results, C: Results, D: Results> Results for (A, B, C, D) {
    fn push(&self, to: &Stack) {
        self.0.push(to);
        self.1.push(to);
        self.2.push(to);
        self.3.push(to);
    }
}

/// Pushes nil and an error.
pub(crate) fn push_failure(error: &str, to: &Stack) {
    to.push_nil();
    to.push_bytes(error.as_bytes());
}

/// Sets a field of the table on top of the stack.
pub(crate) fn set(to: &Stack, key: &str, push_value: impl FnOnce(&Stack)) {
    to.push_bytes(key.as_bytes());
    push_value(to);
    to.set();
}
