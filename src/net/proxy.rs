//! Asks a proxy for a connection to a server: HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS 5 (RFC 1928, 1929). The
//! proxy resolves the server's name.

use std::{error, fmt, io, net::IpAddr, str::FromStr};

use base64ct::{Base64, Encoding};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::uri::{Authority, UriError, split_scheme};
use super::{Secret, words};

/// The longest answer of an HTTP proxy, in bytes.
const LONGEST_ANSWER: usize = 16 << 10;
/// The longest username, password and host name in SOCKS 5, in bytes: their length is one byte.
const LONGEST_FIELD: usize = 255;

/// The protocol by which a proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP CONNECT.
    Http,
    /// SOCKS 5.
    Socks5,
}

/// `http://[username[:password]@]host[:port]`, or the same with `socks5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    protocol: Protocol,
    credentials: Option<(String, Secret)>,
    /// A name or an IP address.
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why the text of a proxy is not valid. Displays what was expected, and never a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The scheme is absent or unknown.
    Scheme,
    /// There is no host.
    Host,
    /// The username or password is too short or too long for SOCKS 5.
    Credentials,
    /// Another part is not valid.
    Uri(UriError),
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Scheme => f.write_str("expecting 'http://' or 'socks5://' and a host"),
            ProxyError::Host => f.write_str("expecting a host"),
            ProxyError::Credentials => write!(
                f,
                "username and password must have 1 to {LONGEST_FIELD} bytes each"
            ),
            ProxyError::Uri(error) => error.fmt(f),
        }
    }
}

impl error::Error for ProxyError {}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = split_scheme(text);
        let (protocol, default_port) = match scheme.map(str::to_ascii_lowercase).as_deref() {
            Some("http") => (Protocol::Http, 80),
            // "socks5h" is curl's name for SOCKS 5 by which the proxy resolves names, as it does here.
            Some("socks5" | "socks5h") => (Protocol::Socks5, 1080),
            _ => return Err(ProxyError::Scheme),
        };
        let Authority {
            username,
            password,
            host,
            port,
        } = rest
            .strip_suffix('/')
            .unwrap_or(rest)
            .parse()
            .map_err(ProxyError::Uri)?;
        let credentials =
            username.map(|username| (username, password.unwrap_or(Secret(Vec::new()))));
        if protocol == Protocol::Socks5
            && let Some((username, password)) = &credentials
            && !(fits(username.as_bytes()) && fits(&password.0))
        {
            return Err(ProxyError::Credentials);
        }
        Ok(Proxy {
            protocol,
            credentials,
            host: host.ok_or(ProxyError::Host)?,
            port: port.unwrap_or(default_port),
        })
    }
}

fn fits(field: &[u8]) -> bool {
    (1..=LONGEST_FIELD).contains(&field.len())
}

/// Why a proxy does not connect to a server.
#[derive(Debug)]
pub enum ProxyFailure {
    /// The host has characters that no name has. No proxy can be asked for it.
    NotAName,
    /// The name of the host is too long for SOCKS 5.
    LongName,
    /// The proxy has closed the connection.
    Closed,
    /// The connection to the proxy broke.
    Broken(io::Error),
    /// The proxy does not speak HTTP.
    NotHttp,
    /// The head of an HTTP proxy's answer does not end.
    Endless,
    /// The proxy does not speak SOCKS 5.
    NotSocks,
    /// The proxy asks for a username and password.
    WantsCredentials(Protocol),
    /// The proxy does not accept username and password.
    RejectsCredentials(Protocol),
    /// The proxy has another way to authenticate clients.
    TakesNoCredentials,
    /// The HTTP status with which the proxy declines.
    Status(u16),
    /// The reply of SOCKS 5 with which the proxy declines (RFC 1928, section 6).
    Reply(u8),
}

impl fmt::Display for ProxyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejected = |protocol: &Protocol| match protocol {
            Protocol::Http => " (HTTP status 407)",
            Protocol::Socks5 => "",
        };
        match self {
            Self::NotAName => f.write_str("the host is not a name"),
            Self::LongName => f.write_str("the name of the host is too long"),
            Self::Closed => f.write_str("it closed the connection"),
            Self::Broken(error) => f.write_str(&words::describe(error)),
            Self::NotHttp => f.write_str("its answer is not HTTP, perhaps it is no HTTP proxy"),
            Self::Endless => f.write_str("its answer does not end"),
            Self::NotSocks => f.write_str("its answer is not SOCKS 5"),
            Self::WantsCredentials(protocol) => {
                write!(
                    f,
                    "it asks for a username and password{}",
                    rejected(protocol)
                )
            }
            Self::RejectsCredentials(protocol) => {
                write!(
                    f,
                    "it rejects the username or password{}",
                    rejected(protocol)
                )
            }
            Self::TakesNoCredentials => f.write_str("it takes no username and password"),
            Self::Status(504) => {
                write!(f, "it answers with HTTP status 504: {}", words::TIMEOUT)
            }
            Self::Status(status) => write!(f, "it answers with HTTP status {status}"),
            Self::Reply(reply) => {
                let reason = match reply {
                    1 => "general failure",
                    2 => "connection not allowed",
                    3 => "network unreachable",
                    4 => "host unreachable",
                    5 => words::REFUSED,
                    6 => "time to live expired",
                    7 => "command not supported",
                    8 => "type of address not supported",
                    _ => return write!(f, "it answers with the unknown code {reply}"),
                };
                write!(f, "it answers '{reason}'")
            }
        }
    }
}

impl From<io::Error> for ProxyFailure {
    fn from(error: io::Error) -> Self {
        match words::is_closed(&error) {
            true => Self::Closed,
            false => Self::Broken(error),
        }
    }
}

impl Proxy {
    /// Turns `stream`, a connection to the proxy, into a connection to `host`.
    pub(super) async fn connect(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        host: &str,
        port: u16,
    ) -> Result<(), ProxyFailure> {
        if host.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(ProxyFailure::NotAName);
        }
        match self.protocol {
            Protocol::Http => self.connect_http(stream, host, port).await,
            Protocol::Socks5 => self.connect_socks5(stream, host, port).await,
        }
    }

    async fn connect_http(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        host: &str,
        port: u16,
    ) -> Result<(), ProxyFailure> {
        let server = super::open::host_port(host, port);
        let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n");
        if let Some((username, password)) = &self.credentials {
            let credentials = [username.as_bytes(), b":", &password.0].concat();
            let credentials = Base64::encode_string(&credentials);
            request += &format!("Proxy-Authorization: Basic {credentials}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await?;

        // Reads no byte behind the answer: the next bytes are the server's.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == LONGEST_ANSWER {
                return Err(ProxyFailure::Endless);
            }
            answer.push(read::<1>(stream).await?[0]);
        }
        // The answer's words are not repeated: a proxy may put the request, with its password, into them.
        match status(&answer) {
            None => Err(ProxyFailure::NotHttp),
            Some(200..=299) => Ok(()),
            Some(407) if self.credentials.is_none() => {
                Err(ProxyFailure::WantsCredentials(Protocol::Http))
            }
            Some(407) => Err(ProxyFailure::RejectsCredentials(Protocol::Http)),
            Some(status) => Err(ProxyFailure::Status(status)),
        }
    }

    async fn connect_socks5(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        host: &str,
        port: u16,
    ) -> Result<(), ProxyFailure> {
        const NO_AUTHENTICATION: u8 = 0;
        const USERNAME_PASSWORD: u8 = 2;
        const NONE_ACCEPTABLE: u8 = 0xff;
        let methods: &[u8] = match &self.credentials {
            Some(_) => &[5, 2, NO_AUTHENTICATION, USERNAME_PASSWORD],
            None => &[5, 1, NO_AUTHENTICATION],
        };
        stream.write_all(methods).await?;
        let [version, method] = read(stream).await?;
        match (version, method, &self.credentials) {
            (5, NO_AUTHENTICATION, _) => {}
            (5, USERNAME_PASSWORD, Some((username, password))) => {
                let mut request = vec![1];
                push_field(&mut request, username.as_bytes());
                push_field(&mut request, &password.0);
                stream.write_all(&request).await?;
                let [_, status] = read(stream).await?;
                if status != 0 {
                    return Err(ProxyFailure::RejectsCredentials(Protocol::Socks5));
                }
            }
            (5, NONE_ACCEPTABLE, None) => {
                return Err(ProxyFailure::WantsCredentials(Protocol::Socks5));
            }
            (5, NONE_ACCEPTABLE, Some(_)) => {
                return Err(ProxyFailure::TakesNoCredentials);
            }
            _ => return Err(ProxyFailure::NotSocks),
        }

        // CONNECT, with the address in one of three forms.
        let mut request = vec![5, 1, 0];
        match host.parse() {
            Ok(IpAddr::V4(address)) => {
                request.push(1);
                request.extend(address.octets());
            }
            Ok(IpAddr::V6(address)) => {
                request.push(4);
                request.extend(address.octets());
            }
            Err(_) if fits(host.as_bytes()) => {
                request.push(3);
                push_field(&mut request, host.as_bytes());
            }
            Err(_) => return Err(ProxyFailure::LongName),
        }
        request.extend(port.to_be_bytes());
        stream.write_all(&request).await?;
        let [version, reply, _, address_type] = read(stream).await?;
        if version != 5 {
            return Err(ProxyFailure::NotSocks);
        } else if reply != 0 {
            return Err(ProxyFailure::Reply(reply));
        }
        // The address from which the proxy connects is of no interest.
        let address_size = match address_type {
            1 => 4,
            4 => 16,
            3 => read::<1>(stream).await?[0].into(),
            _ => return Err(ProxyFailure::NotSocks),
        };
        for _ in 0..address_size + 2 {
            read::<1>(stream).await?;
        }
        Ok(())
    }
}

/// Appends a field's length and the field.
fn push_field(request: &mut Vec<u8>, field: &[u8]) {
    request.push(field.len() as u8);
    request.extend(field);
}

/// The status code in the first line of an HTTP answer.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok()
}

async fn read<const SIZE: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Proxy {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn parts_and_defaults() {
        let proxy = parse("http://usr:p%40ss@proxy.example:3128");
        assert_eq!(proxy.protocol, Protocol::Http);
        assert_eq!(proxy.credentials, Some(("usr".into(), "p@ss".into())));
        assert_eq!((&*proxy.host, proxy.port), ("proxy.example", 3128));
        for (text, protocol, host, port) in [
            ("HTTP://h", Protocol::Http, "h", 80),
            ("http://h/", Protocol::Http, "h", 80),
            ("socks5://[::1]", Protocol::Socks5, "::1", 1080),
            ("socks5h://h:1", Protocol::Socks5, "h", 1),
        ] {
            let proxy = parse(text);
            assert_eq!(
                (proxy.protocol, &*proxy.host, proxy.port),
                (protocol, host, port)
            );
            assert_eq!(proxy.credentials, None);
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        let long = "hunter2".repeat(40);
        for (text, expected) in [
            (
                "usr:hunter2@h",
                "expecting 'http://' or 'socks5://' and a host",
            ),
            (
                "hunter2://h",
                "expecting 'http://' or 'socks5://' and a host",
            ),
            ("http://usr:hunter2@", "expecting a host"),
            (
                "http://usr:hunter2",
                "port in uri must be a number from 1 to 65535; \
                 a username and password must be followed by '@' and a host",
            ),
            (
                "socks5://usr@h",
                "username and password must have 1 to 255 bytes each",
            ),
            (
                &format!("socks5://usr:{long}@h"),
                "username and password must have 1 to 255 bytes each",
            ),
        ] {
            assert_eq!(text.parse::<Proxy>().unwrap_err().to_string(), expected);
        }
        let proxy = format!("{:?}", parse("http://usr:hunter2@h"));
        assert!(!proxy.contains("hunter2"), "{proxy}");
    }
}
