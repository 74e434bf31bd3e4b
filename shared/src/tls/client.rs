//! [`TlsClient`]: our side of connections to a server that has certificates, and wants ours.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{TlsError, files};

/// What is shown and trusted. Read once.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Reads the authorities that are trusted, our certificate and its key, all PEM.
    ///
    /// # Errors
    /// A file is missing or wrong.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        const CA: &str = "CA";
        let wrong = |what, path: &Path, error: rustls::Error| TlsError::Content {
            what,
            path: path.into(),
            reason: error.to_string(),
        };
        let mut roots = RootCertStore::empty();
        for authority in files::certificates(CA, ca)? {
            roots.add(authority).map_err(|error| wrong(CA, ca, error))?;
        }
        let chain = files::certificates("certificate", certificate)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Settings(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, files::key(key)?)
            .map_err(|reason| TlsError::Mismatch {
                certificate: certificate.into(),
                key: key.into(),
                reason,
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// Makes a connection one that is encrypted. `host` is what the server's certificate must name.
    ///
    /// # Errors
    /// The other side is not who it should be, or does not take us.
    ///
    /// # Cancel safety
    /// The connection is lost.
    pub async fn connect(&self, host: &str, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(self.config.clone()).connect(name, socket).await
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}
