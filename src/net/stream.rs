//! The byte stream that the driver sees, whatever carries it. A new transport is a new variant.

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(feature = "tls")]
use tokio_rustls::{client::TlsStream, rustls::ProtocolVersion};

use super::Socket;
use super::socket::{progress, total};
#[cfg(feature = "websocket")]
use super::websocket::WebSocket;

/// An open connection, as [`open`](fn@super::open) returns it.
#[derive(Debug)]
pub enum Stream {
    /// No layer around the socket: plain TCP, or a Unix domain socket.
    Plain(Socket),
    /// TLS over TCP.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<Socket>>),
    /// WebSocket over TCP or TLS.
    #[cfg(feature = "websocket")]
    WebSocket(Box<WebSocket>),
}

impl Stream {
    /// The version of TLS, by LuaSec's name. `None` for a plain stream.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self {
            Stream::Plain(_) => None,
            #[cfg(feature = "websocket")]
            Stream::WebSocket(stream) => stream.carrier().tls_version(),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => match stream.get_ref().1.protocol_version()? {
                ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
                ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
                _ => None,
            },
        }
    }
}

#[cfg(unix)]
impl AsRawFd for Stream {
    /// The descriptor of the socket.
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Plain(socket) => socket.as_fd().as_raw_fd(),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.get_ref().0.as_fd().as_raw_fd(),
            #[cfg(feature = "websocket")]
            Stream::WebSocket(stream) => stream.carrier().as_raw_fd(),
        }
    }
}

/// Calls a poll function of the stream inside.
macro_rules! forward {
    ($self:ident, $poll:ident($($arg:expr),*)) => {
        match $self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).$poll($($arg),*),
            #[cfg(feature = "websocket")]
            Stream::WebSocket(stream) => Pin::new(stream.as_mut()).$poll($($arg),*),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => Pin::new(stream.as_mut()).$poll($($arg),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A peer that leaves without close_notify ends a TLS stream with this error. Here the stream ends like a TCP
        // stream: MQTT packets carry their length, so a cut is noticed.
        match forward!(self, poll_read(cx, buf)) {
            Poll::Ready(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            result => result,
        }
    }
}

/// A write of at least one byte takes some of the bytes or is an error, whatever stream is inside.
impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write(cx, buf)).map(|written| progress(buf.len(), written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, poll_write_vectored(cx, bufs)).map(|written| progress(total(bufs), written))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.is_write_vectored(),
            #[cfg(feature = "websocket")]
            Stream::WebSocket(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown(cx))
    }
}
