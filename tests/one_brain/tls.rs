//! TLS to PD and to stores. The kit speaks plainly; relays before it speak TLS to the brain.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::BINARY;
use kit::client::Client;
use kit::cluster::{Advertised, Cluster, Ports};
use kit::pki::{Authority, Pair};
use kit::process::Start;
use kit::relay::Relay;
use kit::{in_time, until};

/// A server that shows `pair` and takes clients whose certificates `authority` has made.
fn server(pair: &Pair, authority: &Path) -> ServerConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("a certificate")).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&pair.certificate).expect("a certificate")],
            PrivateKeyDer::from_pem_file(&pair.key).expect("a key"),
        )
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn flags(start: Start, ca: &Path, pair: &Pair) -> Start {
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    start
        .flag("tikv-ca-file", &path(ca))
        .flag("tikv-cert-file", &path(&pair.certificate))
        .flag("tikv-key-file", &path(&pair.key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_speaks_tls_to_pd_and_to_stores() {
    let (place, ports) = (BINARY.place(), Ports::free());
    let (ours, theirs) = (Authority::new(&place, "ours"), Authority::new(&place, "theirs"));
    let config = || server(&ours.issue("tikv", 1), &ours.file);
    // The store, which speaks plainly, asks PD at the same address as everybody; no brain ever asks so.
    let pd = Relay::tls(ports.pd, 1, config(), true).await;
    let store = Relay::tls(ports.store, 2, config(), false).await;
    let advertised =
        Advertised { pd: Some(pd.address().to_owned()), store: Some(store.address().to_owned()) };
    let Some(_cluster) = Cluster::with(ports, advertised).await else { return };
    let start =
        |name: &str| Start::brain(&place, name).flag("group", "default").on_tikv(pd.address(), "tls/");
    let client = ours.issue("brain", 2);

    let brain = flags(start("right"), &ours.file, &client).run().await;
    in_time("a write", Client::new(brain.address()).put("/a", "1")).await.expect("a write");
    assert!(pd.seen().0 > 0 && store.seen().0 > 0, "both were spoken to with TLS");
    drop(brain);

    let encrypted = store.seen().0;
    // (who is trusted, who we say we are, what the log says)
    let foreign = theirs.issue("foreign", 3);
    for (name, ca, pair, word) in [
        ("wrong-ca", &theirs.file, &client, "certificate"),
        ("foreign", &ours.file, &foreign, "our certificate is not accepted"),
    ] {
        let mut brain = flags(start(name), ca, pair).begins();
        until(&format!("{name}: {word:?} in its log"), async || {
            brain.must_run();
            brain.log().to_lowercase().contains(word).then_some(())
        })
        .await;
        let log = brain.log();
        assert!(log.contains(pd.address()), "{name}: it says who it cannot talk to:\n{log}");
    }
    // Without TLS at all.
    let mut plain = start("plain").begins();
    until("a word about PD or the store", async || {
        plain.must_run();
        let log = plain.log();
        (log.contains("PD at") || log.contains("store")).then_some(())
    })
    .await;
    assert_eq!(store.seen(), (encrypted, 0), "nobody else has spoken to the store");

    // A pair is whole, and its files are there.
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let half = start("half").flag("tikv-ca-file", &path(&ours.file)).fails().await;
    assert!(half.message.contains("tikv-cert-file"), "{half:?}");
    let missing = Pair { certificate: place.join("missing.crt"), key: place.join("missing.key") };
    let missing = flags(start("missing"), &ours.file, &missing).fails().await;
    assert!(missing.message.contains("missing.crt"), "{missing:?}");
}
