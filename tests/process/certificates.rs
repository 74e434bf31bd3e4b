//! Certificates that etcd takes: which of them are served with and believed here, and what is said of the others. The
//! files are made by `pki/make`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::BINARY;
use kit::http1::get_over;
use kit::process::{Place, Process, Start};
use kit::until;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/pki").join(name)
}

fn text(name: &str) -> String {
    file(name).to_str().expect("UTF-8").to_owned()
}

fn with(place: &Place, name: &str) -> Start {
    Start::standalone(place).https(&file(&format!("{name}.crt")), &file(&format!("{name}.key")))
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(&format!("{name}.crt"))).expect("a certificate")
}

/// Believes every server: a client that looks at no certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Whom a client believes.
enum Trust {
    Anybody,
    Authority(&'static str),
}

/// What `/health` answers over a connection; `shows` is the client's own certificate.
async fn health(server: &Process, trust: &Trust, shows: Option<&str>) -> std::io::Result<u16> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)),
        Trust::Authority(name) => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(name)).expect("an authority");
            builder.with_root_certificates(roots)
        }
    };
    let config = match shows {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).expect("a key");
            let signs = default_provider().key_provider.load_private_key(key).expect("a key");
            let shown = rustls::sign::CertifiedKey::new(vec![certificate(name)], signs);
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)))
        }
    };
    let socket = TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let io = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    Ok(get_over(io, "/health").await?.0)
}

async fn is_served(what: &str, server: &Process, trust: &Trust, shows: Option<&str>) {
    until(what, async || health(server, trust, shows).await.ok().filter(|status| *status == 200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_all_kinds_are_served_with_that_clients_of_their_authority_believe() {
    for name in ["p-521", "rsa-8192"] {
        let place = BINARY.place();
        let server = with(&place, name).run().await;
        is_served(name, &server, &Trust::Authority("ca"), None).await;
    }
    // Whether a client takes it is the client's matter: etcd shows it too.
    for name in ["version-1", "itself"] {
        let place = BINARY.place();
        let server = with(&place, name).run().await;
        is_served(name, &server, &Trust::Anybody, None).await;
        assert_eq!(server.log().contains("X.509 version 1"), name == "version-1", "{}", server.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_believed_or_refused_with_a_sentence() {
    let place = BINARY.place();
    let both = place.file("both.crt", &["ca.crt", "itself.crt"].map(|name| read(&file(name))).concat());
    let server = with(&place, "p-521").flag("trusted-ca-file", both.to_str().expect("UTF-8")).run().await;
    let trust = Trust::Authority("ca");
    for name in ["p-521", "rsa-8192", "itself"] {
        is_served(name, &server, &trust, Some(name)).await;
    }
    health(&server, &trust, Some("version-1")).await.expect_err("version 1 is not believed");
    let line = until("a line that says why", async || {
        let log = server.log();
        log.lines().find(|line| line.contains("the client's certificate is not accepted")).map(str::to_owned)
    })
    .await;
    for words in ["X.509 version 1", "-extfile", "127.0.0.1:"] {
        assert!(line.contains(words), "{line}");
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_are_refused_with_what_is_wrong_with_them() {
    let place = BINARY.place();
    let cases = [
        (with(&place, "rsa-1024"), ["--cert-file", "/rsa-1024.crt", "1024 bits", "2048 to 8192"]),
        (with(&place, "secp256k1"), ["--cert-file", "/secp256k1.crt", "a curve that is not taken", "P-521"]),
        (
            with(&place, "p-521").flag("trusted-ca-file", &text("weak-ca.crt")),
            ["--trusted-ca-file", "/weak-ca.crt", "1024 bits", "make a new key"],
        ),
    ];
    for (start, words) in cases {
        let failure = start.fails().await;
        for word in words {
            assert!(failure.message.contains(word), "{} does not say {word:?}", failure.message);
        }
        assert!(!failure.message.contains("belong together"), "they do: {}", failure.message);
    }
}
