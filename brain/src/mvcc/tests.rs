//! Stores that crash, close, and meet each other over one engine.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;

use super::codec::{Layout, small_value};
use super::shared::Ended;
use super::{Config, OpenError, PlaceError, Store, WriteError, read_all};
use crate::engine::memory::Memory;
use crate::engine::{Batch, Engine};
use crate::request::{Given, Put, ReadAt};

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
    assert!(store.shared().committed() >= shown, "{} after {shown} was shown", store.shared().committed());
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
