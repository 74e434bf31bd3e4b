//! Certificates of a test, and clients that use them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::process::Place;

/// An authority, whose certificates are files of a place.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    /// Its own certificate.
    pub file: PathBuf,
}

/// Where a certificate and its key are.
#[derive(Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(place: &Place, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let directory = place.join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("ca.crt");
        std::fs::write(&file, issuer.pem()).expect("a file");
        Self { issuer, directory, file }
    }

    /// A certificate for `name`, of a server and a client alike.
    pub fn issue(&self, name: &str, serial: u64) -> Pair {
        self.issue_with(name, serial, |_| {})
    }

    /// The same of another time.
    pub fn issue_expired(&self, name: &str, serial: u64) -> Pair {
        self.issue_with(name, serial, |params| {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        })
    }

    /// The same, for `name` and no address.
    pub fn issue_elsewhere(&self, name: &str, serial: u64) -> Pair {
        self.issue_with(name, serial, |params| params.subject_alt_names.truncate(1))
    }

    fn issue_with(&self, name: &str, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params =
            CertificateParams::new([name, "127.0.0.1", "localhost"].map(str::to_owned)).expect("names");
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = Pair {
            certificate: self.directory.join(format!("{name}.crt")),
            key: self.directory.join(format!("{name}.key")),
        };
        std::fs::write(&pair.certificate, certificate.pem()).expect("a file");
        std::fs::write(&pair.key, key.serialize_pem()).expect("a file");
        pair
    }

    /// A list with one revoked certificate.
    pub fn revoke(&self, serial: u64) -> PathBuf {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list");
        let path = self.directory.join("revoked.pem");
        std::fs::write(&path, list.pem().expect("PEM")).expect("a file");
        path
    }

    /// Connects to a server whose certificate this authority has to have made. It may be refused later, when the
    /// server has seen the client's certificate.
    pub async fn connect(
        &self,
        address: &str,
        client: Option<&Pair>,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match client {
            Some(pair) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(&pair.certificate).expect("a certificate")],
                    PrivateKeyDer::from_pem_file(&pair.key).expect("a key"),
                )
                .expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }

    /// The certificate that a server of this authority shows; `None` where it is not one.
    pub async fn shown(&self, address: &str, client: &Pair) -> Option<Vec<u8>> {
        let io = self.connect(address, Some(client), "h2").await.ok()?;
        Some(io.get_ref().1.peer_certificates()?.first()?.to_vec())
    }
}

/// Replaces a file as Kubernetes and cert-manager do: whole.
pub fn replace(path: &Path, with: &Path) {
    let next = path.with_extension("next");
    std::fs::copy(with, &next).expect("a copy");
    std::fs::rename(next, path).expect("a rename");
}
