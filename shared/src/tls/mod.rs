//! TLS of a listener: certificates from files, and their reload. And of connections to servers of others
//! ([`TlsClient`]).
//!
//! A [`TlsServer`] holds what new connections are served with. The files are looked at again and again
//! ([`TlsServer::follow`]); what can be read as a whole replaces the old, what cannot is logged and the old stays.
//!
//! Invariants: a `TlsServer` always has a certificate that fits its key; a change of files touches no connection that
//! is there; with a client CA no connection without a certificate of that CA is ever served.

mod client;
mod files;
mod names;
mod suites;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::stop::Stop;
use files::Stamp;
pub use client::TlsClient;
pub use suites::{UnknownSuite, UnknownVersion, Version};

/// Where certificates are, and who is let in.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// The server's certificate and those above it, PEM.
    pub certificate: PathBuf,
    /// The key of the first of them, PEM.
    pub key: PathBuf,
    /// With it only clients that have a certificate of one of these authorities are served.
    pub client_ca: Option<PathBuf>,
    /// Certificates of clients that are valid no more, PEM.
    pub revoked: Option<PathBuf>,
    /// If any: a client's certificate must be made out to one of these names.
    pub client_names: Vec<String>,
    /// The oldest version that is spoken.
    pub version_min: Version,
    /// The newest; the newest there is unless said.
    pub version_max: Option<Version>,
    /// Cipher suites of TLS 1.2 by their names in Go; none: all. Those of TLS 1.3 cannot be chosen, as in Go.
    pub suites: Vec<String>,
}

/// Why files cannot be served with. Names the file.
#[derive(Debug, Error)]
pub enum TlsError {
    /// It is not there or cannot be read.
    #[error("{what} {path} cannot be read")]
    Unreadable {
        /// What it should be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there and has not what it should.
    #[error("{what} {path}: {reason}")]
    Content {
        /// What it should be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Each is good and they do not belong together.
    #[error("certificate {certificate} and key {key} do not belong together: {reason}")]
    Mismatch {
        /// Where the certificate is.
        certificate: PathBuf,
        /// Where the key is.
        key: PathBuf,
        /// What rustls says.
        reason: rustls::Error,
    },
    /// Settings that leave nothing.
    #[error("{0}")]
    Settings(String),
}

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What connections of a listener are served with: cheap to clone, one for all listeners of the same files.
#[derive(Clone)]
pub struct TlsServer {
    inner: Arc<Inner>,
}

struct Inner {
    config: TlsConfig,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<ServerConfig>>,
    /// Of the files that were read last, whatever came of it.
    stamp: RwLock<Stamp>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or wrong, or the settings exclude everything.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(suites::provider(&config)?);
        let stamp = Stamp::of(&config);
        let current = RwLock::new(read(&config, &provider)?);
        Ok(Self { inner: Arc::new(Inner { config, provider, current, stamp: RwLock::new(stamp) }) })
    }

    /// Reads the files again whenever they change, until asked to stop.
    ///
    /// # Cancel safety
    /// Dropping it ends the watching; what is in use stays.
    pub async fn follow(self, stop: Stop) {
        loop {
            tokio::select! {
                biased;
                () = stop.asked() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let server = self.clone();
            // It panics only if reading does, which is in the log then; the old certificate stays.
            let _read = tokio::task::spawn_blocking(move || server.refresh()).await;
        }
    }

    /// Reads the files if they have changed since they were read. True if they are in use now.
    pub fn refresh(&self) -> bool {
        let Inner { config, provider, current, stamp } = &*self.inner;
        let seen = Stamp::of(config);
        if seen == *stamp.read() {
            return false;
        }
        *stamp.write() = seen; // before reading: what changes meanwhile has another stamp
        match read(config, provider) {
            Ok(next) => {
                *current.write() = next;
                tracing::info!(certificate = %config.certificate.display(), "new certificates are in use");
                true
            }
            Err(error) => {
                tracing::warn!("certificates have changed and cannot be used, the old ones stay: {error}");
                false
            }
        }
    }

    /// The server's side of a handshake.
    ///
    /// # Errors
    /// The client went away, speaks no TLS, or was refused.
    ///
    /// # Cancel safety
    /// A dropped call closes the connection.
    pub async fn accept<I>(&self, io: I) -> io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.inner.current.read().clone();
        TlsAcceptor::from(config).accept(io).await
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

fn read(config: &TlsConfig, provider: &Arc<CryptoProvider>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = files::certificates("certificate", &config.certificate)?;
    let key = files::key(&config.key)?;
    let versions: &[_] = match (config.version_min, config.version_max) {
        (Version::Tls13, _) => &[&TLS13],
        (Version::Tls12, Some(Version::Tls12)) => &[&TLS12],
        (Version::Tls12, _) => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| TlsError::Settings(format!("no cipher suite is left to serve with: {error}")))?;
    let builder = match &config.client_ca {
        Some(path) => builder.with_client_cert_verifier(verifier(config, path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|reason| TlsError::Mismatch {
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        reason,
    })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn verifier(
    config: &TlsConfig,
    path: &PathBuf,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    const WHAT: &str = "client CA";
    let content = |path: &PathBuf, what, reason| TlsError::Content { what, path: path.clone(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in files::certificates(WHAT, path)? {
        roots.add(certificate).map_err(|error| content(path, WHAT, error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let Some(revoked) = &config.revoked {
        // As in etcd, only the client's own certificate is looked up, in lists that may be of other authorities.
        builder = builder
            .with_crls(files::revocations(revoked)?)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status();
    }
    let verifier = builder.build().map_err(|error| content(path, WHAT, error.to_string()))?;
    match config.client_names.is_empty() {
        true => Ok(verifier),
        false => Ok(Arc::new(names::Named::new(verifier, &config.client_names)?)),
    }
}

#[cfg(test)]
mod tests;
