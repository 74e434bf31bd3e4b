//! Few file descriptors and many connections.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::BINARY;
use kit::client::Client;
use kit::http1::get;
use kit::process::{Process, Start};
use kit::{in_time, until};

/// Hard and soft.
const LIMIT: usize = 256;
/// More than the process may open.
const IDLE: usize = 400;

/// A store that writes tables all the time, with more idle connections than it has descriptors: clients that are there
/// go on, probes are answered, nothing is judged broken; and who waits is served when some leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_take_nothing_from_the_store() {
    let place = BINARY.place();
    let start = Start::standalone(&place).flag("memtable-bytes", "65536").limited(LIMIT);
    let mut server = start.flag("listen-metrics-urls", "http://127.0.0.1:0").run().await;
    let client = Client::new(server.address());
    client.put("/registry/pods/before", "x").await.expect("a put");
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        // The kernel takes those that the process does not.
        idle.push(in_time("a connection", TcpStream::connect(server.address())).await.expect("it is taken"));
    }
    sleep(Duration::from_millis(500)).await;
    let value = "x".repeat(16 << 10);
    for number in 0..60 {
        client.put(&format!("/registry/pods/{number:03}"), value.clone()).await.expect("a put");
    }
    assert_eq!(client.list("/registry/pods/").await.expect("a list").kvs.len(), 61);
    server.must_run();
    let (status, page) = in_time("a probe", get(server.probe_address(), "/metrics")).await;
    assert_eq!(status, 200);
    let number = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}")).parse::<f64>().expect("a number")
    };
    assert!(number("kubebrain_connections") <= number("kubebrain_connections_max"));
    assert!(number("kubebrain_connections_held_back_total") >= 1.0);
    assert!(number("process_open_fds") < number("process_max_fds"), "some are left");
    let newcomer = Client::new(server.address());
    let late = newcomer.put("/registry/pods/late", "x");
    let mut late = std::pin::pin!(late);
    assert!(timeout(Duration::from_millis(300), late.as_mut()).await.is_err(), "there is no room for it yet");
    drop(idle);
    in_time("one that waited", late).await.expect("a put");
    let log = server.log();
    assert_eq!(log.matches("no more connections are accepted until some end").count(), 1, "{log}");
    assert!(log.contains("connections are accepted again"), "{log}");
    let server = server.restart().await;
    let all = Client::new(server.address()).list("/registry/pods/").await.expect("a list");
    assert_eq!(all.kvs.len(), 62);
}

/// Not one descriptor is left for a while, whoever took them: what opens a file waits, and nothing is judged broken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_descriptors_waits_for_them() {
    let place = BINARY.place();
    let mut server = Start::standalone(&place).flag("memtable-bytes", "65536").run().await;
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw);
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(8), maximum: hard(&server) });
    let before = before.expect("a soft limit of ours");
    let client = Client::new(server.address());
    let newcomer = tokio::spawn(async move { client.put("/registry/pods/newcomer", "x").await });
    sleep(Duration::from_millis(300)).await;
    assert!(!newcomer.is_finished(), "its connection waits");
    prlimit(pid, Resource::Nofile, before).expect("as before");
    in_time("one that waited", newcomer).await.expect("no panic").expect("a put");

    // The same with a client that is there already, until a table has to be written.
    let client = Client::new(server.address());
    client.put("/registry/pods/first", "x").await.expect("a put");
    let lowered = Rlimit { current: Some(8), maximum: before.maximum };
    prlimit(pid, Resource::Nofile, lowered).expect("a soft limit of ours");
    let writing = client.clone();
    let writer = tokio::spawn(async move {
        let value = "x".repeat(16 << 10);
        for number in 0..100 {
            writing.put(&format!("/registry/pods/{number:03}"), value.clone()).await?;
        }
        Ok::<(), tonic::Status>(())
    });
    until("the store waits", async || {
        server.log().contains("waits, the system has no file descriptors").then_some(())
    })
    .await;
    client.get("/registry/pods/first").await.expect("reads go on");
    server.must_run();
    prlimit(pid, Resource::Nofile, before).expect("as before");
    in_time("the writes", writer).await.expect("no panic").expect("they all went on");
    server.must_run();
    let log = server.log();
    assert_eq!(log.matches("connections cannot be accepted now").count(), 1, "{log}");
    let waits = log.matches("waits, the system has no file descriptors").count();
    assert!((1..=4).contains(&waits), "a line for each that waits, not for each try:\n{log}");
    assert!(log.contains(" goes on"), "{log}");
    let server = server.restart().await;
    let all = Client::new(server.address()).list("/registry/pods/").await.expect("a list");
    assert_eq!(all.kvs.len(), 102);
}

fn hard(server: &Process) -> Option<u64> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.expect("a pid").as_raw_nonzero()));
    let limits = limits.expect("a process has limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is among them");
    line.split_whitespace().filter_map(|word| word.parse().ok()).nth(1)
}

/// The soft limit alone bounds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_soft_limit_is_raised_and_too_few_are_refused() {
    let place = BINARY.place();
    let server = Start::standalone(&place).limited_softly(64).run().await;
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("a process has limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("it is among them");
    let numbers: Vec<_> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert_ne!(numbers[0], "64", "{line}");
    drop(server);
    let failure = Start::standalone(&place).limited(100).fails().await;
    assert!(failure.message.contains("only 100 files may be open"), "{failure:?}");
}
