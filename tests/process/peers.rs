//! TLS between a proxy and its brains: who is let in, what is said of those who are not, and files that change in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::BINARY;
use kit::bystander::Bystander;
use kit::client::{Client, keys};
use kit::http1::{get, get_over};
use kit::pki::{Authority, Pair, replace};
use kit::process::{Place, Process, Start};
use kit::watch::{key, mod_revision};
use kit::{full_tier, until};

/// Core, and pods in a group of their own, at these URLs.
fn table(core: &str, pods: &str) -> String {
    format!(
        "home: core\ndefault: core\ngroups:\n  core: {{ brains: [\"{core}\"] }}\n  pods: {{ brains: [\"{pods}\"] }}\n\
         kinds:\n  - {{ kind: pods, group: pods }}\n"
    )
}

/// Brains of these groups, with a certificate each, that take peers of the authority only.
async fn brains(place: &Place, ca: &Path, pairs: [(&str, &Pair, &str); 2]) -> [Process; 2] {
    // Where they are is known once they are there: the file is read again then.
    let owners = place.file("placement.yaml", &table("https://127.0.0.1:1", "https://127.0.0.1:2"));
    let start = |(group, pair, address): (&str, &Pair, &str)| {
        let start = Start::brain(place, group).placement(&owners).peers("https", address);
        start.peer_files(pair, ca).flag("peer-client-cert-auth", "true").listening()
    };
    let [first, second] = pairs;
    [start(first).await, start(second).await]
}

fn path(file: &Path) -> &str {
    file.to_str().expect("UTF-8")
}

/// `https://HOST:PORT` of a brain, wherever it listens.
fn url(host: &str, brain: &Process) -> String {
    let (_, port) = brain.peer_address().rsplit_once(':').expect("a port");
    format!("https://{host}:{port}")
}

/// One request to a brain's listener for peers, unless the connection is refused.
async fn peer_health(
    brain: &Process,
    authority: &Authority,
    client: Option<&Pair>,
) -> std::io::Result<(u16, String)> {
    let address = url("127.0.0.1", brain).split_off("https://".len());
    get_over(authority.connect(&address, client, "http/1.1").await?, "/livez").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_and_its_brains_trust_certificates_of_one_authority_and_nobody_else() {
    let place = BINARY.place();
    let (ours, theirs) = (Authority::new(&place, "ours"), Authority::new(&place, "theirs"));
    let [core, pods, front] = [("core", 1), ("pods", 2), ("proxy", 3)].map(|(name, at)| ours.issue(name, at));
    // One where other machines would reach it.
    let brains =
        brains(&place, &ours.file, [("core", &core, "0.0.0.0:0"), ("pods", &pods, "127.0.0.1:0")]).await;
    let urls = [url("127.0.0.1", &brains[0]), url("localhost", &brains[1])];
    let placement = place.file("placement.yaml", &table(&urls[0], &urls[1]));
    let proxy = Start::proxy(&place, "proxy", &placement).peer_files(&front, &ours.file).run().await;

    let client = Client::new(proxy.address());
    let mut watch = client.watch("/", 1).await;
    let mut written = Vec::new();
    for number in 0..20 {
        let key = format!("/registry/{}/{number:02}", ["pods", "leases"][number % 2]);
        written.push((client.put(&key, vec![7; 100_000]).await.expect("a put"), key));
    }
    let all = client.list("/registry/").await.expect("a list over both groups");
    let mut sorted: Vec<_> = written.iter().map(|(_, key)| key.clone()).collect();
    sorted.sort();
    assert_eq!(keys(&all), sorted);
    client.delete("/registry/pods/00").await.expect("a delete");
    let last = written.last().expect("some").0;
    let events = watch.events_to(last).await;
    let seen: Vec<_> = events.iter().map(|event| (mod_revision(event), key(event))).take(20).collect();
    assert_eq!(seen, written);

    let stranger = theirs.issue("stranger", 1);
    let expired = ours.issue_expired("expired", 5);
    for brain in &brains {
        assert_eq!(peer_health(brain, &ours, Some(&front)).await.expect("a peer").0, 200);
        peer_health(brain, &ours, None).await.expect_err("no certificate");
        peer_health(brain, &ours, Some(&stranger)).await.expect_err("a certificate of another authority");
        peer_health(brain, &ours, Some(&expired)).await.expect_err("a certificate whose time is over");
        peer_health(brain, &theirs, Some(&front)).await.expect_err("this client does not know the brain");
        let log = until("four lines", async || {
            let log = brain.log();
            (log.matches("a TLS handshake has failed").count() >= 4).then_some(log)
        })
        .await;
        assert!(!log.contains("mean nothing here"), "{log}");
    }
    assert!(!proxy.log().contains("cannot connect"), "{}", proxy.log());
}

/// Proxies and brains that do not take each other: the proxy says why, in its log and to probes, and goes on when
/// the certificates are exchanged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_says_why_it_does_not_reach_a_brain() {
    let place = BINARY.place();
    let (ours, theirs) = (Authority::new(&place, "ours"), Authority::new(&place, "theirs"));
    let elsewhere = ours.issue_elsewhere("elsewhere.example", 1);
    let late = ours.issue_expired("late", 2);
    let [good, next] = [3, 4].map(|serial| ours.issue(&format!("good{serial}"), serial));
    let brains =
        brains(&place, &ours.file, [("core", &elsewhere, "127.0.0.1:0"), ("pods", &late, "127.0.0.1:0")])
            .await;
    let urls = [url("127.0.0.1", &brains[0]), url("127.0.0.1", &brains[1])];
    let placement = place.file("placement.yaml", &table(&urls[0], &urls[1]));
    let start = |name: &str| {
        Start::proxy(&place, name, &placement)
            .flag("listen-metrics-urls", "http://127.0.0.1:0")
            .clients("unix", place.join(&format!("{name}.socket")).to_str().expect("UTF-8"))
    };
    // Its socket is no reason to wait: it will not be ready.
    let proxy = start("proxy").peer_files(&good, &ours.file).listening().await;
    let says = async |proxy: &Process, words: &[&str]| {
        let body = until("a reason", async || {
            let (status, body) = get(proxy.probe_address(), "/readyz?verbose").await;
            assert_eq!(status, 503, "{body}");
            words.iter().all(|word| body.contains(word)).then_some(body)
        })
        .await;
        assert_eq!(get(proxy.probe_address(), "/livez").await.0, 200, "{body}");
        let log = proxy.log();
        // There the address is a field of its own.
        let reasons =
            words.iter().map(|word| word.rsplit_once("not accepted: ").map_or(*word, |(_, end)| end));
        for reason in reasons {
            let line = log.lines().find(|line| line.contains("WARN cannot connect") && line.contains(reason));
            assert!(line.is_some_and(|line| line.contains("server=")), "{reason}:\n{log}");
        }
        body
    };
    let port = |brain: &Process| url("127.0.0.1", brain).split_off("https://".len());
    let words = [
        format!(
            "{}: the certificate of the other side is not accepted: certificate not valid for name \"127.0.0.1\"; \
                 certificate is only valid for DnsName(\"elsewhere.example\")",
            port(&brains[0])
        ),
        format!("{}: the certificate of the other side is not accepted: Expired", port(&brains[1])),
    ];
    let body = says(&proxy, &words.each_ref().map(String::as_str)).await;
    assert!(body.contains("no brain has told the cluster's placement yet"), "{body}");
    tokio::time::sleep(std::time::Duration::from_secs(3)).await; // several dials of each
    let log = proxy.log();
    for reason in ["not valid for name", "not accepted: Expired"] {
        let lines = log.lines().filter(|line| line.contains("WARN cannot connect") && line.contains(reason));
        assert_eq!(lines.count(), 1, "once in a minute:\n{log}");
    }

    // Certificates that fit, and nothing is restarted.
    for (pair, with) in [(&elsewhere, &good), (&late, &next)] {
        replace(&pair.key, &with.key);
        replace(&pair.certificate, &with.certificate);
    }
    until("a proxy that is ready", async || {
        let (status, _) = get(proxy.probe_address(), "/readyz").await;
        (status == 200).then_some(())
    })
    .await;

    // And the other way round: brains that do not take a proxy.
    let stranger = theirs.issue("stranger", 1);
    let expired = ours.issue_expired("expired", 5);
    let ca = ours.file.to_str().expect("UTF-8");
    let proxies = [
        (
            start("stranger").peer_files(&stranger, &ours.file),
            "our certificate is not accepted by the other side",
        ),
        (
            start("expired").peer_files(&expired, &ours.file),
            "not accepted by the other side: CertificateExpired",
        ),
        (start("nobody").flag("peer-trusted-ca-file", ca), "wants a certificate of ours and there is none"),
        (start("other").peer_files(&good, &theirs.file), "the certificate of the other side is not accepted"),
    ];
    for (start, reason) in proxies {
        let proxy = start.listening().await;
        says(&proxy, &[reason]).await;
    }
}

/// Everything exchanged again and again, the authority too, while clients write, list and watch: nobody notices, and
/// every new connection is made with the new files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_and_no_client_notices() {
    let rounds = if full_tier() { 20 } else { 6 };
    let place = BINARY.place();
    let authorities = [Authority::new(&place, "first"), Authority::new(&place, "second")];
    // Where the programs look: files of their own, which the authorities' take the place of.
    let place_of = |name: &str| place.join(name);
    let used = |name: &str| Pair {
        certificate: place_of(&format!("{name}.crt")),
        key: place_of(&format!("{name}.key")),
    };
    let ca: PathBuf = place_of("trusted.crt");
    let names = ["core", "pods", "proxy"];
    std::fs::copy(&authorities[0].file, &ca).expect("a copy");
    let first = names.map(|name| authorities[0].issue(name, 1));
    for (name, pair) in names.iter().zip(&first) {
        replace(&used(name).certificate, &pair.certificate);
        replace(&used(name).key, &pair.key);
    }
    let pairs = [("core", &used("core"), "127.0.0.1:0"), ("pods", &used("pods"), "127.0.0.1:0")];
    let brains = brains(&place, &ca, pairs).await;
    let at = |host: &str| table(&url(host, &brains[0]), &url(host, &brains[1]));
    let placement = place.file("placement.yaml", &at("127.0.0.1"));
    let proxy = Start::proxy(&place, "front", &placement).peer_files(&used("proxy"), &ca).run().await;

    let address = proxy.address();
    let writers = [
        Bystander::start(address, "/registry/pods/ns/busy").await,
        Bystander::start(address, "/registry/leases/ns/busy").await,
    ];
    let (stop, lists) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let lister = tokio::spawn({
        let (client, stop, lists) = (Client::new(address), stop.clone(), lists.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.list("/registry/").await.expect("a list over both groups");
                lists.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    });
    let client = Client::new(address);
    let mut watch = client.watch("/registry/", 1).await;

    let servers = [&brains[0], &brains[1], &proxy];
    let counts = || servers.map(|server| server.log().matches("new certificates are in use").count());
    let taken = async |before: [usize; 3]| {
        until("new certificates in use everywhere", async || {
            counts().iter().zip(before).all(|(now, before)| *now > before).then_some(())
        })
        .await;
    };
    let mut marks = Vec::new();
    for round in 0..rounds {
        let of = &authorities[usize::from(round >= rounds / 2)];
        if round == rounds / 2 {
            // Both authorities first, as operators have to.
            let before = counts();
            let both = authorities.each_ref().map(|one| std::fs::read_to_string(&one.file).expect("a file"));
            replace(&ca, &place.file("both.crt", &both.concat()));
            taken(before).await;
        }
        let before = counts();
        let next = names.map(|name| of.issue(name, round + 2));
        for (name, pair) in names.iter().zip(&next) {
            replace(&used(name).key, &pair.key);
            replace(&used(name).certificate, &pair.certificate);
        }
        taken(before).await;
        for (brain, pair) in brains.iter().zip(&next) {
            let wanted = CertificateDer::from_pem_file(&pair.certificate).expect("a certificate");
            let address = url("127.0.0.1", brain).split_off("https://".len());
            until("the new certificate", async || {
                (of.shown(&address, &next[2]).await? == wanted.to_vec()).then_some(())
            })
            .await;
        }
        // The same brains under another name: every connection of the proxy is made anew.
        let before = proxy.log().matches("a placement is in use").count();
        let moved = place.file("next.yaml", &at(["localhost", "127.0.0.1"][round as usize % 2]));
        let applied = BINARY.ctl([
            "placement",
            "apply",
            path(&moved),
            "--wait",
            &format!("--endpoints={}", url("127.0.0.1", &brains[0])),
            &format!("--cacert={}", of.file.display()),
            &format!("--cert={}", next[2].certificate.display()),
            &format!("--key={}", next[2].key.display()),
        ]);
        applied.expect("taken");
        until("another placement", async || {
            (proxy.log().matches("a placement is in use").count() > before).then_some(())
        })
        .await;
        let key = format!("/registry/pods/mark/{round:02}");
        marks.push((client.put(&key, "x").await.expect("a put"), key));
    }
    let before = counts();
    replace(&ca, &authorities[1].file);
    taken(before).await;
    let old = &first[2];
    peer_health(&brains[0], &authorities[1], Some(old)).await.expect_err("the first authority is gone");

    stop.store(true, Ordering::Relaxed);
    lister.await.expect("no list has failed");
    let mut writes = 0;
    for writer in writers {
        writes += writer.stop().await.writes;
    }
    let last = marks.last().expect("some").0;
    let events = watch.events_to(last).await;
    let seen: Vec<_> = events
        .iter()
        .map(|event| (mod_revision(event), key(event)))
        .filter(|(_, key)| key.starts_with("/registry/pods/mark/"))
        .collect();
    assert_eq!(seen, marks, "the watch has them all");
    let lists = lists.load(Ordering::Relaxed);
    println!("{rounds} rounds, {writes} writes, {lists} lists, {} events: none has failed", events.len());
    assert!(writes > 100 && lists > 20, "{writes} writes, {lists} lists");
    assert!(!proxy.log().contains("cannot connect"), "{}", proxy.log());
}

/// A brain on the same machine as its proxy may have a socket of the file system, and be reached over TLS beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_goes_over_from_plain_sockets_to_tls_and_no_client_notices() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let [core, pods, front] = [("core", 1), ("pods", 2), ("proxy", 3)].map(|(name, at)| ours.issue(name, at));
    let sockets = ["core", "pods"].map(|name| place.join(&format!("{name}.socket")));
    let [first, second] = sockets.each_ref().map(|path| format!("127.0.0.1:0,unix://{}", path.display()));
    let brains = brains(&place, &ours.file, [("core", &core, &first), ("pods", &pods, &second)]).await;
    let [first, second] = sockets.each_ref().map(|path| format!("unix://{}", path.display()));
    let placement = place.file("placement.yaml", &table(&first, &second));
    let proxy = Start::proxy(&place, "proxy", &placement).peer_files(&front, &ours.file).run().await;
    let busy = Bystander::start(proxy.address(), "/registry/pods/a").await;
    let client = Client::new(proxy.address());
    let mut watch = client.watch("/registry/leases/", 1).await;
    client.put("/registry/leases/a", "1").await.expect("a put");
    let next = place.file("next.yaml", &table(&url("127.0.0.1", &brains[0]), &url("127.0.0.1", &brains[1])));
    let applied = BINARY.ctl(["placement", "apply", path(&next), "--wait", &format!("--endpoints={first}")]);
    applied.expect("taken");
    until("another placement", async || proxy.log().contains("a placement is in use number=2").then_some(()))
        .await;
    let last = client.put("/registry/leases/b", "1").await.expect("a put");
    assert_eq!(watch.events_to(last).await.len(), 2);
    busy.stop().await;
    drop(proxy);
    for mut brain in brains {
        brain.signal("TERM");
        assert!(brain.ended().await.success());
    }
    assert!(sockets.iter().all(|path| !path.exists()), "a socket is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_flags_are_refused_with_one_sentence_that_names_flag_and_file() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let (pair, other) = (ours.issue("a", 1), ours.issue("b", 2));
    let (secure, plain) = (
        place.file("secure.yaml", &table("https://127.0.0.1:1", "https://127.0.0.1:2")),
        place.file("plain.yaml", &table("http://127.0.0.1:1", "http://127.0.0.1:2")),
    );
    let nonsense = place.file("nonsense", "nothing");
    let missing = Pair { certificate: place.join("missing"), key: pair.key.clone() };
    let mixed = Pair { certificate: pair.certificate.clone(), key: other.key.clone() };
    let ca = ours.file.to_str().expect("UTF-8");
    let brain = |scheme, address: &str| Start::brain(&place, "default").peers(scheme, address);
    let good = |start: Start| start.peer_files(&pair, &ours.file);
    let proxy = |table: &Path| Start::proxy(&place, "proxy", table);
    let cases: Vec<(Start, &[&str])> = vec![
        // A brain's listener.
        (
            brain("http", "0.0.0.0:0"),
            &[
                "--listen-peer-urls http://0.0.0.0:",
                "https://",
                "--peer-cert-file",
                "--peer-client-cert-auth",
            ],
        ),
        (good(brain("http", "0.0.0.0:0")), &["--listen-peer-urls http://0.0.0.0:", "https://"]),
        (
            good(brain("https", "0.0.0.0:0")).flag("peer-trusted-ca-file", ""),
            &["--listen-peer-urls https://0.0.0.0:", "--peer-trusted-ca-file", "loopback"],
        ),
        (
            brain("https", "127.0.0.1:0"),
            &["--listen-peer-urls https://", "--peer-cert-file", "--peer-key-file"],
        ),
        (brain("unixs", "/nowhere"), &["--listen-peer-urls unixs://", "unix://"]),
        (
            good(brain("https", "127.0.0.1:0")).flag("peer-key-file", ""),
            &["--peer-cert-file", "/a.crt", "--peer-key-file"],
        ),
        (
            good(brain("https", "127.0.0.1:0")).flag("peer-cert-file", ""),
            &["--peer-key-file", "/a.key", "--peer-cert-file"],
        ),
        (
            brain("http", "127.0.0.1:0").flag("peer-trusted-ca-file", ca),
            &["--peer-trusted-ca-file", "/ca.crt", "--peer-cert-file and --peer-key-file"],
        ),
        (
            brain("http", "127.0.0.1:0").flag("peer-client-cert-auth", "true"),
            &["--peer-client-cert-auth", "--peer-cert-file and --peer-key-file"],
        ),
        (
            good(brain("https", "127.0.0.1:0"))
                .flag("peer-trusted-ca-file", "")
                .flag("peer-client-cert-auth", "true"),
            &["--peer-client-cert-auth", "--peer-trusted-ca-file"],
        ),
        (
            brain("https", "127.0.0.1:0").peer_files(&missing, &ours.file),
            &["--peer-cert-file", "/missing", "cannot be read"],
        ),
        (
            brain("https", "127.0.0.1:0").peer_files(&mixed, &ours.file),
            &["--peer-cert-file and --peer-key-file", "/a.crt", "/b.key", "belong together"],
        ),
        (
            brain("https", "127.0.0.1:0").peer_files(&pair, &nonsense),
            &["--peer-trusted-ca-file", "/nonsense", "no certificate"],
        ),
        (
            good(brain("https", "127.0.0.1:0")).flag("peer-crl-file", nonsense.to_str().expect("UTF-8")),
            &["--peer-crl-file", "/nonsense"],
        ),
        (
            brain("http", "127.0.0.1:0").flag("peer-auto-tls", "true"),
            &["--peer-auto-tls", "--peer-cert-file"],
        ),
        (
            brain("http", "127.0.0.1:0").flag("peer-cert-allowed-cn", "a"),
            &["--peer-cert-allowed-cn", "--peer-cert-allowed-hostname"],
        ),
        // What a proxy dials with.
        (proxy(&secure), &["secure.yaml", "group core", "https://127.0.0.1:1", "--peer-trusted-ca-file"]),
        (
            good(proxy(&secure)).flag("peer-trusted-ca-file", ""),
            &["--peer-cert-file", "/a.crt", "--peer-trusted-ca-file"],
        ),
        (good(proxy(&secure)).flag("peer-key-file", ""), &["--peer-cert-file", "/a.crt", "--peer-key-file"]),
        (
            proxy(&plain).peer_files(&mixed, &ours.file),
            &["--peer-cert-file and --peer-key-file", "/a.crt", "/b.key", "belong together"],
        ),
        (
            proxy(&plain).peer_files(&pair, &nonsense),
            &["--peer-trusted-ca-file", "/nonsense", "no certificate"],
        ),
        (proxy(&plain).flag("peer-auto-tls", "true"), &["--peer-auto-tls"]),
    ];
    for (start, words) in cases {
        let failure = start.fails().await;
        let said: Vec<_> = failure.message.lines().filter(|line| line.starts_with("kubebrain: ")).collect();
        let [sentence] = said[..] else { panic!("one message is wanted: {failure:?}") };
        for word in words {
            assert!(sentence.contains(word), "{sentence:?} does not say {word:?}");
        }
    }
    assert!(!place.join("default").exists(), "nothing is made before the flags are read");
}

/// What kubeadm gives to etcd for its peers is still only named in the warning of `standalone`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_has_no_peers_and_reads_no_files_of_theirs() {
    let place = BINARY.place();
    let missing = place.join("missing").to_str().expect("UTF-8").to_owned();
    let server = Start::standalone(&place)
        .flag("peer-cert-file", &missing)
        .flag("peer-key-file", &missing)
        .flag("peer-trusted-ca-file", &missing)
        .flag("peer-client-cert-auth", "true")
        .run()
        .await;
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("mean nothing here")).collect();
    let [line] = lines[..] else { panic!("one line is wanted:\n{log}") };
    let flags = "--peer-cert-file --peer-key-file --peer-trusted-ca-file --peer-client-cert-auth";
    assert!(line.ends_with(flags), "{line}");
}
