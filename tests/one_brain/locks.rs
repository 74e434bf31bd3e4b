//! Locks of a brain that was killed in the middle of a commit stand in its successor's way, not for long.

use std::time::Duration;

use kubebrain_brain::rows::Layout;
use kubebrain_shared::group::GroupName;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::BINARY;
use kit::client::Client;
use kit::cluster::Cluster;
use kit::process::{Process, Start};
use kit::{full_tier, in_time, until};

/// Above what TiKV commits in one phase.
const VALUE_BYTES: usize = 40 << 10;
/// So long that the brain is dead before a delayed commit is carried out.
const FOR_EVER: Duration = Duration::from_secs(600);
/// No single takeover may take longer: a dead writer's locks live 3 s, and up to 20 s where it wrote megabytes.
const LONGEST: Duration = Duration::from_secs(45);
const MEDIAN_MAX: Duration = Duration::from_secs(5);

/// What was acknowledged, and what may be there.
#[derive(Default)]
struct Written {
    surely: Vec<String>,
    perhaps: Vec<String>,
}

/// Kills a brain that waits for its commit, every key locked; gives how its successor is started.
async fn kill_between_phases(
    cluster: &Cluster,
    mut brain: Process,
    round: usize,
    written: &mut Written,
) -> Start {
    cluster.delay("KvCommit", FOR_EVER).await;
    let (client, key) = (Client::new(brain.address()), format!("/between/{round}"));
    written.perhaps.push(key.clone());
    let asked = tokio::spawn(async move { client.put(&key, vec![b'x'; VALUE_BYTES]).await });
    until("locks", async || (cluster.locks().await.len() > 1).then_some(())).await;
    brain.kill().await;
    asked.await.expect("a client does not fail").expect_err("it was not committed");
    cluster.delay("", Duration::ZERO).await;
    assert!(!cluster.locks().await.is_empty(), "the dead brain has left no locks");
    brain.start()
}

/// Kills a brain at any moment while it commits one large write after the other.
async fn kill_at_any_moment(
    brain: Process,
    random: &mut SmallRng,
    round: usize,
    written: &mut Written,
) -> Start {
    let mut brain = brain;
    let mut clients = JoinSet::new();
    for writer in 0..3 {
        let client = Client::new(brain.address());
        clients.spawn(async move {
            let mut surely = Vec::new();
            for number in 0.. {
                let key = format!("/moment/{round}/{writer}/{number}");
                match client.put(&key, vec![b'x'; VALUE_BYTES]).await {
                    Ok(_) => surely.push(key),
                    Err(_) => return (surely, key),
                }
            }
            unreachable!("numbers do not end")
        });
    }
    sleep(Duration::from_millis(random.random_range(200..700))).await;
    brain.kill().await;
    for (surely, perhaps) in in_time("the clients' ends", clients.join_all()).await {
        written.surely.extend(surely);
        written.perhaps.push(perhaps);
    }
    brain.start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_gets_past_the_locks_of_a_killed_brain() {
    let Some(cluster) = Cluster::own().await else { return };
    let (seed, rounds) = (crate::seed(), if full_tier() { 20 } else { 4 });
    println!("KUBEBRAIN_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let place = BINARY.place();
    let mut brain = Start::brain(&place, "default").on_tikv(cluster.pd(), "locks/").run().await;
    let (mut written, mut took) = (Written::default(), Vec::new());
    for round in 0..rounds {
        let start = match round % 2 {
            0 => kill_between_phases(&cluster, brain, round, &mut written).await,
            _ => kill_at_any_moment(brain, &mut random, round, &mut written).await,
        };
        let (left, began) = (cluster.locks().await.len(), Instant::now());
        brain = start.run().await;
        let key = format!("/first/{round}");
        let client = Client::new(brain.address());
        until("a first write", async || client.put(&key, "x").await.ok()).await;
        let time = began.elapsed();
        println!("{left} locks, {:.2} s from the start to the first write", time.as_secs_f64());
        assert!(time < LONGEST, "{time:?}");
        written.surely.push(key);
        took.push(time);
    }
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!(
        "median {:.2} s, longest {:.2} s of {rounds}",
        median.as_secs_f64(),
        took[rounds - 1].as_secs_f64()
    );
    if full_tier() {
        assert!(median <= MEDIAN_MAX, "{took:?}");
    }

    let all = Client::new(brain.address()).list("/").await.expect("it serves");
    let found: Vec<_> = all.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    for key in &written.surely {
        assert!(found.contains(key), "{key} was acknowledged and is lost");
    }
    for key in &found {
        assert!(written.surely.contains(key) || written.perhaps.contains(key), "{key} was never written");
    }
    // Nobody needs them any more, and nothing stays behind that somebody could stumble over.
    until("no locks", async || cluster.locks().await.is_empty().then_some(())).await;
}

/// Both prewrites of a large batch are sent at once. Where the writer dies after the second one has arrived and before
/// the first one, a lock points to a primary key of which nobody ever heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_primary_was_never_written_is_no_obstacle() {
    let Some(cluster) = Cluster::own().await else { return };
    let (place, prefix) = (BINARY.place(), "orphan/");
    let mut brain = Start::brain(&place, "default").on_tikv(cluster.pd(), prefix).run().await;
    let client = Client::new(brain.address());
    let last = client.put("/a", "1").await.expect("a write");

    let group = GroupName::parse("default").expect("a name");
    let log = Layout::new(prefix.as_bytes(), &group).log_span(0).start;
    let log = &log[..log.len() - 8]; // without the number
    cluster.delay_prewrites(log, FOR_EVER).await;
    let asked = tokio::spawn(async move { client.put("/a", vec![b'x'; VALUE_BYTES]).await });
    until("a lock", async || (!cluster.locks().await.is_empty()).then_some(())).await;
    brain.kill().await;
    asked.await.expect("a client does not fail").expect_err("it was not committed");
    cluster.delay("", Duration::ZERO).await;
    let locks = cluster.locks().await;
    assert!(
        locks.iter().all(|lock| lock.starts_with("\"orphan/d/a")),
        "only the data row is locked: {locks:?}"
    );

    let began = Instant::now();
    let brain = brain.start().run().await;
    let client = Client::new(brain.address());
    let revision = in_time("a write", client.put("/a", "2")).await.expect("a write");
    assert!(revision > last && began.elapsed() < LONGEST, "{revision}, {:?}", began.elapsed());
    let found = client.get("/a").await.expect("a read");
    assert_eq!(
        (found.kvs[0].version, &found.kvs[0].value[..]),
        (2, &b"2"[..]),
        "the lost write did not happen"
    );
}
