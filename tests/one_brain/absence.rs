//! A brain whose storage is not there: not yet, not any more, another one, or one of another format.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_brain::rows::FORMAT;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::BINARY;
use kit::client::Client;
use kit::cluster::{Advertised, Cluster, Ports, free_port, prefix};
use kit::http1::get;
use kit::process::{Beginning, Process, Start};
use kit::{in_time, until};

const WRITERS: usize = 1000;
const VALUE_BYTES: usize = 4 << 10;
/// A brain answers within 7 s, as etcd; the rest is for a machine that has other things to do.
const ANSWERED_MAX: Duration = Duration::from_secs(15);
/// What the memory of a brain may grow by while everybody waits: their requests, and what is in flight.
const GROWTH_MAX: u64 = 160 << 20;

async fn says(brain: &mut Beginning, words: &[&str]) {
    let what = format!("{words:?} in its log");
    until(&what, async || {
        brain.must_run();
        let log = brain.log();
        words.iter().all(|word| log.contains(word)).then_some(())
    })
    .await;
}

async fn serves(brain: Beginning) -> Process {
    let brain = in_time("a brain", brain.serves()).await.expect("it has no reason to end");
    in_time("a write", Client::new(brain.address()).put("/a", "1")).await.expect("a write");
    brain
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_waits_for_a_cluster_that_is_not_there_yet() {
    waits("none").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_waits_for_a_cluster_that_is_not_there_yet() {
    waits("engine").await; // it has its ids from there, and is nobody's slave before
}

async fn waits(election: &str) {
    let Some(mut cluster) = Cluster::absent(Ports::free(), Advertised::default()) else { return };
    let place = BINARY.place();
    let address = format!("127.0.0.1:{}", free_port());
    let start = Start::brain(&place, "default").clients("http", &address).flag("election", election);
    let mut brain = start.on_tikv(cluster.pd(), "absence/").begins();
    says(&mut brain, &["PD at", cluster.pd()]).await;
    // Probes are told the same; a restart would not help, so it lives.
    let (status, body) = get(&address, "/readyz").await;
    assert!(status == 503 && body.contains("PD at") && body.contains(cluster.pd()), "{status} {body}");
    assert_eq!(get(&address, "/livez").await.0, 200);
    let began = Instant::now();
    let refused = Client::new(&address).put("/a", "0").await.expect_err("there is no store");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("not ready"), "{refused}");
    assert!(began.elapsed() < ANSWERED_MAX, "{:?}", began.elapsed());

    // A PD without any store has no region to give.
    cluster.start_pd().await;
    sleep(Duration::from_secs(2)).await;
    brain.must_run();
    cluster.start_store().await;
    let mut brain = serves(brain).await;

    // One that finds PD, and a store that is known and dead.
    brain.signal("TERM");
    assert!(brain.ended().await.success());
    cluster.kill_store();
    let mut again = brain.start().begins();
    says(&mut again, &["store"]).await;
    cluster.start_store().await;
    let again = serves(again).await;
    let found = Client::new(again.address()).get("/a").await.expect("a read");
    assert_eq!(found.kvs[0].version, 2, "both writes are there");
}

/// A thousand clients write at once; how each of them fared, and the highest memory meanwhile.
async fn wave(brain: &Process, number: usize) -> (Vec<(Result<i64, Status>, Duration)>, u64) {
    let value: Arc<[u8]> = vec![b'x'; VALUE_BYTES].into();
    let clients: Vec<_> = (0..20).map(|_| Client::new(brain.address())).collect();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (client, value) = (clients[writer % clients.len()].clone(), value.clone());
        writers.spawn(async move {
            let began = Instant::now();
            let outcome = client.put(&format!("/wave/{number}/{writer}"), value.to_vec()).await;
            (outcome, began.elapsed())
        });
    }
    let (mut outcomes, mut highest) = (Vec::new(), 0);
    while let Some(outcome) = in_time("an answer", writers.join_next()).await {
        outcomes.push(outcome.expect("a writer does not fail"));
        if outcomes.len() % 50 == 1 {
            highest = highest.max(brain.resident_bytes());
        }
    }
    (outcomes, highest)
}

/// Waves while something is away: everybody is told in time, with a code on which nobody repeats a write.
async fn nobody_is_served(brain: &mut Process, waves: usize) {
    let before = brain.resident_bytes();
    for number in 0..waves {
        let (outcomes, highest) = wave(brain, number).await;
        for (outcome, took) in &outcomes {
            let error = outcome.as_ref().expect_err("nothing can be stored");
            let fits = match error.code() {
                Code::Unavailable => error.message() == "etcdserver: request timed out",
                // The queue is full: surely not done.
                Code::ResourceExhausted => error.message() == "etcdserver: too many requests",
                _ => false,
            };
            assert!(fits, "{error:?}");
            assert!(*took < ANSWERED_MAX, "{took:?}");
        }
        let timed_out = outcomes
            .iter()
            .filter(|(outcome, _)| matches!(outcome, Err(error) if error.code() == Code::Unavailable));
        let (count, slowest) =
            (timed_out.count(), outcomes.iter().map(|(_, took)| *took).max().unwrap_or_default());
        println!(
            "{count} of {WRITERS} timed out, the slowest answer came after {:.1} s, memory {} -> {} MiB",
            slowest.as_secs_f64(),
            before >> 20,
            highest >> 20
        );
        assert!(highest < before + GROWTH_MAX, "{before} -> {highest} bytes");
        brain.must_run();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_brain_without_storage_are_told_in_time() {
    let Some(mut cluster) = Cluster::own().await else { return };
    let place = BINARY.place();
    // It is the only one, and waits: with an election it steps down, and clients are told that there is no master.
    let start = Start::brain(&place, "default").flag("election", "none");
    let mut brain = start.on_tikv(cluster.pd(), "lost/").run().await;
    let client = Client::new(brain.address());
    let last = client.put("/before", "1").await.expect("a write");

    cluster.kill_store();
    nobody_is_served(&mut brain, 2).await;
    cluster.start_store().await;
    until("a write", async || client.put("/between", "2").await.ok()).await;

    cluster.kill_pd();
    nobody_is_served(&mut brain, 1).await;
    cluster.start_pd().await;
    let revision = until("a write", async || client.put("/after", "3").await.ok()).await;
    brain.must_run();
    assert!(revision > last);
    for key in ["/before", "/between", "/after"] {
        let found = in_time("a read", client.get(key)).await.expect("a read");
        assert_eq!(found.kvs.len(), 1, "{key} is there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_under_the_same_address_is_not_used() {
    let Some(mut cluster) = Cluster::own().await else { return };
    let place = BINARY.place();
    let mut brain = Start::brain(&place, "default").on_tikv(cluster.pd(), "other/").run().await;
    let client = Client::new(brain.address());
    client.put("/a", "1").await.expect("a write");
    cluster.kill_store();
    cluster.kill_pd();
    cluster.wipe();
    cluster.start_pd().await;
    cluster.start_store().await;

    // Whatever it does, it does not go on as if nothing had happened.
    let end = Instant::now() + Duration::from_secs(40);
    let status = loop {
        if let Ok(revision) = in_time("an answer", client.put("/a", "2")).await {
            panic!("a write was acknowledged at {revision} by a cluster that never had the ones before");
        }
        if brain.has_ended() {
            break brain.ended().await;
        }
        assert!(Instant::now() < end, "it has noticed nothing:\n{}", brain.log());
        sleep(Duration::from_millis(200)).await;
    };
    assert!(!status.success(), "{status}");
    let log = brain.log();
    let last: Vec<_> = log.lines().rev().take(3).collect();
    assert!(last.iter().any(|line| line.contains("another cluster")), "{last:#?}");
    // A new process, asked to use it, finds an empty store.
    let brain = brain.start().run().await;
    let found = Client::new(brain.address()).list("/").await.expect("a read");
    assert!(found.kvs.is_empty(), "{found:?}");
}

/// While PD starts it answers, and says that it is of cluster 0. The brain asks often then: it has lost its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pd_that_starts_again_is_no_other_cluster() {
    let Some(mut cluster) = Cluster::own().await else { return };
    let place = BINARY.place();
    let mut brain = Start::brain(&place, "default").on_tikv(cluster.pd(), "again/").run().await;
    let client = Client::new(brain.address());
    for round in 0..4 {
        cluster.kill_pd();
        sleep(Duration::from_millis(2300)).await; // after that connections are made anew
        cluster.start_pd().await;
        until("a write", async || {
            brain.must_run();
            client.put("/a", format!("{round}")).await.ok()
        })
        .await;
    }
    assert!(!brain.log().contains("cluster 0"), "{}", brain.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_format_is_refused() {
    let Some(cluster) = Cluster::any().await else { return };
    let (place, prefix) = (BINARY.place(), prefix("format"));
    crate::rows::put_format(cluster.pd(), &prefix, FORMAT + 1).await;
    let failure = Start::brain(&place, "default").on_tikv(cluster.pd(), &prefix).fails().await;
    for word in [&format!("format {}", FORMAT + 1), "use the version that wrote it"] {
        assert!(failure.message.contains(word), "{word:?}: {failure:?}");
    }
}
