//! Tests WebSocket on the loopback interface: the handshake, frames of every shape, and the words when a server breaks
//! their rules. One server is tungstenite's. The others are written out byte by byte.

use std::{io, time::Duration};

use futures_util::{SinkExt, StreamExt};
use mqtt_core::net::{OpenError, Stream, Target, WebSocketConfig, open};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Bytes, Message,
        handshake::{
            derive_accept_key,
            server::{Request, Response},
        },
    },
};

const LONG: Duration = Duration::from_secs(30);

fn target(port: u16, path: &str, headers: &[(&str, &str)]) -> Target {
    let headers: Vec<(String, Vec<u8>)> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    Target {
        websocket: Some(WebSocketConfig::new(path, &headers).unwrap()),
        ..Target::tcp("127.0.0.1", port)
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

// ---- a server of tungstenite's

// The callback's type is tungstenite's.
#[allow(clippy::result_large_err)]
fn agree(
    _: &Request,
    mut response: Response,
) -> Result<Response, tokio_tungstenite::tungstenite::handshake::server::ErrorResponse> {
    let headers = response.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    Ok(response)
}

/// Both ends of a connection.
async fn connected() -> (Stream, WebSocketStream<TcpStream>) {
    let (listener, port) = listen().await;
    let accepting = async {
        let (tcp, _) = listener.accept().await.unwrap();
        accept_hdr_async(tcp, agree).await.unwrap()
    };
    let target = target(port, "/mqtt", &[]);
    let (stream, server) = tokio::join!(open(&target, LONG), accepting);
    (stream.unwrap(), server)
}

#[tokio::test]
async fn a_write_is_one_frame_up_to_a_size() {
    let (mut stream, mut server) = connected().await;
    stream.write_all(b"many small packets").await.unwrap();
    let message = server.next().await.unwrap().unwrap();
    assert_eq!(message, Message::binary(&b"many small packets"[..]));

    let large: Vec<u8> = (0..1_000_000).map(|i| (i % 251) as u8).collect();
    let writing = async {
        stream.write_all(&large).await.unwrap();
        stream.flush().await.unwrap();
    };
    let reading = async {
        let mut received = Vec::new();
        while received.len() < large.len() {
            let Message::Binary(bytes) = server.next().await.unwrap().unwrap() else {
                panic!("not binary");
            };
            assert!(bytes.len() <= 64 << 10);
            received.extend(bytes);
        }
        received
    };
    let ((), received) = tokio::join!(writing, reading);
    assert!(received == large);
}

#[tokio::test]
async fn messages_are_joined() {
    let (mut stream, mut server) = connected().await;
    let large = Bytes::from(vec![7; 300_000]);
    let sending = async {
        for message in [
            Message::binary(&b"one "[..]),
            Message::binary(Bytes::new()),
            Message::Pong(Bytes::new()),
            Message::binary(large.clone()),
        ] {
            server.feed(message).await.unwrap();
        }
        server.flush().await.unwrap();
    };
    let mut received = vec![0; 4 + large.len()];
    let (read, ()) = tokio::join!(stream.read_exact(&mut received), sending);
    read.unwrap();
    assert_eq!(&received[..4], b"one ");
    assert!(received[4..] == large);
}

#[tokio::test]
async fn pings_are_answered_while_reading() {
    let (mut stream, mut server) = connected().await;
    let ping = Bytes::from_static(b"are you there?");
    server.send(Message::Ping(ping.clone())).await.unwrap();
    server.send(Message::binary(&b"x"[..])).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    let (_, answer) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(1), stream.read_u8()),
        server.next()
    );
    assert_eq!(answer.unwrap().unwrap(), Message::Pong(ping));
}

#[tokio::test]
async fn both_ends_can_close() {
    let (mut stream, mut server) = connected().await;
    stream.write_all(b"last").await.unwrap();
    stream.shutdown().await.unwrap();
    // The driver asks again, and so does this.
    stream.shutdown().await.unwrap();
    assert_eq!(
        stream.write_all(b"x").await.unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
    let mut rest = Vec::new();
    let (messages, read) = tokio::join!(
        async {
            let mut messages = Vec::new();
            while let Some(Ok(message)) = server.next().await {
                messages.push(message);
            }
            messages
        },
        stream.read_to_end(&mut rest)
    );
    assert_eq!(read.unwrap(), 0);
    assert_eq!(messages[0], Message::binary(&b"last"[..]));
    assert!(messages[1].is_close() && messages.len() == 2);

    let (mut stream, mut server) = connected().await;
    server.close(None).await.unwrap();
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    assert!(server.next().await.unwrap().unwrap().is_close());
}

// ---- servers written out

/// Starts a server that accepts one connection. It answers the request with `answer`, made from the request's key, and
/// sends `frames` behind it in the same segment. Returns the request when the client has closed.
async fn serve(
    answer: impl FnOnce(&str) -> String + Send + 'static,
    frames: &[u8],
) -> (u16, JoinHandle<String>) {
    let (listener, port) = listen().await;
    let frames = frames.to_vec();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(tcp.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let key = header(&request, "Sec-WebSocket-Key").unwrap();
        let mut bytes = answer(key).into_bytes();
        bytes.extend(frames);
        // Some clients leave at the first wrong byte.
        let _ = tcp.write_all(&bytes).await;
        let _ = tcp.shutdown().await;
        let _ = tcp.read_to_end(&mut Vec::new()).await;
        request
    });
    (port, server)
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn accept_with(key: &str, more: &str) -> String {
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

fn accept(key: &str) -> String {
    accept_with(key, "Sec-WebSocket-Protocol: mqtt\r\n")
}

#[tokio::test]
async fn the_request_is_as_the_standards_want_it() {
    let (port, server) = serve(accept, &[]).await;
    let target = target(
        port,
        "/a%20b?c=d",
        &[("X-Tenant", "sesame"), ("Origin", "http://h")],
    );
    drop(open(&target, LONG).await.unwrap());
    let request = server.await.unwrap();
    assert!(
        request.starts_with("GET /a%20b?c=d HTTP/1.1\r\n"),
        "{request}"
    );
    for (name, value) in [
        ("Host", &*format!("127.0.0.1:{port}")),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "mqtt"),
        ("X-Tenant", "sesame"),
        ("Origin", "http://h"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{request}");
    }
    assert!(!format!("{target:?}").contains("sesame"));
}

#[tokio::test]
async fn frames_right_behind_the_answer_are_read() {
    let frames = [
        // A message of three fragments, with a ping and a pong between them.
        &[0x02, 3, b'a', b'b', b'c'][..],
        &[0x89, 1, b'?'],
        &[0x00, 0],
        &[0x8a, 0],
        &[0x80, 1, b'd'],
        // Lengths in more bytes than needed.
        &[0x82, 126, 0, 1, b'e'],
        &[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, b'f'],
        // A close without a code.
        &[0x88, 0],
    ]
    .concat();
    let (port, _server) = serve(accept, &frames).await;
    let mut stream = open(&target(port, "/", &[]), LONG).await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"abcdef");
}

#[tokio::test]
async fn an_announced_length_reserves_nothing() {
    // A frame of nearly 2^63 bytes, of which two come.
    let frame = [
        0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255, b'h', b'i',
    ];
    let (port, _server) = serve(accept, &frame).await;
    let mut stream = open(&target(port, "/", &[]), LONG).await.unwrap();
    let mut received = Vec::new();
    // The connection ends in the middle of a frame. It ends without an error, because packets carry their length.
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"hi");
}

/// RFC 6455, section 7.4.1: 1005, 1006 and 1015 must not be in a close frame, ours included.
#[tokio::test]
async fn a_close_code_that_may_not_be_sent_is_not_echoed() {
    for (received, answered) in [(1000, 1000), (1008, 1008), (1005, 1002), (1006, 1002)] {
        let (listener, port) = listen().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let answer = accept(header(&request, "sec-websocket-key").unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.write_all(&[0x88, 2]).await.unwrap();
            stream.write_u16(received).await.unwrap();
            let mut frame = [0; 8];
            stream.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame[..2], [0x88, 0x82]);
            u16::from_be_bytes([frame[6] ^ frame[2], frame[7] ^ frame[3]])
        });
        let mut stream = open(&target(port, "/", &[]), LONG).await.unwrap();
        let _ = stream.read(&mut [0; 10]).await;
        assert_eq!(server.await.unwrap(), answered);
    }
}

#[tokio::test]
async fn wrong_frames_are_errors() {
    const ZERO: &str = "the server sent a WebSocket frame with bits that must be 0";
    const ORDER: &str = "the server sent WebSocket frames in a wrong order";
    const CONTROL: &str = "the server sent a WebSocket control frame that is too long";
    for (frames, expected) in [
        (
            &[0x81, 1, b'x'][..],
            "the server sent a WebSocket text frame, expecting binary ones",
        ),
        (&[0xc2, 1, b'x'], ZERO),
        (&[0x82, 0x81, 0, 0, 0, 0, b'x'], ZERO),
        (&[0x80, 1, b'x'], ORDER),
        (&[0x02, 0, 0x82, 0], ORDER),
        (&[0x09, 0], CONTROL),
        (&[0x89, 126, 0, 126], CONTROL),
        (
            &[0x88, 2, 0x03, 0xf0],
            "the server closed the WebSocket with code 1008",
        ),
        (
            &[0x88, 5, 0x03, 0xf1, b'b', b'i', b'g'],
            "the server closed the WebSocket with code 1009: big",
        ),
        (
            &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1],
            "the server sent a WebSocket frame that is too long",
        ),
        (
            &[0x88, 2, 0x03, 0xed],
            "the server closed the WebSocket with code 1005",
        ),
        (
            &[0x83, 0],
            "WebSocket protocol error: Encountered invalid opcode: 3",
        ),
    ] {
        let (port, _server) = serve(accept, frames).await;
        let mut stream = open(&target(port, "/", &[]), LONG).await.unwrap();
        let error = stream.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        // The error is told once.
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    }
    for end in [
        &[0x88, 2, 0x03, 0xe8][..],
        &[0x88, 2, 0x03, 0xe9],
        &[0x88, 1, 3],
    ] {
        let (port, _server) = serve(accept, end).await;
        let mut stream = open(&target(port, "/", &[]), LONG).await.unwrap();
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_refused_handshake_says_why() {
    const PROTOCOL: &str = "the server does not agree to the subprotocol 'mqtt'";
    type Answer = fn(&str) -> String;
    for (answer, expected) in [
        (
            (|_| "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nsad".into()) as Answer,
            "the server answers with HTTP status 404 Not Found",
        ),
        (
            |_| "HTTP/1.1 302 Found\r\nLocation: http://h/\r\n\r\n".into(),
            "the server answers with HTTP status 302 Found",
        ),
        (|key| accept_with(key, ""), PROTOCOL),
        (
            |key| accept_with(key, "Sec-WebSocket-Protocol: mqttv3.1\r\n"),
            PROTOCOL,
        ),
        (
            |key| {
                accept_with(
                    key,
                    "Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
                )
            },
            "the server uses an extension that was not offered",
        ),
        (
            |_| accept("another key"),
            "WebSocket protocol error: Key mismatch in \"Sec-WebSocket-Accept\" header",
        ),
        (
            |_| String::new(),
            "the server closed the connection, perhaps it does not speak WebSocket on this port",
        ),
        (
            |_| " \x02\0\0\r\n\r\n".into(),
            "the server's answer is not HTTP, perhaps it does not speak WebSocket on this port",
        ),
        (|_| "x".repeat(20_000), "the server's answer does not end"),
    ] {
        let (port, _server) = serve(answer, &[]).await;
        let error = open(&target(port, "/", &[]), LONG).await.unwrap_err();
        assert!(matches!(error, OpenError::WebSocket { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("WebSocket handshake with '127.0.0.1:{port}' failed: {expected}")
        );
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_times_out() {
    let (_listener, port) = listen().await;
    let limit = Duration::from_millis(100);
    let error = open(&target(port, "/", &[]), limit).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "timed out after 0.1 s during the WebSocket handshake with '127.0.0.1:{port}': timeout"
        )
    );
}

#[test]
fn settings_are_checked() {
    const PATH: &str =
        "path in uri must begin with '/' and have special characters percent-encoded";
    for path in ["", "mqtt", "/a b", "/a\nb"] {
        assert_eq!(WebSocketConfig::new(path, &[]).unwrap_err(), PATH, "{path}");
    }
    for (name, value, expected) in [
        ("a b", "x", "ws_headers: 'a b' is not a name of a header"),
        ("host", "x", "ws_headers: 'host' cannot be set"),
        (
            "Sec-WebSocket-Protocol",
            "x",
            "ws_headers: 'Sec-WebSocket-Protocol' cannot be set",
        ),
        (
            "X",
            "sesame\r\nY: z",
            "ws_headers: the value of 'X' has characters that a header cannot have",
        ),
    ] {
        let headers = [(name.into(), value.into())];
        assert_eq!(WebSocketConfig::new("/", &headers).unwrap_err(), expected);
    }
}
