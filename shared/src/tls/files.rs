//! PEM files, and whether they have changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::{TlsConfig, TlsError};

/// What tells a file from the one that was there before: enough for files that are written over, replaced, or reached
/// over a link that is turned (as Kubernetes does with mounted secrets).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i64; 5]>>);

impl Stamp {
    pub(super) fn of(config: &TlsConfig) -> Self {
        let paths = [
            Some(&config.certificate),
            Some(&config.key),
            config.client_ca.as_ref(),
            config.revoked.as_ref(),
        ];
        Self(paths.into_iter().flatten().map(|path| stamp(path)).collect())
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
