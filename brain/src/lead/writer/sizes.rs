//! What the storage cannot hold is refused before it is in a batch: a batch that the storage refuses ends the group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::Config;
use crate::engine::embedded::{self, Embedded};
use crate::engine::faulty::{Faulty, Mood};
use crate::engine::memory::Memory;
use crate::engine::{Bounds, Engine, Span};
use crate::lead::command::WriteError;
use crate::request::{Delete, Given, Op, Put, Txn};
use crate::store::Store;

const BOUNDS: Bounds =
    Bounds { key_bytes_max: 100, value_bytes_max: 3000, batch_bytes: 4096, batch_bytes_max: 16 << 10 };

fn strict(mood: Mood) -> Arc<Faulty> {
    Arc::new(Faulty::new(Arc::new(Memory::new()), mood, 1).with_bounds(BOUNDS))
}

async fn open(engine: Arc<dyn Engine>) -> Store {
    let group = GroupName::parse("core").expect("a name");
    let config = Config::new(group.clone(), "a");
    Store::open(config, engine, Arc::new(Placement::single(group))).await.expect("opens")
}

fn put(key: impl Into<Bytes>, value: usize, lease: i64) -> Put {
    let value = Given::New(vec![b'v'; value].into());
    Put { key: key.into(), value, lease: Given::New(lease), prev_kv: false }
}

async fn write(store: &Store, put: Put) -> Result<u64, WriteError> {
    store.put(put, Revision::ZERO).await.map(|reply| reply.revision.get())
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, WriteError>) -> String {
    match outcome {
        Err(WriteError::TooLarge(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_or_value_that_is_too_long_is_refused_and_leaves_no_trace() {
    let store = open(strict(Mood::default())).await;
    // As it is stored: its zero bytes take two, and revision and ends come on top.
    let cases: [(&str, Bytes, usize, bool); 6] = [
        ("as long as may be", vec![b'k'; 89].into(), 1, true),
        ("one more", vec![b'k'; 90].into(), 1, false),
        ("zeros", [vec![b'k'; 60], vec![0; 14]].concat().into(), 1, true),
        ("one zero more", [vec![b'k'; 60], vec![0; 15]].concat().into(), 1, false),
        ("a long value", "k".into(), 2900, true),
        ("too long a value", "k".into(), 3000, false),
    ];
    let mut revision = 1;
    for (name, key, value, fits) in cases {
        let txn = Txn { success: vec![Op::Put(put(key.clone(), value, 0))], ..Txn::default() };
        if fits {
            revision += 2;
            write(&store, put(key, value, 0)).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            store.txn(txn, Revision::ZERO).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        } else {
            let why = refusal(write(&store, put(key, value, 0)).await);
            assert!(why.contains("the storage") && why.contains("bytes"), "{name}: {why}");
            refusal(store.txn(txn, Revision::ZERO).await);
        }
        assert_eq!(store.state().committed().get(), revision, "{name}");
    }
    let ten =
        Txn { success: (0..10).map(|n| Op::Put(put(format!("{n}"), 2000, 0))).collect(), ..Txn::default() };
    let why = refusal(store.txn(ten, Revision::ZERO).await);
    assert!(why.starts_with("10 keys"), "{why}");
    assert_eq!(write(&store, put("0", 1, 0)).await, Ok(revision + 1), "as if nothing had been asked");
    let version = store.state().index.read().get(b"0", u64::MAX).expect("there");
    assert_eq!(version.count, 1);
}

#[tokio::test(start_paused = true)]
async fn more_keys_than_can_be_deleted_at_once_are_deleted_in_parts() {
    let store = open(strict(Mood::default())).await;
    for number in 0..100 {
        write(&store, put(format!("{number:050}"), 1, 0)).await.expect("put");
    }
    let delete = |keys| store.delete(Delete { keys, prev_kv: false }, Revision::ZERO, None);
    let why = refusal(delete(KeyRange::ALL).await);
    assert!(why.starts_with("100 keys") && why.ends_with("in parts"), "{why}");
    for tens in 0..10 {
        delete(KeyRange::prefix(format!("{tens:049}").into())).await.expect("deleted");
    }
    assert_eq!(store.state().index.read().live(&KeyRange::ALL, u64::MAX).count(), 0);
}

/// Keys bound a deletion, not what its events say: 100 of them would take 17 000 bytes with that.
#[tokio::test(start_paused = true)]
async fn a_deletion_takes_what_its_keys_take() {
    let bounds = Bounds { value_bytes_max: 16 << 10, ..BOUNDS };
    let engine = Arc::new(Faulty::new(Arc::new(Memory::new()), Mood::default(), 1).with_bounds(bounds));
    let store = open(engine.clone()).await;
    for number in 0..95 {
        write(&store, put(format!("{number:050}"), 1, 0)).await.expect("put");
    }
    let before = store.state().committed().get();
    store
        .delete(Delete { keys: KeyRange::ALL, prev_kv: false }, Revision::ZERO, None)
        .await
        .expect("deleted");
    assert_eq!(store.state().committed().get(), before + 1, "in one revision");
    assert_eq!(store.state().index.read().live(&KeyRange::ALL, u64::MAX).count(), 0);
    assert!(engine.largest_batch() <= bounds.batch_bytes_max, "{}", engine.largest_batch());
}

#[tokio::test(start_paused = true)]
async fn a_lease_takes_no_more_keys_than_can_end_with_it() {
    let engine = strict(Mood::default());
    let store = open(engine.clone()).await;
    for id in 1..=30 {
        store.grant(id, 60, Revision::ZERO).await.expect("granted");
        let mut attached = 0;
        let why = loop {
            match write(&store, put(format!("{id}/{attached:040}"), 1, id)).await {
                Ok(_) if attached < 200 => attached += 1,
                Ok(_) => panic!("there is no end"),
                Err(error) => break refusal::<u64>(Err(error)),
            }
        };
        assert!(attached >= 7 && why.starts_with("lease "), "{attached}: {why}");
    }
    assert!(store.state().index.read().live(&KeyRange::ALL, u64::MAX).count() >= 210);
    // All of them run out together.
    sleep(Duration::from_secs(70)).await;
    assert_eq!(store.state().index.read().live(&KeyRange::ALL, u64::MAX).count(), 0);
    assert!(!store.state().has_ended());
    assert!(engine.largest_batch() <= BOUNDS.batch_bytes_max, "{}", engine.largest_batch());
}

/// More large requests than a batch holds come while one is under way.
#[tokio::test(start_paused = true)]
async fn requests_that_come_together_fill_as_many_batches_as_they_need() {
    let engine = strict(Mood { slow: 1.0, ..Mood::default() });
    let store = open(engine.clone()).await;
    let mut writes = JoinSet::new();
    for number in 0..300 {
        let store = store.clone();
        writes.spawn(async move { write(&store, put(format!("{number}"), 2500, 0)).await });
    }
    while let Some(outcome) = writes.join_next().await {
        outcome.expect("no panic").expect("put");
    }
    let largest = engine.largest_batch();
    assert!(largest <= BOUNDS.batch_bytes_max && largest > BOUNDS.batch_bytes / 2, "{largest}");
    assert_eq!(store.state().committed().get(), 301);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_stays_within_what_a_batch_holds() {
    let engine = strict(Mood::default());
    let store = open(engine.clone()).await;
    for number in 0..600 {
        write(&store, put(if number % 3 == 0 { "often" } else { "more often" }, 1, 0)).await.expect("put");
    }
    let revision = store.state().committed();
    store.compact(revision.to_wire(), true, Revision::ZERO).await.expect("compacted");
    let largest = engine.largest_batch();
    assert!(largest <= BOUNDS.batch_bytes + BOUNDS.key_bytes_max, "{largest}");
    let snapshot = engine.snapshot().await.expect("snapshot");
    let rows = snapshot.scan(store.state().layout.data_span(&KeyRange::ALL), 100).await.expect("rows");
    assert_eq!(rows.rows.len(), 2);
}

/// The longest key that it holds is its own bound, not the requests'.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_engine_goes_on_after_a_key_that_it_cannot_hold() {
    let directory = tempfile::tempdir().expect("a directory");
    let engine = Embedded::open(&embedded::Config::new(directory.path().join("data")));
    let engine = Arc::new(engine.expect("opens"));
    let store = open(engine.clone()).await;
    refusal(write(&store, put(vec![b'k'; 70_000], 1, 0)).await);
    write(&store, put(vec![b'k'; 65_000], 1, 0)).await.expect("put");
    assert!(!store.state().has_ended());
    let snapshot = engine.snapshot().await.expect("snapshot");
    assert!(!snapshot.scan(Span::ALL, 10).await.expect("rows").rows.is_empty());
    store.close().await;
}
