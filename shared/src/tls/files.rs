//! PEM files, whether they have changed, and what is made of them again and again.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::TlsError;

/// What was made of files. It is always something whole: files that cannot be used leave the old in use.
pub(super) struct Current<T> {
    value: RwLock<Arc<T>>,
    /// Of the files that were read last, whatever came of it.
    stamp: RwLock<Stamp>,
}

impl<T> Current<T> {
    pub(super) fn read<'a>(
        files: impl IntoIterator<Item = &'a Path>,
        read: impl FnOnce() -> Result<T, TlsError>,
    ) -> Result<Self, TlsError> {
        let stamp = RwLock::new(Stamp::of(files)); // before reading: what changes meanwhile has another stamp
        Ok(Self { value: RwLock::new(Arc::new(read()?)), stamp })
    }

    pub(super) fn get(&self) -> Arc<T> {
        self.value.read().clone()
    }

    /// Reads files that have changed since they were read; the first of them is named in the log. True if they are in
    /// use now.
    pub(super) fn refresh<'a>(
        &self,
        files: impl IntoIterator<Item = &'a Path, IntoIter: Clone>,
        read: impl FnOnce() -> Result<T, TlsError>,
    ) -> bool {
        let files = files.into_iter();
        let seen = Stamp::of(files.clone());
        if seen == *self.stamp.read() {
            return false;
        }
        *self.stamp.write() = seen;
        match read() {
            Ok(next) => {
                *self.value.write() = Arc::new(next);
                let file = files.into_iter().next().unwrap_or(Path::new(""));
                tracing::info!(file = %file.display(), "new certificates are in use");
                true
            }
            Err(error) => {
                tracing::warn!("certificates have changed and cannot be used, the old ones stay: {error}");
                false
            }
        }
    }
}

/// What tells a file from the one that was there before: enough for files that are written over, replaced, or reached
/// over a link that is turned (as Kubernetes does with mounted secrets).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Vec<Option<[i64; 5]>>);

impl Stamp {
    fn of<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(files.into_iter().map(stamp).collect())
    }
}

fn stamp(path: &Path) -> Option<[i64; 5]> {
    let data = std::fs::metadata(path).ok()?;
    Some([
        data.ino().cast_signed(),
        data.mtime(),
        data.mtime_nsec(),
        data.ctime_nsec(),
        data.size().cast_signed(),
    ])
}

/// All certificates of a file; at least one.
pub(super) fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(wrong(what, path, "there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(failed(what, path, error)),
    }
}

/// All certificates of a file, as authorities.
pub(super) fn authorities(what: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, path)? {
        roots.add(certificate).map_err(|error| wrong(what, path, &error.to_string()))?;
    }
    Ok(roots)
}

/// The first private key of a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const WHAT: &str = "key";
    match PrivateKeyDer::from_pem_file(path) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            Err(wrong(WHAT, path, "there is no private key in it, or one under a password"))
        }
        Err(error) => Err(failed(WHAT, path, error)),
    }
}

/// All revocation lists of a file; at least one.
pub(super) fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    const WHAT: &str = "revocation list";
    let all =
        CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Err(pem::Error::Io(source)) => Err(failed(WHAT, path, pem::Error::Io(source))),
        // etcd wants DER here; both are taken.
        _ => match std::fs::read(path) {
            Ok(bytes) if bytes.first() == Some(&0x30) => Ok(vec![CertificateRevocationListDer::from(bytes)]),
            Ok(_) => Err(wrong(WHAT, path, "there is no revocation list in it")),
            Err(source) => Err(failed(WHAT, path, pem::Error::Io(source))),
        },
    }
}

fn wrong(what: &'static str, path: &Path, reason: &str) -> TlsError {
    TlsError::Content { what, path: path.into(), reason: reason.to_owned() }
}

fn failed(what: &'static str, path: &Path, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(source) => TlsError::Unreadable { what, path: path.into(), source },
        other => TlsError::Content { what, path: path.into(), reason: other.to_string() },
    }
}
