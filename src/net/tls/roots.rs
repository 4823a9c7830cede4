//! Root certificates, read once and shared: ten thousand clients hold one copy of the system's.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    ffi::OsString,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use rustls::{RootCertStore, pki_types::CertificateDer};
use rustls_native_certs::{ErrorKind, load_certs_from_paths, load_native_certs};

use super::TlsError;
use crate::forks::{GENERATIONS, PerProcess};

/// The file and directory of certificates that the user or the environment names.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    given: bool,
    file: Option<OsString>,
    directory: Option<OsString>,
}

/// The trusted certificates.
#[derive(Debug)]
pub(super) struct Roots {
    /// The names and keys of issuers.
    pub(super) issuers: Arc<RootCertStore>,
    /// The certificates that hold these names and keys.
    pub(super) certificates: HashSet<CertificateDer<'static>>,
}

impl Roots {
    fn empty() -> Self {
        Roots {
            issuers: RootCertStore::empty().into(),
            certificates: HashSet::new(),
        }
    }

    /// Adds the usable certificates. Returns whether there were any.
    fn add(&mut self, certificates: Vec<CertificateDer<'static>>) -> bool {
        let issuers = Arc::make_mut(&mut self.issuers);
        for certificate in certificates {
            if issuers.add(certificate.clone()).is_ok() {
                self.certificates.insert(certificate);
            }
        }
        !issuers.is_empty()
    }
}

/// The certificates read, and the modification times of the file and directory at that time.
type Entry = ([Option<SystemTime>; 2], Arc<Roots>);

static CACHE: PerProcess<BTreeMap<Source, Entry>> =
    PerProcess([const { Mutex::new(BTreeMap::new()) }; GENERATIONS]);

/// The certificates of `cafile` and `capath`. Without both, those of the system, which `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` redefine. Never empty.
///
/// They are read again when the file or the directory has changed.
pub(super) fn load(cafile: Option<&Path>, capath: Option<&Path>) -> Result<Arc<Roots>, TlsError> {
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
    // The lock is held while reading, so clients that start together read once.
    let mut cache = CACHE.lock();
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

fn read(cafile: Option<&Path>, capath: Option<&Path>) -> Result<Roots, TlsError> {
    let mut roots = Roots::empty();
    for (option, file, directory) in [("cafile", cafile, None), ("capath", None, capath)] {
        let Some(path) = file.or(directory) else {
            continue;
        };
        let found = load_certs_from_paths(file, directory);
        // A file must be free of errors. A directory may hold other files, as long as it has certificates.
        if (file.is_some() || found.certs.is_empty())
            && let Some(error) = found.errors.into_iter().next()
        {
            return Err(match error.kind {
                ErrorKind::Io { inner, .. } => TlsError::file(option, path, inner),
                ErrorKind::Pem(error) => TlsError::file(option, path, error),
                _ => TlsError::file(option, path, error),
            });
        }
        if !roots.add(found.certs) {
            return Err(TlsError::file(
                option,
                path,
                "holds no certificate in PEM form",
            ));
        }
    }
    Ok(roots)
}

fn read_system() -> Result<Roots, TlsError> {
    let mut roots = Roots::empty();
    let found = load_native_certs();
    if roots.add(found.certs) {
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

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        path::PathBuf,
        process,
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;

    /// A file that is removed on drop.
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
        assert_eq!((first.issuers.len(), second.issuers.len()), (1, 2));
    }
}
