//! What a link and the task of its connection give each other: the task's bytes against what it is to do next.

use std::time::Instant;
use std::{fmt, io};

use bytes::BytesMut;

use crate::net;

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
#[derive(Debug)]
pub enum Ended {
    /// The peer closed it, in whatever manner.
    Closed,
    /// The network or TLS broke it.
    Broken(io::Error),
    /// Its task has panicked.
    Panicked,
}

impl From<io::Error> for Ended {
    /// A peer that resets the connection, or ends TLS without saying so, has closed it.
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
