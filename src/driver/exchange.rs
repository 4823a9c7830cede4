//! The exchange between a link and its connection's task: the task brings bytes and takes an instruction.

use std::time::Instant;
use std::{fmt, io};

use bytes::BytesMut;

use crate::net;

/// The bytes and news that a connection's task brings to an exchange, and the bytes that it takes away.
#[derive(Default)]
pub(super) struct Exchange {
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// A large message's payload follows the output, unless that message is over.
    pub(super) large: bool,
    /// Bytes written since the last exchange.
    pub(super) written: usize,
    /// How the connection ended.
    pub(super) ended: Option<Ended>,
}

/// How a connection ended by itself.
#[derive(Debug)]
pub enum Ended {
    /// The peer closed the connection, in any manner.
    Closed,
    /// The network or TLS broke the connection.
    Broken(io::Error),
    /// The connection's task has panicked.
    Panicked,
}

impl From<io::Error> for Ended {
    /// A peer that resets the connection, or ends TLS without close_notify, has closed it.
    fn from(error: io::Error) -> Self {
        match net::is_closed(&error) {
            true => Self::Closed,
            false => Self::Broken(error),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::Broken(error) => f.write_str(&net::describe(error)),
            Self::Panicked => f.write_str("internal error"),
        }
    }
}

/// The work of a connection's task after an exchange.
pub(super) struct Instruction {
    /// When the next exchange is due even if nothing happens before.
    pub(super) deadline: Option<Instant>,
    /// Whether to read on.
    pub(super) read: bool,
    /// How many bytes the arriving packet lacks. 0 if that is not known.
    pub(super) missing: usize,
    /// Whether to write the rest and end.
    pub(super) finish: bool,
    /// Whether to have the descriptor watch the connection.
    #[cfg(target_os = "linux")]
    pub(super) watch: bool,
}
