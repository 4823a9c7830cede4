//! A file descriptor that is readable while a link wants to be stepped, for event loops that wait on descriptors.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

#[cfg(target_os = "linux")]
use mio::{Interest, Poll, Token, unix::SourceFd};

/// A pair of sockets: a byte in the one makes the other readable. On Linux the descriptor is an epoll set of this other
/// socket and the connection's socket. The set is readable as long as one of them is. On other systems a set would stay
/// readable until it is asked.
pub(super) struct Signal {
    raiser: UnixStream,
    waiter: UnixStream,
    #[cfg(target_os = "linux")]
    set: Poll,
}

impl Signal {
    pub(super) fn new() -> io::Result<Signal> {
        let (raiser, waiter) = UnixStream::pair()?;
        raiser.set_nonblocking(true)?;
        waiter.set_nonblocking(true)?;
        let signal = Signal {
            raiser,
            waiter,
            #[cfg(target_os = "linux")]
            set: Poll::new()?,
        };
        signal.watch(&signal.waiter)?;
        Ok(signal)
    }

    /// Makes the descriptor readable. `clear` must come before the next call, so that at most one byte is under way.
    pub(super) fn raise(&self) {
        // One byte cannot fill the socket, and both ends live here.
        let _ = (&self.raiser).write(&[1]);
    }

    pub(super) fn clear(&self) {
        let _ = (&self.waiter).read(&mut [0]);
    }

    /// Adds a socket to the set, until the socket is closed or `unwatch` removes it.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(unused_variables, clippy::unused_self)
    )]
    pub(super) fn watch(&self, socket: &impl AsRawFd) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        self.set.registry().register(
            &mut SourceFd(&socket.as_raw_fd()),
            Token(0),
            Interest::READABLE,
        )?;
        Ok(())
    }

    #[cfg_attr(
        not(target_os = "linux"),
        expect(unused_variables, clippy::unused_self)
    )]
    pub(super) fn unwatch(&self, socket: &impl AsRawFd) {
        #[cfg(target_os = "linux")]
        let _ = self
            .set
            .registry()
            .deregister(&mut SourceFd(&socket.as_raw_fd()));
    }

    #[cfg(target_os = "linux")]
    pub(super) fn fd(&self) -> RawFd {
        self.set.as_raw_fd()
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn fd(&self) -> RawFd {
        self.waiter.as_raw_fd()
    }
}
