//! What a link and the task of its connection give each other: the task's bytes against what it is to do next.

use std::time::Instant;

use bytes::BytesMut;

/// What a connection's task brings to an exchange, and takes from it.
#[derive(Default)]
pub(super) struct Exchange {
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// A large message follows the output, unless it is over.
    pub(super) large: bool,
    /// Bytes written since the last exchange.
    pub(super) written: usize,
    /// How the connection ended.
    pub(super) ended: Option<Ended>,
}

/// How a connection ended by itself.
pub(super) enum Ended {
    /// The peer closed it.
    Closed,
    /// It broke, with what the operating system or TLS said.
    Broken(String),
}

/// What a connection's task is to do after an exchange.
pub(super) struct Instruction {
    /// When the next exchange is due even if nothing else happens.
    pub(super) deadline: Option<Instant>,
    /// Whether to read on.
    pub(super) read: bool,
    /// How many bytes the packet that is being received lacks, as far as that is known.
    pub(super) missing: usize,
    /// Write what is left, and end.
    pub(super) finish: bool,
    /// See to it that the connection is watched.
    #[cfg(unix)]
    pub(super) watch: bool,
}
