//! The descriptor of a link, for event loops that wait on descriptors. It is made on first request, and only on Unix.
//! `readiness.rs` decides when it is readable.

#[cfg(unix)]
use std::{io, os::fd::RawFd};

#[cfg(unix)]
use super::signal::Signal;
#[cfg(unix)]
use crate::net::Stream;

#[derive(Default)]
pub(super) struct Descriptor {
    #[cfg(unix)]
    signal: Option<Signal>,
    /// Whether the descriptor is readable when the connection is.
    #[cfg(unix)]
    watches: bool,
}

impl Descriptor {
    /// Makes the descriptor readable. `clear` must come before the next call.
    pub(super) fn raise(&self) {
        #[cfg(unix)]
        if let Some(signal) = &self.signal {
            signal.raise();
        }
    }

    pub(super) fn clear(&self) {
        #[cfg(unix)]
        if let Some(signal) = &self.signal {
            signal.clear();
        }
    }

    /// The link has let go of its connection.
    pub(super) fn detach(&mut self) {
        #[cfg(unix)]
        {
            self.watches = false;
        }
    }
}

#[cfg(unix)]
impl Descriptor {
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.signal.as_ref().map(Signal::fd)
    }

    pub(super) fn make(&mut self) -> io::Result<RawFd> {
        Ok(self.signal.insert(Signal::new()?).fd())
    }

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
}
