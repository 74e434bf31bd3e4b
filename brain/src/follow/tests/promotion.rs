//! A slave that becomes the master.

use kubebrain_net::metrics::One;

use super::*;
use crate::load::error::OpenError;
use crate::planted::Planted;

/// A master and its slave, each with its own way to the engine.
struct Scene {
    memory: Arc<Memory>,
    older: Store,
    older_engine: Arc<Faulty>,
    store: Store,
    engine: Arc<Faulty>,
    slave: Slave,
    link: Arc<Link>,
}

async fn scene(planted: Planted) -> Scene {
    let memory = Arc::new(Memory::new());
    let (older_engine, engine) = (way(&memory, 1), way(&memory, 2));
    let older = master(&older_engine, "older").await;
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        put(&older, key, value).await;
    }
    let config = Config { planted, ..config("slave") };
    let (store, slave, link) = followed(&engine, config, &older).await;
    Scene { memory, older, older_engine, store, engine, slave, link }
}

/// The old master's last batch is durable, and it died before it heard of that: what a watcher of the slave hears.
async fn last_words(planted: Planted) -> Vec<String> {
    let Scene { older, older_engine, store, mut slave, link, .. } = scene(planted).await;
    let mut watching = Watching::new(&store, 4).await.expect("watches");
    assert_eq!(watching.listen().await, ["a=2<1@4"]);
    older_engine.set(Mood { late_answer: 1.0, ..Mood::default() });
    let unanswered = tokio::spawn({
        let older = older.clone();
        async move { put_with(&older, "b", "unanswered", 0).await }
    });
    sleep(Duration::from_millis(1)).await;
    older_engine.kill();
    link.kill();
    slave.promote().await.expect("takes over");
    assert!(!store.state().is_slave() && !unanswered.is_finished());
    let mut kvs = now(&store).await.expect("a master reads").1;
    kvs.retain(|kv| kv.key == "b");
    let found = pairs(&kvs);
    let last = put(&store, "a", "3").await;
    delete(&store, "b").await;
    let mut heard = watching.listen().await.to_vec();
    heard.push(format!("{found:?} {last}"));
    assert_eq!(watching.ended, None);
    heard
}

#[tokio::test(start_paused = true)]
async fn a_watcher_goes_on_with_a_new_master_without_gap_or_repeat() {
    let want = ["a=2<1@4", "b=unanswered<1@5", "a=3<2@6", "b=<unanswered@7", "[\"b=unanswered\"] 6"]
        .map(String::from);
    assert_eq!(last_words(Planted::default()).await, want);
    let planted = Planted { skips_tail: true, ..Planted::default() };
    assert_ne!(last_words(planted).await, want, "the planted fault is not seen");
}

/// It is one from then on, to everybody: also what was asked of the slave is answered by the master.
#[tokio::test(start_paused = true)]
async fn what_was_a_slave_is_a_master_like_any_other() {
    let Scene { memory, older, store, mut slave, link, .. } = scene(Planted::default()).await;
    older.grant(7, 20, Revision::ZERO).await.expect("granted");
    put_with(&older, "leased", "v", 7).await.expect("put");
    let alarm = crate::state::alarm::Alarm { member: 5, kind: crate::state::alarm::AlarmKind::NoSpace };
    older.raise_alarm(alarm).await.expect("raised");
    older.advance(Revision::new(500)).await.expect("advances");
    sleep(Duration::from_millis(10)).await;
    let loads = store.state().metrics.follow.loads.get();
    let waiting = tokio::spawn({
        link.hold_answers(true);
        let store = store.clone();
        async move { now(&store).await }
    });
    sleep(Duration::from_millis(10)).await;
    slave.promote().await.expect("takes over");
    assert_eq!(store.state().identity().epoch, 2);
    assert_eq!(store.alarms(), [alarm]);
    assert_eq!(put_with(&store, "full", "v", 0).await, Err(WriteError::Fault(Fault::NoSpace)));
    assert_eq!(store.disarm(alarm).await, Ok(true));
    assert!(waiting.await.expect("no panic").expect("reads").0 > 500, "above the ceiling");
    assert_eq!(store.lease_keys(7), [Bytes::from_static(b"leased")]);
    let revision = put(&store, "c", "3").await;
    assert!(revision > 1_000_000, "{revision}");
    assert!(put_with(&older, "c", "4", 0).await.is_err(), "the old one is shut out");
    assert_eq!(at(&store, 4).await.map(|kvs| pairs(&kvs)), Ok(vec!["a=2".into(), "b=1".into()]));
    // It keeps its history, sweeps, and feeds slaves of its own.
    let (second, _second_slave, _link) = followed(&way(&memory, 3), config("second"), &store).await;
    store.compact(revision.cast_signed(), true, Revision::ZERO).await.expect("compacts and sweeps");
    assert_eq!(now(&second).await, now(&store).await);
    sleep(Duration::from_secs(25)).await;
    assert!(store.remaining(7).is_none(), "its leases run out");
    assert!(!pairs(&now(&second).await.expect("reads").1).contains(&"leased=v".to_owned()));
    assert_eq!(store.state().metrics.follow.loads.get(), loads);
    store.close().await;
    let cold = Store::open(config("cold"), way(&memory, 4), placement(ALONE)).await.expect("opens");
    let contents =
        |store: &Store| (store.state().index.read().versions(), store.state().share.quota().used());
    assert_eq!(contents(&store), contents(&cold), "what it has is what is stored");
}

/// The old master had compacted and died before its sweep was through: the new one knows all rows that are left.
#[tokio::test(start_paused = true)]
async fn a_new_master_sweeps_what_the_old_one_has_left() {
    let Scene { memory, older, store, mut slave, link, .. } = scene(Planted::default()).await;
    older.compact(4, false, Revision::ZERO).await.expect("compacts");
    sleep(Duration::from_millis(50)).await;
    link.kill();
    assert_eq!(store.state().compacted(), 4);
    slave.promote().await.expect("takes over");
    drop(older);
    settle().await;
    store.close().await;
    let cold = Store::open(config("cold"), way(&memory, 3), placement(ALONE)).await.expect("opens");
    let versions = |store: &Store| store.state().index.read().versions();
    assert_eq!((versions(&store), versions(&cold)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn one_that_has_loaded_nothing_loads_everything_when_it_is_promoted() {
    let Scene { memory, .. } = scene(Planted::default()).await;
    let (store, mut slave) = slave(&way(&memory, 3), config("third"));
    assert_eq!(now(&store).await, Err(Fault::LeaderChanged));
    assert_eq!(old(&store).await, Err(Fault::LeaderChanged));
    assert_eq!(Watching::new(&store, 2).await.err().map(|end| end.code()), Some(tonic::Code::Unavailable));
    slave.promote().await.expect("takes over");
    assert_eq!(now(&store).await.map(|(_, kvs)| pairs(&kvs)), Ok(vec!["a=2".into(), "b=1".into()]));
    assert_eq!(put(&store, "c", "3").await, 5);
}

/// Its history goes on too late: it was away while another master compacted.
#[tokio::test(start_paused = true)]
async fn one_that_was_away_for_too_long_loads_everything_when_it_is_promoted() {
    let Scene { older, store, mut slave, link, .. } = scene(Planted::default()).await;
    let mut watching = Watching::new(&store, 2).await.expect("watches");
    link.kill();
    for round in 0..5 {
        put(&older, "a", &format!("v{round}")).await;
    }
    older.compact(9, true, Revision::ZERO).await.expect("compacts");
    settle().await;
    slave.promote().await.expect("takes over");
    assert_eq!(now(&store).await.map(|(_, kvs)| pairs(&kvs)), Ok(vec!["a=v4".into(), "b=1".into()]));
    assert_eq!(at(&store, 8).await, Err(Fault::Compacted));
    watching.listen().await;
    assert_eq!(watching.ended, Some(tonic::Code::Unavailable), "it would miss something");
}

/// Two are promoted at once: one of them is the master, and the other one can say so.
#[tokio::test(start_paused = true)]
async fn of_two_that_are_promoted_one_is_the_master() {
    for seed in 0..20 {
        let Scene { memory, older, mut slave, store, engine, .. } = scene(Planted::default()).await;
        let other_engine = way(&memory, 100 + seed);
        let (other, mut other_slave, _link) = followed(&other_engine, config("other"), &older).await;
        engine.set(Mood { slow_reads: 0.5, unknown: 0.3, ..Mood::default() });
        other_engine.set(Mood { slow_reads: 0.5, unknown: 0.3, ..Mood::default() });
        let (one, two) = tokio::join!(slave.promote(), other_slave.promote());
        engine.calm();
        other_engine.calm();
        for outcome in [&one, &two] {
            assert!(matches!(outcome, Ok(()) | Err(OpenError::Deposed { .. })), "{outcome:?}");
        }
        let mut masters = 0;
        for store in [&store, &other] {
            masters += usize::from(put_with(store, "c", "3", 0).await.is_ok());
        }
        assert_eq!(masters, 1, "seed {seed}: {one:?} {two:?}");
    }
}

/// Whoever loses the election while it takes over goes on as a slave of the winner.
#[tokio::test(start_paused = true)]
async fn a_promotion_that_is_given_up_leaves_a_slave() {
    for millis in 0..40 {
        let Scene { memory, mut slave, store, engine, .. } = scene(Planted::default()).await;
        let mut watching = Watching::new(&store, 4).await.expect("watches");
        engine.set(Mood { slow_reads: 1.0, slow: 1.0, ..Mood::default() });
        let promoted = timeout(Duration::from_millis(millis * 5), slave.promote()).await;
        engine.calm();
        if promoted.is_ok() {
            continue;
        }
        assert_eq!(put_with(&store, "c", "3", 0).await, Err(WriteError::Fault(Fault::LeaderChanged)));
        let newer = master(&way(&memory, 3), "newer").await;
        put(&newer, "c", "3").await;
        slave.attach(Link::to(&newer));
        level(&slave).await;
        assert_eq!(now(&store).await, now(&newer).await);
        assert_eq!(watching.listen().await, ["a=2<1@4", "c=3<-@5"]);
    }
}

/// What it costs is told, and does not grow with the keys: `cargo test -p kubebrain-brain promotion -- --nocapture`, with
/// `KUBEBRAIN_FULL=1` for 100 000 of them.
#[tokio::test]
async fn a_warm_promotion_asks_the_engine_a_few_times() {
    let keys = if std::env::var_os("KUBEBRAIN_FULL").is_some() { 100_000 } else { 3_000 };
    let memory = Arc::new(Memory::new());
    let older = master(&way(&memory, 1), "older").await;
    let _counted = One::of(&older.state().metrics.all.pending);
    let mut writes = Vec::new();
    for number in 0..keys {
        let older = older.clone();
        writes.push(tokio::spawn(async move { put(&older, &format!("/r/pods/{number:07}"), "value").await }));
        if writes.len() == 1000 {
            futures_util::future::join_all(writes.drain(..)).await;
        }
    }
    futures_util::future::join_all(writes.drain(..)).await;
    let engine = way(&memory, 2);
    let (store, mut slave, _link) = followed(&engine, config("slave"), &older).await;
    put(&older, "/r/pods/last", "value").await;
    let before = engine.snapshots();
    let began = tokio::time::Instant::now();
    slave.promote().await.expect("takes over");
    let (took, snapshots) = (began.elapsed(), engine.snapshots() - before);
    println!("{keys} keys: promoted in {took:?} with {snapshots} snapshots");
    assert!(snapshots <= 5, "{snapshots}");
    assert_eq!(store.state().index.read().keys(), keys + 1);
    assert!(store.state().metrics.follow.loads.get() == 1);
    put(&store, "/r/pods/after", "value").await;
}
