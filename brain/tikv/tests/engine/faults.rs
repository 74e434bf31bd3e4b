//! What happens to the engine when something happens to TiKV. The ones that break a cluster have one of their own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::engine::{Batch, CommitError, Engine, ReadError, Refusal, Span};
use kubebrain_brain_tikv::{Config, Tikv};
use tikv_client::{CheckLevel, TransactionClient, TransactionOptions};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Cluster, Ports, Prefixed, Relay, own, own_behind};

type Store = Arc<Prefixed<Tikv>>;

async fn get(engine: &Store, key: &str) -> Result<Option<Bytes>, ReadError> {
    engine.snapshot().await?.get(key.as_bytes()).await
}

fn claim(key: &str, value: &str) -> Batch {
    Batch::new().absent(key.to_owned()).put(key.to_owned(), value.to_owned()).clone()
}

/// As a group's writer does: the batch again until its outcome is known.
async fn settle(engine: &Store, batch: Batch, key: &str, value: &str) -> bool {
    loop {
        match engine.commit(batch.clone()).await {
            Ok(()) => return true,
            Err(CommitError::Conflict { .. }) => {
                if let Ok(found) = get(engine, key).await {
                    return found.is_some_and(|found| found == value);
                }
            }
            Err(CommitError::Unknown(_) | CommitError::Refused(Refusal::Unavailable(_))) => {}
            Err(error) => panic!("{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a read succeeds; how long that took.
async fn recovered(engine: &Store) -> Duration {
    let began = Instant::now();
    while get(engine, "any").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", engine.waits_for());
    }
    began.elapsed()
}

/// Deadlines below what a test should take.
fn quick(cluster: &Cluster) -> Config {
    Config {
        commit_deadline: Duration::from_secs(4),
        read_deadline: Duration::from_secs(4),
        request_timeout: Duration::from_millis(500),
        ..cluster.config()
    }
}

/// Requests go through and answers do not: what was said of each batch is true in the end.
async fn outcomes_are_honest(one_phase: bool) {
    let ports = Ports::free();
    let front = Ports::free().store;
    let Some(cluster) = own_behind(ports, front).await else { return };
    let relay = Relay::start(front, ports.store).await;
    let commit_deadline = Duration::from_millis(600); // the client tries on for longer
    let engine = cluster.open_with("lost", Config { one_phase, commit_deadline, ..quick(&cluster) }).await;
    recovered(&engine).await;
    let mut claims = JoinSet::new();
    for number in 0..40 {
        let engine = engine.clone();
        claims.spawn(async move {
            sleep(Duration::from_millis(120 * number)).await;
            let mut outcomes = Vec::new();
            for rival in ["left", "right"] {
                let mut batch = claim(&format!("k{number}"), rival);
                batch.put(format!("k{number}/{rival}"), "1");
                outcomes.push((rival, engine.commit(batch).await));
            }
            (number, outcomes)
        });
    }
    for _ in 0..4 {
        sleep(Duration::from_millis(300)).await;
        relay.lose(Duration::from_secs(1)).await;
    }
    assert!(relay.lost.load(Ordering::Relaxed) > 0, "no answer was lost");
    let (mut done, mut unknown) = (0, 0);
    let mut said = Vec::new();
    while let Some(claim) = claims.join_next().await {
        said.push(claim.expect("no panic"));
    }
    // What is still on its way has come by then, and locks are too old to matter.
    sleep(Duration::from_secs(4)).await;
    for (number, outcomes) in said {
        let winner = get(&engine, &format!("k{number}")).await.expect("all is well");
        for (rival, outcome) in outcomes {
            let own = get(&engine, &format!("k{number}/{rival}")).await.expect("all is well").is_some();
            let won = winner.as_ref().is_some_and(|winner| winner == rival);
            assert_eq!(own, won, "batch {number} {rival} in part");
            match outcome {
                Ok(()) => {
                    assert!(won, "batch {number} {rival} was answered and is not there");
                    done += 1;
                }
                Err(CommitError::Conflict { .. } | CommitError::Refused(_)) => {
                    assert!(!won, "batch {number} {rival} surely did nothing and is there");
                }
                Err(CommitError::Unknown(_)) => unknown += 1,
            }
        }
    }
    println!("{done} done, {unknown} unknown");
    assert!(done > 0 && unknown > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_honest_when_answers_are_lost_in_one_phase() {
    outcomes_are_honest(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_honest_when_answers_are_lost_in_two_phases() {
    outcomes_are_honest(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_is_waited_for_and_named() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let engine = cluster.open_with("killed", quick(&cluster)).await;
    assert!(settle(&engine, claim("before", "1"), "before", "1").await);
    let writing = engine.clone();
    let writer = tokio::spawn(async move {
        for number in 0..200 {
            let key = format!("n{number:03}");
            assert!(settle(&writing, claim(&key, "1"), &key, "1").await, "nobody else claims {key}");
        }
    });
    sleep(Duration::from_millis(100)).await;
    cluster.kill("store").await;
    let refused = get(&engine, "before").await;
    assert!(matches!(refused, Err(ReadError::Unavailable(_))), "{refused:?}");
    let waits = engine.waits_for().expect("it is dead");
    assert!(waits.starts_with("a TiKV store does not answer since "), "{waits}");
    cluster.up().await;
    println!("read again {:?} after the store was up", recovered(&engine).await);
    writer.await.expect("every claim was won");
    assert_eq!(get(&engine, "before").await.expect("it answers"), Some("1".into()));
    assert_eq!(engine.waits_for(), None);
    let rows = engine.snapshot().await.expect("it answers").scan(Span::new("n", "o"), 1000).await;
    assert_eq!(rows.expect("it answers").rows.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placement_driver_that_is_killed_is_waited_for_and_named() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let engine = cluster.open_with("pd", quick(&cluster)).await;
    assert!(settle(&engine, claim("before", "1"), "before", "1").await);
    let held = engine.snapshot().await.expect("it answers");
    cluster.kill("pd").await;
    assert_eq!(held.get(b"before").await.expect("stores are there"), Some("1".into()));
    let refused = engine.commit(claim("during", "1")).await;
    assert!(matches!(refused, Err(CommitError::Refused(Refusal::Unavailable(_)))), "{refused:?}");
    let waits = engine.waits_for().expect("it is dead");
    assert!(waits.starts_with(&format!("PD at {} does not answer since ", cluster.pd[0])), "{waits}");
    cluster.up().await;
    println!("read again {:?} after PD was up", recovered(&engine).await);
    assert_eq!(get(&engine, "during").await.expect("it answers"), None, "surely not done");
    assert!(settle(&engine, claim("after", "1"), "after", "1").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_not_followed_to_another_cluster() {
    let ports = Ports::free();
    let Some(cluster) = own(ports).await else { return };
    let engine = cluster.open_with("foreign", quick(&cluster)).await;
    assert!(settle(&engine, claim("mine", "1"), "mine", "1").await);
    cluster.kill("pd").await;
    cluster.kill("store").await;
    let other = own(ports).await.expect("there was one");
    let began = Instant::now();
    let refused = loop {
        let outcome = engine.commit(claim("strayed", "1")).await;
        if matches!(outcome, Err(CommitError::Refused(Refusal::Stopped(_)))) {
            break outcome;
        }
        assert!(outcome.is_err(), "committed in another cluster");
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", engine.waits_for());
    };
    println!("{refused:?} after {:?}", began.elapsed());
    assert!(matches!(get(&engine, "mine").await, Err(ReadError::Failed(_))));
    assert!(engine.waits_for().expect("for ever").contains("now serves cluster"));
    let strange = Tikv::open(other.config()).expect("a good configuration");
    let view = strange.snapshot().await.expect("it answers");
    let rows = view.scan(Span::new(cluster.prefix(""), "u"), 10).await.expect("it answers").rows;
    assert_eq!(rows, [], "something was written to another cluster");
}

/// A writer dies between its two phases. Who reads or writes its keys next gets through when its locks are old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_of_a_dead_writer_are_outlived() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let engine = cluster.open("locks").await;
    assert!(settle(&engine, claim("a", "1"), "a", "1").await);
    for (round, write) in [(1, false), (2, true)] {
        cluster.ask("/delay?ms=60000&call=KvCommit").await;
        // In a runtime of its own: what a client has begun goes on when its caller is gone, and dies with that.
        let dying = Runtime::new().expect("a runtime");
        let (pd, prefix) = (cluster.pd.clone(), cluster.prefix("locks"));
        dying.spawn(async move {
            let client = TransactionClient::new(pd).await.expect("it answers");
            let options = TransactionOptions::new_optimistic().drop_check(CheckLevel::None);
            let mut dead = client.begin_with_options(options).await.expect("it answers");
            for key in ["log", "a", "b"] {
                dead.put([&prefix[..], key.as_bytes()].concat(), "2").await.expect("buffered");
            }
            dead.commit().await
        });
        while !cluster.ask("/locks").await.contains("locks/log") {
            sleep(Duration::from_millis(10)).await;
        }
        dying.shutdown_background();
        cluster.ask("/delay?ms=0&call=").await;
        let began = Instant::now();
        if write {
            let mut batch = Batch::new();
            batch.absent("log").equals("a", "1").put("log", "3").put("a", "1");
            engine.commit(batch).await.expect("the locks are outlived");
        } else {
            assert_eq!(get(&engine, "a").await.expect("the lock is outlived"), Some("1".into()));
            let page = engine.snapshot().await.expect("it answers").scan(Span::ALL, 10).await;
            assert_eq!(page.expect("the locks are outlived").rows, [("a".into(), Bytes::from("1"))]);
        }
        println!("round {round}: through after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(began.elapsed() > Duration::from_secs(2), "a lock that is alive was taken away");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_stores_and_wandering_leaders_are_tried_again() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let engine = cluster.open("busy").await;
    assert!(settle(&engine, claim("a", "1"), "a", "1").await);
    for fault in ["/busy?n=5", "/notleader?n=5"] {
        cluster.ask(fault).await;
        assert_eq!(get(&engine, "a").await.expect("tried again"), Some("1".into()), "{fault}");
        cluster.ask(fault).await;
        assert!(settle(&engine, claim(fault, "1"), fault, "1").await);
    }
}

/// A process that has nothing to do still knows whether it could do something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_dies_while_nobody_asks_is_noticed() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let engine = cluster.open_with("idle", quick(&cluster)).await;
    assert!(settle(&engine, claim("a", "1"), "a", "1").await);
    cluster.kill("store").await;
    let began = Instant::now();
    while engine.waits_for().is_none() {
        assert!(began.elapsed() < Duration::from_secs(15), "nothing is said");
        sleep(Duration::from_millis(50)).await;
    }
    cluster.up().await;
    let began = Instant::now();
    while engine.waits_for().is_some() {
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", engine.waits_for());
        sleep(Duration::from_millis(50)).await;
    }
}

/// A commit that waits for a slow store is answered in time, and its batch happens whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_hold_while_a_store_hangs() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let config = Config {
        read_deadline: Duration::from_secs(2),
        commit_deadline: Duration::from_secs(2),
        ..cluster.config()
    };
    let engine = cluster.open_with("hangs", config).await;
    assert!(settle(&engine, claim("a", "1"), "a", "1").await);
    cluster.ask("/delay?ms=30000&call=").await;
    let began = Instant::now();
    let outcome = engine.commit(claim("b", "1")).await;
    assert!(matches!(outcome, Err(CommitError::Unknown(_))), "{outcome:?}");
    assert!(matches!(get(&engine, "a").await, Err(ReadError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    cluster.ask("/delay?ms=0&call=").await;
    assert!(settle(&engine, claim("b", "1"), "b", "1").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_everything_fails_in_time_and_says_why() {
    let config = Config {
        read_deadline: Duration::from_secs(2),
        commit_deadline: Duration::from_secs(2),
        ..Config::new(["127.0.0.1:1"])
    };
    let engine = Tikv::open(config).expect("a good configuration");
    let refused = timeout(Duration::from_secs(4), engine.commit(claim("a", "1"))).await.expect("in time");
    let Err(CommitError::Refused(Refusal::Unavailable(cause))) = refused else { panic!("{refused:?}") };
    assert!(cause.to_string().starts_with("PD at 127.0.0.1:1 does not answer since "), "{cause}");
    assert!(matches!(engine.snapshot().await, Err(ReadError::Unavailable(_))));
}
