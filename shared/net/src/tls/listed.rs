//! [`Listed`]: what webpki says of certificates, and two things more.
//!
//! * A certificate with CA:TRUE that stands in the file of authorities itself is taken from whoever shows it and has its
//!   key, as Go takes it: `openssl req -x509` makes such ones, and they are used as server and authority at once. webpki
//!   never takes an authority for a server or a client. Only the very bytes count, so nothing is to be concluded: the
//!   operator has named this certificate.
//! * What is refused for a reason that webpki has no words for is refused with a sentence.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::certificate::{Certificate, Purpose};

/// See the module.
pub(super) struct Listed<V: ?Sized> {
    inner: Arc<V>,
    /// All certificates of the file of authorities.
    listed: Vec<CertificateDer<'static>>,
    /// Serial numbers of certificates that are valid no more, whoever made them.
    revoked: Vec<Vec<u8>>,
}

/// Why a certificate is refused, in words for whoever made it.
#[derive(Clone)]
pub struct Refused(String);

const AUTHORITY: &str = "it is the certificate of an authority (CA:TRUE): show one that this authority has made, or put this \
     very one into the file of authorities";

impl<V: ?Sized> Listed<V> {
    pub(super) fn new(inner: Arc<V>, listed: Vec<CertificateDer<'static>>, revoked: Vec<Vec<u8>>) -> Self {
        Self { inner, listed, revoked }
    }

    /// True of one that is taken as it is; an error where it is not, although it is listed. False: webpki judges.
    fn takes(&self, shown: &CertificateDer<'_>, purpose: Purpose, now: UnixTime) -> Result<bool, Error> {
        let Ok(read) = Certificate::read(shown) else { return Ok(false) };
        if !read.is_authority() || !self.listed.contains(shown) {
            return Ok(false);
        }
        if self.revoked.iter().any(|serial| serial == read.serial()) {
            return Err(CertificateError::Revoked.into());
        }
        read.is_good_for(purpose, now)?;
        Ok(true)
    }
}

/// The sentence for what webpki has refused, where there is one.
fn explain(error: Error, shown: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> Error {
    let Ok(read) = Certificate::read(shown) else { return error };
    let above = || above.iter().find_map(|one| Certificate::read(one).ok()?.flaw_of_key());
    let flaw = match read.flaw() {
        Some(flaw) => Some(flaw),
        None => above().map(|flaw| format!("of an authority above it: {flaw}")),
    };
    let is_other = matches!(error, Error::InvalidCertificate(CertificateError::Other(_)));
    match flaw.or_else(|| (is_other && read.is_authority()).then(|| AUTHORITY.to_owned())) {
        Some(flaw) => CertificateError::Other(OtherError(Arc::new(Refused(flaw)))).into(),
        None => error,
    }
}

impl Refused {
    /// The sentence inside an error of a handshake.
    pub(super) fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }
}

impl ClientCertVerifier for Listed<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.takes(end_entity, Purpose::Client, now)? {
            return Ok(ClientCertVerified::assertion());
        }
        let judged = self.inner.verify_client_cert(end_entity, intermediates, now);
        judged.map_err(|error| explain(error, end_entity, intermediates))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Listed<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.takes(end_entity, Purpose::Server, now)? {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let judged =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        judged.map_err(|error| explain(error, end_entity, intermediates))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl<V: ?Sized> fmt::Debug for Listed<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listed").field("listed", &self.listed.len()).finish_non_exhaustive()
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// rustls prints it so.
impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
