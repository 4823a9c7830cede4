//! Connects through HTTP and SOCKS 5 proxies on the loopback interface. Checks the bytes that a proxy is sent, and the
//! words when it does not connect.

use std::time::Duration;

use mqtt_core::net::{OpenError, Stream, Target, open};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const LONG: Duration = Duration::from_secs(30);

/// `proxy` has no port yet.
fn target(host: &str, proxy: &str, proxy_port: u16) -> Target {
    Target {
        proxy: Some(format!("{proxy}:{proxy_port}").parse().unwrap()),
        ..Target::tcp(host, 1883)
    }
}

/// Starts a proxy that takes each expected request in turn and gives its answer. Then it is the server itself, and
/// sends back the bytes that it receives. Fails on any other bytes.
async fn proxy(exchange: Vec<(Vec<u8>, Vec<u8>)>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        for (request, answer) in exchange {
            let mut received = vec![0; request.len()];
            tcp.read_exact(&mut received).await.unwrap();
            assert_eq!(received, request, "{}", String::from_utf8_lossy(&received));
            tcp.write_all(&answer).await.unwrap();
        }
        let (mut reader, mut writer) = tcp.split();
        // Some clients leave.
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    (port, proxy)
}

async fn echo(mut stream: Stream) {
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "ping");
}

/// Connects, and has the server send bytes back.
async fn works(host: &str, uri: &str, exchange: Vec<(Vec<u8>, Vec<u8>)>) {
    let (port, proxy) = proxy(exchange).await;
    echo(open(&target(host, uri, port), LONG).await.unwrap()).await;
    proxy.await.unwrap();
}

/// The words for a connection that fails.
async fn refusal(uri: &str, answers: &[&[u8]], requests: &[&[u8]]) -> String {
    let exchange = requests.iter().zip(answers);
    let (port, _proxy) = proxy(
        exchange
            .map(|(request, answer)| (request.to_vec(), answer.to_vec()))
            .collect(),
    )
    .await;
    let error = open(&target("h", uri, port), LONG).await.unwrap_err();
    assert!(matches!(error, OpenError::Proxy { .. }), "{error:?}");
    let text = error.to_string();
    assert!(!format!("{text} {error:?}").contains("sesame"), "{text}");
    let prefix = format!("proxy '127.0.0.1:{port}' does not connect to 'h:1883': ");
    text.strip_prefix(&prefix).expect(&text).to_owned()
}

// ---- HTTP

fn connect(server: &str, more: &str) -> Vec<u8> {
    format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n{more}\r\n").into_bytes()
}

#[tokio::test]
async fn http_proxies_get_the_name_and_the_credentials() {
    let answer = |text: &str| text.as_bytes().to_vec();
    for (host, server) in [("h.invalid", "h.invalid:1883"), ("::1", "[::1]:1883")] {
        let exchange = vec![(
            connect(server, ""),
            answer("HTTP/1.1 200 Connection established\r\n\r\n"),
        )];
        works(host, "http://127.0.0.1", exchange).await;
    }
    let exchange = vec![(
        // "usr:sesame:/", RFC 7617
        connect("h:1883", "Proxy-Authorization: Basic dXNyOnNlc2FtZTov\r\n"),
        answer("HTTP/1.0 204\r\nVia: proxy\r\n\r\n"),
    )];
    works("h", "http://usr:sesame:/@127.0.0.1", exchange).await;
}

#[tokio::test]
async fn refusals_of_http_proxies_are_put_into_words() {
    const CREDENTIALS: &str = "Proxy-Authorization: Basic dXNyOnNlc2FtZQ==\r\n";
    const NO_HTTP: &str = "its answer is not HTTP, perhaps it is no HTTP proxy";
    let request = connect("h:1883", "");
    for (answer, expected) in [
        (
            "HTTP/1.1 403 sesame is not allowed\r\n\r\n",
            "it answers with HTTP status 403",
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "it asks for a username and password (HTTP status 407)",
        ),
        ("SSH-2.0-x\r\n\r\n", NO_HTTP),
        ("HTTP/1.1 OK\r\n\r\n", NO_HTTP),
        (&"x".repeat(16 << 10), "its answer does not end"),
    ] {
        let reason = refusal("http://127.0.0.1", &[answer.as_bytes()], &[&request]).await;
        assert_eq!(reason, expected);
    }
    assert_eq!(
        refusal(
            "http://usr:sesame@127.0.0.1",
            &[b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"],
            &[&connect("h:1883", CREDENTIALS)],
        )
        .await,
        "it rejects the username or password (HTTP status 407)"
    );
}

// ---- SOCKS 5

const NO_AUTHENTICATION: &[u8] = &[5, 1, 0];
const CHOICE: &[u8] = &[5, 2, 0, 2];
const LOGIN: &[u8] = b"\x01\x03usr\x06sesame";
/// To `h:1883`.
const CONNECT: &[u8] = b"\x05\x01\x00\x03\x01h\x07\x5b";

#[tokio::test]
async fn socks_proxies_get_the_name_and_the_credentials() {
    let bytes = |parts: &[&[u8]]| parts.concat();
    let (ipv4, ipv6, name): (&[u8], &[u8], &[u8]) =
        (&[1, 127, 0, 0, 1], &[4], b"\x03\x09h.invalid");
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
    for (host, address) in [
        ("127.0.0.1", ipv4.to_vec()),
        ("::1", bytes(&[ipv6, &loopback])),
        ("h.invalid", name.to_vec()),
    ] {
        // Each answer has an address of another kind.
        for bound in [
            &[1, 0, 0, 0, 0][..],
            &[&[4][..], &[0; 16]].concat(),
            &[3, 1, b'x'],
        ] {
            let exchange = vec![
                (NO_AUTHENTICATION.to_vec(), vec![5, 0]),
                (
                    bytes(&[&[5, 1, 0], &address, &1883u16.to_be_bytes()]),
                    bytes(&[&[5, 0, 0], bound, &[1, 2]]),
                ),
            ];
            works(host, "socks5://127.0.0.1", exchange).await;
        }
    }
    let connected = vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let exchange = vec![
        (CHOICE.to_vec(), vec![5, 2]),
        (LOGIN.to_vec(), vec![1, 0]),
        (CONNECT.to_vec(), connected.clone()),
    ];
    works("h", "socks5h://usr:sesame@127.0.0.1", exchange).await;
    // The proxy need not ask for the credentials.
    let exchange = vec![(CHOICE.to_vec(), vec![5, 0]), (CONNECT.to_vec(), connected)];
    works("h", "socks5://usr:sesame@127.0.0.1", exchange).await;
}

#[tokio::test]
async fn refusals_of_socks_proxies_are_put_into_words() {
    const NO_SOCKS: &str = "its answer is not SOCKS 5";
    for (answers, expected) in [
        (&[&b"HT"[..]][..], NO_SOCKS),
        (&[&[5, 2]], NO_SOCKS),
        (&[&[5, 255]], "it asks for a username and password"),
        (&[&[5, 0], &[4, 0, 0, 1]], NO_SOCKS),
        (&[&[5, 0], &[5, 0, 0, 9]], NO_SOCKS),
        (
            &[&[5, 0], &[5, 2, 0, 1]],
            "it answers 'connection not allowed'",
        ),
        (&[&[5, 0], &[5, 5, 0, 1]], "it answers 'connection refused'"),
        (
            &[&[5, 0], &[5, 99, 0, 1]],
            "it answers with the unknown code 99",
        ),
    ] {
        let requests = [NO_AUTHENTICATION, CONNECT];
        assert_eq!(
            refusal("socks5://127.0.0.1", answers, &requests).await,
            expected
        );
    }
    for (answers, expected) in [
        (&[&[5, 255][..]][..], "it takes no username and password"),
        (&[&[5, 2], &[1, 1]], "it rejects the username or password"),
    ] {
        let reason = refusal("socks5://usr:sesame@127.0.0.1", answers, &[CHOICE, LOGIN]).await;
        assert_eq!(reason, expected);
    }
}

// ---- both

#[tokio::test]
async fn proxies_may_leave_or_be_absent() {
    for uri in ["http://127.0.0.1", "socks5://127.0.0.1"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = target("h", uri, port);
        let (result, ()) = tokio::join!(open(&target, LONG), async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.shutdown().await.unwrap();
            let _ = tcp.read_to_end(&mut Vec::new()).await;
        });
        assert_eq!(
            result.unwrap_err().to_string(),
            format!(
                "proxy '127.0.0.1:{port}' does not connect to 'h:1883': it closed the connection"
            )
        );

        let limit = Duration::from_millis(100);
        let (result, _tcp): (_, std::io::Result<(TcpStream, _)>) =
            tokio::join!(open(&target, limit), listener.accept());
        assert_eq!(
            result.unwrap_err().to_string(),
            "timed out after 0.1 s while the proxy connected to 'h:1883': timeout"
        );

        drop(listener);
        assert_eq!(
            open(&target, LONG).await.unwrap_err().to_string(),
            format!("connection to '127.0.0.1:{port}' failed: connection refused")
        );
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_not() {
    let long = "h".repeat(256);
    for (uri, host, requests, expected) in [
        (
            "http://127.0.0.1",
            "h\r\nX: y",
            vec![],
            "the host is not a name",
        ),
        (
            "socks5://127.0.0.1",
            &*long,
            vec![(NO_AUTHENTICATION.to_vec(), vec![5, 0])],
            "the name of the host is too long",
        ),
    ] {
        let (port, _proxy) = proxy(requests).await;
        let error = open(&target(host, uri, port), LONG).await.unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
