//! A group whose election is in a Lease of a Kubernetes cluster.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::BINARY;
use kit::apiserver::ApiServer;
use kit::client::Client;
use kit::cluster::{Cluster, prefix};
use kit::process::{Place, Process, Start};
use kit::{in_time, until};

const LEASE: &str = "kubebrain-test";
/// Longer than a busy machine's API server takes for a call.
const RENEW_DEADLINE: Duration = Duration::from_secs(5);

fn start(place: &Place, name: &str, cluster: &Cluster, kubeconfig: &Path, prefix: &str) -> Start {
    let kubeconfig = kubeconfig.to_str().expect("UTF-8");
    let start = Start::brain(place, "default").flag("name", name).flag("election", "kubernetes");
    let start = start.flag("election-kubeconfig", kubeconfig).flag("election-lease-name", LEASE);
    let start = start.flag("election-lease-duration", "7s").flag("election-retry-period", "500ms");
    start.flag("election-renew-deadline", "5s").on_tikv(cluster.pd(), prefix)
}

fn holder(server: &ApiServer) -> String {
    let path = "jsonpath={.spec.holderIdentity}";
    server.kubectl(&["get", "lease", LEASE, "--namespace=default", "-o", path], "").expect("a lease")
}

async fn written(client: &Client, key: &str) {
    until("a write", async || client.put(key, "x").await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_another_cluster_elects_the_master() {
    let Some(cluster) = Cluster::any().await else { return };
    let Some(mut server) = ApiServer::start().await else { return };
    let prefix = prefix("lease");
    let (one, two) = (BINARY.place(), BINARY.place());
    let (admin, pd) = (server.kubeconfig("admin"), &cluster);
    let mut first = start(&one, "first", pd, &admin, &prefix).run().await;
    let second = start(&two, "second", pd, &admin, &prefix).run().await;
    let client = Client::new(second.address());
    written(&client, "/a").await; // through the first one
    assert!(holder(&server).starts_with("first_"), "{}", holder(&server));
    let table = server.kubectl(&["get", "leases", "--namespace=default", "-o", "yaml"], "").expect("a lease");
    println!("{table}");
    assert!(table.contains("kubebrain.io/peer-urls: http://127.0.0.1:"), "{table}");
    assert!(!second.log().contains("master at"), "one master: {}", second.log());

    // The other one takes over when the master is gone.
    let began = Instant::now();
    first.kill().await;
    written(&client, "/b").await;
    println!("kill -9 of the master: {:.1} s to a write", began.elapsed().as_secs_f64());
    assert!(holder(&server).starts_with("second_"), "{}", holder(&server));
    let first = first.start().run().await;

    // And at once when it leaves: the lease is released, not run out.
    let began = Instant::now();
    let mut leaving = second;
    leaving.signal("TERM");
    assert!(in_time("its end", leaving.ended()).await.success(), "{}", leaving.log());
    let client = Client::new(first.address());
    written(&client, "/c").await;
    let took = began.elapsed();
    println!("SIGTERM to the master: {:.1} s to a write", took.as_secs_f64());
    assert!(holder(&server).starts_with("first_"), "{}", holder(&server));

    // Without the API server the right to be master runs out, and comes back with it.
    let began = Instant::now();
    server.kill();
    until("it steps down", async || first.log().contains("no longer master").then_some(())).await;
    let took = began.elapsed();
    println!("no API server: it stepped down after {:.1} s", took.as_secs_f64());
    assert!(took > RENEW_DEADLINE / 2, "one failed renewal is nothing: {took:?}");
    in_time("an answer", client.put("/nobody", "x")).await.expect_err("there is no master");
    server.restart().await;
    written(&client, "/d").await;
    for key in ["/a", "/b", "/c", "/d"] {
        assert_eq!(in_time("a read", client.get(key)).await.expect("a read").kvs.len(), 1, "{key}");
    }
    assert!(client.get("/nobody").await.expect("a read").kvs.is_empty());
    must_not_have_failed(&[&first, &leaving]);
}

fn must_not_have_failed(brains: &[&Process]) {
    for brain in brains {
        assert!(!brain.log().contains("ERROR"), "{}", brain.log());
    }
}

/// What cannot work is said at once, in words that name the flag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_that_cannot_work_are_refused_by_table() {
    let place = BINARY.place();
    let config = place.file("kubeconfig", "apiVersion: v1\nkind: Config\nclusters: 7\n");
    let config = config.to_str().expect("UTF-8");
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let rows: [Row; 9] = [
        (
            &[("election", "kubernetes"), ("election-kubeconfig", "/nowhere")],
            &["--election-kubeconfig", "/nowhere"],
        ),
        (&[("election", "kubernetes"), ("election-kubeconfig", config)], &["--election-kubeconfig", config]),
        (&[("election", "kubernetes")], &["--election-kubeconfig", "pod with a service account"]),
        (
            &[("election", "kubernetes"), ("election-namespace", "Not/One")],
            &["--election-namespace", "Not/One"],
        ),
        (
            &[("election", "kubernetes"), ("election-lease-name", "under_score")],
            &["--election-lease-name", "under_score"],
        ),
        (&[("election-namespace", "a")], &["--election-namespace goes with --election=kubernetes"]),
        (
            &[("election", "none"), ("election-kubeconfig", config)],
            &["--election-kubeconfig goes with --election=kubernetes"],
        ),
        (&[("election", "none"), ("read-fence", "lease")], &["--read-fence=lease", "--election=engine"]),
        (
            &[("election-lease-duration", "1s"), ("election-renew-deadline", "2s")],
            &["--election-lease-duration", "longer than the deadline"],
        ),
    ];
    for (flags, words) in rows {
        let start = Start::brain(&place, "default").on_tikv("127.0.0.1:1", "flags/");
        let start = flags.iter().fold(start, |start, (name, value)| start.flag(name, value));
        let failure = start.fails().await;
        for word in words {
            assert!(failure.message.contains(word), "{flags:?}: {word:?} is not in {}", failure.message);
        }
    }
    let embedded = [("election", "kubernetes"), ("election", "engine"), ("read-fence", "lease")];
    for (name, value) in embedded {
        let failure = Start::brain(&place, "default").flag(name, value).fails().await;
        assert!(failure.message.contains(&format!("--{name}={value}")), "{}", failure.message);
    }
    let failure = Start::standalone(&place).flag("read-fence", "lease").fails().await;
    assert!(failure.message.contains("--read-fence=lease"), "{}", failure.message);
}

/// Without a flag a second brain on the same store follows it: it does not end the first one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_brain_without_flags_stands_by() {
    let Some(cluster) = Cluster::any().await else { return };
    let prefix = prefix("second");
    let (one, two) = (BINARY.place(), BINARY.place());
    let start = |place: &Place, name: &str| {
        Start::brain(place, "default").flag("name", name).on_tikv(cluster.pd(), &prefix)
    };
    let mut first = start(&one, "first").run().await;
    let second = start(&two, "second").run().await;
    written(&Client::new(second.address()), "/a").await;
    assert!(
        second.log().contains("this one follows it") && !second.log().contains("master at"),
        "{}",
        second.log()
    );
    first.must_run();
    first.kill().await;
    written(&Client::new(second.address()), "/b").await;
    must_not_have_failed(&[&second]);
}

/// Reads by the master lease: fresh through a change of masters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_answers_by_its_lease_is_followed_without_an_old_answer() {
    let Some(cluster) = Cluster::any().await else { return };
    let prefix = prefix("by-lease");
    let (one, two) = (BINARY.place(), BINARY.place());
    let start = |place: &Place, name: &str| {
        let start = Start::brain(place, "default").flag("name", name).flag("read-fence", "lease");
        start.on_tikv(cluster.pd(), &prefix)
    };
    let first = start(&one, "first").run().await;
    let second = start(&two, "second").run().await;
    let (ours, theirs) = (Client::new(first.address()), Client::new(second.address()));
    for round in 0..50 {
        let client = if round % 2 == 0 { &ours } else { &theirs };
        let wrote = client.put("/k", round.to_string()).await.expect("a write");
        let found = ours.get("/k").await.expect("a read");
        assert_eq!(found.kvs[0].mod_revision, wrote);
    }
    // Asleep for longer than its lease, it wakes up and is asked at once.
    first.signal("STOP");
    let wrote = until("a write", async || theirs.put("/k", "newer").await.ok()).await;
    first.signal("CONT");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        if let Ok(found) = in_time("an answer", ours.get("/k")).await {
            assert!(found.kvs[0].mod_revision >= wrote, "an answer from its past: {found:?}");
        }
    }
    until("it follows", async || ours.get("/k").await.ok()).await;
}
