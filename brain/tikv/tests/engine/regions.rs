//! Many regions, and regions that change; and snapshots that grow old.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::engine::{Batch, CommitError, Engine, ReadError, Span};
use kubebrain_brain_tikv::{Config, Gc, Tikv};
use tokio::time::{Instant, sleep};

use crate::support::{Ports, Prefixed, own, shared};

const ROWS: usize = 400;

async fn fill(engine: &Prefixed<Tikv>) {
    let mut batch = Batch::new();
    for row in 0..ROWS {
        batch.put(format!("r{row:03}"), format!("{row}"));
    }
    engine.commit(batch).await.expect("rows");
}

async fn read_all(engine: &Prefixed<Tikv>, limit: usize) -> Vec<Bytes> {
    let view = engine.snapshot().await.expect("snapshot");
    let mut span = Span::ALL;
    let mut keys = Vec::new();
    loop {
        let page = view.scan(span.clone(), limit).await.expect("scan");
        keys.extend(page.rows.into_iter().map(|(key, _)| key));
        let Some(next) = page.next else { return keys };
        span.start = next;
    }
}

fn calls(answer: &str) -> u64 {
    let count = answer.split("\"KvScan\":").nth(1).unwrap_or("0");
    count.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a count")
}

/// A client that is asked for a limit asks each region for it; cut at regions, a short page asks one or two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_asks_the_regions_that_it_needs() {
    let Some(cluster) = own(Ports::free()).await else { return };
    fill(&*cluster.open("pages").await).await;
    for region in 1..20 {
        cluster.split("pages", &[&format!("r{:03}", region * 20)]).await;
    }
    let engine = cluster.open("pages").await;
    let before = calls(&cluster.ask("/calls").await);
    let view = engine.snapshot().await.expect("snapshot");
    let page = view.scan(Span::ALL, 10).await.expect("scan");
    assert_eq!(page.rows.len(), 10);
    let asked = calls(&cluster.ask("/calls").await) - before;
    assert!(asked <= 2, "{asked} scans for ten rows of the first region");
    for limit in [7, 20, 64, usize::MAX] {
        let keys = read_all(&engine, limit).await;
        assert_eq!(keys.len(), ROWS, "limit {limit}");
        assert!(keys.is_sorted());
    }
    let cuts = engine.partitions(&Span::from("r100")).await.expect("cuts");
    let expected: Vec<Bytes> = (6..20).map(|region| format!("r{:03}", region * 20).into()).collect();
    assert_eq!(cuts, expected);
}

/// Regions are split while pages are read and batches of far keys are committed: nothing is lost, no batch is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splits_under_scans_and_batches_lose_nothing() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let engine = cluster.open("splits").await;
    fill(&engine).await;
    let ended = Arc::new(AtomicBool::new(false));
    let (writing, stop) = (engine.clone(), ended.clone());
    let writer = tokio::spawn(async move {
        let mut rounds = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            rounds += 1;
            let mut batch = Batch::new();
            batch.absent(format!("a{rounds:05}"));
            for key in ["a", "m", "z"] {
                batch.put(format!("{key}{rounds:05}"), "1");
            }
            match writing.commit(batch).await {
                Ok(()) | Err(CommitError::Unknown(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        rounds
    });
    for region in 0..40 {
        let key = ["a", "m", "r", "z"][region % 4];
        cluster.split("splits", &[&format!("{key}{:03}", region * 9)]).await;
        let keys = read_all(&engine, 50).await;
        let rows = keys.iter().filter(|key| key.starts_with(b"r")).count();
        assert_eq!(rows, ROWS, "after split {region}");
        let counted = |letter: &[u8]| keys.iter().filter(|key| key.starts_with(letter)).count();
        assert_eq!([counted(b"a"), counted(b"m")], [counted(b"z"); 2], "a batch in part");
    }
    ended.store(true, Ordering::Relaxed);
    println!("{} batches", writer.await.expect("no batch was refused"));
}

/// After a conflict over two regions the part that was written must not stand in anybody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_leaves_no_locks() {
    let Some(cluster) = own(Ports::free()).await else { return };
    cluster.split("left", &["m"]).await;
    let engine = cluster.open("left").await;
    engine.commit(Batch::new().put("z", "1").clone()).await.expect("put");
    for round in 0..3 {
        let mut batch = Batch::new();
        batch.put("a", "1").put(format!("a{round}"), "1").absent("z").put("z", "2");
        let outcome = engine.commit(batch).await;
        assert!(matches!(outcome, Err(CommitError::Conflict { .. })), "{outcome:?}");
        let began = Instant::now();
        while cluster.ask("/locks").await.contains("left/") {
            assert!(began.elapsed() < Duration::from_secs(1), "locks stay");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_snapshots_expire() {
    let Some(cluster) = shared().await else { return };
    let config = Config { snapshot_age_max: Duration::from_millis(300), ..cluster.config() };
    let engine = cluster.open_with("expired", config).await;
    engine.commit(Batch::new().put("a", "1").clone()).await.expect("put");
    let view = engine.snapshot().await.expect("snapshot");
    assert_eq!(view.get(b"a").await.expect("young"), Some("1".into()));
    sleep(Duration::from_millis(301)).await;
    assert!(matches!(view.get(b"a").await, Err(ReadError::Expired)));
    assert!(matches!(view.get_many(vec!["a".into()]).await, Err(ReadError::Expired)));
    assert!(matches!(view.scan(Span::ALL, 1).await, Err(ReadError::Expired)));
}

/// One of two engines collects, the other takes over when it is gone, and the safe point stays behind snapshots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_collector_at_a_time_moves_the_safe_point() {
    let Some(cluster) = own(Ports::free()).await else { return };
    let row = cluster.prefix("c");
    let gc = Gc { row: row.clone(), period: Duration::from_millis(200), behind: Duration::ZERO };
    let config = Config { snapshot_age_max: Duration::from_secs(1), gc: Some(gc), ..cluster.config() };
    let open = || Tikv::open(config.clone()).expect("a good configuration");
    let owner = async |engine: &Tikv| {
        let value = engine.snapshot().await.expect("snapshot").get(&row).await.expect("get");
        value.map(|value| {
            String::from_utf8(value.split(|byte| *byte == b' ').next().expect("a name").to_vec())
        })
    };
    let first = open();
    let began = Instant::now();
    while owner(&first).await.is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody collects");
        sleep(Duration::from_millis(50)).await;
    }
    let (second, name) = (open(), owner(&first).await);
    for _ in 0..10 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(owner(&second).await, name, "two collect");
    }
    let mut moved = 0;
    for round in 0..40 {
        // The safe point is at least two snapshot ages behind.
        let view = second.snapshot().await.expect("snapshot");
        sleep(Duration::from_millis(50)).await;
        let point = cluster.safe_point().await;
        assert!(point == 0 || cluster.timestamp_ms().await - (point >> 18) >= 2_000, "round {round}");
        assert_ne!(view.get(&row).await.expect("young"), None);
        moved = moved.max(point);
    }
    assert!(moved > 0, "the safe point was never moved");
    drop(first);
    let began = Instant::now();
    while owner(&second).await == name {
        assert!(began.elapsed() < Duration::from_secs(10), "nobody takes over");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() > Duration::from_millis(400), "taken from one that was alive");
}
