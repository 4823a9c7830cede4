//! Opens a byte stream to a server: URI, name resolution, proxy, TCP or Unix socket, TLS and WebSocket, all within one
//! deadline. No Lua and no MQTT may appear here: other rooms know the meaning of the bytes.

mod open;
mod proxy;
mod random;
mod secret;
mod socket;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod uri;
#[cfg(feature = "websocket")]
mod websocket;
mod words;

pub use open::{OpenError, Phase, Server, Target, open};
pub use proxy::{Protocol as ProxyProtocol, Proxy, ProxyError, ProxyFailure};
pub use random::random_bytes;
pub use secret::Secret;
pub use socket::{OwnedSocket, Socket};
pub(crate) use socket::{SIGNAL_FREE, acknowledge};
pub use stream::Stream;
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsError, TlsFailure, TlsOptions, TlsVersion, protocol_range};
pub use uri::{Scheme, Uri, UriError};
#[cfg(feature = "websocket")]
pub use websocket::{WebSocket, WebSocketConfig, WebSocketFailure};
pub use words::{describe, is_closed};

/// Settings that cannot exist, because this build has no TLS.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug)]
pub enum TlsConfig {}

/// Settings that cannot exist, because this build has no WebSocket.
#[cfg(not(feature = "websocket"))]
#[derive(Clone, Debug)]
pub enum WebSocketConfig {}
