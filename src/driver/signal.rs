//! A file descriptor that is readable while raised, for event loops that wait on descriptors.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// A pair of sockets: a byte in the one makes the other readable.
pub(super) struct Signal {
    raiser: UnixStream,
    waiter: UnixStream,
}

impl Signal {
    pub(super) fn new() -> io::Result<Signal> {
        let (raiser, waiter) = UnixStream::pair()?;
        raiser.set_nonblocking(true)?;
        waiter.set_nonblocking(true)?;
        Ok(Signal { raiser, waiter })
    }

    /// Not to be called again before `clear`, so that one byte at most is under way.
    pub(super) fn raise(&self) {
        // It cannot be full with one byte, and both ends live here.
        let _ = (&self.raiser).write(&[1]);
    }

    pub(super) fn clear(&self) {
        let _ = (&self.waiter).read(&mut [0]);
    }

    pub(super) fn fd(&self) -> RawFd {
        self.waiter.as_raw_fd()
    }
}
