//! TLS for clients: who is served, what is replaced in use, and what is refused at the start.

use bytes::Bytes;
use kubebrain_proto::etcdserverpb::PutRequest;
use kubebrain_shared::wire::frame;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::BINARY;
use kit::http1::{get, get_over};
use kit::pki::{Authority, Pair, replace};
use kit::process::{Process, Start};
use kit::raw::Raw;
use kit::{in_time, until};

const PUT: &str = "/etcdserverpb.KV/Put";

fn put() -> Bytes {
    let put = PutRequest { key: "/registry/pods/a".into(), value: "1".into(), ..Default::default() };
    frame(&put.encode_to_vec())
}

fn text(path: &std::path::Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// The status of one request over TLS, unless the connection is refused.
async fn health(server: &Process, authority: &Authority, client: Option<&Pair>) -> std::io::Result<u16> {
    let io = authority.connect(server.address(), client, "http/1.1").await?;
    Ok(get_over(io, "/health").await?.0)
}

async fn served(server: &Process, authority: &Authority, client: Option<&Pair>) {
    let status = until("a server that is ready", async || {
        let status = health(server, authority, client).await.expect("this client is served");
        (status == 200).then_some(status)
    })
    .await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_clients_with_a_certificate_of_the_authority_are_served() {
    let place = BINARY.place();
    let (ours, theirs) = (Authority::new(&place, "ours"), Authority::new(&place, "theirs"));
    let (server_pair, client, stranger) =
        (ours.issue("server", 1), ours.issue("client", 2), theirs.issue("client", 2));
    let plain = |start: Start| start.https(&server_pair.certificate, &server_pair.key);
    // As in etcd either flag asks for clients' certificates.
    let standalone = plain(Start::standalone(&place)).flag("trusted-ca-file", &text(&ours.file)).run().await;
    let brain = plain(Start::brain(&place, "default"))
        .flag("trusted-ca-file", &text(&ours.file))
        .flag("client-cert-auth", "true")
        .run()
        .await;
    let mut listener = brain.peer_address().to_owned();
    listener.insert_str(0, "groups: { default: { brains: [http://");
    let table = format!("prefix: /registry\nhome: default\ndefault: default\n{listener}] }} }}\nkinds: []\n");
    let table = place.file("placement.yaml", &table);
    let proxy =
        plain(Start::proxy(&place, "proxy", &table)).flag("trusted-ca-file", &text(&ours.file)).run().await;
    for server in [&standalone, &brain, &proxy] {
        served(server, &ours, Some(&client)).await;
        health(server, &ours, None).await.expect_err("no certificate");
        health(server, &ours, Some(&stranger)).await.expect_err("a certificate of another authority");
        health(server, &theirs, Some(&client)).await.expect_err("the client does not know this server");
        let io = ours.connect(server.address(), Some(&client), "h2").await.expect("a handshake");
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut raw = Raw::over(io, server.address(), h2::client::Builder::new()).await;
        let answer = raw.call(PUT, "application/grpc", put()).await.expect("an answer");
        assert_eq!(answer.grpc, Some((0, String::new())));
        until("a line that names the peer", async || {
            let log = server.log();
            let line = log.lines().find(|line| line.contains("a TLS handshake has failed"))?;
            (line.contains("127.0.0.1:") && line.contains("certificate")).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_certificates_and_other_names_are_refused() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let (pair, good, revoked, other) = (
        ours.issue("server", 1),
        ours.issue("good.example", 2),
        ours.issue("bad.example", 3),
        ours.issue("x", 4),
    );
    let server = Start::standalone(&place)
        .https(&pair.certificate, &pair.key)
        .flag("trusted-ca-file", &text(&ours.file))
        .flag("client-crl-file", &text(&ours.revoke(3)))
        .flag("client-cert-allowed-hostname", "good.example,bad.example")
        .run()
        .await;
    served(&server, &ours, Some(&good)).await;
    health(&server, &ours, Some(&revoked)).await.expect_err("a revoked certificate");
    health(&server, &ours, Some(&other)).await.expect_err("a certificate with another name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_in_use_and_no_connection_ends() {
    let place = BINARY.place();
    let (old, new) = (Authority::new(&place, "old"), Authority::new(&place, "new"));
    let (pair, next) = (old.issue("server", 1), new.issue("server", 1));
    let server = Start::standalone(&place).https(&pair.certificate, &pair.key).run().await;
    served(&server, &old, None).await;
    let io = old.connect(server.address(), None, "h2").await.expect("a handshake");
    let mut raw = Raw::over(io, server.address(), h2::client::Builder::new()).await;

    // A certificate whose key is not there yet, and half a certificate: the old ones stay.
    let whole = std::fs::read_to_string(&next.certificate).expect("a file");
    for content in [whole.as_str(), &whole[..whole.len() / 2], ""] {
        let before = server.log().matches("the old ones stay").count();
        std::fs::write(&pair.certificate, content).expect("a file");
        until("a line that says so", async || {
            (server.log().matches("the old ones stay").count() > before).then_some(())
        })
        .await;
        served(&server, &old, None).await;
    }
    replace(&pair.key, &next.key);
    replace(&pair.certificate, &next.certificate);
    until("the new certificate", async || health(&server, &new, None).await.ok()).await;
    health(&server, &old, None).await.expect_err("the old certificate is served no more");
    let answer = raw.call(PUT, "application/grpc", put()).await.expect("the connection goes on");
    assert_eq!(answer.grpc, Some((0, String::new())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_speak_no_tls_or_nothing_keep_nobody_from_being_served() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let pair = ours.issue("server", 1);
    let server = Start::standalone(&place).https(&pair.certificate, &pair.key).run().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.address()).await.expect("it listens"));
    }
    for _ in 0..20 {
        let socket = TcpStream::connect(server.address()).await.expect("it listens");
        get_over(socket, "/health").await.expect_err("plain HTTP is not served");
        drop(TcpStream::connect(server.address()).await.expect("it listens"));
    }
    served(&server, &ours, None).await;
    // Those who say nothing are let go of.
    let mut socket = silent.remove(0);
    let end = in_time("the end of a handshake that never began", socket.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_arrives_whole_over_tls() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let pair = ours.issue("server", 1);
    let server = Start::standalone(&place).https(&pair.certificate, &pair.key).run().await;
    served(&server, &ours, None).await;
    let io = ours.connect(server.address(), None, "h2").await.expect("a handshake");
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 26).initial_connection_window_size(1 << 26);
    let mut raw = Raw::over(io, server.address(), builder).await;
    for number in 0..20 {
        let key = format!("/registry/pods/{number:02}").into();
        let put = PutRequest { key, value: vec![b'x'; 1 << 20].into(), ..Default::default() };
        let answer = raw.call(PUT, "application/grpc", frame(&put.encode_to_vec())).await.expect("an answer");
        assert_eq!(answer.grpc, Some((0, String::new())));
    }
    let range = kubebrain_proto::etcdserverpb::RangeRequest {
        key: "/registry/pods/".into(),
        range_end: "/registry/pods0".into(),
        ..Default::default()
    };
    let answer = raw.call("/etcdserverpb.KV/Range", "application/grpc", frame(&range.encode_to_vec())).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.grpc, Some((0, String::new())));
    assert!(answer.data.len() > 20 << 20, "{} bytes", answer.data.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_urls_stay_plain_beside_certificates() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let (pair, client) = (ours.issue("server", 1), ours.issue("client", 2));
    let server = Start::standalone(&place)
        .https(&pair.certificate, &pair.key)
        .flag("trusted-ca-file", &text(&ours.file))
        .flag("listen-metrics-urls", "http://127.0.0.1:0")
        .run()
        .await;
    served(&server, &ours, Some(&client)).await;
    assert_eq!(get(server.probe_address(), "/health").await.0, 200);
    assert!(server.log().contains("served without TLS"), "{}", server.log());
    let secure = Start::brain(&place, "other")
        .https(&pair.certificate, &pair.key)
        .flag("trusted-ca-file", &text(&ours.file))
        .flag("listen-metrics-urls", "https://127.0.0.1:0")
        .run()
        .await;
    let io = ours.connect(secure.probe_address(), Some(&client), "http/1.1").await.expect("a handshake");
    assert_eq!(get_over(io, "/health").await.expect("an answer").0, 200);
    let io = ours.connect(secure.probe_address(), None, "http/1.1").await.expect("the client's half");
    get_over(io, "/health").await.expect_err("no certificate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_files_are_refused_with_one_sentence_that_names_flag_and_file() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let (a, b) = (ours.issue("a", 1), ours.issue("b", 2));
    let nonsense = place.file("nonsense", "nothing");
    let missing = place.join("missing");
    let start = |certificate, key| Start::standalone(&place).https(certificate, key);
    let good = || start(&a.certificate, &a.key);
    let cases: Vec<(Start, &[&str])> = vec![
        (start(&missing, &a.key), &["--cert-file", "/missing", "cannot be read"]),
        (start(&nonsense, &a.key), &["--cert-file", "/nonsense", "no certificate"]),
        (start(&a.certificate, &missing), &["--key-file", "/missing", "cannot be read"]),
        (start(&a.certificate, &ours.file), &["--key-file", "/ca.crt", "no private key"]),
        (
            start(&a.certificate, &b.key),
            &["--cert-file and --key-file", "/a.crt", "/b.key", "belong together"],
        ),
        (good().flag("key-file", ""), &["--cert-file", "--key-file"]),
        (good().flag("cert-file", ""), &["--cert-file", "--key-file"]),
        (
            good().flag("cert-file", "").flag("key-file", ""),
            &["--listen-client-urls https://", "--cert-file"],
        ),
        (good().flag("trusted-ca-file", &text(&nonsense)), &["--trusted-ca-file", "/nonsense"]),
        (good().flag("client-cert-auth", "true"), &["--client-cert-auth", "--trusted-ca-file"]),
        (good().flag("client-crl-file", &text(&ours.file)), &["--client-crl-file", "--trusted-ca-file"]),
        (good().flag("tls-min-version", "TLS1.1"), &["--tls-min-version", "TLS1.2 and TLS1.3"]),
        (good().flag("cipher-suites", "NO_SUCH"), &["--cipher-suites", "NO_SUCH"]),
        (good().flag("auto-tls", "true"), &["--auto-tls", "--cert-file"]),
        (
            Start::brain(&place, "peers").flag("listen-peer-urls", "https://127.0.0.1:0"),
            &["--listen-peer-urls https://", "--peer-cert-file"],
        ),
        (
            Start::standalone(&place).clients("gopher", "127.0.0.1:0"),
            &["--listen-client-urls gopher://", "unixs://"],
        ),
    ];
    for (start, words) in cases {
        let failure = start.fails().await;
        let said: Vec<_> = failure.message.lines().filter(|line| line.starts_with("kubebrain: ")).collect();
        let [sentence] = said[..] else { panic!("one message is wanted: {failure:?}") };
        for word in words {
            assert!(sentence.contains(word), "{sentence:?} does not say {word:?}");
        }
    }
    assert!(!place.join("data").exists(), "nothing is made before the flags are read");
}
