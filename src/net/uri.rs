//! Parses `[scheme://][username[:password]@]host[:port][/path]` into parts. The caller chooses defaults.

use std::{error, fmt, net::Ipv6Addr, str::FromStr};

use percent_encoding::percent_decode_str;
use url::Host;

use super::Secret;

/// The transport that the scheme of a URI asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `mqtt`: plain TCP, by default on port 1883.
    Mqtt,
    /// `mqtts`: TLS, by default on port 8883.
    Mqtts,
    /// `ws`: WebSocket, by default on port 80.
    Ws,
    /// `wss`: WebSocket over TLS, by default on port 443.
    Wss,
    /// `unix`: a Unix domain socket.
    Unix,
}

impl Scheme {
    /// The scheme's name, as it is written before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Unix => "unix",
        }
    }
}

impl FromStr for Scheme {
    type Err = UriError;

    fn from_str(scheme: &str) -> Result<Self, UriError> {
        match scheme.to_ascii_lowercase().as_str() {
            "mqtt" => Ok(Scheme::Mqtt),
            "mqtts" => Ok(Scheme::Mqtts),
            "ws" => Ok(Scheme::Ws),
            "wss" => Ok(Scheme::Wss),
            "unix" => Ok(Scheme::Unix),
            _ => Err(UriError::Scheme(scheme.into())),
        }
    }
}

/// The parts of a URI. An absent or empty part is `None`.
///
/// Username and password are percent-decoded, so a `%` is written `%25`. Any other character may stand for itself: the
/// last `@` ends them, and the first `:` separates them. Where a path may follow, they end at its first `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// The scheme. Without one, `host[:port]` and the credentials are still read.
    pub scheme: Option<Scheme>,
    /// The username.
    pub username: Option<String>,
    /// The password, which may be any bytes.
    pub password: Option<Secret>,
    /// The host: a name in lower case, or an IP address without brackets.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The path. For `ws` and `wss`: path and query as they are. For `unix`: the path, percent-decoded.
    pub path: Option<String>,
}

/// The part of a URI that is not valid. Displays what was expected. Only the scheme is quoted: the text in place of any
/// other part may be a password, as in `mqtt://user:password` without a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UriError {
    /// The scheme is unknown.
    Scheme(String),
    /// The username is not UTF-8.
    Username,
    /// There is a password but no username.
    PasswordAlone,
    /// The host is neither a name nor an IP address.
    Host,
    /// The IPv6 address has a zone identifier (RFC 6874).
    Zone,
    /// The port is not a number from 1 to 65535.
    Port,
    /// There is a path, query or fragment that begins with this character.
    Tail(char),
    /// A `ws` or `wss` URI has a fragment.
    Fragment,
    /// A `unix` URI has no absolute path, or it is not UTF-8.
    Path,
}

/// The likely mistake when a password is taken for another part.
const CREDENTIALS: &str = "a username and password must be followed by '@' and a host";

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UriError::Scheme(got) => {
                write!(
                    f,
                    "only 'mqtt', 'mqtts', 'ws', 'wss' and 'unix' are supported as scheme in uri, got: '{got}'"
                )
            }
            UriError::Username => f.write_str("username in uri must be UTF-8 when percent-decoded"),
            UriError::PasswordAlone => f.write_str("password in uri must follow a username"),
            UriError::Zone => f.write_str(
                "a zone identifier is not supported in an IPv6 address, since URIs of WebSocket and names of TLS have none",
            ),
            UriError::Host => f.write_str(
                "host in uri must be a name in ASCII, an IPv4 address or an IPv6 address in brackets",
            ),
            UriError::Port => write!(
                f,
                "port in uri must be a number from 1 to 65535; {CREDENTIALS}"
            ),
            UriError::Tail(start) => {
                let part = match start {
                    '?' => "query",
                    '#' => "fragment",
                    _ => "path",
                };
                write!(
                    f,
                    "uri must end after host and port, got a {part} ('{start}'); {CREDENTIALS}"
                )
            }
            UriError::Fragment => f.write_str("uri must have no fragment ('#')"),
            UriError::Path => {
                f.write_str("path in uri must be absolute, as in 'unix:///run/mosquitto.sock'")
            }
        }
    }
}

impl error::Error for UriError {}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, UriError> {
        let (scheme, rest) = split_scheme(uri);
        let scheme = scheme.map(str::parse).transpose()?;
        // Where a path may follow, a slash ends the authority (RFC 3986, section 3.2).
        let (authority, path) = match scheme {
            Some(Scheme::Ws | Scheme::Wss | Scheme::Unix) => {
                rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
            }
            // An empty path may be written as a slash (RFC 3986, section 6.2.3).
            Some(Scheme::Mqtt | Scheme::Mqtts) => (rest.strip_suffix('/').unwrap_or(rest), ""),
            None => (rest, ""),
        };
        let path = match scheme {
            Some(Scheme::Unix) => Some(parse_socket_path(path)?),
            _ => parse_request_target(path)?,
        };
        let Authority {
            username,
            password,
            host,
            port,
        } = authority.parse()?;
        if scheme == Some(Scheme::Unix) && (host.is_some() || port.is_some()) {
            return Err(UriError::Path);
        }
        Ok(Uri {
            scheme,
            username,
            password,
            host,
            port,
            path,
        })
    }
}

/// Splits a scheme off, if there is one.
pub(super) fn split_scheme(uri: &str) -> (Option<&str>, &str) {
    match uri.split_once("://") {
        Some((scheme, rest)) if !scheme.contains([':', '@', '/', '?', '#']) => (Some(scheme), rest),
        _ => (None, uri),
    }
}

/// `[username[:password]@][host][:port]`
pub(super) struct Authority {
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
}

impl FromStr for Authority {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (credentials, rest) = text.rsplit_once('@').unwrap_or(("", text));
        let (username, password) = parse_credentials(credentials)?;
        if let Some(start) = rest.find(['/', '?', '#']) {
            return Err(UriError::Tail(rest.as_bytes()[start].into()));
        }
        let (host, port) = split_port(rest)?;
        Ok(Authority {
            username,
            password,
            host: non_empty(host).map(parse_host).transpose()?,
            port: non_empty(port).map(parse_port).transpose()?,
        })
    }
}

/// The path and query of a URI, as a request line holds them. They begin with a slash.
fn parse_request_target(text: &str) -> Result<Option<String>, UriError> {
    match text.chars().next() {
        _ if text.contains('#') => Err(UriError::Fragment),
        Some('?') => Ok(Some(format!("/{text}"))),
        first => Ok(first.map(|_| text.into())),
    }
}

fn parse_socket_path(text: &str) -> Result<String, UriError> {
    match String::from_utf8(percent_decode_str(text).collect()) {
        Ok(path) if path.len() > 1 && path.starts_with('/') && !path.contains('\0') => Ok(path),
        _ => Err(UriError::Path),
    }
}

fn non_empty(part: &str) -> Option<&str> {
    Some(part).filter(|part| !part.is_empty())
}

fn parse_credentials(text: &str) -> Result<(Option<String>, Option<Secret>), UriError> {
    let (username, password) = text.split_once(':').unwrap_or((text, ""));
    if username.is_empty() && !password.is_empty() {
        return Err(UriError::PasswordAlone);
    }
    let username = non_empty(username)
        .map(|username| String::from_utf8(percent_decode_str(username).collect()))
        .transpose()
        .map_err(|_| UriError::Username)?;
    let password =
        non_empty(password).map(|password| Secret(percent_decode_str(password).collect()));
    Ok((username, password))
}

/// Splits host and port. The host keeps its brackets.
fn split_port(host_port: &str) -> Result<(&str, &str), UriError> {
    if host_port.starts_with('[') {
        let end = host_port.find(']').ok_or(UriError::Host)? + 1;
        let (host, rest) = host_port.split_at(end);
        match rest.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err(UriError::Host),
        }
    } else if host_port.parse::<Ipv6Addr>().is_ok() {
        Err(UriError::Host)
    } else {
        Ok(host_port.split_once(':').unwrap_or((host_port, "")))
    }
}

/// International names are accepted in their ASCII form only: see `idna_adapter` in Cargo.toml.
fn parse_host(host: &str) -> Result<String, UriError> {
    match Host::parse(host) {
        Ok(Host::Domain(name)) => Ok(name),
        Ok(Host::Ipv4(address)) => Ok(address.to_string()),
        Ok(Host::Ipv6(address)) => Ok(address.to_string()),
        Err(_) if host.starts_with('[') && host.contains('%') => Err(UriError::Zone),
        Err(_) => Err(UriError::Host),
    }
}

fn parse_port(port: &str) -> Result<u16, UriError> {
    // `u16::from_str` would accept a sign.
    match port.parse() {
        Ok(number) if number > 0 && port.starts_with(|c: char| c.is_ascii_digit()) => Ok(number),
        _ => Err(UriError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Uri {
        uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}"))
    }

    /// (scheme, username, password, host, port)
    type Parts<'a> = (
        Option<Scheme>,
        Option<&'a str>,
        Option<&'a [u8]>,
        Option<&'a str>,
        Option<u16>,
    );

    fn parts(uri: &Uri) -> Parts<'_> {
        (
            uri.scheme,
            uri.username.as_deref(),
            uri.password.as_ref().map(|password| password.0.as_slice()),
            uri.host.as_deref(),
            uri.port,
        )
    }

    #[test]
    fn every_part_may_be_absent() {
        let (mqtt, mqtts) = (Some(Scheme::Mqtt), Some(Scheme::Mqtts));
        let (usr, pwd) = (Some("usr"), Some(&b"pwd"[..]));
        let host = Some("host.com");
        for (uri, expected) in [
            (
                "mqtts://usr:pwd@host.com:123",
                (mqtts, usr, pwd, host, Some(123)),
            ),
            ("usr:pwd@host.com:123", (None, usr, pwd, host, Some(123))),
            ("mqtt://usr@host.com", (mqtt, usr, None, host, None)),
            ("usr:@host.com", (None, usr, None, host, None)),
            ("@host.com", (None, None, None, host, None)),
            ("mqtts://host.com:123", (mqtts, None, None, host, Some(123))),
            ("host.com:65535", (None, None, None, host, Some(65535))),
            ("host.com:", (None, None, None, host, None)),
            ("host.com", (None, None, None, host, None)),
            (":1883", (None, None, None, None, Some(1883))),
            ("mqtt://", (mqtt, None, None, None, None)),
            // A lone slash has no meaning.
            ("mqtt://host.com/", (mqtt, None, None, host, None)),
            (
                "mqtts://usr:pwd@host.com:123/",
                (mqtts, usr, pwd, host, Some(123)),
            ),
            (
                "mqtt://usr:/@host.com",
                (mqtt, usr, Some(&b"/"[..]), host, None),
            ),
            ("", (None, None, None, None, None)),
        ] {
            assert_eq!(parts(&parse(uri)), expected, "{uri}");
        }
    }

    #[test]
    fn the_case_of_scheme_and_host_does_not_matter() {
        let uri = parse("MQTTS://Usr@Broker.Example.COM");
        assert_eq!(uri.scheme, Some(Scheme::Mqtts));
        assert_eq!(uri.username.as_deref(), Some("Usr"));
        assert_eq!(uri.host.as_deref(), Some("broker.example.com"));
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for (uri, host, port) in [
            ("my_broker-1:1", "my_broker-1", Some(1)),
            ("192.168.0.1:1", "192.168.0.1", Some(1)),
            ("mqtt://[::1]:1", "::1", Some(1)),
            ("[2001:DB8::1]", "2001:db8::1", None),
            ("mqtt://usr@[::1]:1", "::1", Some(1)),
            ("xn--bcher-kva.example.", "xn--bcher-kva.example.", None),
        ] {
            let uri = parse(uri);
            assert_eq!((uri.host.as_deref(), uri.port), (Some(host), port));
        }
    }

    #[test]
    fn paths_follow_where_they_mean_something() {
        for (uri, host, port, path) in [
            ("ws://h", Some("h"), None, None),
            ("wss://h:1/", Some("h"), Some(1), Some("/")),
            (
                "ws://u:p@h/a%20b?c=@/d",
                Some("h"),
                None,
                Some("/a%20b?c=@/d"),
            ),
            ("ws://[::1]?q", Some("::1"), None, Some("/?q")),
            (
                "unix:///run/my%20broker?@#",
                None,
                None,
                Some("/run/my broker?@#"),
            ),
            ("unix://u:p@/run/socket", None, None, Some("/run/socket")),
        ] {
            let uri = parse(uri);
            assert_eq!(
                (uri.host.as_deref(), uri.port, uri.path.as_deref()),
                (host, port, path)
            );
        }
        let uri = parse("ws://u:p@h/a@b");
        assert_eq!(parts(&uri).1, Some("u"));
        assert_eq!(parts(&uri).2, Some(&b"p"[..]));
        let uri = parse("unix://u:p@/run/socket");
        assert_eq!(parts(&uri).1, Some("u"));
    }

    #[test]
    fn credentials_may_hold_any_character() {
        for (credentials, username, password) in [
            ("a%40b:p%3Aw%2f", "a@b", &b"p:w/"[..]),
            ("u:p@ss", "u", b"p@ss"),
            ("u@x:p@s@s", "u@x", b"p@s@s"),
            ("u:a:b:", "u", b"a:b:"),
            ("u:/?#[]", "u", b"/?#[]"),
            ("u:a://b", "u", b"a://b"),
            ("u:100%", "u", b"100%"),
            ("u:%ff%00", "u", b"\xff\x00"),
            ("%C3%BC:ü", "ü", "ü".as_bytes()),
        ] {
            for uri in [
                format!("mqtt://{credentials}@h:1"),
                format!("{credentials}@h:1"),
            ] {
                let uri = parse(&uri);
                assert_eq!(parts(&uri).1, Some(username));
                assert_eq!(parts(&uri).2, Some(password));
                assert_eq!((parts(&uri).3, uri.port), (Some("h"), Some(1)));
            }
        }
    }

    #[test]
    fn errors_name_the_part() {
        const HOST: &str =
            "host in uri must be a name in ASCII, an IPv4 address or an IPv6 address in brackets";
        let hinted = |rule: &str| {
            format!("{rule}; a username and password must be followed by '@' and a host")
        };
        let port = hinted("port in uri must be a number from 1 to 65535");
        let tail = |part| hinted(&format!("uri must end after host and port, got a {part}"));
        let scheme = |got| {
            format!(
                "only 'mqtt', 'mqtts', 'ws', 'wss' and 'unix' are supported as scheme in uri, got: '{got}'"
            )
        };
        let errors: [(&[&str], String); 10] = [
            (&["http://h"], scheme("http")),
            (&["://h"], scheme("")),
            (
                &["%ff@h"],
                "username in uri must be UTF-8 when percent-decoded".into(),
            ),
            (
                &[":secret@h"],
                "password in uri must follow a username".into(),
            ),
            (&["h:abc", "h:0", "h:65536", "h:+1", "h:1:2"], port),
            (
                &["h:1/a/b", "h/", "mqtt://h/a", "mqtts://h//", "mqtt://h/a/"],
                tail("path ('/')"),
            ),
            (&["h?q"], tail("query ('?')")),
            (&["u:p@h#f"], tail("fragment ('#')")),
            (
                &["ws://h/a#b", "wss://h#b"],
                "uri must have no fragment ('#')".into(),
            ),
            (
                &[
                    "unix://",
                    "unix:///",
                    "unix://path",
                    "unix://h/path",
                    "unix:///%ff",
                    "unix:///%00",
                ],
                "path in uri must be absolute, as in 'unix:///run/mosquitto.sock'".into(),
            ),
        ];
        let hosts = [
            "::1",
            "[::1",
            "[::1]1",
            "[x]",
            "a b",
            "h\0",
            "256.1.1.1",
            "<h>",
            "h%20",
            "bücher.example",
        ];
        for (uris, expected) in errors.iter().chain([&(&hosts[..], HOST.into())]) {
            for uri in *uris {
                let error = uri.parse::<Uri>().unwrap_err();
                assert_eq!(error.to_string(), *expected, "{uri}");
            }
        }
    }

    #[test]
    fn errors_do_not_quote_what_may_be_a_password() {
        for uri in [
            "mqtt://usr:hunter2",
            "usr:hunter2",
            "mqtt://usr:1/hunter2",
            "mqtt://usr:hunter2/",
            "mqtt://usr:p?hunter2",
            "mqtt://usr:p@s#hunter2",
            "mqtt://usr:p@hunter2 !",
            "mqtt://[usr:hunter2",
            "mqtt://:hunter2@h",
            "mqtt://usr:p@h:hunter2",
            "ws://usr:hunter2",
            "ws://usr:p/hunter2@h#",
            "unix://usr:hunter2@h/path",
        ] {
            let error = uri.parse::<Uri>().unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2"), "{uri}: {text}");
        }
    }

    #[test]
    fn a_zone_identifier_is_told() {
        for uri in ["mqtt://[fe80::1%25eth0]", "[fe80::1%eth0]:1883"] {
            assert_eq!(uri.parse::<Uri>().err(), Some(UriError::Zone), "{uri}");
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let uri = format!("{:?}", parse("mqtt://usr:hunter2@h"));
        assert!(
            uri.contains("usr") && uri.contains("password: Some"),
            "{uri}"
        );
        assert!(!uri.contains("hunter2"), "{uri}");
    }
}
