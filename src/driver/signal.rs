//! A descriptor that is readable while a link wants to be stepped, for event loops that wait on descriptors.

use std::io::{self, Read, Write};
#[cfg(any(windows, test))]
use std::net::{Ipv4Addr, TcpListener, TcpStream};
#[cfg(windows)]
use std::os::windows::io::{AsRawSocket, RawSocket};
#[cfg(unix)]
use std::os::{
    fd::{AsRawFd, RawFd},
    unix::net::UnixStream,
};

#[cfg(target_os = "linux")]
use mio::{Interest, Poll, Token, unix::SourceFd};

/// What an event loop waits on: a file descriptor, or a SOCKET on Windows.
#[cfg(unix)]
pub type Descriptor = RawFd;
/// What an event loop waits on: a file descriptor, or a SOCKET on Windows.
#[cfg(windows)]
pub type Descriptor = RawSocket;

#[cfg(unix)]
type End = UnixStream;
#[cfg(windows)]
type End = TcpStream;

/// A pair of sockets: a byte in the one makes the other readable. On Linux the descriptor is an epoll set of this other
/// socket and the connection's socket. The set is readable as long as one of them is. Elsewhere the descriptor is the other
/// socket, and the caretaker sees bytes that arrive on the connection.
///
/// A kqueue of macOS and the BSDs, which can be waited on as well, would not do as the set. kqueue(2): "A filter is also
/// run when the user attempts to retrieve the kevent from the kqueue." So once bytes have arrived, the kqueue stays readable
/// until it is asked for its events, whoever has read the bytes meanwhile. Windows has no set that `select` takes.
pub(super) struct Signal {
    raiser: End,
    waiter: End,
    #[cfg(target_os = "linux")]
    set: Poll,
}

impl Signal {
    pub(super) fn new() -> io::Result<Signal> {
        #[cfg(unix)]
        let (raiser, waiter) = UnixStream::pair()?;
        #[cfg(windows)]
        let (raiser, waiter) = loopback_pair()?;
        raiser.set_nonblocking(true)?;
        waiter.set_nonblocking(true)?;
        let signal = Signal {
            raiser,
            waiter,
            #[cfg(target_os = "linux")]
            set: Poll::new()?,
        };
        #[cfg(target_os = "linux")]
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
    #[cfg(target_os = "linux")]
    pub(super) fn watch(&self, socket: &impl AsRawFd) -> io::Result<()> {
        self.set.registry().register(
            &mut SourceFd(&socket.as_raw_fd()),
            Token(0),
            Interest::READABLE,
        )
    }

    #[cfg(target_os = "linux")]
    pub(super) fn unwatch(&self, socket: &impl AsRawFd) {
        let _ = self
            .set
            .registry()
            .deregister(&mut SourceFd(&socket.as_raw_fd()));
    }

    #[cfg(target_os = "linux")]
    pub(super) fn descriptor(&self) -> Descriptor {
        self.set.as_raw_fd()
    }

    #[cfg(all(unix, not(target_os = "linux")))]
    pub(super) fn descriptor(&self) -> Descriptor {
        self.waiter.as_raw_fd()
    }

    #[cfg(windows)]
    pub(super) fn descriptor(&self) -> Descriptor {
        self.waiter.as_raw_socket()
    }
}

/// Two sockets that are connected to each other, where the system makes no such pair.
#[cfg(any(windows, test))]
fn loopback_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    pair_at(&listener, TcpStream::connect(listener.local_addr()?)?)
}

/// Accepts connections until it is `raiser`'s: others on this machine may connect as well.
#[cfg(any(windows, test))]
fn pair_at(listener: &TcpListener, raiser: TcpStream) -> io::Result<(TcpStream, TcpStream)> {
    let own = raiser.local_addr()?;
    loop {
        let (waiter, peer) = listener.accept()?;
        if peer == own {
            raiser.set_nodelay(true)?;
            return Ok((raiser, waiter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_over_the_loopback_is_of_nobody_else() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut stranger = TcpStream::connect(address).unwrap();
        let (mut raiser, mut waiter) =
            pair_at(&listener, TcpStream::connect(address).unwrap()).unwrap();
        raiser.write_all(b"own").unwrap();
        let mut bytes = [0; 3];
        waiter.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"own");
        assert_eq!(stranger.read(&mut bytes).unwrap(), 0);
        assert!(loopback_pair().is_ok());
    }
}
