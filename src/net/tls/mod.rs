//! The settings of the TLS client. They are checked and read once, and shared by every connection made with them.

mod explain;
mod pem;
mod roots;
mod verify;

use std::{
    error, fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, ConfigBuilder, Error, SupportedProtocolVersion,
    client::{Resumption, WantsClientCert},
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    version::{TLS12, TLS13},
};

pub(super) use explain::explain;
use verify::Verifier;

use super::{Secret, words};
use crate::forks::{GENERATIONS, PerProcess};

/// The one provider of cryptography, made on first use.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: PerProcess<Option<Arc<CryptoProvider>>> =
        PerProcess([const { Mutex::new(None) }; GENERATIONS]);
    let mut provider = PROVIDER.lock();
    Arc::clone(provider.get_or_insert_with(|| Arc::new(ring::default_provider())))
}

/// The TLS versions that this client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

/// The settings that a user may make. [`TlsConfig::new`] checks them.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// Whether to verify the server's certificate and name. If not, the server may be anyone.
    pub verify: bool,
    /// A PEM file of root certificates. `cafile` and `capath`, one or both, replace the system's roots.
    pub cafile: Option<PathBuf>,
    /// A directory of PEM files of root certificates, with any names.
    pub capath: Option<PathBuf>,
    /// A PEM file with the client's certificate chain.
    pub certificate: Option<PathBuf>,
    /// A PEM file with the private key of `certificate`: PKCS#1, PKCS#8 or SEC1. By default the key is in the same
    /// file.
    pub key: Option<PathBuf>,
    /// The password of an encrypted (PKCS#8) `key`.
    pub password: Option<Secret>,
    /// The protocols to offer (ALPN), the preferred one first.
    pub alpn: Vec<Vec<u8>>,
    /// The oldest version to accept.
    pub min_version: TlsVersion,
    /// The newest version to offer.
    pub max_version: TlsVersion,
    /// The name to ask for (SNI) and to verify, instead of the host's name.
    pub server_name: Option<String>,
}

impl Default for TlsOptions {
    /// Verifies against the system's roots, and offers every version.
    fn default() -> Self {
        TlsOptions {
            verify: true,
            cafile: None,
            capath: None,
            certificate: None,
            key: None,
            password: None,
            alpn: Vec::new(),
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
            server_name: None,
        }
    }
}

/// Why settings are not valid. Displays the option at fault, the file if there is one, and the reason.
#[derive(Debug)]
pub enum TlsError {
    /// A file or directory that an option names is at fault.
    File {
        /// The option.
        option: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The value of an option is at fault, or several options conflict.
    Option(String),
}

impl TlsError {
    fn file(option: &'static str, path: &Path, reason: impl ToString) -> Self {
        TlsError::File {
            option,
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::File {
                option,
                path,
                reason,
            } => write!(f, "{option} '{}': {reason}", path.display()),
            TlsError::Option(reason) => f.write_str(reason),
        }
    }
}

impl error::Error for TlsError {}

/// Why a TLS handshake failed.
#[derive(Debug)]
pub enum TlsFailure {
    /// No certificate could have the server's name.
    Name(TlsError),
    /// The server has closed the connection.
    Closed,
    /// One side rejected the other, or the connection broke.
    Broken(io::Error),
}

impl From<io::Error> for TlsFailure {
    fn from(error: io::Error) -> Self {
        match words::is_closed(&error) {
            true => Self::Closed,
            false => Self::Broken(error),
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Closed => f.write_str(
                "the server closed the connection, perhaps it does not speak TLS on this port",
            ),
            Self::Broken(error) => f.write_str(&words::describe(error)),
        }
    }
}

/// Checked settings. Clones share everything, including the sessions to resume.
#[derive(Clone)]
pub struct TlsConfig {
    pub(super) client: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl TlsConfig {
    /// Reads the files that `options` name, and checks that all settings fit together.
    ///
    /// # Errors
    /// [`TlsError`] for a file that cannot be read or used, a value that is not valid, or options that conflict.
    pub fn new(options: &TlsOptions) -> Result<TlsConfig, TlsError> {
        let roots = match options.verify {
            true => Some(roots::load(
                options.cafile.as_deref(),
                options.capath.as_deref(),
            )?),
            false => None,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions(options.min_version, options.max_version))
            .map_err(|_| TlsError::Option("min_version is above max_version".into()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(roots, &provider())));
        let mut client = with_identity(builder, options)?;
        if !options
            .alpn
            .iter()
            .all(|name| (1..=255).contains(&name.len()))
        {
            return Err(TlsError::Option(
                "each name in alpn must have 1 to 255 bytes".into(),
            ));
        }
        client.alpn_protocols = options.alpn.clone();
        // A client speaks to one server. The default store has room for the tickets of 32, allocated at once.
        client.resumption = Resumption::in_memory_sessions(1);
        Ok(TlsConfig {
            client: Arc::new(client),
            server_name: options.server_name.as_deref().map(name).transpose()?,
        })
    }

    /// The name to ask for and to verify on a connection to `host`.
    pub(super) fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => name(host),
        }
    }
}

/// Adds the client's certificate and key, if there are any.
fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    options: &TlsOptions,
) -> Result<ClientConfig, TlsError> {
    let Some(certificate) = &options.certificate else {
        return match &options.key {
            Some(key) => Err(TlsError::file("key", key, "needs a certificate beside it")),
            None => Ok(builder.with_no_client_auth()),
        };
    };
    let key = options.key.as_ref().unwrap_or(certificate);
    builder
        .with_client_auth_cert(
            pem::certificates("certificate", certificate)?,
            pem::private_key("key", key, options.password.as_ref())?,
        )
        .map_err(|error| match error {
            Error::InvalidCertificate(_) => TlsError::file("certificate", certificate, error),
            Error::InconsistentKeys(_) => {
                let reason = format!("is not the key of '{}'", certificate.display());
                TlsError::file("key", key, reason)
            }
            _ => TlsError::file("key", key, error),
        })
}

fn name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        TlsError::Option(format!(
            "server name must be a host name or an IP address, got: '{name}'"
        ))
    })
}

fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::Tls12, &TLS12), (TlsVersion::Tls13, &TLS13)]
        .into_iter()
        .filter(|(version, _)| (min..=max).contains(version))
        .map(|(_, version)| version)
        .collect()
}

/// The oldest and the newest version that LuaSec's `protocol` and `options` mean.
///
/// Of the options only `no_tlsv1_2` and `no_tlsv1_3` have a meaning here.
///
/// # Errors
/// [`TlsError::Option`] for a protocol that does not exist here, or options that exclude every version.
pub fn protocol_range<'a>(
    protocol: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Result<(TlsVersion, TlsVersion), TlsError> {
    use TlsVersion::{Tls12, Tls13};
    let (mut min, mut max) = match protocol {
        "any" | "sslv23" => (Tls12, Tls13),
        "tlsv1_2" => (Tls12, Tls12),
        "tlsv1_3" => (Tls13, Tls13),
        "sslv2" | "sslv3" | "tlsv1" | "tlsv1_1" => {
            return Err(TlsError::Option(format!(
                "protocol '{protocol}' does not exist here, only TLS 1.2 and 1.3 do: use 'any', 'tlsv1_2' or 'tlsv1_3'"
            )));
        }
        _ => {
            return Err(TlsError::Option(format!(
                "protocol must be 'any', 'tlsv1_2' or 'tlsv1_3', got: '{protocol}'"
            )));
        }
    };
    for option in options {
        match option {
            "no_tlsv1_2" => min = Tls13,
            "no_tlsv1_3" => max = Tls12,
            _ => {}
        }
    }
    if min > max {
        return Err(TlsError::Option(format!(
            "options exclude every version of protocol '{protocol}' that exists here"
        )));
    }
    Ok((min, max))
}

#[cfg(test)]
mod tests {
    use super::{TlsVersion::*, *};

    #[test]
    fn luasec_names_become_versions() {
        for (protocol, options, expected) in [
            ("any", &[][..], (Tls12, Tls13)),
            ("sslv23", &["all", "no_sslv2", "no_tlsv1"], (Tls12, Tls13)),
            ("tlsv1_2", &["no_tlsv1_3"], (Tls12, Tls12)),
            ("tlsv1_3", &["no_tlsv1_2"], (Tls13, Tls13)),
            ("any", &["no_tlsv1_2"], (Tls13, Tls13)),
            ("any", &["no_tlsv1_3"], (Tls12, Tls12)),
        ] {
            let range = protocol_range(protocol, options.iter().copied());
            assert_eq!(range.unwrap(), expected, "{protocol} {options:?}");
        }
    }

    #[test]
    fn old_and_unknown_versions_are_errors() {
        for old in ["sslv2", "sslv3", "tlsv1", "tlsv1_1"] {
            let error = protocol_range(old, []).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("protocol '{old}' does not exist here")),
                "{error}"
            );
        }
        let error = protocol_range("tls", []).unwrap_err().to_string();
        assert_eq!(
            error,
            "protocol must be 'any', 'tlsv1_2' or 'tlsv1_3', got: 'tls'"
        );
        for (protocol, options) in [
            ("any", &["no_tlsv1_2", "no_tlsv1_3"][..]),
            ("tlsv1_2", &["no_tlsv1_2"]),
            ("tlsv1_3", &["no_tlsv1_3"]),
        ] {
            let error = protocol_range(protocol, options.iter().copied())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("options exclude every version"),
                "{error}"
            );
        }
    }
}
