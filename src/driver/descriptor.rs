//! The descriptor of a link, for event loops that wait on descriptors. It is made on first request. `readiness.rs` decides
//! when it is readable.

use std::io;

use super::signal::{self, Signal};
#[cfg(target_os = "linux")]
use crate::net::Stream;

#[derive(Default)]
pub(super) struct Descriptor {
    signal: Option<Signal>,
    /// Whether the descriptor is readable when the connection is.
    #[cfg(target_os = "linux")]
    watches: bool,
}

impl Descriptor {
    pub(super) fn get(&self) -> Option<signal::Descriptor> {
        self.signal.as_ref().map(Signal::descriptor)
    }

    pub(super) fn make(&mut self) -> io::Result<signal::Descriptor> {
        Ok(self.signal.insert(Signal::new()?).descriptor())
    }

    /// Makes the descriptor readable. `clear` must come before the next call.
    pub(super) fn raise(&self) {
        if let Some(signal) = &self.signal {
            signal.raise();
        }
    }

    pub(super) fn clear(&self) {
        if let Some(signal) = &self.signal {
            signal.clear();
        }
    }
}

/// Where the descriptor is a set, the connection is a member.
#[cfg(target_os = "linux")]
impl Descriptor {
    /// Whether an event loop waits on the descriptor, and the descriptor does not watch the connection yet.
    pub(super) fn is_to_watch(&self) -> bool {
        self.signal.is_some() && !self.watches
    }

    /// Makes the descriptor readable whenever the connection is.
    pub(super) fn watch(&mut self, stream: &Stream) {
        if let Some(signal) = &self.signal {
            // If this fails, the caretaker sees arriving bytes first, as for every other link.
            let _ = signal.watch(stream);
            self.watches = true;
        }
    }

    /// Undoes `watch` for a connection that the link has let go of.
    pub(super) fn unwatch(&self, stream: &Stream) {
        if let Some(signal) = &self.signal {
            signal.unwatch(stream);
        }
    }

    /// The link has let go of its connection.
    pub(super) fn detach(&mut self) {
        self.watches = false;
    }
}
