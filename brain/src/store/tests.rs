//! Stores that crash, close, and meet each other over one engine.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;

use super::{Store, read_all};
use crate::config::Config;
use crate::engine::embedded::{self, Embedded};
use crate::engine::faulty::{Faulty, Mood};
use crate::engine::memory::Memory;
use crate::engine::{Batch, Engine};
use crate::lead::command::{PlaceError, WriteError};
use crate::load::error::OpenError;
use crate::request::{Given, Put, ReadAt};
use crate::rows::codec::{Layout, Small, small_value};
use crate::state::ended::Ended;

const ALONE: &str = "{prefix: /r, home: a, default: a, groups: {a: {}}}";
const MOVED: &str = "{prefix: /r, home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: m, group: b}]}";

fn placement(text: &str) -> Arc<Placement> {
    Arc::new(Placement::parse(text).expect("a legal placement"))
}

async fn try_open(engine: &Arc<Memory>, group: &str, table: &str) -> Result<Store, OpenError> {
    let group = GroupName::parse(group).expect("a legal name");
    Store::open(Config::new(group, "test"), engine.clone(), placement(table)).await
}

async fn open(engine: &Arc<Memory>) -> Store {
    try_open(engine, "a", ALONE).await.expect("the store opens")
}

async fn put(store: &Store, key: &str, floor: u64) -> Result<u64, WriteError> {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Given::New(Bytes::from_static(b"v")),
        lease: Given::New(0),
        prev_kv: false,
    };
    store.put(put, Revision::new(floor)).await.map(|reply| reply.revision.get())
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_an_advance_starts_above_what_was_shown() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(2));
    // The second one is below the ceiling that the first one stored, so no batch of its own tells of it.
    store.advance(Revision::new(5000)).await.expect("advances");
    let shown = store.advance(Revision::new(6000)).await.expect("advances");
    assert_eq!(shown.get(), 6000);
    drop(store);
    let store = open(&engine).await;
    assert!(store.state().committed() >= shown, "{} after {shown} was shown", store.state().committed());
    assert!(put(&store, "/r/m/a", 0).await.expect("a put works") > 6000);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_never_advanced_stays_dense_through_a_crash_and_any_through_a_close() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(2));
    drop(store);
    let store = open(&engine).await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(3));
    assert_eq!(put(&store, "/r/m/a", 50).await, Ok(51), "a write above a floor needs no ceiling");
    store.advance(Revision::new(70)).await.expect("advances");
    store.close().await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Err(WriteError::Fault(Fault::Stopped)));
    let store = open(&engine).await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(71));
}

#[tokio::test(start_paused = true)]
async fn of_two_masters_only_the_newer_one_writes() {
    let engine = Arc::new(Memory::new());
    let older = open(&engine).await;
    assert_eq!(put(&older, "/r/m/a", 0).await, Ok(2));
    let newer = open(&engine).await;
    assert_eq!(
        put(&older, "/r/m/a", 0).await,
        Err(WriteError::Fault(Fault::Timeout)),
        "not known to the client"
    );
    assert!(matches!(older.ended().await, Ended::Deposed { number: 3, epoch: 2, by, .. } if by == "test"));
    assert_eq!(put(&newer, "/r/m/b", 0).await, Ok(3));
    let all = newer.range(&read_all(ReadAt::Latest), Revision::ZERO).await.expect("reads");
    let all = <kubebrain_proto::etcdserverpb::RangeResponse as prost::Message>::decode(all.message);
    assert_eq!(all.expect("an answer").count, 2, "the older one's last write is nowhere");
}

#[tokio::test(start_paused = true)]
async fn a_kind_with_keys_stays_where_it_is_and_an_empty_one_may_go() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    assert_eq!(put(&store, "/r/n/a", 0).await, Ok(2));
    assert_eq!(store.prepare(placement(MOVED)).await, Ok(()), "there is nothing under /r/m/");
    store.abort_placement().await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(3));
    let stranded = store.prepare(placement(MOVED)).await;
    assert!(matches!(&stranded, Err(PlaceError::Stranded { kind, .. }) if kind == "/r/m/"), "{stranded:?}");
    store.close().await;
    for group in ["a", "b"] {
        let refused = try_open(&engine, group, MOVED).await.err();
        assert!(
            matches!(&refused, Some(OpenError::Stranded { kind, .. }) if kind == "/r/m/"),
            "{group}: {refused:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_format_is_refused() {
    let engine = Arc::new(Memory::new());
    let layout = Layout::new(b"", &GroupName::parse("a").expect("a legal name"));
    let mut batch = Batch::new();
    batch.put(layout.format(), small_value(77));
    engine.commit(batch).await.expect("commits");
    assert!(matches!(try_open(&engine, "a", ALONE).await.err(), Some(OpenError::Format { found: 77 })));
}

#[tokio::test(start_paused = true)]
async fn a_put_that_keeps_what_is_missing_under_an_unknown_lease_hears_of_the_lease() {
    let store = open(&Arc::new(Memory::new())).await;
    let kept = |lease| Put {
        key: Bytes::from_static(b"/r/m/a"),
        value: Given::Kept,
        lease: Given::New(lease),
        prev_kv: false,
    };
    for (lease, want) in [(7, Fault::LeaseNotFound), (0, Fault::KeyNotFound)] {
        let refused = store.put(kept(lease), Revision::new(0)).await.map(|reply| reply.revision.get());
        assert_eq!(refused, Err(WriteError::Fault(want)), "lease {lease}");
    }
}

#[tokio::test(start_paused = true)]
async fn loading_goes_on_where_snapshots_are_lost() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    for number in 0..200 {
        put(&store, &format!("/r/m/{number:03}"), 0).await.expect("put");
    }
    for lease in 1..20 {
        store.grant(lease, 60, Revision::ZERO).await.expect("granted");
    }
    drop(store);
    for seed in 0..20 {
        let mood = Mood { cut: 0.3, expires: 0.5, blind: 0.3, slow_reads: 0.2, ..Mood::default() };
        let faulty = Arc::new(Faulty::new(engine.clone(), mood, seed));
        let group = GroupName::parse("a").expect("a legal name");
        let store = Store::open(Config::new(group, "test"), faulty, placement(ALONE)).await.expect("opens");
        assert_eq!(store.state().index.read().keys(), 200, "seed {seed}");
        assert_eq!((store.leases().len(), store.state().committed().get()), (19, 201), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stays_silent_is_not_waited_for_for_ever() {
    let mood = Mood { blind: 1.0, ..Mood::default() };
    let faulty = Arc::new(Faulty::new(Arc::new(Memory::new()), mood, 1));
    let group = GroupName::parse("a").expect("a legal name");
    let began = tokio::time::Instant::now();
    let refused = Store::open(Config::new(group, "test"), faulty, placement(ALONE)).await.err();
    assert!(matches!(refused, Some(OpenError::Read(_))), "{refused:?}");
    assert!((30..40).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// The record at the trimmed mark is always there: a log that begins nowhere is not an empty one.
#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_beginning_is_told_from_an_empty_one() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    put(&store, "/r/m/a", 0).await.expect("put");
    let layout = store.state().layout.clone();
    drop(store);
    let mut batch = Batch::new();
    batch.put(layout.small(Small::Trimmed), small_value(9));
    engine.commit(batch).await.expect("commits");
    let refused = try_open(&engine, "a", ALONE).await.err();
    assert!(matches!(refused, Some(OpenError::Damaged(_))), "{refused:?}");
}

/// The engine of this machine under everything that a store must live with, in real time, with a master after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_over_the_embedded_engine_too() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let directory = tempfile::tempdir().expect("a directory");
    let embedded = Embedded::open(&embedded::Config::new(directory.path().join("data"))).expect("opens");
    let embedded: Arc<Embedded> = Arc::new(embedded);
    let mood = Mood {
        slow: 0.1,
        unknown: 0.2,
        refuses: 0.1,
        late_answer: 0.1,
        hasty: 0.3,
        blind: 0.05,
        cut: 0.02,
        expires: 0.5,
        ..Mood::default()
    };
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let faulty = Arc::new(Faulty::new(embedded.clone(), mood, seed.wrapping_add(round)).shared());
        let config = Config::new(GroupName::parse("a").expect("a legal name"), format!("brain{round}"));
        let store = loop {
            match Store::open(config.clone(), faulty.clone(), placement(ALONE)).await {
                Err(error) if error.may_pass() => {}
                opened => break opened.expect("opens"),
            }
        };
        for key in &acknowledged {
            let there = store.state().index.read().get(String::as_bytes(key), u64::MAX);
            assert!(there.is_some(), "{key} was acknowledged before round {round}");
        }
        let puts = (0..40).map(|number| {
            let (store, key) = (store.clone(), format!("/r/m/{round}-{number}"));
            async move { put(&store, &key, 0).await.ok().map(|_| key) }
        });
        let done = futures_util::future::join_all(puts).await;
        acknowledged.extend(done.into_iter().flatten());
        match round % 2 {
            0 => faulty.kill(),
            _ => faulty.hold(),
        }
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
}

/// Otherwise it would serve what it read before the other's first write together with what it read after.
#[tokio::test(start_paused = true)]
async fn a_master_that_is_deposed_while_it_loads_does_not_open() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    put(&store, "/r/m/a", 0).await.expect("put");
    let (mut opened, mut deposed) = (0, 0);
    for seed in 0..40 {
        let faulty = |seed| {
            let mood = Mood { slow_reads: 1.0, ..Mood::default() };
            Arc::new(Faulty::new(engine.clone(), mood, seed))
        };
        let config = |name: &str| Config::new(GroupName::parse("a").expect("a legal name"), name);
        let (one, other) = tokio::join!(
            Store::open(config("one"), faulty(seed), placement(ALONE)),
            Store::open(config("other"), faulty(seed + 1000), placement(ALONE)),
        );
        for store in [one, other] {
            match store {
                Ok(_) => opened += 1,
                Err(OpenError::Deposed { by, .. }) => {
                    assert!(by == "one" || by == "other", "{by}");
                    deposed += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(opened >= 40 && deposed > 0, "{opened} opened, {deposed} deposed");
}
