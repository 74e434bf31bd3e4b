//! [`TlsClient`]: our side of connections to servers that have certificates, and may want ours.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kubebrain_shared::stop::Stop;
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{self, Current};
use super::listed::{Listed, Refused};
use super::{TlsError, look};

/// What is trusted, and what is shown. Share it in an [`Arc`]: whoever follows the files does it for all.
pub struct TlsClient {
    files: Files,
    current: Current<ClientConfig>,
    /// What was said last of each server, and when.
    said: Mutex<HashMap<String, (Instant, String)>>,
}

#[derive(Debug)]
struct Files {
    ca: PathBuf,
    /// Our certificate and its key.
    pair: Option<(PathBuf, PathBuf)>,
}

/// Why two sides that have reached each other do not talk. Inside the [`io::Error`] of a handshake.
#[derive(Debug, Error)]
pub enum Distrust {
    /// It is of another authority, for another name, or of another time.
    #[error("the certificate of the other side is not accepted: {0}")]
    Theirs(CertificateError),
    /// It is one that is never accepted; says what to do about it.
    #[error("the certificate of the other side is not accepted: {0}")]
    Unfit(Refused),
    /// The same, of ours.
    #[error("our certificate is not accepted by the other side: {0:?}")]
    Ours(AlertDescription),
    /// Ours was not shown, since there is none.
    #[error("the other side wants a certificate of ours and there is none")]
    Missing,
    /// They do not speak the same TLS, or one of them speaks none.
    #[error("TLS has failed: {0}")]
    Other(rustls::Error),
}

/// The same complaint of the same server is logged once in this time.
const SAY_EVERY: Duration = Duration::from_secs(60);

impl TlsClient {
    /// Reads the authorities that are trusted, our certificate and those above it, and its key, all PEM.
    ///
    /// # Errors
    /// A file is missing or wrong.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::of(Files { ca: ca.into(), pair: Some((certificate.into(), key.into())) })
    }

    /// The same without a certificate of ours, for servers that do not ask for it.
    ///
    /// # Errors
    /// The file is missing or wrong.
    pub fn trusting(ca: &Path) -> Result<Self, TlsError> {
        Self::of(Files { ca: ca.into(), pair: None })
    }

    fn of(files: Files) -> Result<Self, TlsError> {
        let current = Current::read(files.all(), || files.read())?;
        Ok(Self { files, current, said: Mutex::default() })
    }

    /// Reads the files again whenever they change, until asked to stop.
    ///
    /// # Cancel safety
    /// Dropping it ends the watching; what is in use stays.
    pub async fn follow(self: Arc<Self>, stop: Stop) {
        look(stop, move || self.refresh()).await;
    }

    /// Reads the files if they have changed since they were read. True if they are in use now.
    pub fn refresh(&self) -> bool {
        self.current.refresh(self.files.all(), || self.files.read())
    }

    /// What rustls needs for the same, for a client that is not ours. It says of no protocol that we speak it, and does not
    /// follow the files.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::clone(&self.current.get());
        config.alpn_protocols = Vec::new();
        config
    }

    /// The client's side of a handshake. `host` is the name or the address that the server's certificate must be made
    /// out to, an IPv6 address with its brackets or without. With TLS 1.3 this ends before the server has looked at
    /// our certificate: only what is read afterwards shows that it was taken.
    ///
    /// # Errors
    /// With a [`Distrust`] inside where that is the reason.
    ///
    /// # Cancel safety
    /// A dropped call closes the connection.
    pub async fn connect<I>(&self, host: &str, io: I) -> io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(self.current.get()).connect(name, io).await.map_err(|error| self.explain(error))
    }

    /// With the [`Distrust`] that is behind an error of a TLS stream.
    pub(crate) fn explain(&self, error: io::Error) -> io::Error {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return error;
        };
        if let Some(refused) = Refused::of(tls) {
            return io::Error::new(error.kind(), Distrust::Unfit(refused.clone()));
        }
        let distrust = match tls {
            rustls::Error::InvalidCertificate(reason) => Distrust::Theirs(timeless(reason)),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired)
                if self.files.pair.is_none() =>
            {
                Distrust::Missing
            }
            rustls::Error::AlertReceived(alert) if is_of_a_certificate(*alert) => Distrust::Ours(*alert),
            other => Distrust::Other(other.clone()),
        };
        io::Error::new(error.kind(), distrust)
    }

    /// Logs why there is no connection to a server, once in a while. A server that is not there is not worth a line:
    /// it may be starting.
    pub(crate) fn complain(&self, server: &str, error: &io::Error) {
        if self.is_news(server, error) {
            tracing::warn!(server, "cannot connect: {error}");
        }
    }

    pub(super) fn is_news(&self, server: &str, error: &io::Error) -> bool {
        if !error.get_ref().is_some_and(|inner| inner.is::<Distrust>()) {
            return false;
        }
        let (now, reason) = (Instant::now(), error.to_string());
        let mut said = self.said.lock();
        said.retain(|_, (at, _)| now - *at < SAY_EVERY); // no more of them than servers that are tried
        let is_news = said.get(server).is_none_or(|(_, before)| *before != reason);
        if is_news {
            said.insert(server.to_owned(), (now, reason));
        }
        is_news
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &Path> + Clone {
        let pair = self.pair.iter().flat_map(|(certificate, key)| [certificate, key]);
        pair.chain([&self.ca]).map(PathBuf::as_path)
    }

    fn read(&self) -> Result<ClientConfig, TlsError> {
        let authorities = files::authorities("CA", &self.ca)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let settings = |error: &dyn fmt::Display| TlsError::Settings(error.to_string());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(authorities.roots), Arc::clone(&provider));
        let verifier: Arc<dyn ServerCertVerifier> = verifier.build().map_err(|error| settings(&error))?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| settings(&error))?
            .dangerous() // it asks webpki, and takes besides what the operator has listed
            .with_custom_certificate_verifier(Arc::new(Listed::new(
                verifier,
                authorities.listed,
                Vec::new(),
            )));
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_cert_resolver(files::pair(certificate, key, &provider)?)
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled(); // as the server: each connection is judged by itself
        Ok(config)
    }
}

/// Without the time of day, which would make each complaint a new one.
fn timeless(reason: &CertificateError) -> CertificateError {
    match reason {
        CertificateError::ExpiredContext { .. } => CertificateError::Expired,
        CertificateError::NotValidYetContext { .. } => CertificateError::NotValidYet,
        other => other.clone(),
    }
}

/// What a server that does not like a client's certificate may say.
const fn is_of_a_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError // of another authority with the same name
    )
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("files", &self.files).finish_non_exhaustive()
    }
}
