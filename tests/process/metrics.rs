//! `/metrics` of running processes: what grows, what does not, and that `docs/metrics.md` tells of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use kubebrain_shared::wire;
use tonic::Code;

use crate::BINARY;
use kit::client::Client;
use kit::exposition::{Page, get, scrape};
use kit::process::{Place, Process, Start};
use kit::raw::Raw;
use kit::until;

/// A standalone, and a brain with a proxy before it.
struct Programs {
    standalone: Process,
    brain: Process,
    proxy: Process,
}

impl Programs {
    async fn start(place: &Place) -> Self {
        let standalone = Start::standalone(place).flag("quota-backend-bytes", "1073741824").run().await;
        let brain = Start::brain(place, "default").flag("quota-backend-bytes", "1073741824").run().await;
        let brains = format!("{{ brains: [\"http://{}\"] }}", brain.peer_address());
        let table = format!("home: default\ndefault: default\ngroups: {{ default: {brains} }}\n");
        let proxy = Start::proxy(place, "proxy", &place.file("placement.yaml", &table)).run().await;
        Self { standalone, brain, proxy }
    }

    fn all(&self) -> [(&'static str, &Process); 3] {
        [("standalone", &self.standalone), ("brain", &self.brain), ("proxy", &self.proxy)]
    }
}

fn handled(page: &Page, method: &str, code: &str) -> f64 {
    let (service, method) = method.split_once('/').expect("service/method");
    let service = format!("etcdserverpb.{service}");
    page.value(
        "grpc_server_handled_total",
        &[("grpc_service", &service), ("grpc_method", method), ("grpc_code", code)],
    )
}

/// Looks at a page until it says so.
async fn becomes(address: &str, what: &str, is: impl Fn(&Page) -> bool) {
    until(what, async || is(&scrape(address).await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_grow_by_what_clients_do() {
    let place = BINARY.place();
    let programs = Programs::start(&place).await;
    for (program, process) in programs.all() {
        let address = process.address();
        let before = scrape(address).await;
        let client = Client::new(address);
        for key in ["/registry/pods/a", "/registry/pods/b", "/registry/events/a"] {
            client.put(key, "value").await.expect("a put");
        }
        client.get("/registry/pods/a").await.expect("a get");
        client.list("/registry/").await.expect("a list");
        client.delete("/registry/pods/b").await.expect("a deletion");
        let future = client.compact(1 << 40).await.expect_err("no such revision");
        assert_eq!(future.code(), Code::OutOfRange);
        let mut watch = client.watch("/registry/pods/", 1).await;
        watch.next().await.expect("events").expect("events");

        let during = scrape(address).await;
        let grew =
            |name: &str, labels: &[(&str, &str)]| during.value(name, labels) - before.value(name, labels);
        let calls =
            |method: &str, code: &str| handled(&during, method, code) - handled(&before, method, code);
        for (method, code, expected) in [
            ("KV/Put", "OK", 3.0),
            ("KV/Put", "Unavailable", 0.0),
            ("KV/Range", "OK", 2.0),
            ("KV/DeleteRange", "OK", 1.0),
            ("KV/Compact", "OutOfRange", 1.0),
            ("KV/Compact", "OK", 0.0),
            ("Watch/Watch", "OK", 0.0),
            ("Watch/Watch", "Canceled", 0.0),
        ] {
            assert_eq!(calls(method, code), expected, "{program}: {method} {code}");
        }
        assert_eq!(
            grew("grpc_server_started_total", &[("grpc_service", "etcdserverpb.Watch")]),
            1.0,
            "{program}"
        );
        assert!(grew("grpc_server_msg_sent_total", &[("grpc_service", "etcdserverpb.Watch")]) >= 2.0);
        assert!(grew("etcd_network_client_grpc_received_bytes_total", &[]) > 60.0, "{program}");
        assert!(grew("etcd_network_client_grpc_sent_bytes_total", &[]) > 100.0, "{program}");
        if program == "proxy" {
            assert_eq!(grew("kubebrain_proxy_upstream_requests_total", &[("outcome", "failed")]), 1.0);
            assert!(grew("kubebrain_proxy_upstream_requests_total", &[("outcome", "answered")]) >= 6.0);
            assert!(during.value("kubebrain_proxy_group_revision", &[]) >= 5.0);
        } else {
            for (name, expected) in [
                ("etcd_mvcc_put_total", 3.0),
                ("etcd_mvcc_delete_total", 1.0),
                ("etcd_server_proposals_failed_total", 0.0),
            ] {
                assert_eq!(grew(name, &[]), expected, "{program}: {name}");
            }
            assert!(grew("etcd_mvcc_range_total", &[]) >= 2.0, "{program}");
            assert!(grew("etcd_server_proposals_committed_total", &[]) >= 4.0, "{program}");
            assert_eq!(during.value("etcd_server_proposals_pending", &[]), 0.0);
            assert!(grew("etcd_disk_wal_fsync_duration_seconds_count", &[]) >= 4.0, "{program}");
            assert!(grew("etcd_disk_backend_commit_duration_seconds_count", &[]) >= 4.0, "{program}");
            assert_eq!(during.value("etcd_debugging_mvcc_watcher_total", &[]), 1.0, "{program}");
            assert_eq!(during.value("etcd_debugging_mvcc_slow_watcher_total", &[]), 0.0, "{program}");
            assert!(grew("etcd_debugging_mvcc_events_total", &[]) >= 3.0, "{program}");
            assert_eq!(during.value("etcd_server_has_leader", &[]), 1.0);
            assert_eq!(during.value("etcd_server_quota_backend_bytes", &[]), (1 << 30) as f64);
            assert!(grew("etcd_mvcc_db_total_size_in_use_in_bytes", &[]) > 60.0, "{program}");
            assert!(during.value("etcd_mvcc_db_total_size_in_bytes", &[]) > 0.0);
        }
        if program != "brain" {
            assert_eq!(during.value("kubebrain_proxy_watchers", &[]), 1.0, "{program}");
            assert_eq!(during.value("kubebrain_proxy_watch_streams", &[]), 1.0, "{program}");
            assert_eq!(during.value("kubebrain_proxy_upstream_watch_streams", &[]), 1.0, "{program}");
        }

        // Given up by its client.
        drop((watch, client));
        becomes(address, "the end of the watch", |page| handled(page, "Watch/Watch", "Canceled") == 1.0)
            .await;
        if program != "proxy" {
            becomes(address, "no watcher", |page| {
                page.value("etcd_debugging_mvcc_watcher_total", &[]) == 0.0
            })
            .await;
        }
        if program != "brain" {
            becomes(address, "no watcher", |page| page.value("kubebrain_proxy_watchers", &[]) == 0.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_proxies_ask_is_not_counted_as_clients_requests() {
    let place = BINARY.place();
    let programs = Programs::start(&place).await;
    Client::new(programs.proxy.address()).put("/registry/pods/a", "x").await.expect("a put");
    let put = [("grpc_method", "Put"), ("grpc_code", "OK")];
    let brain = scrape(programs.brain.address()).await;
    assert_eq!(brain.value("kubebrain_peer_grpc_server_handled_total", &put), 1.0);
    assert_eq!(brain.value("grpc_server_handled_total", &put), 0.0);
    assert_eq!(brain.value("etcd_mvcc_put_total", &[]), 1.0);
    // Inside a standalone nothing is counted twice.
    Client::new(programs.standalone.address()).put("/registry/pods/a", "x").await.expect("a put");
    let standalone = scrape(programs.standalone.address()).await;
    assert_eq!(standalone.value("grpc_server_handled_total", &put), 1.0);
    assert_eq!(standalone.rows("kubebrain_peer_grpc_server_handled_total").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_that_is_gone_shows_in_its_proxys_numbers() {
    let place = BINARY.place();
    let Programs { brain, proxy, .. } = Programs::start(&place).await;
    let before = scrape(proxy.address()).await;
    assert_eq!(before.value("kubebrain_proxy_connections", &[("lane", "bulk"), ("state", "open")]), 1.0);
    drop(brain);
    Client::new(proxy.address()).get("/registry/pods/a").await.expect_err("nobody answers");
    let after = scrape(proxy.address()).await;
    let grew = |name: &str, labels: &[(&str, &str)]| after.value(name, labels) - before.value(name, labels);
    assert_eq!(after.value("kubebrain_proxy_connections", &[("lane", "bulk"), ("state", "open")]), 0.0);
    assert!(grew("kubebrain_proxy_upstream_requests_total", &[("outcome", "not_sent")]) > 2.0);
    assert!(grew("kubebrain_proxy_retries_total", &[]) > 2.0);
    assert_eq!(handled(&after, "KV/Range", "Unavailable") - handled(&before, "KV/Range", "Unavailable"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_methods_and_paths_make_no_rows() {
    let place = BINARY.place();
    let programs = Programs::start(&place).await;
    for (program, process) in programs.all() {
        let before = scrape(process.address()).await;
        let mut raw = Raw::connect(process.address()).await;
        for number in 0..20 {
            let path = format!("/made.up{number}/Method{number}");
            let answer = raw.call(&path, "application/grpc", wire::frame(b"")).await.expect("an answer");
            assert_eq!(answer.grpc.map(|(code, _)| code), Some(Code::Unimplemented as i32), "{program}");
        }
        assert_eq!(get(process.address(), "/metrics/more").await.0, 404, "{program}");
        let after = scrape(process.address()).await;
        assert_eq!(after.len(), before.len(), "{program}");
        let unknown = [("grpc_method", "unknown"), ("grpc_code", "Unimplemented")];
        assert_eq!(after.value("grpc_server_handled_total", &unknown), 20.0, "{program}");
        let answer =
            raw.call("/etcdserverpb.KV/Range", "application/grpc", Bytes::new()).await.expect("an answer");
        assert_ne!(answer.grpc.map(|(code, _)| code), Some(0), "{program}: a request without a message");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_are_warned_of_without_their_values_and_not_too_often() {
    let place = BINARY.place();
    let process = Start::standalone(&place).flag("warning-unary-request-duration", "0s").run().await;
    let client = Client::new(process.address());
    let began = std::time::Duration::from_secs(1);
    let clock = tokio::time::Instant::now();
    for number in 0..200 {
        client.put(&format!("/registry/secrets/{number}"), "confidential").await.expect("a put");
    }
    let seconds = (clock.elapsed() + began).as_secs() + 1;
    let log = process.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("a request took long")).collect();
    assert!(!lines.is_empty() && lines.len() as u64 <= 10 * seconds, "{} lines in {seconds} s", lines.len());
    let put = lines.iter().find(|line| line.contains("KV/Put")).expect("a put is slow, too");
    for part in ["WARN", "/registry/secrets/", "code=\"OK\"", "seconds=", "request_bytes="] {
        assert!(put.contains(part), "{part} in {put}");
    }
    assert!(!log.contains("confidential"), "values are nobody's business");

    let quiet = Start::brain(&place, "quiet").flag("warning-unary-request-duration", "1h");
    let quiet = quiet.flag("log-filter", "info,kubebrain_net=debug").run().await;
    Client::new(quiet.address()).put("/registry/pods/a", "x").await.expect("a put");
    let log = quiet.log();
    assert!(!log.contains("a request took long"), "{log}");
    let answered = log.lines().find(|line| line.contains("answered") && line.contains("KV/Put"));
    assert!(answered.is_some_and(|line| line.contains("DEBUG") && line.contains("code=\"OK\"")), "{log}");
}

/// Which programs show a metric, and what it is.
#[derive(Default)]
struct Line {
    kind: String,
    labels: String,
    help: String,
    programs: Vec<&'static str>,
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
const BEGIN: &str = "<!-- the table is compared with running servers; KUBEBRAIN_BLESS=1 writes it anew -->\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_lists_what_running_servers_show() {
    let place = BINARY.place();
    let programs = Programs::start(&place).await;
    let mut lines = BTreeMap::<String, Line>::new();
    for (program, process) in programs.all() {
        for (name, family) in scrape(process.address()).await.families {
            let line = lines.entry(name).or_default();
            let labels: Vec<_> = family.labels.into_iter().collect();
            (line.kind, line.labels, line.help) = (family.kind, labels.join(" "), family.help);
            line.programs.push(program);
        }
    }
    let mut table = "| metric | type | labels | shown by | meaning |\n|---|---|---|---|---|\n".to_owned();
    for (name, Line { kind, labels, help, programs }) in lines {
        let programs = if programs.len() == 3 { "all".to_owned() } else { programs.join(", ") };
        writeln!(table, "| `{name}` | {kind} | {labels} | {programs} | {help} |").expect("text");
    }
    let document = std::fs::read_to_string(DOCUMENT).expect("docs/metrics.md");
    let (text, found) = document.split_once(BEGIN).expect("docs/metrics.md has its mark");
    if std::env::var_os("KUBEBRAIN_BLESS").is_some() {
        std::fs::write(DOCUMENT, format!("{text}{BEGIN}{table}")).expect("docs/metrics.md");
        return;
    }
    let changed: Vec<_> = table.lines().filter(|line| !found.contains(line)).collect();
    let gone: Vec<_> = found.lines().filter(|line| !table.contains(line)).collect();
    assert!(
        found == table,
        "docs/metrics.md: missing {changed:#?}, nowhere to be seen {gone:#?}; KUBEBRAIN_BLESS=1"
    );
}
