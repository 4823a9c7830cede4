//! The socket below every stream, TCP or Unix. All bytes written to a connection pass here.

#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// Without this flag, a write to a connection that the peer has closed raises SIGPIPE, whose default action ends the
/// program. Apple's systems have a socket option instead, which the standard library sets. Windows has no signals.
#[cfg(all(unix, not(target_vendor = "apple")))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
const NO_SIGNAL: i32 = 0;

/// The same flag, for writes to sockets outside this room.
#[cfg(unix)]
pub(crate) const SIGNAL_FREE: i32 = NO_SIGNAL;

/// A connected socket whose writes never raise SIGPIPE. The streams inside may raise it: TCP by vectored writes, Unix
/// sockets by all writes.
#[derive(Debug)]
pub struct Socket(Inner);

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    #[cfg(test)]
    Fake(Fake),
}

/// Evaluates an expression with the stream inside, of either type.
macro_rules! inside {
    ($socket:expr, $stream:ident => $what:expr) => {
        match $socket {
            Inner::Tcp($stream) => $what,
            #[cfg(unix)]
            Inner::Unix($stream) => $what,
            #[cfg(test)]
            Inner::Fake($stream) => $what,
        }
    };
}

impl Socket {
    /// Sends some of `offered` bytes.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        offered: usize,
        send: impl Fn(SockRef<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        inside!(&self.0, stream => loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || send(SockRef::from(stream))) {
                // The socket was ready, and no longer is.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(progress(offered, sent)),
            }
        })
    }
}

/// The result of a write of `offered` bytes. A write that takes none of them is an error: to try again would go on
/// forever, and TLS would wait for a wake-up that nobody owes it.
pub(super) fn progress(offered: usize, written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Ok(0) if offered > 0 => Err(io::Error::new(
            ErrorKind::WriteZero,
            "the connection takes nothing",
        )),
        written => written,
    }
}

/// The number of bytes in all buffers.
pub(super) fn total(bufs: &[IoSlice<'_>]) -> usize {
    bufs.iter().map(|buf| buf.len()).sum()
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket(Inner::Tcp(stream))
    }
}

#[cfg(unix)]
impl From<tokio::net::UnixStream> for Socket {
    fn from(stream: tokio::net::UnixStream) -> Self {
        Socket(Inner::Unix(stream))
    }
}

#[cfg(unix)]
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        inside!(&self.0, stream => stream.as_fd())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inside!(&mut self.get_mut().0, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf.len(), |socket| {
            socket.send_with_flags(buf, NO_SIGNAL)
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, total(bufs), |socket| {
            socket.send_vectored_with_flags(bufs, NO_SIGNAL)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has all bytes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(&mut self.get_mut().0, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A socket that does what a test says.
#[cfg(test)]
pub(crate) struct Fake {
    pub(crate) read: Box<Read>,
    pub(crate) write: std::sync::Mutex<Box<Write>>,
}

#[cfg(test)]
type Read = dyn FnMut(&mut ReadBuf<'_>) -> Poll<io::Result<()>> + Send;
#[cfg(test)]
type Write = dyn FnMut() -> io::Result<usize> + Send;

#[cfg(test)]
mod fake {
    use super::*;

    impl Fake {
        /// A socket that is never used.
        pub(crate) fn new() -> Fake {
            Fake {
                read: Box::new(|_| unreachable!()),
                write: std::sync::Mutex::new(Box::new(|| unreachable!())),
            }
        }

        /// A socket that takes no bytes. It panics if it is asked forever.
        pub(crate) fn that_takes_nothing() -> Fake {
            let mut writes = 0;
            let write = move || {
                writes += 1;
                assert!(writes < 100, "this goes on for ever");
                Ok(0)
            };
            Fake {
                write: std::sync::Mutex::new(Box::new(write)),
                ..Fake::new()
            }
        }

        pub(super) fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        pub(super) fn try_io(
            &self,
            _: Interest,
            _: impl FnOnce() -> io::Result<usize>,
        ) -> io::Result<usize> {
            self.write.lock().unwrap()()
        }
    }

    impl From<Fake> for Socket {
        fn from(fake: Fake) -> Self {
            Socket(Inner::Fake(fake))
        }
    }

    impl std::fmt::Debug for Fake {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Fake")
        }
    }

    impl AsFd for Fake {
        fn as_fd(&self) -> BorrowedFd<'_> {
            unreachable!()
        }
    }

    impl AsyncRead for Fake {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            (self.get_mut().read)(buf)
        }
    }

    impl Fake {
        pub(super) fn poll_shutdown(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_write_that_takes_nothing_is_an_error() {
        let mut socket = Socket::from(Fake::that_takes_nothing());
        let bufs = [IoSlice::new(b""), IoSlice::new(b"x")];
        for error in [
            poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, b"x")).await,
            poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &bufs)).await,
        ] {
            assert_eq!(error.unwrap_err().kind(), ErrorKind::WriteZero);
        }
        // There are no bytes to take.
        let written = poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, b"")).await;
        assert_eq!(written.unwrap(), 0);
    }
}
