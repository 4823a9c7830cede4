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
pub(crate) const SIGNAL_FREE: i32 = NO_SIGNAL;

/// A socket of the program's own.
#[cfg(unix)]
pub type OwnedSocket = std::os::fd::OwnedFd;
/// A socket of the program's own.
#[cfg(windows)]
pub type OwnedSocket = std::os::windows::io::OwnedSocket;

/// A connected socket whose writes never raise SIGPIPE. The streams inside may raise it: TCP by vectored writes, Unix
/// sockets by all writes.
#[derive(Debug)]
pub struct Socket(Inner);

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    /// A stream of a test's own in place of a socket.
    #[cfg(test)]
    Fake(Box<dyn Pipe>),
}

/// Evaluates an expression with the stream inside, of either type. A test's stream may have another expression.
macro_rules! inside {
    ($socket:expr, $stream:ident => $what:expr) => {
        inside!($socket, $stream => $what, $stream => $what)
    };
    ($socket:expr, $stream:ident => $what:expr, $fake:ident => $instead:expr) => {
        match $socket {
            Inner::Tcp($stream) => $what,
            #[cfg(unix)]
            Inner::Unix($stream) => $what,
            #[cfg(test)]
            Inner::Fake($fake) => $instead,
        }
    };
}

impl Socket {
    /// Sends some of the bytes in `bufs` by `send`.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        send: impl Fn(SockRef<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let sent = inside!(
            &mut self.0,
            stream => loop {
                ready!(stream.poll_write_ready(cx))?;
                match stream.try_io(Interest::WRITABLE, || send(SockRef::from(&*stream))) {
                    // The socket was ready, and no longer is.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    sent => break sent,
                }
            },
            fake => ready!(Pin::new(fake).poll_write_vectored(cx, bufs))
        );
        Poll::Ready(progress(total(bufs), sent))
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
        inside!(
            &self.0,
            stream => stream.as_fd(),
            _fake => unreachable!("a stream of a test's own has no descriptor")
        )
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
        self.get_mut()
            .poll_send(cx, &[IoSlice::new(buf)], |socket| {
                socket.send_with_flags(buf, NO_SIGNAL)
            })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, bufs, |socket| {
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

/// The stream of a test that needs no network.
#[cfg(test)]
trait Pipe: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

#[cfg(test)]
impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Pipe for T {}

#[cfg(test)]
impl Socket {
    /// A socket that is a stream of a test's own.
    pub(crate) fn fake(
        stream: impl AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
    ) -> Socket {
        Socket(Inner::Fake(Box::new(stream)))
    }

    /// A socket that takes no bytes. It panics if it is asked forever.
    pub(crate) fn that_takes_nothing() -> Socket {
        #[derive(Debug)]
        struct Full {
            writes: usize,
        }

        impl AsyncWrite for Full {
            fn poll_write(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.writes += 1;
                assert!(self.writes < 100, "this goes on for ever");
                Poll::Ready(Ok(0))
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }

        Socket::fake(tokio::io::join(tokio::io::empty(), Full { writes: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_write_that_takes_nothing_is_an_error() {
        let mut socket = Socket::that_takes_nothing();
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
