//! TLS: certificates from files, and their reload.
//!
//! A [`TlsServer`] holds what new connections of a listener are served with, a [`TlsClient`] what new connections to
//! servers are made with. The files are looked at again and again ([`TlsServer::follow`], [`TlsClient::follow`]); what
//! can be read as a whole replaces the old, what cannot is logged and the old stays.
//!
//! Invariants: whoever has a certificate has one that fits its key; a change of files touches no connection that is
//! there; with a client CA no connection without a certificate of that CA is ever served, and each is judged by the
//! files and the time of its own beginning: sessions are not resumed there.

mod certificate;
mod client;
mod common_name;
mod files;
mod listed;
mod names;
mod suites;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use client::{Distrust, TlsClient};
pub use common_name::CommonName;
use files::Current;
use kubebrain_shared::stop::Stop;
use listed::Listed;
pub use listed::Refused;
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
    current: Current<ServerConfig>,
}

impl TlsConfig {
    fn files(&self) -> impl Iterator<Item = &Path> + Clone {
        let pair = [Some(&self.certificate), Some(&self.key)];
        let others = [self.client_ca.as_ref(), self.revoked.as_ref()];
        pair.into_iter().chain(others).flatten().map(PathBuf::as_path)
    }
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or wrong, or the settings exclude everything.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(suites::provider(&config)?);
        let current = Current::read(config.files(), || read(&config, &provider))?;
        Ok(Self { inner: Arc::new(Inner { config, provider, current }) })
    }

    /// Reads the files again whenever they change, until asked to stop.
    ///
    /// # Cancel safety
    /// Dropping it ends the watching; what is in use stays.
    pub async fn follow(self, stop: Stop) {
        look(stop, move || self.refresh()).await;
    }

    /// Reads the files if they have changed since they were read. True if they are in use now.
    pub fn refresh(&self) -> bool {
        let Inner { config, provider, current } = &*self.inner;
        current.refresh(config.files(), || read(config, provider))
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
        TlsAcceptor::from(self.inner.current.get()).accept(io).await.map_err(in_a_sentence)
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// With why a client's certificate is refused, where there are words for it.
fn in_a_sentence(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls.and_then(Refused::of) {
        Some(refused) => {
            io::Error::new(error.kind(), format!("the client's certificate is not accepted: {refused}"))
        }
        None => error,
    }
}

/// Calls `refresh` each time that files are looked at, until asked to stop.
async fn look(stop: Stop, refresh: impl Fn() -> bool + Send + Sync + 'static) {
    let refresh = Arc::new(refresh);
    loop {
        tokio::select! {
            biased;
            () = stop.asked() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let refresh = refresh.clone();
        // It panics only if reading does, which is in the log then; the old certificate stays.
        let _read = tokio::task::spawn_blocking(move || refresh()).await;
    }
}

fn read(config: &TlsConfig, provider: &Arc<CryptoProvider>) -> Result<ServerConfig, TlsError> {
    let pair = files::pair(&config.certificate, &config.key, provider)?;
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
    let mut server = builder.with_cert_resolver(pair);
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if config.client_ca.is_some() {
        // A resumed session would vouch for a certificate that has expired or was revoked meanwhile.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Ok(server)
}

fn verifier(
    config: &TlsConfig,
    path: &PathBuf,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    const WHAT: &str = "client CA";
    let content = |path: &PathBuf, what, reason| TlsError::Content { what, path: path.clone(), reason };
    let authorities = files::authorities(WHAT, path)?;
    let roots = Arc::new(authorities.roots);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let mut serials = Vec::new();
    if let Some(revoked) = &config.revoked {
        // As in etcd, only the client's own certificate is looked up, in lists that may be of other authorities.
        let lists = files::revocations(revoked)?;
        serials = files::serials(revoked, &lists)?;
        builder =
            builder.with_crls(lists).only_check_end_entity_revocation().allow_unknown_revocation_status();
    }
    let verifier = builder.build().map_err(|error| content(path, WHAT, error.to_string()))?;
    let verifier: Arc<dyn ClientCertVerifier> = Arc::new(Listed::new(verifier, authorities.listed, serials));
    match config.client_names.is_empty() {
        true => Ok(verifier),
        false => Ok(Arc::new(names::Named::new(verifier, &config.client_names)?)),
    }
}

#[cfg(test)]
mod tests;
