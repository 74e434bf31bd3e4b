//! [`CommonName`]: who is at the other end of a connection, by the certificate that was verified.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::server::TlsStream;

use super::certificate::Certificate;

/// The common name of a client's certificate. There is none without a certificate, and none of a certificate that was not
/// verified: without an authority for clients a listener asks for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonName(Arc<str>);

impl CommonName {
    /// Of a connection whose handshake is over.
    pub(crate) fn of<I>(io: &TlsStream<I>) -> Option<Self> {
        let (_, session) = io.get_ref();
        let shown = session.peer_certificates()?.first()?;
        Certificate::read(shown).ok()?.common_name().map(|name| Self(name.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
