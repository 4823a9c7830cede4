//! Root certificates, read once and shared: ten thousand clients hold one copy of the system's.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{RootCertStore, pki_types::CertificateDer};
use rustls_native_certs::{ErrorKind, load_certs_from_paths, load_native_certs};

use super::TlsError;

/// Where certificates come from: a file and a directory; of the user's choice, or from the environment.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    given: bool,
    file: Option<OsString>,
    directory: Option<OsString>,
}

/// Certificates read, and the modification times of the file and directory then.
type Entry = ([Option<SystemTime>; 2], Arc<RootCertStore>);

static CACHE: Mutex<BTreeMap<Source, Entry>> = Mutex::new(BTreeMap::new());

/// The certificates of `cafile` and `capath`, or without either those of the system, which `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` redefine. Never empty.
///
/// They are read again when the file or the directory has changed since.
pub(super) fn load(
    cafile: Option<&Path>,
    capath: Option<&Path>,
) -> Result<Arc<RootCertStore>, TlsError> {
    let source = match (cafile, capath) {
        (None, None) => Source {
            given: false,
            file: env::var_os("SSL_CERT_FILE"),
            directory: env::var_os("SSL_CERT_DIR"),
        },
        _ => Source {
            given: true,
            file: cafile.map(Into::into),
            directory: capath.map(Into::into),
        },
    };
    let times = [&source.file, &source.directory]
        .map(|path| fs::metadata(path.as_ref()?).ok()?.modified().ok());
    // The lock is held while reading, so that clients that start together read once.
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((then, roots)) = cache.get(&source)
        && *then == times
    {
        return Ok(roots.clone());
    }
    let roots = Arc::new(match source.given {
        true => read(cafile, capath)?,
        false => read_system()?,
    });
    cache.insert(source, (times, roots.clone()));
    Ok(roots)
}

fn read(cafile: Option<&Path>, capath: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (option, file, directory) in [("cafile", cafile, None), ("capath", None, capath)] {
        let Some(path) = file.or(directory) else {
            continue;
        };
        let found = load_certs_from_paths(file, directory);
        // What else lies in a directory is no matter as long as it has certificates; a file must be right.
        if (file.is_some() || found.certs.is_empty())
            && let Some(error) = found.errors.into_iter().next()
        {
            return Err(match error.kind {
                ErrorKind::Io { inner, .. } => TlsError::file(option, path, inner),
                ErrorKind::Pem(error) => TlsError::file(option, path, error),
                _ => TlsError::file(option, path, error),
            });
        }
        if !add(&mut roots, found.certs) {
            return Err(TlsError::file(
                option,
                path,
                "holds no certificate in PEM form",
            ));
        }
    }
    Ok(roots)
}

fn read_system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = load_native_certs();
    if add(&mut roots, found.certs) {
        return Ok(roots);
    }
    let errors: String = found
        .errors
        .iter()
        .map(|error| format!(" ({error})"))
        .collect();
    Err(TlsError::Option(format!(
        "no root certificates found in the system{errors}: give cafile or capath, set SSL_CERT_FILE or SSL_CERT_DIR, \
         or install the ca-certificates package"
    )))
}

/// Adds what can be used; tells whether anything could.
fn add(roots: &mut RootCertStore, certificates: Vec<CertificateDer<'static>>) -> bool {
    roots.add_parsable_certificates(certificates).0 > 0
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        path::PathBuf,
        process,
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;

    /// A file that is removed in the end.
    struct Temporary(PathBuf);

    impl Drop for Temporary {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap();
        }
    }

    fn certificate(name: &str) -> String {
        let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        certified.cert.pem()
    }

    #[test]
    fn read_once_until_the_file_changes() {
        let name = format!("luamqtt-roots-{}.pem", process::id());
        let file = Temporary(env::temp_dir().join(name));
        let write = |text: &str, time: u64| {
            fs::write(&file.0, text).unwrap();
            let time = UNIX_EPOCH + Duration::from_secs(time);
            let file = File::options().write(true).open(&file.0).unwrap();
            file.set_modified(time).unwrap();
        };
        write(&certificate("a"), 1);
        let first = load(Some(&file.0), None).unwrap();
        assert!(Arc::ptr_eq(&first, &load(Some(&file.0), None).unwrap()));

        write(&(certificate("a") + &certificate("b")), 2);
        let second = load(Some(&file.0), None).unwrap();
        assert_eq!((first.len(), second.len()), (1, 2));
    }
}
