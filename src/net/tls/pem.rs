//! Certificates and private keys from PEM files.

use std::{fs, path::Path};

use pkcs8::{EncryptedPrivateKeyInfoRef, Error, SecretDocument, pkcs5};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
    pem::{self, PemObject},
};

use super::{Secret, TlsError};

const UNSUPPORTED: &str = "is encrypted in a way that is not supported; convert it: \
    openssl pkcs8 -topk8 -v2 aes256 -in OLD -out NEW";

/// The certificates of a file, at least one, in their order.
pub(super) fn certificates(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |reason: &str| TlsError::file(option, path, reason);
    let data = fs::read(path).map_err(|error| TlsError::file(option, path, error))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&data)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::file(option, path, error))?;
    match chain.is_empty() {
        true => Err(fail("holds no certificate in PEM form")),
        false => Ok(chain),
    }
}

/// The first private key of a file.
pub(super) fn private_key(
    option: &'static str,
    path: &Path,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let fail = |reason: &str| TlsError::file(option, path, reason);
    let data = fs::read(path).map_err(|error| TlsError::file(option, path, error))?;
    let text = String::from_utf8_lossy(&data);
    if let Some(pem) = section(&text, "ENCRYPTED PRIVATE KEY") {
        let password = password.ok_or_else(|| fail("is encrypted, a password is needed"))?;
        return decrypt(pem, password).map_err(|reason| fail(&reason));
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(fail(UNSUPPORTED));
    }
    PrivateKeyDer::from_pem_slice(&data).map_err(|error| match error {
        pem::Error::NoItemsFound => fail("holds no private key in PEM form"),
        error => TlsError::file(option, path, error),
    })
}

/// The part of `text` from the first line of a PEM label to its last line.
fn section<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let start = text.find(&format!("-----BEGIN {label}-----"))?;
    let last = format!("-----END {label}-----");
    let end = text[start..].find(&last)? + last.len();
    Some(&text[start..start + end])
}

fn decrypt(pem: &str, password: &Secret) -> Result<PrivateKeyDer<'static>, String> {
    let (_, document) = SecretDocument::from_pem(pem).map_err(|error| error.to_string())?;
    // If the key cannot even be parsed here, its encryption is unknown to the crate.
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|_| UNSUPPORTED.to_owned())?;
    match encrypted.decrypt(&password.0) {
        Ok(key) => Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()),
        // A wrong password may also decrypt the key to bytes that are no key.
        Err(Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | Error::Asn1(_)) => {
            Err("cannot be decrypted with the password given".into())
        }
        Err(_) => Err(UNSUPPORTED.into()),
    }
}
