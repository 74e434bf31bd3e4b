use kubebrain_shared::stop::Stopper;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::dial::{Channel, Connector, DialConfig, DialError};
use crate::serve::tests::{call, echo, within};
use crate::serve::{Listener, ServeConfig, serve_listener};

fn suites_of(names: &[&str]) -> Result<Vec<String>, String> {
    let config =
        TlsConfig { suites: names.iter().map(|&name| name.to_owned()).collect(), ..TlsConfig::default() };
    let provider = suites::provider(&config).map_err(|error| error.to_string())?;
    Ok(provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect())
}

#[test]
fn cipher_suites_are_chosen_by_their_names_in_go() {
    assert_eq!(suites_of(&[]).expect("all").len(), 9);
    let of_13 = ["TLS13_AES_256_GCM_SHA384", "TLS13_AES_128_GCM_SHA256", "TLS13_CHACHA20_POLY1305_SHA256"];
    let chosen = suites_of(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]);
    assert_eq!(chosen.expect("one"), [&of_13[..], &["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]].concat());
    assert_eq!(suites_of(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).expect("insecure ones are left out"), of_13);
    let unknown = suites_of(&["TLS_MADE_UP"]).expect_err("no such suite");
    assert!(
        unknown.contains("TLS_MADE_UP") && unknown.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        "{unknown}"
    );
}

#[test]
fn the_oldest_version_is_not_newer_than_the_newest() {
    let config =
        TlsConfig { version_min: Version::Tls13, version_max: Some(Version::Tls12), ..TlsConfig::default() };
    assert!(matches!(TlsServer::load(config), Err(TlsError::Settings(_))));
    assert_eq!(
        "TLS1.1".parse::<Version>().expect_err("too old").to_string(),
        r#""TLS1.1" is not served: TLS1.2 and TLS1.3 are"#
    );
}

/// An authority whose certificates are files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// What a certificate is for.
const PEER: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let (issuer, directory) = (issuer.expect("a certificate"), TempDir::new().expect("a directory"));
        std::fs::write(directory.path().join("ca"), issuer.pem()).expect("a file");
        Self { issuer, directory }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca")
    }

    /// A certificate and its key; the same name again takes the place of the one before.
    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (PathBuf, PathBuf) {
        let hosts = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let mut params = CertificateParams::new(hosts).expect("names");
        params.extended_key_usages = PEER.to_vec();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let [first, second] = ["crt", "key"].map(|end| self.directory.path().join(name).with_extension(end));
        std::fs::write(&first, certificate.pem()).expect("a file");
        std::fs::write(&second, key.serialize_pem()).expect("a file");
        (first, second)
    }

    /// Of a server that demands this authority's certificates.
    fn server(&self, change: impl FnOnce(&mut CertificateParams)) -> TlsServer {
        let (certificate, key) = self.issue("server", change);
        let client_ca = Some(self.ca());
        let config = TlsConfig { certificate, key, client_ca, ..TlsConfig::default() };
        TlsServer::load(config).expect("good files")
    }

    /// With a certificate of this authority, for servers of `other`.
    fn client(&self, other: &Self, change: impl FnOnce(&mut CertificateParams)) -> Arc<TlsClient> {
        let (certificate, key) = self.issue("client", change);
        Arc::new(TlsClient::load(&other.ca(), &certificate, &key).expect("good files"))
    }
}

/// Where `tls` is served, if there is one.
async fn listen(tls: Option<TlsServer>) -> (u16, Stopper) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let stopper = Stopper::default();
    let listener = Listener::Tcp(listener);
    tokio::spawn(serve_listener(listener, tls, echo(), ServeConfig::default(), stopper.handle()));
    (port, stopper)
}

fn channel(port: u16, tls: &Arc<TlsClient>) -> Channel {
    Channel::new(Connector::Tls(format!("127.0.0.1:{port}"), tls.clone()), DialConfig::default())
}

fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 1);
}

fn same(_: &mut CertificateParams) {}

#[tokio::test]
async fn two_sides_talk_only_if_each_takes_the_certificate_of_the_other() {
    let (ours, theirs, namesake) = (Authority::new("ours"), Authority::new("theirs"), Authority::new("ours"));
    let (server_only, other_name) = (
        |params: &mut CertificateParams| params.extended_key_usages.truncate(1),
        |params: &mut CertificateParams| {
            *params = CertificateParams::new(["other.example".to_owned()]).expect("a name");
        },
    );
    let nobody = Arc::new(TlsClient::trusting(&ours.ca()).expect("a good file"));
    let cases = [
        ("both are good", Some(ours.server(same)), ours.client(&ours, same), None),
        ("no certificate", Some(ours.server(same)), nobody, Some("there is none")),
        (
            "a client of another authority",
            Some(ours.server(same)),
            theirs.client(&ours, same),
            Some("our certificate is not accepted by the other side"),
        ),
        (
            "a client of another authority with the same name",
            Some(ours.server(same)),
            namesake.client(&ours, same),
            Some("our certificate is not accepted by the other side: DecryptError"),
        ),
        (
            "a client whose time is over",
            Some(ours.server(same)),
            ours.client(&ours, expired),
            Some("our certificate is not accepted by the other side: CertificateExpired"),
        ),
        (
            "a certificate for servers only",
            Some(ours.server(same)),
            ours.client(&ours, server_only),
            Some("our certificate is not accepted by the other side"),
        ),
        (
            "a server of another authority",
            Some(theirs.server(same)),
            ours.client(&ours, same),
            Some("the certificate of the other side is not accepted: UnknownIssuer"),
        ),
        (
            "a server of another authority with the same name",
            Some(namesake.server(same)),
            ours.client(&ours, same),
            Some("the certificate of the other side is not accepted: BadSignature"),
        ),
        (
            "a server whose time is over",
            Some(ours.server(expired)),
            ours.client(&ours, same),
            Some("the certificate of the other side is not accepted: Expired"),
        ),
        (
            "a server with another name",
            Some(ours.server(other_name)),
            ours.client(&ours, same),
            Some(r#"certificate not valid for name "127.0.0.1"; certificate is only valid for"#),
        ),
        ("a server without TLS", None, ours.client(&ours, same), Some("")),
    ];
    for (what, server, client, words) in cases {
        let (port, stopper) = listen(server).await;
        let channel = channel(port, &client);
        let answer = within(10, call(channel.clone(), "/a")).await;
        match words {
            None => {
                assert_eq!(answer.unwrap_or_else(|error| panic!("{what}: {error:?}")), "/a");
                assert_eq!(channel.trouble(), None, "{what}");
            }
            Some(words) => {
                // Whatever the version of TLS: nothing was sent, so that a write may be tried elsewhere.
                let error = answer.expect_err(what);
                assert!(matches!(error, DialError::Unreachable(_)), "{what}: {error:?}");
                let trouble = channel.trouble().unwrap_or_else(|| panic!("{what}: no reason"));
                assert!(trouble.starts_with("127.0.0.1:"), "{what}: {trouble}");
                assert!(trouble.contains(words), "{what}: {trouble}");
            }
        }
        drop(channel);
        within(10, stopper.stop()).await;
    }
}

#[tokio::test]
async fn names_and_addresses_of_both_kinds_are_looked_for() {
    let ours = Authority::new("ours");
    let (server, client) = (ours.server(same), ours.client(&ours, same));
    for (host, taken) in [
        ("127.0.0.1", true),
        ("[::1]", true),
        ("::1", true),
        ("localhost", true),
        ("[::2]", false),
        ("h", false),
    ] {
        let (one, other) = tokio::io::duplex(1 << 16);
        let (served, connected) = tokio::join!(server.accept(one), client.connect(host, other));
        assert_eq!((served.is_ok(), connected.is_ok()), (taken, taken), "{host}");
    }
    let (_, other) = tokio::io::duplex(1);
    let error = client.connect("no host", other).await.expect_err("no name");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn new_files_are_for_new_connections_and_end_none() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (server, client) = (old.server(same), old.client(&old, same));
    assert!(!server.refresh() && !client.refresh(), "nothing has changed");
    let (port, stopper) = listen(Some(server.clone())).await;
    let before = channel(port, &client);
    assert_eq!(within(10, call(before.clone(), "/a")).await.expect("an answer"), "/a");

    // Half of it first, as a copy that is under way: the old files stay in use.
    let replace = |name: &str, end: &str| {
        let file = Path::new(name).with_extension(end);
        std::fs::copy(new.directory.path().join(&file), old.directory.path().join(&file)).expect("a copy");
    };
    for name in ["server", "client"] {
        new.issue(name, same);
        replace(name, "crt");
    }
    assert!(!server.refresh() && !client.refresh(), "they do not belong together");
    assert_eq!(within(10, call(channel(port, &client), "/a")).await.expect("the old files are in use"), "/a");
    let stranger = old.issue("stranger", same);
    let stranger = Arc::new(TlsClient::load(&new.ca(), &stranger.0, &stranger.1).expect("good files"));
    for name in ["server", "client"] {
        replace(name, "key");
    }
    replace("ca", "");
    let fresh = new.client(&new, same);
    assert!(server.refresh() && client.refresh());
    assert_eq!(within(10, call(channel(port, &fresh), "/a")).await.expect("one of the new authority"), "/a");
    assert_eq!(within(10, call(before, "/a")).await.expect("the connection goes on"), "/a");
    assert_eq!(within(10, call(channel(port, &client), "/a")).await.expect("by the new files"), "/a");
    let error =
        within(10, call(channel(port, &stranger), "/a")).await.expect_err("the old authority is gone");
    assert!(error.surely_not_sent(), "{error:?}");
    within(10, stopper.stop()).await;
}

/// Whether a second connection of the same client is judged by its certificate again.
#[tokio::test]
async fn sessions_of_clients_with_certificates_are_not_resumed() {
    let ours = Authority::new("ours");
    let server = ours.server(same);
    let (certificate, key) = ours.issue("client", same);
    for version in [&TLS12, &TLS13] {
        let roots = files::authorities("CA", &ours.ca()).expect("a good file").roots;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                files::certificates("certificate", &certificate).expect("a good file"),
                files::key(&key).expect("a good file"),
            )
            .expect("a pair");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config)); // it would resume
        for round in 0..3 {
            let (one, other) = tokio::io::duplex(1 << 16);
            let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
            let (served, connected) = tokio::join!(server.accept(one), connector.connect(name, other));
            let (mut served, mut connected) = (served.expect("a handshake"), connected.expect("a handshake"));
            // Tickets come behind the handshake.
            tokio::io::AsyncWriteExt::write_all(&mut served, b"x").await.expect("it is written");
            tokio::io::AsyncReadExt::read_u8(&mut connected).await.expect("it is read");
            let kind = served.get_ref().1.handshake_kind();
            assert!(
                matches!(kind, Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)),
                "{version:?}, {round}: {kind:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_complaint_is_made_once_in_a_while() {
    let ours = Authority::new("ours");
    let client = TlsClient::trusting(&ours.ca()).expect("a good file");
    let error = |distrust| io::Error::other(distrust);
    let (missing, other) =
        (|| error(Distrust::Missing), || error(Distrust::Other(rustls::Error::DecryptError)));
    assert!(client.is_news("a:1", &missing()));
    assert!(!client.is_news("a:1", &missing()), "it was said");
    assert!(client.is_news("a:1", &other()), "for another reason");
    assert!(client.is_news("b:1", &other()), "of another server");
    assert!(!client.is_news("a:1", &io::ErrorKind::ConnectionRefused.into()), "it may be starting");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(!client.is_news("a:1", &other()));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(client.is_news("a:1", &other()));
}

#[tokio::test]
async fn a_channel_reaches_a_socket_of_the_file_system() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("socket");
    let channel = || Channel::new(Connector::Unix(path.clone()), DialConfig::default());
    let first = channel();
    within(10, call(first.clone(), "/a")).await.expect_err("nobody listens");
    assert!(first.trouble().expect("a reason").starts_with(path.to_str().expect("UTF-8")));
    let stopper = Stopper::default();
    let listener = Listener::Unix(UnixListener::bind(&path).expect("it can be bound"));
    tokio::spawn(serve_listener(listener, None, echo(), ServeConfig::default(), stopper.handle()));
    assert_eq!(within(10, call(channel(), "/a")).await.expect("an answer"), "/a");
    within(10, stopper.stop()).await;
}

/// A certificate that is an authority of itself, as `openssl req -x509` makes it, and its key.
fn of_itself(
    directory: &TempDir,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (PathBuf, PathBuf) {
    let hosts = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
    let mut params = CertificateParams::new(hosts).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let [first, second] = ["crt", "key"].map(|end| directory.path().join(name).with_extension(end));
    std::fs::write(&first, certificate.pem()).expect("a file");
    std::fs::write(&second, key.serialize_pem()).expect("a file");
    (first, second)
}

/// Whether the two sides talk, and what is said where they do not.
async fn talk(server: TlsServer, client: &Arc<TlsClient>) -> Result<(), String> {
    let (port, stopper) = listen(Some(server)).await;
    let channel = channel(port, client);
    let answer = within(10, call(channel.clone(), "/a")).await;
    let trouble = channel.trouble();
    drop(channel);
    within(10, stopper.stop()).await;
    answer.map(drop).map_err(|error| trouble.map_or_else(|| error.to_string(), |trouble| trouble.to_string()))
}

#[tokio::test]
async fn an_authority_that_is_listed_itself_may_be_shown() {
    let ours = Authority::new("ours");
    let directory = TempDir::new().expect("a directory");
    let for_one = |purpose: ExtendedKeyUsagePurpose| {
        move |params: &mut CertificateParams| params.extended_key_usages = vec![purpose]
    };
    let (for_servers, for_clients) = (PEER[0].clone(), PEER[1].clone());
    let elsewhere = |params: &mut CertificateParams| {
        *params = CertificateParams::new(["other.example".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let cases = [
        ("as it is", of_itself(&directory, "plain", same), [None, None]),
        ("expired", of_itself(&directory, "expired", expired), [Some("Expired"); 2]),
        ("for servers", of_itself(&directory, "servers", for_one(for_servers)), [None, Some("not accepted")]),
        (
            "for clients",
            of_itself(&directory, "clients", for_one(for_clients)),
            [Some("InvalidPurpose"), None],
        ),
        ("elsewhere", of_itself(&directory, "elsewhere", elsewhere), [Some("not valid for name"), None]),
    ];
    for (what, (certificate, key), words) in cases {
        let config = TlsConfig { certificate: certificate.clone(), key: key.clone(), ..TlsConfig::default() };
        let as_server = TlsServer::load(config).expect("it can be shown");
        let trusting = Arc::new(TlsClient::trusting(&certificate).expect("a good file"));
        let (own, own_key) = ours.issue("server", same);
        let config = TlsConfig {
            certificate: own,
            key: own_key,
            client_ca: Some(certificate.clone()),
            ..TlsConfig::default()
        };
        let asking = TlsServer::load(config).expect("good files");
        let as_client = Arc::new(TlsClient::load(&ours.ca(), &certificate, &key).expect("it can be shown"));
        let found = [talk(as_server, &trusting).await, talk(asking, &as_client).await];
        for ((found, words), side) in found.into_iter().zip(words).zip(["server", "client"]) {
            match words {
                None => assert_eq!(found, Ok(()), "{what}, of a {side}"),
                Some(words) => {
                    let said = found.expect_err(what);
                    assert!(said.contains(words), "{what}, of a {side}: {said}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_authority_that_is_not_listed_is_not_taken_for_one_that_is() {
    let directory = TempDir::new().expect("a directory");
    let (listed, _) = of_itself(&directory, "listed", same);
    let (other, key) = of_itself(&directory, "other", same); // the same name, another key
    let client = Arc::new(TlsClient::trusting(&listed).expect("a good file"));
    let config = TlsConfig { certificate: other, key, ..TlsConfig::default() };
    let said =
        talk(TlsServer::load(config).expect("it can be shown"), &client).await.expect_err("a stranger");
    assert!(said.contains("CA:TRUE"), "{said}");

    // The listed certificate without its key proves nothing.
    let (_, key) = of_itself(&directory, "key", same);
    let config = TlsConfig { certificate: listed, key, ..TlsConfig::default() };
    let refused = TlsServer::load(config).expect_err("they do not belong together");
    assert!(matches!(refused, TlsError::Mismatch { .. }), "{refused}");
}

#[tokio::test]
async fn a_listed_authority_that_is_revoked_is_refused() {
    let ours = Authority::new("ours");
    let directory = TempDir::new().expect("a directory");
    let (certificate, key) = of_itself(&directory, "client", |params| {
        params.serial_number = Some(rcgen::SerialNumber::from(300_u64));
    });
    for (serial, taken) in [(301_u64, true), (300, false)] {
        let params = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: rcgen::SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&ours.issuer).expect("a list").pem().expect("PEM");
        let revoked = directory.path().join("revoked");
        std::fs::write(&revoked, list).expect("a file");
        let (own, own_key) = ours.issue("server", same);
        let config = TlsConfig {
            certificate: own,
            key: own_key,
            client_ca: Some(certificate.clone()),
            revoked: Some(revoked),
            ..TlsConfig::default()
        };
        let client = Arc::new(TlsClient::load(&ours.ca(), &certificate, &key).expect("good files"));
        let talked = talk(TlsServer::load(config).expect("good files"), &client).await;
        assert_eq!(talked.is_ok(), taken, "{serial}: {talked:?}");
    }
}

#[tokio::test]
async fn keys_on_p_521_are_taken() {
    let key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, key()).expect("a certificate");
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("ca"), issuer.pem()).expect("a file");
    let ours = Authority { issuer, directory };
    let [certificate, private] =
        ["crt", "key"].map(|end| ours.directory.path().join("p521").with_extension(end));
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    params.extended_key_usages = PEER.to_vec();
    let own = key();
    std::fs::write(&certificate, params.signed_by(&own, &ours.issuer).expect("a certificate").pem())
        .expect("a file");
    std::fs::write(&private, own.serialize_pem()).expect("a file");
    let client = Arc::new(TlsClient::load(&ours.ca(), &certificate, &private).expect("good files"));
    let config = TlsConfig { certificate, key: private, client_ca: Some(ours.ca()), ..TlsConfig::default() };
    assert_eq!(talk(TlsServer::load(config).expect("good files"), &client).await, Ok(()));
}

mod named;
