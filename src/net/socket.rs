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
pub struct Socket {
    inner: Inner,
    /// Bytes have come since the last ones went: TCP may owe an acknowledgement.
    unanswered: bool,
}

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
            &mut self.inner,
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
        self.unanswered = false;
        Poll::Ready(progress(total(bufs), sent))
    }
}

/// Has TCP acknowledge now what has come, when there is nothing to send that could carry the acknowledgement. Does nothing for
/// sockets of other kinds, and where the system has no such option.
///
/// Most servers hold back a small packet until the one before is acknowledged (Nagle's algorithm, RFC 9293, section 3.7.4), and
/// Linux delays acknowledgements by 40 ms (tcp(7), `TCP_QUICKACK`). Both together take 40 ms for 20 messages of QoS 2, or
/// for the second of two small messages.
pub(crate) fn acknowledge(socket: SockRef<'_>) {
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_quickack(true);
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
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

impl From<Inner> for Socket {
    fn from(inner: Inner) -> Self {
        let unanswered = false;
        Socket { inner, unanswered }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Inner::Tcp(stream).into()
    }
}

#[cfg(unix)]
impl From<tokio::net::UnixStream> for Socket {
    fn from(stream: tokio::net::UnixStream) -> Self {
        Inner::Unix(stream).into()
    }
}

#[cfg(unix)]
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        inside!(
            &self.inner,
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
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = inside!(&mut this.inner, stream => Pin::new(stream).poll_read(cx, buf));
        this.unanswered |= buf.filled().len() > before;
        if read.is_pending() && std::mem::take(&mut this.unanswered) {
            inside!(&this.inner, stream => acknowledge(SockRef::from(stream)), _fake => ());
        }
        read
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
        inside!(&mut self.get_mut().inner, stream => Pin::new(stream).poll_shutdown(cx))
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
        Inner::Fake(Box::new(stream)).into()
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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_peer_that_waits_for_acknowledgements_is_not_kept_waiting() {
        use std::io::{Read, Write};
        use std::time::{Duration, Instant};

        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        const ROUNDS: u32 = 50;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let mut socket = Socket::from(stream.unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        let mut byte = [0];
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            // Each side has answered the other, so Linux delays acknowledgements.
            peer.write_all(b"a").unwrap();
            socket.read_exact(&mut byte).await.unwrap();
            socket.write_all(b"b").await.unwrap();
            peer.read_exact(&mut byte).unwrap();
            // The peer holds back the second of two small packets until the first is acknowledged.
            for answer in [b"c", b"d"] {
                peer.write_all(answer).unwrap();
            }
            for answer in [b"c", b"d"] {
                socket.read_exact(&mut byte).await.unwrap();
                assert_eq!(&byte, answer);
            }
        }
        // Linux delays for 40 ms.
        assert!(begun.elapsed() < ROUNDS * Duration::from_millis(20));
    }

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
