//! Stores that go through a snapshot.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb::ResponseHeader;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot::{Header, Messages, Reader};

use super::{Options, RestoreError, Restored, restore};
use crate::config::Config;
use crate::copy::export::{Export, ExportPart};
use crate::engine::memory::Memory;
use crate::request::{Delete, Given, Put, ReadAt};
use crate::store::Store;
use crate::watch::history::{History, HistoryError};

const ALONE: &str = "{prefix: /r, home: a, default: a, groups: {a: {}}}";
const TWO: &str = "{prefix: /r, home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: m, group: b}]}";

fn placement(text: &str) -> Arc<Placement> {
    Arc::new(Placement::parse(text).expect("a legal placement"))
}

fn name(text: &str) -> GroupName {
    GroupName::parse(text).expect("a legal name")
}

async fn open(engine: &Arc<Memory>, group: &str, table: &str) -> Store {
    let opened = Store::open(Config::new(name(group), "test"), engine.clone(), placement(table)).await;
    opened.expect("opens")
}

async fn put(store: &Store, key: &str, lease: i64) -> u64 {
    let (key, value) = (key.to_owned().into(), Given::New(Bytes::from(vec![b'v'; 2000])));
    let put = Put { key, value, lease: Given::New(lease), prev_kv: false };
    store.put(put, Revision::ZERO).await.expect("puts").revision.get()
}

async fn delete(store: &Store, prefix: &'static str) {
    let keys = KeyRange::prefix(Bytes::from_static(prefix.as_bytes()));
    store.delete(Delete { keys, prev_kv: false }, Revision::ZERO, None).await.expect("deletes");
}

/// Two kinds with puts, deletions, and one revision that changes many keys.
async fn history(store: &Store) {
    for round in 0..4 {
        for key in 0..20 {
            put(store, &format!("/r/m/{key:03}"), 0).await;
            put(store, &format!("/r/n/{key:03}"), 0).await;
        }
        if round == 1 {
            delete(store, "/r/m/01").await;
            delete(store, "/r/n/002").await;
        }
    }
}

/// The file of groups that were begun.
async fn file(exports: Vec<(&str, Export)>) -> Vec<u8> {
    let first = &exports.first().expect("a group").1;
    let header = Header {
        revision: first.revision.get(),
        compacted: first.compacted,
        groups: exports.iter().map(|(group, _)| (*group).to_owned()).collect(),
        ..Header::default()
    };
    let mut messages = Messages::new(header, ResponseHeader::default(), String::new(), 0);
    let mut sent = Vec::new();
    for (_, mut export) in exports {
        loop {
            match export.next().await.expect("not the end").expect("goes on") {
                ExportPart::Records(records, rows) => sent.extend(messages.records(&records, rows)),
                ExportPart::End(end) => break messages.end_group(end.puts + end.tombstones, end.hash),
            }
        }
    }
    sent.extend(messages.finish());
    sent.iter().flat_map(|message| message.blob.to_vec()).collect()
}

async fn export(store: &Store) -> Export {
    store.export(Revision::ZERO, -1, Revision::ZERO).await.expect("begins")
}

async fn restored(file: &[u8], options: &Options) -> Result<(Restored, Arc<Memory>), RestoreError> {
    let engine = Arc::new(Memory::new());
    let mut reader = Reader::new(file, true).expect("a snapshot");
    let restored = restore(&mut reader, &*engine, options).await?;
    Ok((restored, engine))
}

async fn hash(store: &Store, at: u64, compacted: i64) -> u32 {
    let found = store.content(Revision::new(at), compacted, Revision::ZERO).await;
    found.expect("reads").content.hash()
}

/// What watchers from a revision are told: revision, key, deletion, bytes.
async fn events(store: &Store, from: u64) -> Vec<(u64, Bytes, bool, Bytes)> {
    let (mut history, mut events, mut next) = (History::default(), Vec::new(), from);
    while next <= store.state().committed().get() {
        let page = history.page(store.state(), &KeyRange::ALL, next).await.expect("history");
        for revision in page.events {
            let own = |event: &crate::events::event::Event| {
                (revision.revision, event.key.clone(), event.deleted, event.kv.clone())
            };
            events.extend(revision.events.iter().map(own));
        }
        next = page.next;
    }
    events
}

#[tokio::test(start_paused = true)]
async fn a_restored_store_goes_on_where_the_snapshot_was_taken() {
    for compacted in [-1, 50] {
        let store = open(&Arc::new(Memory::new()), "a", ALONE).await;
        history(&store).await;
        if compacted > 0 {
            store.compact(compacted, true, Revision::ZERO).await.expect("compacts");
        }
        let revision = store.state().committed().get();
        let file = file(vec![("a", export(&store).await)]).await;
        put(&store, "/r/m/later", 0).await;
        let (done, engine) = restored(&file, &Options::default()).await.expect("restores");
        assert_eq!((done.revision.get(), done.compacted), (revision, compacted));

        let again = open(&engine, "a", ALONE).await;
        assert_eq!(again.state().committed().get(), revision);
        assert_eq!(again.state().compacted(), compacted);
        for at in [revision, revision - 30] {
            assert_eq!(hash(&again, at, -1).await, hash(&store, at, -1).await, "at {at}");
        }
        let from = compacted.max(2).unsigned_abs();
        let mut told = events(&store, from).await;
        assert_eq!(told.pop().map(|(_, key, _, _)| key).as_deref(), Some(&b"/r/m/later"[..]));
        assert_eq!(events(&again, from).await, told);
        assert!(told.len() > 50 && told.iter().any(|(_, _, deleted, _)| *deleted));
        assert_eq!(put(&again, "/r/m/new", 0).await, revision + 1);
        // The owners that were recorded hold, too, before anything is written.
        let (_, engine) = restored(&file, &Options::default()).await.expect("restores");
        let refused = Store::open(Config::new(name("a"), "test"), engine, placement(TWO)).await.err();
        assert!(refused.is_some_and(|error| error.to_string().contains("/r/m/")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_compaction_meanwhile_changes_nothing_and_waits_with_its_sweep() {
    let store = open(&Arc::new(Memory::new()), "a", ALONE).await;
    history(&store).await;
    let revision = store.state().committed().get();
    let wanted = hash(&store, revision, -1).await;
    let export = export(&store).await;
    let versions = store.state().index.read().versions();
    store.compact(revision.cast_signed(), false, Revision::ZERO).await.expect("compacts");
    for _ in 0..10 {
        put(&store, "/r/m/later", 0).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.state().index.read().versions(), versions + 10, "nothing is swept");
    let (_, engine) =
        restored(&file(vec![("a", export)]).await, &Options::default()).await.expect("restores");
    let again = open(&engine, "a", ALONE).await;
    assert_eq!(hash(&again, revision, -1).await, wanted);
    assert_eq!(events(&again, 2).await.last().map(|event| event.0), Some(revision));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(store.state().index.read().versions() < versions, "the sweep goes on after it");
    assert_eq!(hash(&store, revision, -1).await, hash(&again, revision, revision.cast_signed()).await);
}

#[tokio::test(start_paused = true)]
async fn groups_that_were_compacted_one_after_the_other_are_read_as_if_at_once() {
    let engine = Arc::new(Memory::new());
    let (a, b) = (open(&engine, "a", TWO).await, open(&engine, "b", TWO).await);
    put(&a, "/r/n/1", 0).await;
    for _ in 0..9 {
        put(&b, "/r/m/1", 0).await;
    }
    let at = b.state().committed();
    a.advance(at).await.expect("advances");
    b.compact(5, true, Revision::ZERO).await.expect("compacts");
    let exports = vec![
        ("a", a.export(at, 5, at).await.expect("begins")),
        ("b", b.export(at, 5, at).await.expect("begins")),
    ];
    let file = file(exports).await;
    a.compact(5, true, Revision::ZERO).await.expect("compacts");
    let (_, engine) = restored(&file, &Options::default()).await.expect("restores");
    for (group, store) in [("a", &a), ("b", &b)] {
        let again = open(&engine, group, TWO).await;
        assert_eq!((again.state().compacted(), again.state().committed()), (5, at));
        assert_eq!(hash(&again, at.get(), -1).await, hash(store, at.get(), -1).await);
    }
}

#[tokio::test(start_paused = true)]
async fn leases_live_on_with_what_was_left_and_one_that_ended_meanwhile_ends_again() {
    let store = open(&Arc::new(Memory::new()), "a", ALONE).await;
    for (id, ttl) in [(7, 1000), (8, 1000)] {
        store.grant(id, ttl, Revision::ZERO).await.expect("grants");
        put(&store, &format!("/r/m/{id}"), id).await;
    }
    store.share(7, name("b")).await.expect("shares");
    tokio::time::sleep(Duration::from_millis(300_500)).await;
    let at = store.state().committed();
    store.revoke(8, Revision::ZERO).await.expect("revokes");
    let export = store.export(at, -1, Revision::ZERO).await.expect("begins");
    let (_, engine) =
        restored(&file(vec![("a", export)]).await, &Options::default()).await.expect("restores");
    let again = open(&engine, "a", ALONE).await;
    assert_eq!(again.remaining(7), Some((1000, Duration::from_secs(700))));
    assert_eq!(again.lease_keys(7), ["/r/m/7"]);
    assert_eq!(again.holders(7), Some(vec!["b".to_owned()]));
    assert_eq!(again.lease_keys(8), ["/r/m/8"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(again.remaining(8).is_none() && again.state().committed() > at, "its key went with it");
}

#[tokio::test(start_paused = true)]
async fn a_bump_is_above_all_revisions_and_marks_all_of_them_compacted() {
    let store = open(&Arc::new(Memory::new()), "a", ALONE).await;
    history(&store).await;
    let revision = store.state().committed().get();
    let file = file(vec![("a", export(&store).await)]).await;
    let options = Options { bump: 1000, mark_compacted: true, ..Options::default() };
    let (done, engine) = restored(&file, &options).await.expect("restores");
    assert_eq!((done.revision.get(), done.compacted), (revision + 1000, revision.cast_signed() + 1000));
    let live = store.range(&crate::store::read_all(ReadAt::Latest), Revision::ZERO).await.expect("reads");
    let live = <kubebrain_proto::etcdserverpb::RangeResponse as prost::Message>::decode(live.message);
    assert_eq!(done.versions, live.expect("an answer").count.unsigned_abs(), "one version of each key");
    let again = open(&engine, "a", ALONE).await;
    let compacted = revision + 1000;
    assert_eq!(hash(&again, compacted, -1).await, hash(&store, revision, revision.cast_signed()).await);
    let page = History::default().page(again.state(), &KeyRange::ALL, compacted - 1).await;
    assert!(matches!(page, Err(HistoryError::Compacted(at)) if at.get() == compacted), "{page:?}");
    assert_eq!(put(&again, "/r/m/new", 0).await, compacted + 1);
    assert_eq!(events(&again, compacted + 1).await.len(), 1);
    // The sweep finds its way in a log that was made here.
    again.compact(compacted.cast_signed() + 1, true, Revision::ZERO).await.expect("compacts");
    again.close().await;
    let again = open(&engine, "a", ALONE).await;
    assert_eq!(put(&again, "/r/m/newer", 0).await, compacted + 2);
    let far = Options { bump: u64::MAX - 5, mark_compacted: true, ..Options::default() };
    assert!(matches!(restored(&file, &far).await, Err(RestoreError::Bump { .. })));
}

#[tokio::test(start_paused = true)]
async fn keys_go_to_other_groups_only_without_their_history() {
    let store = open(&Arc::new(Memory::new()), "a", ALONE).await;
    history(&store).await;
    store.grant(7, 1000, Revision::ZERO).await.expect("grants");
    put(&store, "/r/m/leased", 7).await;
    let revision = store.state().committed().get();
    let file = file(vec![("a", export(&store).await)]).await;
    let table = Some(placement(TWO));
    let refused = restored(&file, &Options { placement: table.clone(), ..Options::default() }).await.err();
    assert!(matches!(&refused, Some(RestoreError::Moved { kinds }) if kinds == "/r/m/"), "{refused:?}");

    let options = Options { bump: 10, mark_compacted: true, placement: table, ..Options::default() };
    let (_, engine) = restored(&file, &options).await.expect("restores");
    let (a, b) = (open(&engine, "a", TWO).await, open(&engine, "b", TWO).await);
    let at = revision + 10;
    let sum = hash(&a, at, -1).await.wrapping_add(hash(&b, at, -1).await);
    assert_eq!(sum, hash(&store, revision, revision.cast_signed()).await);
    assert!(hash(&a, at, -1).await != 0 && hash(&b, at, -1).await != 0);
    assert_eq!(
        (a.holders(7), b.lease_keys(7)),
        (Some(vec!["b".to_owned()]), vec![Bytes::from("/r/m/leased")])
    );
    assert_eq!((put(&a, "/r/n/x", 0).await, put(&b, "/r/m/x", 7).await), (at + 1, at + 1));

    let same = Options { placement: Some(placement(ALONE)), ..Options::default() };
    let (_, engine) = restored(&file, &same).await.expect("nothing moves");
    let again = open(&engine, "a", ALONE).await;
    assert_eq!(events(&again, 2).await, events(&store, 2).await);
}

#[tokio::test(start_paused = true)]
async fn one_group_of_several_can_be_restored() {
    let engine = Arc::new(Memory::new());
    let (a, b) = (open(&engine, "a", TWO).await, open(&engine, "b", TWO).await);
    put(&a, "/r/n/1", 0).await;
    put(&b, "/r/m/1", 0).await;
    let file = file(vec![("a", export(&a).await), ("b", export(&b).await)]).await;
    let only = |group| Options { groups: [name(group)].into(), ..Options::default() };
    let (done, engine) = restored(&file, &only("b")).await.expect("restores");
    assert_eq!((done.versions, done.groups.len()), (1, 1));
    let (again, other) = (open(&engine, "b", TWO).await, open(&engine, "a", TWO).await);
    assert_eq!(hash(&again, 2, -1).await, hash(&b, 2, -1).await);
    assert_eq!(other.state().committed(), Revision::INITIAL, "of the other one there is nothing");
    let unknown = restored(&file, &only("c")).await.err();
    assert!(matches!(&unknown, Some(RestoreError::NoGroup { known, .. }) if known == "a, b"), "{unknown:?}");
}
