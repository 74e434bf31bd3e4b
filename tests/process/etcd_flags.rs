//! Command lines that were made for etcd.

use std::path::Path;

use crate::BINARY;
use kit::http1::{get, get_over};
use kit::pki::Authority;
use kit::process::{Place, Process, Start};
use kit::until;

/// The arguments of the manifest's command.
fn command(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "- command:").skip(1);
    let items = lines.map_while(|line| line.trim().strip_prefix("- "));
    let command: Vec<_> = items.map(str::to_owned).collect();
    assert_eq!(command[0], "kubebrain");
    command[1..].to_vec()
}

/// The paths of its probes.
fn probes(manifest: &str) -> Vec<&str> {
    manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("path: /").map(|_| &line.trim()[6..]))
        .filter(|path| ["/health", "/livez", "/readyz"].iter().any(|probe| path.starts_with(probe)))
        .collect()
}

/// As the manifest says, with this machine's paths and free ports.
fn here(argument: &str, place: &Place) -> String {
    let root = place.path().to_str().expect("UTF-8");
    argument
        .replace("/etc/kubernetes/pki/etcd", &format!("{root}/etcd"))
        .replace("/var/lib/etcd", &format!("{root}/data"))
        .replace(
            "listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
            "listen-client-urls=https://127.0.0.1:0",
        )
        .replace("listen-metrics-urls=http://127.0.0.1:2381", "listen-metrics-urls=http://127.0.0.1:0")
}

async fn probed(server: &Process, path: &str) {
    until("a probe that says yes", async || {
        let (status, _) = get(server.probe_address(), path).await;
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubeadms_manifests_start_it_as_they_are() {
    for manifest in [include_str!("kubeadm/1.30.yaml"), include_str!("kubeadm/1.34.yaml")] {
        let place = BINARY.place();
        let authority = Authority::new(&place, "etcd");
        authority.issue("server", 1);
        let client = authority.issue("client", 2);
        let arguments: Vec<_> =
            command(manifest).iter().skip(1).map(|argument| here(argument, &place)).collect();
        let server = Start::exactly(&place, arguments).run().await;
        let paths = probes(manifest);
        assert!(paths.len() >= 2, "{paths:?}");
        for path in paths.into_iter().chain(["/version"]) {
            probed(&server, path).await;
        }
        let io = authority.connect(server.address(), Some(&client), "http/1.1").await.expect("a handshake");
        let (status, body) = get_over(io, "/health").await.expect("an answer");
        assert_eq!((status, body.as_str()), (200, r#"{"health":"true","reason":""}"#));
        let log = server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("mean nothing here")).collect();
        let [line] = lines[..] else { panic!("one line is wanted:\n{log}") };
        for flag in ["--initial-cluster", "--snapshot-count", "--peer-client-cert-auth", "--listen-peer-urls"]
        {
            assert!(line.contains(flag), "{line}");
        }
        assert!(!line.contains("notify-interval") && !line.contains(" --cert-file"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_have_a_port_of_their_own_where_nothing_else_is_served() {
    let place = BINARY.place();
    let start = Start::standalone(&place).flag("listen-metrics-urls", "http://127.0.0.1:0");
    let server = start.flag("listen-client-http-urls", "http://127.0.0.1:0").run().await;
    for path in ["/health", "/livez", "/readyz?verbose", "/version"] {
        probed(&server, path).await;
        let both = (get(server.probe_address(), path).await, get(server.address(), path).await);
        assert_eq!(both.0, both.1, "{path}");
    }
    for path in ["/", "/v3/kv/range", "/etcdserverpb.KV/Range"] {
        assert_eq!(get(server.probe_address(), path).await.0, 404, "{path}");
    }
    let mut raw = kit::raw::Raw::connect(server.probe_address()).await;
    let range = raw.call("/etcdserverpb.KV/Range", "application/grpc", b"\0\0\0\0\0"[..].into()).await;
    let answer = range.expect("an answer");
    assert_eq!((answer.status, answer.grpc), (404, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_and_gos_dashes_count_as_in_etcd() {
    let place = BINARY.place();
    let start = Start::exactly(
        &place,
        ["-data-dir", place.join("data").to_str().expect("UTF-8"), "-listen-client-urls=http://127.0.0.1:0"]
            .map(str::to_owned),
    );
    let server = start
        .env("ETCD_NAME", "somebody")
        .env("ETCD_INITIAL_CLUSTER_TOKEN", "token")
        .env("ETCD_SNAPSHOT_COUNT", "")
        .env("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true")
        .env("ETCD_NO_SUCH_THING", "1")
        .run()
        .await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("mean nothing here")).expect("a warning");
    assert!(line.ends_with("ignored: --initial-corrupt-check"), "{line}");
    assert!(log.contains("nothing reads: ETCD_NO_SUCH_THING"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_installers_flags_start_it_too() {
    let place = BINARY.place();
    // Talos' beside those that kubeadm has too: twice the same flag, HTTP on a port of its own.
    let arguments = [
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
        "--auto-tls=false",
        "--election-timeout=500",
        "--feature-gates=InitialCorruptCheck=true",
        "--feature-gates=CompactHashCheck=true",
        "--initial-cluster-state=new",
        "--listen-client-http-urls=http://127.0.0.1:0",
        "--listen-client-urls=http://127.0.0.1:0",
        "--peer-auto-tls=false",
        "--tls-min-version=TLS1.3",
        "--trusted-ca-file=",
        "--name=one",
        "--name=two",
    ];
    let data = format!("--data-dir={}", place.join("data").display());
    let arguments = arguments.into_iter().map(str::to_owned).chain([data]);
    let server = Start::exactly(&place, arguments).run().await;
    probed(&server, "/health").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_ignored_is_refused() {
    let place = BINARY.place();
    let etcds = place.join("etcds");
    std::fs::create_dir_all(etcds.join("member/snap")).expect("a directory");
    let start = || Start::standalone(&place);
    let dir = |path: &Path| start().data_dir(path);
    let cases = [
        (dir(&etcds), "/etcds: this is etcd's data"),
        (start().flag("initial-cluster", "a=http://a:2380,b=http://b:2380"), "names 2 members"),
        (start().flag("discovery-srv", "example.com"), "--discovery-srv"),
        (start().flag("config-file", "/etc/etcd.yaml"), "--config-file"),
        (start().flag("snapshot-coun", "1"), "--snapshot-count"),
        (start().flag("pre-vote", "perhaps"), "true or false"),
    ];
    for (start, words) in cases {
        let failure = start.fails().await;
        assert!(failure.message.contains(words), "{words}: {failure:?}");
    }
    assert_eq!(
        std::fs::read_dir(&etcds).expect("a directory").count(),
        1,
        "nothing was put beside etcd's data"
    );
}
