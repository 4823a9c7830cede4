//! Words for failures of the network. Besides our own there are those of LuaSocket, which programs look for in the text
//! of an error.

use std::io::{self, ErrorKind};

/// No process listens on the port.
pub(super) const REFUSED: &str = "connection refused";
/// The time was over.
pub(super) const TIMEOUT: &str = "timeout";
/// The peer has ended the connection.
const CLOSED: &str = "closed";
/// The host has no address.
pub(super) const UNKNOWN_HOST: &str = "host or service not provided, or not known";

/// Whether the peer has ended the connection, in whatever manner.
pub fn is_closed(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// The words for an error: LuaSocket's where programs look for them, our own for TLS, otherwise the operating system's.
pub fn describe(error: &io::Error) -> String {
    #[cfg(feature = "tls")]
    if let Some(reason) = super::tls::explain(error) {
        return reason;
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => REFUSED.into(),
        ErrorKind::TimedOut => TIMEOUT.into(),
        _ if is_closed(error) => CLOSED.into(),
        _ => error.to_string(),
    }
}
