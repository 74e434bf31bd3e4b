//! PEM files, whether they have changed, and what is made of them again and again.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::TlsError;
use super::certificate::Certificate;

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

/// A certificate with those above it, and its key, to be shown. What a client will think of them is not asked: as in
/// etcd it is shown as it is, of whatever version.
pub(super) fn pair(
    certificate: &Path,
    key_path: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<SingleCertAndKey>, TlsError> {
    const WHAT: &str = "certificate";
    let (chain, key) = (certificates(WHAT, certificate)?, key(key_path)?);
    {
        let Some(first) = chain.first() else {
            return Err(wrong(WHAT, certificate, "there is no certificate in it"));
        };
        let read = Certificate::read(first).map_err(|reason| wrong(WHAT, certificate, &reason))?;
        if let Some(flaw) = read.flaw_of_key() {
            return Err(wrong(WHAT, certificate, &flaw));
        }
        if read.is_version_1() {
            tracing::warn!(
                file = %certificate.display(),
                "this certificate is of X.509 version 1, which names no host: whoever looks for a name in it refuses it"
            );
        }
    }
    let signing = provider.key_provider.load_private_key(key);
    let signing = signing.map_err(|error| wrong("key", key_path, &format!("it cannot be used: {error}")))?;
    let shown = chain.first().map(Certificate::read);
    let fits = shown.is_some_and(|shown| {
        shown.is_ok_and(|shown| signing.public_key().is_none_or(|own| own[..] == *shown.public_key()))
    });
    if !fits {
        return Err(TlsError::Mismatch {
            certificate: certificate.into(),
            key: key_path.into(),
            reason: InconsistentKeys::KeyMismatch.into(),
        });
    }
    Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, signing))))
}

/// Who is trusted.
pub(super) struct Authorities {
    pub(super) roots: RootCertStore,
    /// The same as they stand in the file.
    pub(super) listed: Vec<CertificateDer<'static>>,
}

/// All certificates of a file, as authorities. One whose key is of no use is named in the log; a file with no others is
/// refused, as nobody could be believed.
pub(super) fn authorities(what: &'static str, path: &Path) -> Result<Authorities, TlsError> {
    let listed = certificates(what, path)?;
    let mut roots = RootCertStore::empty();
    let mut flaws = Vec::new();
    for certificate in &listed {
        flaws.extend(Certificate::read(certificate).ok().and_then(|read| read.flaw_of_key()));
        roots.add(certificate.clone()).map_err(|error| wrong(what, path, &error.to_string()))?;
    }
    match flaws.first() {
        Some(flaw) if flaws.len() == listed.len() => return Err(wrong(what, path, flaw)),
        Some(flaw) => tracing::warn!(
            file = %path.display(),
            "an authority in this file is of no use, what it has signed is refused: {flaw}"
        ),
        None => {}
    }
    Ok(Authorities { roots, listed })
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

/// The serial numbers of what the lists name.
pub(super) fn serials(
    path: &Path,
    lists: &[CertificateRevocationListDer<'_>],
) -> Result<Vec<Vec<u8>>, TlsError> {
    let mut serials = Vec::new();
    for list in lists {
        let (_, list) = CertificateRevocationList::from_der(list)
            .map_err(|error| wrong("revocation list", path, &format!("it cannot be read: {error}")))?;
        serials.extend(list.iter_revoked_certificates().map(|one| one.raw_serial().to_vec()));
    }
    Ok(serials)
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
