//! Opens plain streams on the loopback interface and to Unix domain sockets, and checks the words when that fails.

use std::time::Duration;

use mqtt_core::net::{OpenError, Phase, Stream, Target, open};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn bytes_pass_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["localhost", "127.0.0.1"] {
        let mut stream = open(&Target::tcp(host, port), LONG).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        // Without TLS and WebSocket no other stream is possible.
        #[allow(irrefutable_let_patterns)]
        let Stream::Plain(socket) = &stream else {
            panic!("{stream:?}");
        };
        assert!(SockRef::from(socket).tcp_nodelay().unwrap());

        stream.write_all(b"ping").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = String::new();
        peer.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "ping");

        peer.write_all(b"pong").await.unwrap();
        drop(peer);
        received.clear();
        stream.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "pong");
    }
}

#[tokio::test]
async fn a_port_nobody_listens_on_refuses() {
    // Bound, so that nobody else can have the port, but not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let error = open(&Target::tcp("127.0.0.1", port), LONG)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("connection to '127.0.0.1:{port}' failed: connection refused")
    );
}

#[tokio::test]
async fn a_name_without_address_is_not_found() {
    for host in ["does-not-exist.invalid", "", "nul\0"] {
        let error = open(&Target::tcp(host, 1883), LONG).await.unwrap_err();
        assert!(matches!(error, OpenError::NotFound { .. }), "{error:?}");
        let text = error.to_string();
        let expected =
            format!("host '{host}' not found: host or service not provided, or not known (");
        let reason = text.strip_prefix(&expected);
        assert!(reason.is_some_and(|reason| reason.len() > 1), "{text}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_are_streams_too() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("net.sock");
    let _ = std::fs::remove_file(&path);
    let absent = open(&Target::unix(&path), LONG).await.unwrap_err();
    let expected = format!(
        "connection to '{}' failed: No such file or directory",
        path.display()
    );
    assert!(absent.to_string().starts_with(&expected), "{absent}");

    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    // A proxy is for TCP: Unix domain sockets are connected to directly.
    let target = Target {
        proxy: Some("http://does-not-exist.invalid".parse().unwrap()),
        ..Target::unix(&path)
    };
    let mut stream = open(&target, LONG).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    assert!(matches!(stream, Stream::Plain(_)));
    assert_eq!(stream.tls_version(), None);
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = String::new();
    peer.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "ping");

    drop(listener);
    assert_eq!(
        open(&target, LONG).await.unwrap_err().to_string(),
        format!(
            "connection to '{}' failed: connection refused",
            path.display()
        )
    );
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_timeout_names_what_took_the_time() {
    for (phase, expected) in [
        (
            Phase::Resolve,
            "timed out after 30 s while looking up the host of 'h:1': timeout",
        ),
        (
            Phase::Connect,
            "timed out after 30 s while connecting to 'h:1': timeout",
        ),
        (
            Phase::Handshake,
            "timed out after 30 s during the TLS handshake with 'h:1': timeout",
        ),
        (
            Phase::Proxy,
            "timed out after 30 s while the proxy connected to 'h:1': timeout",
        ),
        (
            Phase::WebSocket,
            "timed out after 30 s during the WebSocket handshake with 'h:1': timeout",
        ),
    ] {
        let error = OpenError::Timeout {
            target: "h:1".into(),
            phase,
            after: LONG,
        };
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn targets_display_as_host_and_port_or_path() {
    assert_eq!(Target::tcp("h", 1).to_string(), "h:1");
    assert_eq!(Target::tcp("::1", 1).to_string(), "[::1]:1");
    assert_eq!(Target::unix("/run/s").to_string(), "/run/s");
}
