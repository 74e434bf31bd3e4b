//! Stores that crash, close, and meet each other over one engine.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;

use super::{Store, read_all};
use crate::config::Config;
use crate::decide::held::Unserved;
use crate::decide::held::testing::{document, raising};
use crate::engine::embedded::{self, Embedded};
use crate::engine::faulty::{Faulty, Mood};
use crate::engine::memory::Memory;
use crate::engine::{Batch, Engine};
use crate::lead::command::{Decision, PlaceStep, Placed, WriteError};
use crate::load::error::OpenError;
use crate::request::{Given, Put, ReadAt};
use crate::rows::codec::{DecidedRow, HistoryRow, Layout, Small, small_value};
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

async fn prepare(store: &Store, base: Option<(u64, &str)>, next: (u64, &str)) -> Placed {
    let base = base.map(|(number, text)| document(number, text));
    let step = PlaceStep::Prepare { base, next: document(next.0, next.1), known: false };
    store.place(step).await.expect("an answer")
}

async fn take(store: &Store, document: Document) -> Placed {
    store.place(PlaceStep::Take { document, accept_loss: false }).await.expect("an answer")
}

/// A store that goes by number 1.
async fn placed(engine: &Arc<Memory>) -> Store {
    let store = open(engine).await;
    assert_eq!(prepare(&store, None, (1, ALONE)).await.refusal, "");
    let placed = take(&store, document(1, ALONE)).await;
    assert_eq!((placed.id.number, placed.adopted), (1, 0));
    store
}

fn changing(refused: Result<u64, WriteError>) -> bool {
    matches!(refused, Err(WriteError::Unserved(Unserved::Changing(_))))
}

#[tokio::test(start_paused = true)]
async fn a_kind_with_keys_stays_where_it_is_and_an_empty_one_may_go() {
    let engine = Arc::new(Memory::new());
    let store = placed(&engine).await;
    assert_eq!(put(&store, "/r/n/a", 0).await, Ok(2));
    let adopted = prepare(&store, Some((1, ALONE)), (2, MOVED)).await;
    assert_eq!(
        (&adopted.refusal[..], adopted.adopted, adopted.revision.get()),
        ("", 2, 2),
        "nothing is under /r/m/"
    );
    assert!(changing(put(&store, "/r/m/a", 0).await));
    assert_eq!(put(&store, "/r/n/a", 0).await, Ok(3));
    assert_eq!(prepare(&store, Some((1, ALONE)), (2, MOVED)).await, adopted, "a repeated answer is the same");
    // Taken back, under a number of its own; what comes late is past.
    assert_eq!(take(&store, document(3, ALONE)).await.id.number, 3);
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(4));
    let late = prepare(&store, Some((1, ALONE)), (2, MOVED)).await;
    assert!(late.refusal.contains("number 3 already"), "{late:?}");
    assert_eq!(take(&store, document(1, ALONE)).await.id.number, 3);
    let stranded = prepare(&store, None, (4, MOVED)).await;
    assert!(stranded.refusal.contains("has keys under /r/m/") && stranded.adopted == 0, "{stranded:?}");
    store
        .delete(crate::request::Delete { keys: KeyRange::ALL, prev_kv: false }, Revision::ZERO, None)
        .await
        .expect("deletes");
    let stranded = prepare(&store, None, (5, MOVED)).await;
    assert!(stranded.refusal.contains("has history of keys under /r/"), "{stranded:?}");
    store.compact(5, true, Revision::ZERO).await.expect("compacts");
    assert_eq!(prepare(&store, None, (6, MOVED)).await.refusal, "");
    // What it has agreed to is in its store, whatever table it is opened with.
    drop(store);
    let store = open(&engine).await;
    assert!(changing(put(&store, "/r/m/a", 0).await));
    assert_eq!(take(&store, document(6, MOVED)).await.id.number, 6);
    assert!(matches!(put(&store, "/r/m/a", 0).await, Err(WriteError::Unserved(Unserved::NotOwner(_)))));
    let gaining = try_open(&engine, "b", ALONE).await.expect("opens");
    assert_eq!(prepare(&gaining, Some((3, ALONE)), (6, MOVED)).await.refusal, "");
    assert!(
        matches!(put(&gaining, "/r/m/a", 0).await, Err(WriteError::Unserved(_))),
        "not before it is current"
    );
    let current = take(&gaining, raising(6, 800, 600, MOVED)).await;
    assert_eq!((current.revision.get(), current.compacted), (800, 600), "above all that was shown elsewhere");
    assert_eq!(put(&gaining, "/r/m/a", 0).await, Ok(801));
}

#[tokio::test(start_paused = true)]
async fn a_table_without_a_number_gives_no_keys_away() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(2));
    store.close().await;
    for group in ["a", "b"] {
        let refused = try_open(&engine, group, MOVED).await.err();
        assert!(
            matches!(&refused, Some(OpenError::Stranded { kind, .. }) if kind == "/r/m/"),
            "{group}: {refused:?}"
        );
    }
}

/// One of a cluster has what is recorded as its own, and nothing else, until it has heard of a placement.
#[tokio::test(start_paused = true)]
async fn who_awaits_a_placement_serves_what_is_recorded_as_its_own() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(2));
    store.close().await;
    let awaiting = |group| Config {
        awaits_placement: true,
        ..Config::new(GroupName::parse(group).expect("a name"), "test")
    };
    let store = Store::open(awaiting("a"), engine.clone(), placement(MOVED)).await.expect("opens");
    assert_eq!(put(&store, "/r/m/a", 0).await, Ok(3));
    assert!(put(&store, "/r/n/a", 0).await.is_err(), "nobody's yet");
    let known = PlaceStep::Prepare { base: None, next: document(1, ALONE), known: true };
    let lost = store.place(known).await.expect("an answer");
    assert!(lost.refusal.contains("--accept-loss a"), "{lost:?}");
    assert!(take(&store, document(1, ALONE)).await.refusal.contains("--accept-loss a"));
    let stranded = prepare(&store, None, (1, MOVED)).await;
    assert!(stranded.refusal.contains("has keys under /r/m/"), "{stranded:?}");
    assert_eq!(prepare(&store, None, (1, ALONE)).await.refusal, "");
    assert_eq!(take(&store, document(1, ALONE)).await.id.number, 1);
    assert_eq!(put(&store, "/r/n/a", 0).await, Ok(4));
    assert_eq!(store.state().identity().cluster, 7, "the cluster's id goes with the placement");
}

#[tokio::test(start_paused = true)]
async fn another_clusters_placement_is_refused_unless_an_operator_says_so() {
    let engine = Arc::new(Memory::new());
    let store = placed(&engine).await;
    let foreign = |number, replaces| {
        let wire = PlacementDocument { lineage: 9, number, replaces, ..document(number, ALONE).to_wire() };
        Document::from_wire(&wire).expect("a document")
    };
    let refused = take(&store, foreign(5, 0)).await;
    assert!(refused.refusal.contains("another cluster") && refused.id.lineage == 1, "{refused:?}");
    assert_eq!(take(&store, foreign(5, 1)).await.id.lineage, 9, "it says that it goes on from this one");
    let step = PlaceStep::Take { document: document(2, ALONE), accept_loss: true };
    assert_eq!(store.place(step).await.expect("an answer").id, document(2, ALONE).id());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_removed_holds_no_lease_any_more() {
    let engine = Arc::new(Memory::new());
    let store = placed(&engine).await;
    store.grant(5, 60, Revision::ZERO).await.expect("grants");
    for holder in ["a", "b"] {
        store.share(5, GroupName::parse(holder).expect("a name")).await.expect("shares");
    }
    assert_eq!(take(&store, document(2, MOVED)).await.refusal, "");
    assert_eq!(store.holders(5).expect("a lease"), ["a", "b"], "b is there");
    assert_eq!(take(&store, document(3, ALONE)).await.refusal, "");
    assert_eq!(store.holders(5).expect("a lease"), ["a"]);
    drop(store);
    let store = open(&engine).await;
    assert_eq!(store.holders(5).expect("a lease"), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_home_has_decided_is_there_at_the_next_start() {
    let engine = Arc::new(Memory::new());
    let store = open(&engine).await;
    for number in 1..=3 {
        let current = Some(document(number, ALONE).to_wire());
        let row = DecidedRow { current: current.clone(), last: number, ..DecidedRow::default() };
        let entry = HistoryRow { document: current, at: 0, reason: "applied".to_owned() };
        let forget = if number == 3 { vec![1] } else { Vec::new() };
        store.decide(Decision { row, entry: Some(entry), forget }).await.expect("decides");
        assert_eq!(store.state().decided().last, number);
    }
    drop(store);
    let store = open(&engine).await;
    assert_eq!(store.state().decided().last, 3);
    let kept = store.placements().await.expect("reads");
    let numbers: Vec<_> =
        kept.iter().flat_map(|entry| &entry.document).map(|document| document.number).collect();
    assert_eq!(numbers, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_store_of_before_becomes_one_that_older_programs_refuse() {
    let engine = Arc::new(Memory::new());
    let layout = Layout::new(b"", &GroupName::parse("a").expect("a legal name"));
    let mut batch = Batch::new();
    batch.put(layout.format(), small_value(1));
    engine.commit(batch).await.expect("commits");
    open(&engine).await;
    let format = engine.snapshot().await.expect("reads").get(&layout.format()).await.expect("reads");
    assert_eq!(format, Some(small_value(2)));
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
