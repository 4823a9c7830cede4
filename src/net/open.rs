//! Leads from a target to an open stream: resolves, connects and shakes hands, with one deadline for all of it.

use std::{
    error, fmt,
    future::Future,
    io::{self, ErrorKind},
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[cfg(unix)]
use socket2::SockRef;
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time,
};
#[cfg(feature = "tls")]
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

#[cfg(feature = "tls")]
use super::TlsFailure;
#[cfg(feature = "websocket")]
use super::WebSocketFailure;
use super::words::{self, describe};
use super::{Proxy, ProxyFailure, Socket, Stream, TlsConfig, WebSocketConfig};

/// How long one address may take before the next is tried beside it (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The send buffer of a Unix socket; Linux doubles the number. By default it is 208 KiB, and Linux wakes the sender only
/// when three quarters of that have been read. A much larger one would hold a PINGREQ behind much that a slow server has
/// yet to read, though it counts as sent. The kernel may allow less than this, and uses no memory that is not filled.
#[cfg(unix)]
const UNIX_BUFFER: usize = 256 << 10;

/// The place where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// On a TCP port.
    Tcp {
        /// A name or an IP address (IPv6 without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// On a Unix domain socket.
    Unix(PathBuf),
}

/// The server to connect to, and the way there.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub server: Server,
    /// The proxy that makes the TCP connection. `None` connects directly. Has no effect on a Unix domain socket.
    pub proxy: Option<Proxy>,
    /// The settings for TLS. `None` means no TLS. Has no effect on a Unix domain socket.
    pub tls: Option<TlsConfig>,
    /// The settings for WebSocket. `None` means no WebSocket. Has no effect on a Unix domain socket.
    pub websocket: Option<WebSocketConfig>,
}

impl Target {
    /// Plain TCP to `host`, a name or an IP address (IPv6 without brackets).
    pub fn tcp(host: impl Into<String>, port: u16) -> Target {
        let host = host.into();
        Server::Tcp { host, port }.into()
    }

    /// A Unix domain socket.
    pub fn unix(path: impl Into<PathBuf>) -> Target {
        Server::Unix(path.into()).into()
    }
}

impl From<Server> for Target {
    fn from(server: Server) -> Self {
        Target {
            server,
            proxy: None,
            tls: None,
            websocket: None,
        }
    }
}

impl fmt::Display for Target {
    /// `host:port`, with an IPv6 address in brackets, or the path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Server::Tcp { host, port } => f.write_str(&host_port(host, *port)),
            Server::Unix(path) => path.display().fmt(f),
        }
    }
}

/// `host:port`, with an IPv6 address in brackets.
pub(super) fn host_port(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(host) => format!("[{host}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The step at which [`open`] ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking up the addresses of the host.
    Resolve,
    /// Waiting for one of the addresses to answer.
    Connect,
    /// Waiting for the proxy to connect.
    Proxy,
    /// The TLS handshake.
    Handshake,
    /// The opening handshake of WebSocket.
    WebSocket,
}

/// Why there is no stream. `target` is `host:port`, or the path of a Unix domain socket. If the proxy could not be
/// reached, `target` is the proxy.
#[derive(Debug)]
pub enum OpenError {
    /// The host has no address.
    NotFound {
        /// The host.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// No address of the host could be connected to.
    Connect {
        /// The server.
        target: String,
        /// Each address tried and its error.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The Unix domain socket could not be connected to.
    Unix {
        /// The path.
        target: String,
        /// The operating system's error.
        error: io::Error,
    },
    /// The proxy does not connect to the server.
    Proxy {
        /// The proxy.
        proxy: String,
        /// The server.
        target: String,
        /// The reason.
        failure: ProxyFailure,
    },
    /// The opening handshake of WebSocket failed.
    #[cfg(feature = "websocket")]
    WebSocket {
        /// The server.
        target: String,
        /// The reason.
        failure: WebSocketFailure,
    },
    /// The TLS handshake failed, for another reason than time.
    #[cfg(feature = "tls")]
    Tls {
        /// The server.
        target: String,
        /// The reason.
        failure: TlsFailure,
    },
    /// The time was over.
    Timeout {
        /// The server.
        target: String,
        /// The step that took too long.
        phase: Phase,
        /// The time allowed.
        after: Duration,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NotFound { host, reason } => write!(
                f,
                "host '{host}' not found: {} ({reason})",
                words::UNKNOWN_HOST
            ),
            OpenError::Connect { target, attempts } => {
                write!(f, "connection to '{target}' failed: ")?;
                if attempts
                    .iter()
                    .all(|(_, error)| error.kind() == ErrorKind::ConnectionRefused)
                {
                    return f.write_str(words::REFUSED);
                }
                for (index, (address, error)) in attempts.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{}: {}", address.ip(), describe(error))?;
                }
                Ok(())
            }
            OpenError::Unix { target, error } => {
                write!(f, "connection to '{target}' failed: {}", describe(error))
            }
            OpenError::Proxy {
                proxy,
                target,
                failure,
            } => write!(
                f,
                "proxy '{proxy}' does not connect to '{target}': {failure}"
            ),
            #[cfg(feature = "websocket")]
            OpenError::WebSocket { target, failure } => {
                write!(f, "WebSocket handshake with '{target}' failed: {failure}")
            }
            #[cfg(feature = "tls")]
            OpenError::Tls { target, failure } => {
                write!(f, "TLS handshake with '{target}' failed: {failure}")
            }
            OpenError::Timeout {
                target,
                phase,
                after,
            } => {
                let phase = match phase {
                    Phase::Resolve => "while looking up the host of",
                    Phase::Connect => "while connecting to",
                    Phase::Proxy => "while the proxy connected to",
                    Phase::Handshake => "during the TLS handshake with",
                    Phase::WebSocket => "during the WebSocket handshake with",
                };
                let after = after.as_secs_f64();
                let timeout = words::TIMEOUT;
                write!(f, "timed out after {after} s {phase} '{target}': {timeout}")
            }
        }
    }
}

impl error::Error for OpenError {}

/// Opens a stream to `target` within `timeout`, which covers name resolution, connecting and all handshakes.
///
/// Needs a tokio runtime with I/O and time. Names are resolved on its blocking pool. A runtime that is dropped waits
/// for a running lookup; a runtime that is shut down in the background does not.
///
/// # Errors
/// [`OpenError`] names the step that failed, and its target.
pub async fn open(target: &Target, timeout: Duration) -> Result<Stream, OpenError> {
    let deadline = Deadline {
        start: Instant::now(),
        timeout,
    };
    let (host, port) = match &target.server {
        Server::Tcp { host, port } => (host, *port),
        Server::Unix(path) => return open_unix(path, &deadline).await,
    };
    #[cfg(feature = "tls")]
    let tls = match &target.tls {
        Some(config) => Some(tls_client(config, host).map_err(|failure| OpenError::Tls {
            target: target.to_string(),
            failure,
        })?),
        None => None,
    };
    let socket = match &target.proxy {
        None => open_tcp(host, port, &deadline).await?,
        Some(proxy) => {
            let mut socket = open_tcp(&proxy.host, proxy.port, &deadline).await?;
            let server = target.to_string();
            deadline
                .limit(
                    Phase::Proxy,
                    &server,
                    proxy.connect(&mut socket, host, port),
                )
                .await?
                .map_err(|failure| OpenError::Proxy {
                    proxy: host_port(&proxy.host, proxy.port),
                    target: server,
                    failure,
                })?;
            socket
        }
    };
    #[cfg(feature = "tls")]
    let stream = match tls {
        Some((connector, name)) => shake_hands(socket, connector, name, target, &deadline).await?,
        None => Stream::Plain(socket),
    };
    #[cfg(not(feature = "tls"))]
    let stream = Stream::Plain(socket);
    #[cfg(feature = "websocket")]
    if let Some(config) = &target.websocket {
        let server = target.to_string();
        let opening = config.connect(stream, &server, target.tls.is_some());
        return match deadline.limit(Phase::WebSocket, &server, opening).await? {
            Ok(stream) => Ok(Stream::WebSocket(Box::new(stream))),
            Err(failure) => Err(OpenError::WebSocket {
                target: server,
                failure,
            }),
        };
    }
    Ok(stream)
}

/// The time that all steps share.
struct Deadline {
    start: Instant,
    timeout: Duration,
}

impl Deadline {
    /// Runs one step, which concerns `target`, in the remaining time.
    ///
    /// The step's data is boxed before anything waits. Otherwise the task would keep room for it all its life.
    fn limit<T>(
        &self,
        phase: Phase,
        target: &str,
        work: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, OpenError>> {
        let left = self.timeout.saturating_sub(self.start.elapsed());
        let work = time::timeout(left, Box::pin(work));
        async move {
            work.await.map_err(|_| OpenError::Timeout {
                target: target.into(),
                phase,
                after: self.timeout,
            })
        }
    }
}

async fn open_tcp(host: &str, port: u16, deadline: &Deadline) -> Result<Socket, OpenError> {
    let target = host_port(host, port);
    let addresses = deadline
        .limit(Phase::Resolve, &target, resolve(host, port))
        .await??;
    deadline
        .limit(Phase::Connect, &target, connect(addresses))
        .await?
        .map(Socket::from)
        .map_err(|attempts| OpenError::Connect { target, attempts })
}

#[cfg(unix)]
async fn open_unix(path: &Path, deadline: &Deadline) -> Result<Stream, OpenError> {
    let target = path.display().to_string();
    let connecting = tokio::net::UnixStream::connect(path);
    match deadline.limit(Phase::Connect, &target, connecting).await? {
        Ok(stream) => {
            // A smaller buffer serves as well.
            let _ = SockRef::from(&stream).set_send_buffer_size(UNIX_BUFFER);
            Ok(Stream::Plain(stream.into()))
        }
        Err(error) => Err(OpenError::Unix { target, error }),
    }
}

#[cfg(not(unix))]
async fn open_unix(path: &Path, _: &Deadline) -> Result<Stream, OpenError> {
    Err(OpenError::Unix {
        target: path.display().to_string(),
        error: ErrorKind::Unsupported.into(),
    })
}

/// The connector and the server name for a TLS handshake with `host`.
#[cfg(feature = "tls")]
fn tls_client(
    config: &TlsConfig,
    host: &str,
) -> Result<(TlsConnector, ServerName<'static>), TlsFailure> {
    let name = config.server_name(host).map_err(TlsFailure::Name)?;
    Ok((TlsConnector::from(config.client.clone()), name))
}

#[cfg(feature = "tls")]
async fn shake_hands(
    socket: Socket,
    connector: TlsConnector,
    name: ServerName<'static>,
    target: &Target,
    deadline: &Deadline,
) -> Result<Stream, OpenError> {
    let server = target.to_string();
    let shaking_hands = connector.connect(name, socket);
    match deadline
        .limit(Phase::Handshake, &server, shaking_hands)
        .await?
    {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) => Err(OpenError::Tls {
            target: server,
            failure: error.into(),
        }),
    }
}

/// The addresses of a host, in the order to try.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, OpenError> {
    let not_found = |reason: &str| OpenError::NotFound {
        host: host.into(),
        reason: reason.to_string(),
    };
    let addresses = lookup_host((host, port)).await.map_err(|error| {
        let text = error.to_string();
        let reason = text.strip_prefix("failed to lookup address information: ");
        not_found(reason.unwrap_or(&text))
    })?;
    let addresses = alternate(addresses);
    match addresses.is_empty() {
        true => Err(not_found("it has no address")),
        false => Ok(addresses),
    }
}

/// Alternates IPv6 and IPv4. Otherwise keeps the resolver's order (RFC 8305, section 4).
fn alternate(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut counts = [0; 2];
    let mut ranked: Vec<(usize, SocketAddr)> = addresses
        .map(|address| {
            let count = &mut counts[usize::from(address.is_ipv6())];
            *count += 1;
            (*count, address)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// The first connection that succeeds. The next address is tried when the one before has failed or is slow.
async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, Vec<(SocketAddr, io::Error)>> {
    let mut untried = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut errors = Vec::new();
    loop {
        if let Some(address) = untried.next() {
            attempts.spawn(async move { (address, connect_one(address).await) });
        }
        let finished = if untried.len() == 0 {
            attempts.join_next().await
        } else {
            match time::timeout(ATTEMPT_DELAY, attempts.join_next()).await {
                Ok(finished) => finished,
                Err(_) => continue,
            }
        };
        match finished {
            Some(Ok((_, Ok(stream)))) => return Ok(stream),
            Some(Ok((address, Err(error)))) => errors.push((address, error)),
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            None => return Err(errors),
        }
    }
}

async fn connect_one(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Small packets are the rule, and are already written together where they can be. Waiting for more only costs time.
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_takes_more_at_once_than_the_systems_default() {
        let path = std::env::temp_dir().join(format!("mqtt-buffer-{}", std::process::id()));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let default = SockRef::from(&listener).send_buffer_size().unwrap();
        let opened = open(&Target::unix(&path), Duration::from_secs(20)).await;
        std::fs::remove_file(&path).unwrap();
        let Ok(Stream::Plain(socket)) = opened else {
            panic!("there is no connection");
        };
        assert!(SockRef::from(&socket).send_buffer_size().unwrap() > default);
    }

    fn socket() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket
    }

    #[test]
    fn families_alternate() {
        let addresses = [
            "[::1]:1",
            "[::2]:1",
            "[::3]:1",
            "127.0.0.1:1",
            "127.0.0.2:1",
        ]
        .map(|address| address.parse().unwrap());
        let order: Vec<String> = alternate(addresses.into_iter())
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        assert_eq!(
            order,
            [
                "[::1]:1",
                "127.0.0.1:1",
                "[::2]:1",
                "127.0.0.2:1",
                "[::3]:1"
            ]
        );
    }

    #[tokio::test]
    async fn a_refusal_leads_to_the_next_address_at_once() {
        let dead = socket();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = alive.local_addr().unwrap();
        let start = Instant::now();
        let mut addresses = vec![dead.local_addr().unwrap(); 40];
        addresses.push(alive);
        let stream = connect(addresses).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), alive);
        assert!(start.elapsed() < 40 * ATTEMPT_DELAY);
    }

    /// A server to which the kernel makes no more connections: the queue of a listener that accepts none is full.
    async fn silent() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
        let listener = socket().listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        let patience = Duration::from_millis(50);
        while let Ok(stream) = time::timeout(patience, TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
        }
        (listener, address, queue)
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hold_up_the_next() {
        let (_listener, silent, _queue) = silent().await;
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = alive.local_addr().unwrap();
        let start = Instant::now();
        let stream = connect(vec![silent, alive]).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), alive);
        assert!(start.elapsed() >= ATTEMPT_DELAY);
    }

    #[tokio::test]
    async fn a_silent_server_times_out() {
        let (_listener, silent, _queue) = silent().await;
        let target = Target::tcp(silent.ip().to_string(), silent.port());
        let error = open(&target, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("timed out after 0.1 s while connecting to '{silent}': timeout")
        );
    }

    #[tokio::test]
    async fn every_failure_is_reported() {
        let dead = socket();
        // TCP has no multicast.
        let multicast = "224.0.0.1:1".parse().unwrap();
        let attempts = connect(vec![dead.local_addr().unwrap(), multicast])
            .await
            .unwrap_err();
        let target = "h:1".to_string();
        let error = OpenError::Connect { target, attempts }.to_string();
        assert!(
            error.starts_with("connection to 'h:1' failed: 127.0.0.1: connection refused, "),
            "{error}"
        );
        assert!(error.contains(", 224.0.0.1: "), "{error}");
    }
}
