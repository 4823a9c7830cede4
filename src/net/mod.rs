//! Opening a byte stream to a server: URI, name resolution, TCP and TLS, all within one deadline.
//! No Lua and no MQTT may appear here: what the bytes mean is the business of others.

mod open;
mod secret;
mod stream;
mod tls;
mod uri;

pub use open::{OpenError, Phase, Target, open};
pub use secret::Secret;
pub use stream::Stream;
pub use tls::{TlsConfig, TlsError, TlsOptions, TlsVersion, protocol_range};
pub use uri::{Scheme, Uri, UriError};
