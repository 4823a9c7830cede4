//! Verification of the server's certificate.

use std::{error, fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use webpki::EndEntityCert;

use super::roots::Roots;

/// The verifier of rustls, with three additions. It can be told to accept any certificate; the handshake must still be
/// signed with the certificate's key. Like OpenSSL, it accepts a certificate that is itself among the roots. If no
/// chain leads to a root, it says why.
#[derive(Debug)]
pub(super) struct Verifier {
    trusted: Option<Trusted>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Trusted {
    chain: Arc<WebPkiServerVerifier>,
    roots: Arc<Roots>,
}

/// Why no chain leads from the certificate to a root.
#[derive(Debug)]
pub(super) enum NoChain {
    /// The certificate was issued by its own subject.
    SelfSigned,
    /// No root issued the last certificate.
    UnknownIssuer {
        /// The issuer's common name, if it has one.
        name: Option<String>,
        /// Whether the server sent only its own certificate.
        alone: bool,
    },
}

impl NoChain {
    /// More about `error`, if there is more to say.
    fn new(
        error: &Error,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Self> {
        let own = EndEntityCert::try_from(end_entity).ok()?;
        if own.issuer() == own.subject() {
            return Some(Self::SelfSigned);
        }
        let last = match intermediates.last() {
            Some(last) => EndEntityCert::try_from(last).ok()?,
            None => own,
        };
        is_unknown_issuer(error).then(|| Self::UnknownIssuer {
            name: common_name(last.issuer()),
            alone: intermediates.is_empty(),
        })
    }
}

impl fmt::Display for NoChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelfSigned => f.write_str("it is self-signed")?,
            Self::UnknownIssuer { name, alone } => {
                f.write_str("unknown issuer")?;
                if let Some(name) = name {
                    write!(f, " {name:?}")?;
                }
                if *alone {
                    f.write_str("; the server sent no intermediate certificate")?;
                }
            }
        }
        f.write_str("; secure.cafile names a certificate to trust")
    }
}

impl error::Error for NoChain {}

/// The last common name among the attributes of a distinguished name (RFC 5280 section 4.1.2.4).
fn common_name(name: &[u8]) -> Option<String> {
    // The object identifier 2.5.4.3, in three bytes.
    const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];
    let found = name
        .windows(COMMON_NAME.len())
        .rposition(|window| window == COMMON_NAME)?;
    // Then come a string's tag, its length in one byte (RFC 5280 allows 64 characters), and the text.
    match &name[found + COMMON_NAME.len()..] {
        [_tag, size @ 0..0x80, text @ ..] => {
            let text = text.get(..usize::from(*size))?;
            Some(String::from_utf8_lossy(text).into_owned())
        }
        _ => None,
    }
}

impl Verifier {
    /// Without `roots` any certificate is accepted.
    pub(super) fn new(roots: Option<Arc<Roots>>, provider: &Arc<CryptoProvider>) -> Self {
        let trusted = roots.map(|roots| {
            let chain = WebPkiServerVerifier::builder_with_provider(
                roots.issuers.clone(),
                provider.clone(),
            )
            .build()
            .expect("there are roots, and no revocation list to be wrong");
            Trusted { chain, roots }
        });
        Verifier {
            trusted,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(Trusted { chain, roots }) = &self.trusted else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match &verified {
            // These errors come after the check of the validity period and before the check of the name.
            Err(error) if is_no_chain(error) => {
                if roots.certificates.contains(end_entity) {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                    return Ok(ServerCertVerified::assertion());
                }
                match NoChain::new(error, end_entity, intermediates) {
                    Some(reason) => {
                        Err(CertificateError::Other(OtherError(Arc::new(reason))).into())
                    }
                    None => verified,
                }
            }
            _ => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether no chain was found from a root to the certificate. The certificate may be the root itself.
fn is_no_chain(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(error))) => {
            matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        error => is_unknown_issuer(error),
    }
}

fn is_unknown_issuer(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    )
}
