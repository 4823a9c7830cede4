//! MQTT over WebSocket (RFC 6455; MQTT section 6): the opening handshake, and a byte stream over binary frames. The
//! content of frames is not read: packets may share a frame, or go on in the next one.
//!
//! The handshake and the frame headers are tungstenite's. Its own stream would not do. It reserves memory for any
//! length that a header announces, and hands a message out only when all of it has arrived.

use std::{
    fmt,
    io::{self, Cursor, ErrorKind},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use base64ct::{Base64, Encoding};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    client_async,
    tungstenite::{
        self,
        error::ProtocolError,
        http::{
            HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header,
            uri::PathAndQuery, uri::Scheme,
        },
        protocol::frame::{
            FrameHeader,
            coding::{CloseCode, Control, Data, OpCode},
        },
    },
};

use super::{Stream, random_bytes, words};

/// The largest frame that is sent, in bytes. A longer write takes several.
const LARGEST_FRAME: usize = 64 << 10;
/// So many bytes of a frame are copied and then masked, a multiple of the mask's length: they are in the nearest cache.
const PIECE: usize = 8 << 10;
/// The most bytes that are read where a frame begins. Later bytes of its data are not held here.
const LARGEST_READ: usize = 64 << 10;
/// The largest payload of a control frame, in bytes (RFC 6455, section 5.5).
const LARGEST_CONTROL: u64 = 125;
/// The longest answer to the opening handshake, in bytes.
const LONGEST_ANSWER: usize = 16 << 10;
/// The end of that answer.
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// Header fields that the handshake itself sends (RFC 6455, section 4.1), or that only the handshake uses.
const RESERVED: [HeaderName; 7] = [
    header::CONNECTION,
    header::HOST,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
    header::UPGRADE,
];

/// Checked settings.
#[derive(Clone, Debug)]
pub struct WebSocketConfig {
    path: PathAndQuery,
    /// `Debug` does not show their values.
    headers: HeaderMap,
}

impl WebSocketConfig {
    /// The path to ask for, perhaps with a query, and the header fields to send with the request.
    ///
    /// # Errors
    /// The reason in words, without the values of header fields.
    pub fn new(path: &str, headers: &[(String, Vec<u8>)]) -> Result<Self, String> {
        let path = Some(path)
            .filter(|path| path.starts_with('/'))
            .and_then(|path| path.parse().ok())
            .ok_or("path in uri must begin with '/' and have special characters percent-encoded")?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let header: HeaderName = name
                .parse()
                .map_err(|_| format!("ws_headers: '{name}' is not a name of a header"))?;
            if RESERVED.contains(&header) {
                return Err(format!("ws_headers: '{name}' cannot be set"));
            }
            let mut value = HeaderValue::from_bytes(value).map_err(|_| {
                format!(
                    "ws_headers: the value of '{name}' has characters that a header cannot have"
                )
            })?;
            value.set_sensitive(true);
            map.append(header, value);
        }
        Ok(WebSocketConfig { path, headers: map })
    }

    /// The opening handshake (RFC 6455, section 4.1). `authority` is the server's host and port.
    pub(super) async fn connect(
        &self,
        stream: Stream,
        authority: &str,
        is_tls: bool,
    ) -> Result<WebSocket, WebSocketFailure> {
        // RFC 6455, section 4.1
        let key = random_bytes::<16>().map_err(WebSocketFailure::NoKey)?;
        let request = self
            .request(authority, is_tls, &Base64::encode_string(&key))
            .ok_or(WebSocketFailure::NoHeader)?;
        let (opened, answer) = client_async(request, Opening::new(stream)).await?;
        // The client has offered none (RFC 6455, section 4.1).
        if answer
            .headers()
            .contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
        {
            return Err(WebSocketFailure::Extension);
        }
        let Opening { carrier, read, .. } = opened.into_inner();
        Ok(WebSocket::new(carrier, read))
    }

    fn request(&self, authority: &str, is_tls: bool, key: &str) -> Option<Request<()>> {
        let (scheme, default_port) = if is_tls {
            ("wss", ":443")
        } else {
            ("ws", ":80")
        };
        let uri = Uri::builder()
            .scheme(Scheme::try_from(scheme).ok()?)
            .authority(authority)
            .path_and_query(self.path.clone())
            .build()
            .ok()?;
        let host = authority.strip_suffix(default_port).unwrap_or(authority);
        let mut request = Request::get(uri)
            .header(header::HOST, host)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, key)
            // [MQTT-6.0.0-3]
            .header(header::SEC_WEBSOCKET_PROTOCOL, "mqtt")
            .body(())
            .ok()?;
        request.headers_mut().extend(self.headers.clone());
        Some(request)
    }
}

/// Why the opening handshake failed.
#[derive(Debug)]
pub enum WebSocketFailure {
    /// There are no random bytes for the key.
    NoKey(io::Error),
    /// The server's name cannot stand in a header field.
    NoHeader,
    /// The server has closed the connection.
    Closed,
    /// The connection to the server broke.
    Broken(io::Error),
    /// The server does not speak HTTP.
    NotHttp,
    /// The server declines with this HTTP status.
    Status(StatusCode),
    /// The server does not know MQTT [MQTT-6.0.0-3].
    Subprotocol,
    /// The server uses an extension that the client has not offered.
    Extension,
    /// The server's answer is no opening handshake.
    Invalid(Box<tungstenite::Error>),
}

impl fmt::Display for WebSocketFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey(error) => error.fmt(f),
            Self::NoHeader => f.write_str("the host cannot be sent in a header"),
            Self::Closed => f.write_str(
                "the server closed the connection, perhaps it does not speak WebSocket on this port",
            ),
            Self::Broken(error) => f.write_str(&words::describe(error)),
            Self::NotHttp => f.write_str(
                "the server's answer is not HTTP, perhaps it does not speak WebSocket on this port",
            ),
            Self::Status(status) => write!(f, "the server answers with HTTP status {status}"),
            Self::Subprotocol => {
                f.write_str("the server does not agree to the subprotocol 'mqtt'")
            }
            Self::Extension => f.write_str("the server uses an extension that was not offered"),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

impl From<tungstenite::Error> for WebSocketFailure {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error::{Http, Io, Protocol};
        match error {
            Http(response) => Self::Status(response.status()),
            Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => Self::Subprotocol,
            Protocol(ProtocolError::HandshakeIncomplete) => Self::Closed,
            Protocol(ProtocolError::HttparseError(_) | ProtocolError::WrongHttpVersion) => {
                Self::NotHttp
            }
            Io(error) if words::is_closed(&error) => Self::Closed,
            Io(error) => Self::Broken(error),
            error => Self::Invalid(error.into()),
        }
    }
}

/// A stream during the opening handshake. It hands out the server's answer once the answer is complete, and keeps the
/// bytes behind it.
#[derive(Debug)]
struct Opening {
    carrier: Stream,
    read: BytesMut,
    /// How many of the read bytes belong to the answer, once that is known.
    left: usize,
}

impl Opening {
    fn new(carrier: Stream) -> Self {
        let read = BytesMut::new();
        Opening {
            carrier,
            read,
            left: 0,
        }
    }
}

impl AsyncRead for Opening {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left == 0 {
            if ready!(poll_read_some(
                &mut this.carrier,
                &mut this.read,
                1 << 10,
                cx
            ))? == 0
            {
                return Poll::Ready(Ok(()));
            }
            let end = this
                .read
                .windows(BLANK_LINE.len())
                .position(|window| window == BLANK_LINE);
            match end {
                Some(end) => this.left = end + BLANK_LINE.len(),
                None if this.read.len() > LONGEST_ANSWER => {
                    return Poll::Ready(Err(invalid("the server's answer does not end")));
                }
                None => {}
            }
        }
        let size = this.left.min(buf.remaining());
        buf.put_slice(&this.read.split_to(size));
        this.left -= size;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Opening {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().carrier).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().carrier).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().carrier).poll_shutdown(cx)
    }
}

/// Reads once, at most `size` bytes, behind the bytes in `input`. Returns how many bytes came. 0 is the end.
fn poll_read_some(
    carrier: &mut Stream,
    input: &mut BytesMut,
    size: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    input.reserve(size);
    // The room is not filled first, because few bytes may come.
    pin!(carrier.read_buf(&mut input.limit(size))).poll(cx)
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason.into())
}

/// Takes the server's frames apart.
#[derive(Debug, Default)]
struct Frames {
    input: BytesMut,
    /// Bytes of the current data frame that have still to come, or to be taken from `input`.
    left: u64,
    /// A message has begun, and its last frame has not.
    fragmented: bool,
}

/// The next event in the server's frames.
#[derive(Debug, PartialEq)]
enum Next {
    /// This many bytes at the front of the input are data.
    Data(usize),
    Ping(Bytes),
    Close(Bytes),
    /// More bytes have to be read first.
    Nothing,
}

impl Frames {
    /// Takes frames off the front up to the next event (RFC 6455, section 5.2).
    fn next(&mut self) -> io::Result<Next> {
        loop {
            if self.left > 0 {
                let size = usize::try_from(self.left).unwrap_or(usize::MAX);
                return Ok(match size.min(self.input.len()) {
                    0 => Next::Nothing,
                    size => Next::Data(size),
                });
            }
            let mut cursor = Cursor::new(&self.input);
            let header =
                FrameHeader::parse(&mut cursor).map_err(|error| invalid(error.to_string()));
            let Some((header, size)) = header? else {
                return Ok(Next::Nothing);
            };
            let header_size = cursor.position() as usize;
            // RFC 6455, section 5.2: "the most significant bit MUST be 0"
            if size > i64::MAX as u64 {
                return Err(invalid(
                    "the server sent a WebSocket frame that is too long",
                ));
            }
            if header.rsv1 || header.rsv2 || header.rsv3 || header.mask.is_some() {
                return Err(invalid(
                    "the server sent a WebSocket frame with bits that must be 0",
                ));
            }
            match header.opcode {
                OpCode::Data(kind) => {
                    // [MQTT-6.0.0-1], and RFC 6455, section 5.4
                    match (kind, self.fragmented) {
                        (Data::Binary, false) | (Data::Continue, true) => {}
                        (Data::Text, _) => {
                            return Err(invalid(
                                "the server sent a WebSocket text frame, expecting binary ones",
                            ));
                        }
                        _ => {
                            return Err(invalid(
                                "the server sent WebSocket frames in a wrong order",
                            ));
                        }
                    }
                    self.fragmented = !header.is_final;
                    self.input.advance(header_size);
                    self.left = size;
                }
                OpCode::Control(kind) => {
                    if size > LARGEST_CONTROL || !header.is_final {
                        return Err(invalid(
                            "the server sent a WebSocket control frame that is too long",
                        ));
                    }
                    let size = size as usize;
                    if self.input.len() < header_size + size {
                        return Ok(Next::Nothing);
                    }
                    self.input.advance(header_size);
                    let payload = self.input.split_to(size);
                    match kind {
                        Control::Ping => return Ok(Next::Ping(payload.freeze())),
                        Control::Close => return Ok(Next::Close(payload.freeze())),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Moves `size` bytes of data into `buf`.
    fn take(&mut self, size: usize, buf: &mut ReadBuf<'_>) {
        buf.put_slice(&self.input[..size]);
        self.input.advance(size);
        self.left -= size as u64;
        if self.input.is_empty() {
            // An idle connection keeps no buffer.
            self.input = BytesMut::new();
        }
    }
}

/// Appends a frame as a client sends it (RFC 6455, section 5.3).
fn put_frame(output: &mut BytesMut, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
    let mask: [u8; 4] = random_bytes()?;
    let header = FrameHeader {
        opcode,
        mask: Some(mask),
        ..FrameHeader::default()
    };
    let mut head = Vec::with_capacity(14);
    header
        .format(payload.len() as u64, &mut head)
        .expect("a Vec takes everything");
    output.reserve(head.len() + payload.len());
    output.extend_from_slice(&head);
    for piece in payload.chunks(PIECE) {
        let start = output.len();
        output.extend_from_slice(piece);
        apply_mask(&mut output[start..], mask);
    }
    Ok(())
}

/// Masks bytes. Pieces of a fixed size become instructions on many bytes at once.
fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let mask: [u8; 32] = std::array::from_fn(|index| mask[index % 4]);
    let mut pieces = bytes.chunks_exact_mut(mask.len());
    for piece in &mut pieces {
        for (byte, mask) in piece.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in pieces.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// A byte stream over binary frames. A write becomes a frame, up to a size. Reading answers pings.
#[derive(Debug)]
pub struct WebSocket {
    carrier: Stream,
    frames: Frames,
    /// Frames that have not been written: at most one of data and a few control frames.
    output: BytesMut,
    /// The payload of the last unanswered ping. Older pings need no answer (RFC 6455, section 5.5.3).
    pong: Option<Bytes>,
    /// Bytes have been written since the carrier was last flushed.
    unflushed: bool,
    /// A close frame has been sent. No frame may follow it.
    closing: bool,
    /// The server sends no more.
    ended: bool,
}

impl WebSocket {
    /// An open WebSocket. The server has sent the bytes `read` behind its answer.
    fn new(carrier: Stream, read: BytesMut) -> Self {
        WebSocket {
            carrier,
            frames: Frames {
                input: read,
                ..Frames::default()
            },
            output: BytesMut::new(),
            pong: None,
            unflushed: false,
            closing: false,
            ended: false,
        }
    }

    /// The stream that carries the frames.
    pub(super) fn carrier(&self) -> &Stream {
        &self.carrier
    }

    /// Writes all waiting frames. Their memory stays for further ones.
    fn poll_write_frames(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            self.unflushed = true;
            let written = ready!(Pin::new(&mut self.carrier).poll_write(cx, &self.output))?;
            self.output.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all waiting frames, and flushes.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write_frames(cx))?;
            let Some(payload) = self.pong.take() else {
                break;
            };
            if !self.closing {
                put_frame(&mut self.output, OpCode::Control(Control::Pong), &payload)?;
            }
        }
        self.output = BytesMut::new();
        if self.unflushed {
            ready!(Pin::new(&mut self.carrier).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once from the current frame's data, straight into the caller's buffer. Returns how many bytes came. 0 is
    /// the end.
    fn poll_read_data(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        let mut data = (&mut self.carrier).take(self.frames.left);
        ready!(Pin::new(&mut data).poll_read(cx, buf))?;
        let came = buf.filled().len() - before;
        self.frames.left -= came as u64;
        Poll::Ready(Ok(came))
    }

    fn put_close(&mut self, code: &[u8]) -> io::Result<()> {
        if !self.closing {
            self.closing = true;
            put_frame(&mut self.output, OpCode::Control(Control::Close), code)?;
        }
        Ok(())
    }

    /// The server has closed with this payload (RFC 6455, section 5.5.1). An error unless it is an orderly close.
    fn closed(&mut self, payload: &[u8]) -> io::Result<()> {
        let (code, reason) = payload.split_at(payload.len().min(2));
        let Ok(code) = code.try_into().map(u16::from_be_bytes) else {
            return self.put_close(&[]);
        };
        // Codes such as 1005 may not be sent (RFC 6455, section 7.4), so they are not echoed either.
        let answer = match CloseCode::from(code).is_allowed() {
            true => code,
            false => CloseCode::Protocol.into(),
        };
        self.put_close(&answer.to_be_bytes())?;
        match CloseCode::from(code) {
            CloseCode::Normal | CloseCode::Away => Ok(()),
            _ => {
                let separator = if reason.is_empty() { "" } else { ": " };
                let reason = String::from_utf8_lossy(reason);
                Err(invalid(format!(
                    "the server closed the WebSocket with code {code}{separator}{reason}"
                )))
            }
        }
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.ended && buf.remaining() > 0 {
            match this.frames.next() {
                Ok(Next::Data(size)) => {
                    this.frames.take(size.min(buf.remaining()), buf);
                    break;
                }
                Ok(Next::Ping(payload)) => this.pong = Some(payload),
                Ok(Next::Close(payload)) => {
                    this.ended = true;
                    let result = this.closed(&payload);
                    // Sent if that is possible at once.
                    let _ = this.poll_drain(cx);
                    return Poll::Ready(result);
                }
                Ok(Next::Nothing) if this.frames.left > 0 => {
                    // A write that fails here fails for the writer too.
                    let _ = this.poll_drain(cx);
                    let came = ready!(this.poll_read_data(cx, buf))?;
                    this.ended = came == 0;
                    break;
                }
                Ok(Next::Nothing) => {
                    let _ = this.poll_drain(cx);
                    let input = &mut this.frames.input;
                    let size = buf.remaining().min(LARGEST_READ);
                    let came = poll_read_some(&mut this.carrier, input, size, cx);
                    if input.is_empty() {
                        *input = BytesMut::new();
                    }
                    this.ended = ready!(came)? == 0;
                }
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closing {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        // One frame at a time bounds the bytes that wait.
        ready!(this.poll_drain(cx))?;
        let mut taken = 0;
        for payload in buf.chunks(LARGEST_FRAME) {
            put_frame(&mut this.output, OpCode::Data(Data::Binary), payload)?;
            taken += payload.len();
            if this.poll_write_frames(cx)?.is_pending() {
                return Poll::Ready(Ok(taken));
            }
        }
        // What cannot be flushed yet is tried again with the next call.
        let _ = this.poll_drain(cx)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    /// Ends our side. The server then closes the connection (RFC 6455, section 7.1.1).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        const NORMAL: [u8; 2] = 1000u16.to_be_bytes();
        let this = self.get_mut();
        this.put_close(&NORMAL)?;
        this.poll_drain(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use proptest::prelude::*;

    use super::*;
    use crate::net::Socket;

    fn over(socket: Socket) -> WebSocket {
        WebSocket::new(Stream::Plain(socket), BytesMut::new())
    }

    #[tokio::test]
    async fn a_carrier_that_takes_nothing_is_an_error() {
        let mut websocket = over(Socket::that_takes_nothing());
        for _ in 0..2 {
            let written = poll_fn(|cx| Pin::new(&mut websocket).poll_write(cx, b"x")).await;
            assert_eq!(written.unwrap_err().kind(), ErrorKind::WriteZero);
        }
    }

    /// The most bytes that a kernel gives at a time.
    const MOST: usize = 64 << 10;

    /// A carrier that gives the bytes `sent` by a server. It counts the calls, and the bytes of buffers that were
    /// filled in vain.
    fn counting(sent: Bytes) -> (Socket, Arc<[AtomicUsize; 2]>) {
        #[derive(Debug)]
        struct Counting(Bytes, Arc<[AtomicUsize; 2]>);

        impl AsyncRead for Counting {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let Counting(sent, counts) = &mut *self;
                counts[0].fetch_add(1, Relaxed);
                counts[1].fetch_add(buf.initialized().len() - buf.filled().len(), Relaxed);
                let size = buf.remaining().min(sent.len()).min(MOST);
                buf.put_slice(&sent.split_to(size));
                Poll::Ready(Ok(()))
            }
        }

        let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
        let reader = Counting(sent, Arc::clone(&counts));
        let socket = Socket::fake(tokio::io::join(reader, tokio::io::sink()));
        (socket, counts)
    }

    /// Reads like the driver, into room for all bytes.
    async fn read_whole(socket: Socket, size: usize) -> BytesMut {
        let mut websocket = over(socket);
        let mut input = BytesMut::with_capacity(size);
        while input.len() < size {
            assert!(websocket.read_buf(&mut input).await.unwrap() > 0);
            assert!(websocket.frames.input.capacity() <= MOST);
        }
        assert_eq!(websocket.read(&mut [0]).await.unwrap(), 0);
        input
    }

    #[tokio::test]
    async fn a_large_message_costs_its_size() {
        const SIZE: usize = 16 << 20;
        let payload: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8).collect();
        for frame in [SIZE, 1 << 20, 64 << 10, 4 << 10] {
            let mut sent = Vec::new();
            for part in payload.chunks(frame) {
                put(&mut sent, true, OpCode::Data(Data::Binary), part);
            }
            let (socket, counts) = counting(sent.into());
            assert!(read_whole(socket, SIZE).await == payload);
            let [reads, filled] = [&counts[0], &counts[1]].map(|count| count.load(Relaxed));
            assert_eq!(filled, 0, "frames of {frame}");
            // Each read is as large as can be, except those that begin or end a frame.
            let most = SIZE / MOST + 2 * SIZE.div_ceil(frame.max(MOST)) + 2;
            assert!(reads <= most, "{reads} reads, frames of {frame}");
        }
    }

    /// The content of the frames: the data, and the payloads of pings. The input comes in two parts.
    fn take_apart(bytes: &[u8], cut: usize) -> io::Result<(Vec<u8>, Vec<Bytes>)> {
        let (mut data, mut pings) = (Vec::new(), Vec::new());
        let mut frames = Frames::default();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        for part in [first, second] {
            frames.input.extend_from_slice(part);
            loop {
                match frames.next()? {
                    Next::Data(size) => {
                        let mut chunk = vec![0; size];
                        frames.take(size, &mut ReadBuf::new(&mut chunk));
                        data.extend(chunk);
                    }
                    Next::Ping(payload) => pings.push(payload),
                    Next::Close(_) => return Ok((data, pings)),
                    Next::Nothing => break,
                }
            }
        }
        Ok((data, pings))
    }

    fn put(output: &mut Vec<u8>, is_final: bool, opcode: OpCode, payload: &[u8]) {
        let header = FrameHeader {
            is_final,
            opcode,
            ..FrameHeader::default()
        };
        header.format(payload.len() as u64, output).unwrap();
        output.extend(payload);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_taken_or_refused_alike_however_it_is_cut(bytes: Vec<u8>, cut: usize) {
            let whole = take_apart(&bytes, 0).map_err(|error| error.to_string());
            let parts = take_apart(&bytes, cut % (bytes.len() + 1)).map_err(|error| error.to_string());
            prop_assert_eq!(whole, parts);
        }

        #[test]
        fn data_comes_out_as_it_went_in(
            fragments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
            ping in prop::collection::vec(any::<u8>(), 0..126),
            cut: usize,
        ) {
            let mut bytes = Vec::new();
            for (index, fragment) in fragments.iter().enumerate() {
                let opcode = if index == 0 { Data::Binary } else { Data::Continue };
                put(&mut bytes, index + 1 == fragments.len(), OpCode::Data(opcode), fragment);
                put(&mut bytes, true, OpCode::Control(Control::Ping), &ping);
            }
            let (data, pings) = take_apart(&bytes, cut % (bytes.len() + 1)).unwrap();
            prop_assert_eq!(data, fragments.concat());
            prop_assert_eq!(pings, vec![Bytes::from(ping); fragments.len()]);
        }

        #[test]
        fn what_is_sent_is_masked(payload in prop::collection::vec(any::<u8>(), 0..70_000)) {
            let mut output = BytesMut::new();
            put_frame(&mut output, OpCode::Data(Data::Binary), &payload).unwrap();
            let mut cursor = Cursor::new(&output);
            let (header, size) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            let start = cursor.position() as usize;
            prop_assert_eq!(size as usize, payload.len());
            let mask = header.mask.unwrap();
            let unmasked: Vec<u8> = output[start..]
                .iter()
                .enumerate()
                .map(|(index, byte)| byte ^ mask[index % 4])
                .collect();
            prop_assert_eq!(unmasked, payload);
        }
    }
}
