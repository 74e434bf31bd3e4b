//! Hashes of stores that were written, compacted, swept, opened again, and kept on other engines.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot::Content;

use super::ContentAt;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::embedded::{self, Embedded};
use crate::engine::memory::Memory;
use crate::request::{Delete, Given, Put};
use crate::rows::entry;
use crate::rows::version::Version;
use crate::store::Store;

async fn open(engine: Arc<dyn Engine>) -> Store {
    let group = GroupName::parse("a").expect("a legal name");
    let placement = Arc::new(Placement::single(group.clone()));
    Store::open(Config::new(group, "test"), engine, placement).await.expect("opens")
}

async fn put(store: &Store, key: &'static str) {
    let (key, value) = (Bytes::from_static(key.as_bytes()), Given::New(Bytes::from_static(b"v")));
    let put = Put { key, value, lease: Given::New(0), prev_kv: false };
    store.put(put, Revision::ZERO).await.expect("puts");
}

async fn delete(store: &Store, key: &'static str) {
    let keys = KeyRange::one(Bytes::from_static(key.as_bytes()));
    store.delete(Delete { keys, prev_kv: false }, Revision::ZERO, None).await.expect("deletes");
}

/// r2 a, r3 b, r4 a, r5 a is deleted, r6 b, r7 a, r8 c, r9 c is deleted.
async fn history(store: &Store) {
    for step in ["a", "b", "a", "-a", "b", "a", "c", "-c"] {
        match step.strip_prefix('-') {
            None => put(store, step).await,
            Some(key) => delete(store, key).await,
        }
    }
}

async fn content(store: &Store, at: u64, compacted: i64) -> Result<ContentAt, Fault> {
    store.content(Revision::new(at), compacted, Revision::ZERO).await
}

/// Key, revision, create revision, version.
type Row = (&'static str, u64, u64, u64);

/// Of rows that are written down here.
fn expected(rows: &[Row]) -> u32 {
    let mut content = Content::default();
    for (key, revision, create, count) in rows {
        let version = Version { revision: *revision, create: *create, count: *count, ..Version::default() };
        content.add(false, &entry::key_value(key.as_bytes(), &version, b"v"));
    }
    content.hash()
}

#[tokio::test(start_paused = true)]
async fn the_hash_is_that_of_what_is_there_whatever_is_compacted() {
    const A: [Row; 3] = [("a", 2, 2, 1), ("a", 4, 2, 2), ("a", 7, 7, 1)];
    const B: [Row; 2] = [("b", 3, 3, 1), ("b", 6, 3, 2)];
    const C: [Row; 1] = [("c", 8, 8, 1)];
    let store = open(Arc::new(Memory::new())).await;
    history(&store).await;
    let cases: [(u64, i64, Vec<Row>); 9] = [
        (1, -1, vec![]),
        (3, -1, vec![A[0], B[0]]),
        (4, -1, vec![A[1], B[0]]),
        (5, -1, vec![B[0]]),
        (6, 5, vec![B[1]]),
        (8, -1, vec![A[2], B[1], C[0]]),
        (8, 8, vec![A[2], B[1], C[0]]),
        (9, -1, vec![A[2], B[1]]),
        (9, 9, vec![A[2], B[1]]),
    ];
    for (at, compacted, rows) in cases {
        let found = content(&store, at, compacted).await.expect("reads");
        assert_eq!(found.content.hash(), expected(&rows), "at {at}, compacted at {compacted}");
        assert_eq!((found.revision.get(), found.compacted, found.header.get()), (at, compacted, 9));
    }
    assert_eq!(content(&store, 10, -1).await, Err(Fault::FutureRevision));
    assert_eq!(content(&store, 4, 5).await, Err(Fault::Compacted));
    store.compact(6, false, Revision::ZERO).await.expect("compacts");
    assert_eq!(content(&store, 5, -1).await, Err(Fault::Compacted));
    assert_eq!(content(&store, 6, -1).await.map(|found| found.compacted), Ok(6));
    assert_eq!(content(&store, 0, -1).await.map(|found| found.revision.get()), Ok(9), "0 is now");
}

#[tokio::test(start_paused = true)]
async fn the_sweep_and_a_restart_change_nothing() {
    let engine = Arc::new(Memory::new());
    let store = open(engine.clone()).await;
    history(&store).await;
    let whole = content(&store, 8, -1).await.expect("reads");
    store.compact(8, false, Revision::ZERO).await.expect("compacts");
    assert_eq!(content(&store, 8, -1).await.map(|found| found.content), Ok(whole.content));
    let before = content(&store, 9, -1).await.expect("reads");
    assert_ne!(before.content, whole.content, "it is another state");
    let versions = store.state().index.read().versions();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(store.state().index.read().versions() < versions, "the sweep has been here");
    assert_eq!(content(&store, 9, -1).await, Ok(before));
    store.close().await;
    let store = open(engine).await;
    assert_eq!(content(&store, 9, -1).await, Ok(before));
}

#[tokio::test]
async fn engines_agree() {
    let directory = tempfile::tempdir().expect("a directory");
    let embedded = Embedded::open(&embedded::Config::new(directory.path())).expect("opens");
    let (memory, disk) = (open(Arc::new(Memory::new())).await, open(Arc::new(embedded)).await);
    for store in [&memory, &disk] {
        history(store).await;
        store.compact(4, true, Revision::ZERO).await.expect("compacts");
    }
    for at in [4, 6, 9] {
        assert_eq!(content(&memory, at, -1).await, content(&disk, at, -1).await);
    }
}

#[tokio::test(start_paused = true)]
async fn few_read_everything_at_once() {
    let store = open(Arc::new(Memory::new())).await;
    // More than the parts that wait for whoever takes them.
    for key in ["a", "b", "c", "d"] {
        let value = Given::New(Bytes::from(vec![b'v'; 200_000]));
        let put = Put { key: key.into(), value, lease: Given::New(0), prev_kv: false };
        store.put(put, Revision::ZERO).await.expect("puts");
    }
    let begin = || store.export(Revision::ZERO, -1, Revision::ZERO);
    let mut exports = Vec::new();
    for _ in 0..crate::store::SCANS_MAX {
        exports.push(begin().await.expect("begins"));
    }
    assert!(matches!(begin().await, Err(Fault::TooManyRequests)));
    assert_eq!(content(&store, 0, -1).await, Err(Fault::TooManyRequests));
    drop(exports);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(begin().await.is_ok());
}
