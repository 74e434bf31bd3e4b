//! A writer without room, with alarms, and with an engine that does not do what it is asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use crate::config::Config;
use crate::engine::memory::Memory;
use crate::engine::{Batch, CommitError, Engine, ReadError, Refusal, Snapshot, Span};
use crate::lead::command::{Adoption, WriteError};
use crate::request::{Compare, Comparison, Delete, Given, Op, Operand, Put, ReadAt, Txn};
use crate::state::alarm::{Alarm, AlarmKind};
use crate::state::quota::Quota;
use crate::store::{Reply, Store, read_all};

const ALONE: &str = "{prefix: /r, home: a, default: a, groups: {a: {}}}";
const TWO: &str = "{prefix: /r, home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: m, group: b}]}";

/// What becomes of commits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Fine,
    /// A conflict, though every condition holds.
    Contrary,
    NoSpace,
    Silent,
}

/// A memory engine with a mood.
struct Moody {
    memory: Memory,
    mood: watch::Sender<Mood>,
}

#[async_trait]
impl Engine for Moody {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        self.memory.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let mut mood = self.mood.subscribe();
        drop(mood.wait_for(|mood| *mood != Mood::Silent).await);
        if *self.mood.borrow() == Mood::Contrary {
            return Err(CommitError::Conflict { key: Bytes::new() });
        }
        if *self.mood.borrow() == Mood::NoSpace {
            return Err(CommitError::Refused(Refusal::NoSpace));
        }
        self.memory.commit(batch).await
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        self.memory.partitions(range).await
    }

    fn size(&self) -> u64 {
        0
    }
}

fn engine() -> Arc<Moody> {
    Arc::new(Moody { memory: Memory::new(), mood: watch::Sender::new(Mood::Fine) })
}

fn config(group: &str, quota: &Arc<Quota>) -> Config {
    let group = GroupName::parse(group).expect("a legal name");
    let lease_checkpoint_interval = Duration::from_secs(10);
    Config { quota: quota.clone(), lease_checkpoint_interval, ..Config::new(group, "test") }
}

async fn open_group(engine: &Arc<Moody>, group: &str, table: &str, quota: &Arc<Quota>) -> Store {
    let placement = Arc::new(Placement::parse(table).expect("a legal placement"));
    Store::open(config(group, quota), engine.clone(), placement).await.expect("the store opens")
}

async fn open(engine: &Arc<Moody>, quota_bytes: Option<u64>) -> Store {
    open_group(engine, "a", ALONE, &Quota::new(quota_bytes)).await
}

fn put(key: &str, bytes: usize, lease: i64) -> Put {
    Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Given::New(vec![b'x'; bytes].into()),
        lease: Given::New(lease),
        prev_kv: false,
    }
}

async fn write(store: &Store, key: &str, bytes: usize) -> Result<Reply, WriteError> {
    store.put(put(key, bytes, 0), Revision::ZERO).await
}

async fn delete(store: &Store, range: KeyRange) -> Reply {
    let delete = Delete { keys: range, prev_kv: false };
    store.delete(delete, Revision::ZERO, None).await.expect("a deletion needs no room")
}

async fn count(store: &Store) -> usize {
    let read = store.range(&read_all(ReadAt::Latest), Revision::ZERO).await.expect("a read needs no room");
    let answer: kubebrain_proto::etcdserverpb::RangeResponse =
        prost::Message::decode(read.message).expect("an answer");
    answer.kvs.len()
}

async fn compact_all(store: &Store) {
    let now = store.state().committed();
    store.compact(now.to_wire(), true, Revision::ZERO).await.expect("a compaction needs no room");
}

const NO_SPACE: WriteError = WriteError::Fault(Fault::NoSpace);

fn refused<T: std::fmt::Debug>(answer: Result<T, WriteError>) -> WriteError {
    answer.expect_err("refused")
}

fn own_alarm(store: &Store) -> Alarm {
    Alarm { member: store.state().identity().member, kind: AlarmKind::NoSpace }
}

#[tokio::test(start_paused = true)]
async fn above_the_quota_puts_are_refused_until_room_is_made_and_the_alarm_disarmed() {
    let engine = engine();
    let store = open(&engine, Some(1000)).await;
    let lease = store.grant(7, 60, Revision::ZERO).await.expect("room").id;
    store.put(put("/r/m/leased", 10, lease), Revision::ZERO).await.expect("room");
    for key in ["/r/m/a", "/r/m/b"] {
        write(&store, key, 400).await.expect("room");
    }
    assert_eq!(refused(write(&store, "/r/m/c", 400).await), NO_SPACE);
    assert_eq!(store.alarms(), [own_alarm(&store)]);
    // Everything that adds is refused now, however small.
    assert_eq!(refused(write(&store, "/r/m/c", 1).await), NO_SPACE);
    assert_eq!(store.grant(0, 60, Revision::ZERO).await.expect_err("refused"), Fault::NoSpace);
    let never = Compare {
        keys: KeyRange::one(Bytes::from_static(b"/r/m/a")),
        comparison: Comparison::Equal,
        operand: Operand::Version(77),
    };
    let putting = Txn { compares: vec![never], success: vec![Op::Put(put("/r/m/a", 1, 0))], failure: vec![] };
    assert_eq!(
        refused(store.txn(putting, Revision::ZERO).await),
        NO_SPACE,
        "as in etcd, whichever branch runs"
    );
    // What does not, works.
    let taking = Op::Delete(Delete { keys: KeyRange::one(Bytes::from_static(b"/r/m/a")), prev_kv: false });
    let taking = Txn { compares: vec![], success: vec![taking], failure: vec![] };
    store.txn(taking, Revision::ZERO).await.expect("it only deletes");
    assert_eq!(count(&store).await, 2);
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(count(&store).await, 1, "a lease ends");
    // The alarm stays through a restart, and where it is disarmed too early it comes back.
    drop(store);
    let store = open(&engine, Some(1000)).await;
    assert_eq!(store.alarms(), [own_alarm(&store)]);
    assert_eq!(refused(write(&store, "/r/m/c", 1).await), NO_SPACE);
    assert!(store.disarm(own_alarm(&store)).await.expect("disarmed"));
    assert_eq!(refused(write(&store, "/r/m/c", 400).await), NO_SPACE);
    assert_eq!(store.alarms(), [own_alarm(&store)]);
    // Deletion and compaction make room; no defragmentation.
    compact_all(&store).await;
    assert!(store.state().share.quota().used() < 500, "{}", store.state().share.quota().used());
    assert_eq!(refused(write(&store, "/r/m/c", 400).await), NO_SPACE, "not disarmed yet");
    assert!(store.disarm(own_alarm(&store)).await.expect("disarmed"));
    write(&store, "/r/m/c", 400).await.expect("room again");
    assert!(store.alarms().is_empty());
    drop(store);
    assert!(open(&engine, Some(1000)).await.alarms().is_empty(), "a disarm is durable too");
}

#[tokio::test(start_paused = true)]
async fn an_alarm_of_one_group_holds_for_the_whole_store() {
    let (engine, quota) = (engine(), Quota::new(Some(1000)));
    let one = open_group(&engine, "a", TWO, &quota).await;
    let other = open_group(&engine, "b", TWO, &quota).await;
    write(&one, "/r/n/a", 500).await.expect("room");
    assert_eq!(refused(write(&other, "/r/m/a", 500).await), NO_SPACE, "they share it");
    assert_eq!(refused(write(&one, "/r/n/b", 1).await), NO_SPACE);
    assert!(one.alarms().is_empty() && other.alarms() == [own_alarm(&other)]);
    other.disarm(own_alarm(&other)).await.expect("disarmed");
    write(&one, "/r/n/b", 1).await.expect("room");
}

#[tokio::test(start_paused = true)]
async fn alarms_are_raised_and_disarmed_by_hand() {
    let engine = engine();
    let store = open(&engine, None).await;
    let by_hand = Alarm { member: 9, kind: AlarmKind::NoSpace };
    assert_eq!(store.raise_alarm(by_hand).await, Ok(true));
    assert_eq!(store.raise_alarm(by_hand).await, Ok(false));
    assert_eq!(refused(write(&store, "/r/m/a", 1).await), NO_SPACE);
    assert_eq!(store.disarm(own_alarm(&store)).await, Ok(false), "another one");
    assert_eq!(store.disarm(by_hand).await, Ok(true));
    write(&store, "/r/m/a", 1).await.expect("no quota, no alarm");
    let lease = store.grant(7, 5, Revision::ZERO).await.expect("granted").id;
    store.put(put("/r/m/b", 1, lease), Revision::ZERO).await.expect("written");
    let corrupt = Alarm { kind: AlarmKind::Corrupt, ..by_hand };
    store.raise_alarm(corrupt).await.expect("raised");
    drop(store);
    let store = open(&engine, None).await;
    let all = read_all(ReadAt::Latest);
    store.range(&all, Revision::ZERO).await.expect("reads go on");
    let reads = Txn { compares: Vec::new(), success: vec![Op::Range(all)], failure: Vec::new() };
    store.txn(reads, Revision::ZERO).await.expect("reads go on");
    assert_eq!(refused(write(&store, "/r/m/a", 1).await), WriteError::Fault(Fault::Corrupt));
    assert_eq!(store.compact(1, false, Revision::ZERO).await, Err(Fault::Corrupt));
    assert_eq!(store.grant(0, 5, Revision::ZERO).await.err(), Some(Fault::Corrupt));
    assert_eq!(store.revoke(lease, Revision::ZERO).await, Err(Fault::Corrupt));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let there = store.state().index.read().live(&KeyRange::ALL, u64::MAX).count();
    assert_eq!(there, 2, "nothing was changed meanwhile, not even by the end of a lease");
    store.disarm(corrupt).await.expect("disarmed");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(count(&store).await, 1);
    for member in 0..256 {
        store.raise_alarm(Alarm { member, ..by_hand }).await.expect("below the bound");
    }
    let one_more = store.raise_alarm(Alarm { member: 256, ..by_hand }).await;
    assert_eq!(one_more, Err(Fault::TooManyRequests));
}

/// What the quota says, against the rows.
async fn used_is_stored(store: &Store, engine: &Moody) {
    let snapshot = engine.snapshot().await.expect("a snapshot");
    let rows = snapshot.scan(store.state().layout.data_span(&KeyRange::ALL), usize::MAX).await.expect("rows");
    assert!(rows.next.is_none());
    let bytes: usize = rows.rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!(store.state().share.quota().used(), bytes as u64);
}

#[tokio::test(start_paused = true)]
async fn what_is_used_is_what_is_stored() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let engine = engine();
    let mut store = open(&engine, None).await;
    for _ in 0..300 {
        let key = format!("/r/m/{}", rng.random_range(0..12));
        match rng.random_range(0..20) {
            0 => {
                let now = store.state().committed().to_wire();
                let at = rng.random_range(1..=now);
                let _older = store.compact(at, true, Revision::ZERO).await;
                used_is_stored(&store, &engine).await;
            }
            1 => {
                drop(store);
                store = open(&engine, None).await;
                used_is_stored(&store, &engine).await;
            }
            2..6 => drop(delete(&store, KeyRange::one(key.into())).await),
            _ => drop(write(&store, &key, rng.random_range(0..300)).await.expect("written")),
        }
    }
    used_is_stored(&store, &engine).await;
    delete(&store, KeyRange::ALL).await;
    compact_all(&store).await;
    assert_eq!(store.state().share.quota().used(), 0);
}

fn left(store: &Store, id: i64) -> u64 {
    store.remaining(id).expect("granted").1.as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_restart_gives_a_lease_what_its_last_checkpoint_left_it() {
    let engine = engine();
    let store = open(&engine, None).await;
    for id in [1, 2] {
        store.grant(id, 1000, Revision::ZERO).await.expect("granted");
    }
    tokio::time::sleep(Duration::from_secs(505)).await;
    store.renew(2).await.expect("in time").expect("granted");
    drop(store);
    let store = open(&engine, None).await;
    assert!((490..=505).contains(&left(&store, 1)), "{}", left(&store, 1));
    assert_eq!(left(&store, 2), 1000, "a renewal takes the checkpoint back, durably");
    tokio::time::sleep(Duration::from_secs(506)).await;
    assert!(store.remaining(1).is_none(), "it ends as early as it would have");
    assert!(store.remaining(2).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_not_answered_before_its_row_is_durable() {
    let engine = engine();
    let store = open(&engine, None).await;
    store.grant(1, 1000, Revision::ZERO).await.expect("granted");
    tokio::time::sleep(Duration::from_secs(505)).await;
    engine.mood.send_replace(Mood::Silent);
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.renew(1).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The row in memory says "all of its time" by now; what is durable does not.
    let second = tokio::spawn({
        let store = store.clone();
        async move { store.renew(1).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished() && !second.is_finished());
    engine.mood.send_replace(Mood::Fine);
    for renewal in [first, second] {
        assert_eq!(renewal.await.expect("it ends"), Ok(Some((1000, Vec::new()))));
    }
    drop(store);
    assert_eq!(left(&open(&engine, None).await, 1), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_often_writes_nothing() {
    let engine = engine();
    let store = open(&engine, None).await;
    store.grant(1, 100, Revision::ZERO).await.expect("granted");
    let number = async || {
        let snapshot = engine.snapshot().await.expect("a snapshot");
        crate::rows::log::tail(&*snapshot, &store.state().layout).await.expect("a log")
    };
    let before = number().await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        store.renew(1).await.expect("in time").expect("granted");
    }
    assert_eq!(number().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_over_with_less_keeps_less() {
    let engine = engine();
    let store = open(&engine, None).await;
    let adoption = Adoption { remaining: Duration::from_secs(300), offered: false };
    store.adopt(1, 1000, adoption).await.expect("taken over");
    drop(store);
    let store = open(&engine, None).await;
    assert_eq!(left(&store, 1), 300);
    assert_eq!(store.renew(1).await, Ok(Some((1000, Vec::new()))));
}

/// Between two steps of a proxy that brings a lease here anything may be lost, the process too.
#[tokio::test(start_paused = true)]
async fn no_key_hangs_on_a_lease_that_is_only_offered() {
    let engine = engine();
    let store = open(&engine, None).await;
    let adoption = |seconds, offered| Adoption { remaining: Duration::from_secs(seconds), offered };
    let leased = || Put {
        key: Bytes::from_static(b"/r/m/a"),
        value: Given::New("v".into()),
        lease: Given::New(1),
        prev_kv: false,
    };
    let refused = Err(WriteError::Fault(Fault::LeaseNotFound));
    let put = async |store: &Store| store.put(leased(), Revision::ZERO).await.map(drop);
    store.adopt(1, 60, adoption(20, true)).await.expect("offered");
    assert_eq!(put(&store).await, refused);
    drop(store);
    let store = open(&engine, None).await;
    assert_eq!(put(&store).await, refused, "the row says so");
    // It lives as others do, and is given what home has renewed meanwhile.
    assert_eq!(store.renew(1).await, Ok(Some((60, Vec::new()))));
    tokio::time::sleep(Duration::from_secs(50)).await;
    store.adopt(1, 60, adoption(40, true)).await.expect("offered again");
    assert_eq!(left(&store, 1), 40);
    store.adopt(1, 60, adoption(30, false)).await.expect("held");
    assert_eq!(left(&store, 1), 40, "never less");
    assert_eq!(put(&store).await, Ok(()));
    store.adopt(1, 60, adoption(60, true)).await.expect("another proxy's first step");
    assert_eq!((left(&store, 1), put(&store).await), (60, Ok(())), "held is held");
    drop(store);
    let store = open(&engine, None).await;
    assert_eq!(put(&store).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_engine_without_space_refuses_what_would_add_and_goes_on_when_it_has_some() {
    let engine = engine();
    let store = open(&engine, None).await;
    engine.mood.send_replace(Mood::NoSpace);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { write(&store, "/r/m/a", 1).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = tokio::time::Instant::now();
    assert_eq!(refused(write(&store, "/r/m/b", 1).await), NO_SPACE);
    assert_eq!(store.grant(0, 60, Revision::ZERO).await.err(), Some(Fault::NoSpace));
    assert!(asked.elapsed() < Duration::from_millis(100), "it waits for nothing");
    engine.mood.send_replace(Mood::Fine);
    waiting.await.expect("it ends").expect("written after all");
    write(&store, "/r/m/b", 1).await.expect("room again");
    assert!(!store.state().has_ended());
}

/// Databases with locks say so now and then. Only a condition that really fails ends a group.
#[tokio::test(start_paused = true)]
async fn a_conflict_with_nothing_is_tried_again_and_one_over_an_owner_is_told() {
    let engine = engine();
    let store = open(&engine, None).await;
    engine.mood.send_replace(Mood::Contrary);
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { write(&store, "/r/m/a", 1).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished() && !store.state().has_ended());
    engine.mood.send_replace(Mood::Fine);
    waiting.await.expect("it ends").expect("written");
    let mut batch = Batch::new();
    batch.put(store.state().layout.owner(b"/r/n/"), "b");
    engine.memory.commit(batch).await.expect("another group's");
    assert_eq!(refused(write(&store, "/r/n/a", 1).await), WriteError::Fault(Fault::Timeout));
    let ended = store.ended().await.to_string();
    assert!(ended.contains("/r/n/") && ended.contains("another group"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_the_queue_holds_are_refused_at_once() {
    let engine = engine();
    let store = open(&engine, None).await;
    engine.mood.send_replace(Mood::Silent);
    // One batch flies, the next one is full, the rest waits in the queue.
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8000 {
        let store = store.clone();
        tasks.spawn(async move { write(&store, &format!("/r/m/{number}"), 1).await });
    }
    let mut outcomes = std::collections::BTreeMap::new();
    while let Some(outcome) = tasks.join_next().await {
        let outcome = match outcome.expect("no panic") {
            Err(WriteError::Fault(fault)) => fault,
            other => panic!("{other:?}"),
        };
        *outcomes.entry(format!("{outcome:?}")).or_insert(0) += 1;
    }
    assert!(outcomes["TooManyRequests"] > 1000 && outcomes["Timeout"] >= 5000, "{outcomes:?}");
}

/// A flood of one kind waits behind itself: what comes last of another kind is among the first.
#[tokio::test(start_paused = true)]
async fn kinds_take_turns_at_the_writer_and_in_its_queue() {
    let engine = engine();
    let store = open(&engine, None).await;
    engine.mood.send_replace(Mood::Silent);
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..8000 {
        let store = store.clone();
        flood.spawn(async move { write(&store, &format!("/r/events/{number}"), 1).await });
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let leases = tokio::spawn({
        let store = store.clone();
        async move { write(&store, "/r/leases/a", 1).await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    engine.mood.send_replace(Mood::Fine);
    let at = leases.await.expect("no panic").expect("it has a place, and its turn").revision.get();
    let mut refused = 0;
    while let Some(outcome) = flood.join_next().await {
        refused += u32::from(outcome.expect("no panic").is_err());
    }
    assert!(refused > 1000, "{refused}: the queue was full");
    let last = store.state().committed().get();
    assert!(
        at < 1400 && last > 5000,
        "at {at} of {last}: behind what was on its way or filled a batch, and not more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_placement_holds_and_can_be_taken_back() {
    let engine = engine();
    let limits = |limits: &str| {
        let text = format!("{{prefix: /r, home: a, default: a, groups: {{a: {{}}}}, limits: [{limits}]}}");
        crate::decide::held::Held::unnumbered(Placement::parse(&text).expect("a placement"))
    };
    let store = open(&engine, None).await;
    let state = store.state().clone();
    state.hold(limits(
        "{kind: events, writesPerSecond: 2}, {kind: pods, inFlight: 0}, {kind: other, inFlight: 0}",
    ));
    let full = WriteError::Fault(Fault::TooManyRequests);
    write(&store, "/r/events/a", 1).await.expect("the first");
    write(&store, "/r/events/a", 1).await.expect("the second");
    assert_eq!(refused(write(&store, "/r/events/a", 1).await), full);
    write(&store, "/r/leases/a", 1).await.expect("no limit");
    let both = Txn {
        success: vec![Op::Put(put("/r/leases/b", 1, 0)), Op::Put(put("/r/events/b", 1, 0))],
        ..Txn::default()
    };
    assert_eq!(refused(store.txn(both, Revision::ZERO).await), full);
    assert_eq!(refused(write(&store, "/r/pods/a", 1).await), full);
    let pods = crate::store::Terms::default();
    let read = |prefix: &'static str| crate::request::Range {
        keys: KeyRange::prefix(Bytes::from_static(prefix.as_bytes())),
        ..read_all(ReadAt::Latest)
    };
    assert_eq!(store.range_on(&read("/r/pods/"), &pods).await.map(drop).expect_err("no reads either"), full);
    store.range_on(&read("/r/events/"), &pods).await.expect("reads have no limit");
    assert_eq!(refused(write(&store, "outside", 1).await), full);
    write(&store, "compact_rev_key", 1).await.expect("compaction has no limit");
    let refused = |kind: &str| {
        state.kinds.counts().iter().find(|(found, _)| found.name() == kind).map(|(_, counts)| counts.refused)
    };
    assert_eq!((refused("events"), refused("pods"), refused("leases")), (Some(2), Some(2), Some(0)));
    state.hold(limits(""));
    write(&store, "/r/pods/a", 1).await.expect("no limit any more");
}
