//! A master over an engine that another process may write meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use kubebrain_net::trace::{self, MILLION, Name, Sink, Step, Tracer, Work, within};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::method;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::config::{Config, ReadFence};
use crate::engine::faulty::{Faulty, Mood};
use crate::engine::memory::Memory;
use crate::lead::command::WriteError;
use crate::planted::Planted;
use crate::request::{Given, Put, Range, ReadAt};
use crate::state::ended::Ended;
use crate::state::timeout::ANSWER_TIMEOUT;
use crate::state::values::ValueCache;
use crate::store::{Store, read_all};
use crate::tenure::Tenure;

const LEASE: Duration = Duration::from_millis(1500);

async fn open(engine: &Arc<Faulty>, name: &str, read_fence: ReadFence) -> Store {
    let group = GroupName::parse("core").expect("a name");
    let config = Config { read_fence, ..Config::new(group.clone(), name) };
    Store::open(config, engine.clone(), Arc::new(Placement::single(group))).await.expect("opens")
}

/// Two processes' ways to one shared engine.
fn shared() -> (Arc<Faulty>, Arc<Faulty>) {
    let memory = Arc::new(Memory::new());
    let way = |seed| Faulty::new(memory.clone(), Mood::default(), seed).shared();
    (Arc::new(way(1)), Arc::new(way(2)))
}

async fn put(store: &Store, key: &'static str) -> Result<u64, WriteError> {
    let put = Put {
        key: Bytes::from_static(key.as_bytes()),
        value: Given::New("v".into()),
        lease: Given::New(0),
        prev_kv: false,
    };
    store.put(put, Revision::ZERO).await.map(|reply| reply.revision.get())
}

async fn read(store: &Store, serializable: bool) -> Result<u64, Fault> {
    let range = Range { serializable, ..read_all(ReadAt::Latest) };
    store.range(&range, Revision::ZERO).await.map(|reply| reply.revision.get())
}

#[tokio::test(start_paused = true)]
async fn a_deposed_master_answers_nothing_from_its_past() {
    for named in [false, true] {
        let (one, other) = shared();
        let older = open(&one, "a", ReadFence::Engine).await;
        put(&older, "k").await.expect("put");
        older.grant(7, 60, Revision::ZERO).await.expect("granted");
        assert_eq!(read(&older, false).await, Ok(2));
        let newer = open(&other, "b", ReadFence::Engine).await;
        put(&newer, "k").await.expect("put");
        assert_eq!(read(&older, true).await, Ok(2), "serializable: it may be old");
        let answer = if named { older.renew(7).await.err() } else { read(&older, false).await.err() };
        assert_eq!(answer, Some(Fault::LeaderChanged));
        let Ended::Deposed { by, epoch, number, .. } = older.ended().await else { panic!("deposed") };
        assert_eq!((by.as_str(), epoch, number), ("b", 2, 4));
        assert_eq!(older.advance(Revision::ZERO).await, Err(Fault::LeaderChanged));
        assert_eq!(older.compact(1, false, Revision::ZERO).await, Err(Fault::Stopped));
        assert!(older.of_leases(Revision::ZERO, |leases| leases.exists(7)).await.is_err());
        assert_eq!(read(&newer, false).await, Ok(3));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_trusts_answers_from_its_past_until_it_writes() {
    let (one, other) = shared();
    let older = open(&one, "a", ReadFence::Trust).await;
    let newer = open(&other, "b", ReadFence::Engine).await;
    put(&newer, "k").await.expect("put");
    assert_eq!(read(&older, false).await, Ok(1), "as its name says");
    assert!(put(&older, "k").await.is_err());
    assert_eq!(read(&older, false).await, Err(Fault::LeaderChanged));
}

/// Many wait, few reads are made, and each joins one that began after it.
#[tokio::test(start_paused = true)]
async fn reads_that_wait_share_the_next_question() {
    let (engine, _) = shared();
    let store = open(&engine, "a", ReadFence::Engine).await;
    let before = engine.snapshots();
    engine.set(Mood { slow_reads: 1.0, ..Mood::default() });
    let mut reads = JoinSet::new();
    for wave in 0..3 {
        for _ in 0..100 {
            let store = store.clone();
            reads.spawn(async move { read(&store, false).await });
        }
        sleep(Duration::from_millis(wave + 1)).await;
    }
    while let Some(answer) = reads.join_next().await {
        assert_eq!(answer.expect("no panic"), Ok(1));
    }
    let asked = engine.snapshots() - before;
    assert!((2..=4).contains(&asked), "{asked} questions for 300 reads in three waves");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_makes_reads_time_out_and_they_work_again_after() {
    let (engine, _) = shared();
    let store = open(&engine, "a", ReadFence::Engine).await;
    put(&store, "k").await.expect("put");
    engine.hold();
    let asked = Instant::now();
    assert_eq!(read(&store, false).await, Err(Fault::Timeout));
    assert_eq!(asked.elapsed(), ANSWER_TIMEOUT);
    assert_eq!(read(&store, true).await, Ok(2), "from memory, where that is enough");
    assert_eq!(put(&store, "k").await, Err(WriteError::Fault(Fault::Timeout)));
    sleep(Duration::from_secs(300)).await;
    engine.release();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(read(&store, false).await, Ok(3), "the put was carried out after all");
    assert_eq!(put(&store, "k").await, Ok(4));
}

/// A batch that is durable, and of which nobody has heard, keeps no read waiting.
#[tokio::test(start_paused = true)]
async fn reads_do_not_wait_for_the_answer_of_a_batch_that_is_there() {
    let (engine, _) = shared();
    let store = open(&engine, "a", ReadFence::Engine).await;
    engine.set(Mood { late_answer: 1.0, ..Mood::default() });
    let writer = store.clone();
    let write = tokio::spawn(async move { put(&writer, "k").await });
    sleep(Duration::from_millis(1)).await;
    assert_eq!(read(&store, false).await, Ok(1), "before it");
    assert!(!write.is_finished());
    assert_eq!(write.await.expect("no panic"), Ok(2));
    assert_eq!(read(&store, false).await, Ok(2), "after it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_where_no_other_process_can_write() {
    let engine = Arc::new(Faulty::new(Arc::new(Memory::new()), Mood::default(), 1));
    let store = open(&engine, "a", ReadFence::Engine).await;
    let before = engine.snapshots();
    for _ in 0..10 {
        read(&store, false).await.expect("reads");
    }
    assert_eq!(engine.snapshots(), before);
}

/// Nobody can renew while nothing is answered, so nothing runs out meanwhile.
#[tokio::test(start_paused = true)]
async fn no_lease_ends_while_the_engine_does_not_answer_and_each_gets_the_time_back() {
    let (engine, _) = shared();
    let store = open(&engine, "a", ReadFence::Engine).await;
    store.grant(1, 20, Revision::ZERO).await.expect("granted");
    store.grant(2, 1000, Revision::ZERO).await.expect("granted");
    let attached = Put {
        key: Bytes::from_static(b"k"),
        value: Given::New("v".into()),
        lease: Given::New(1),
        prev_kv: false,
    };
    store.put(attached, Revision::ZERO).await.expect("put");
    sleep(Duration::from_secs(10)).await;
    engine.hold();
    assert!(put(&store, "other").await.is_err());
    sleep(Duration::from_secs(300)).await;
    assert_eq!(store.renew(1).await, Err(Fault::Timeout), "not known to be master");
    assert_eq!(read(&store, true).await, Ok(2), "nothing has ended");
    engine.release();
    sleep(Duration::from_secs(1)).await;
    let left = |id| store.remaining(id).expect("granted").1.as_secs();
    assert!((15..=20).contains(&left(1)) && (985..=1000).contains(&left(2)), "{} {}", left(1), left(2));
    assert_eq!(store.renew(1).await, Ok(Some((20, Vec::new()))));
    sleep(Duration::from_secs(25)).await;
    assert!(store.remaining(1).is_none(), "and then time goes on");
    assert_eq!(read(&store, false).await, Ok(4));
}

/// The queue is bounded, and it is worked off when the engine is back. A compare of a value that is not in memory does
/// not hold the writer up for each.
#[tokio::test(start_paused = true)]
async fn minutes_without_an_engine_need_no_restart() {
    let (engine, _) = shared();
    let group = GroupName::parse("core").expect("a name");
    let config = Config { value_cache: ValueCache::new(1), ..Config::new(group.clone(), "a") };
    let store = Store::open(config, engine.clone(), Arc::new(Placement::single(group))).await.expect("opens");
    put(&store, "k").await.expect("put");
    engine.hold();
    let mut asked = JoinSet::new();
    for number in 0..6500 {
        let store = store.clone();
        asked.spawn(async move {
            let began = Instant::now();
            let kept = Put {
                key: Bytes::from_static(b"k"),
                value: if number % 2 == 0 { Given::Kept } else { Given::New("v".into()) },
                lease: Given::New(0),
                prev_kv: false,
            };
            let outcome = store.put(kept, Revision::ZERO).await.map(|reply| reply.revision);
            (outcome, began.elapsed())
        });
    }
    while let Some(outcome) = asked.join_next().await {
        let (outcome, took) = outcome.expect("no panic");
        let fault = match outcome {
            Err(WriteError::Fault(fault)) => fault,
            other => panic!("{other:?}"),
        };
        assert!(matches!(fault, Fault::Timeout | Fault::TooManyRequests), "{fault:?}");
        assert!(took <= ANSWER_TIMEOUT, "{took:?}");
    }
    sleep(Duration::from_secs(200)).await;
    let late = store.range(&Range { serializable: true, ..read_all(ReadAt::Latest) }, Revision::ZERO).await;
    assert_eq!(late.err(), Some(Fault::Timeout), "its value is not in memory");
    engine.release();
    sleep(Duration::from_secs(10)).await;
    put(&store, "k").await.expect("put");
    assert!(!store.state().has_ended());
}

/// Whoever is told of a lease, or that there is none, can rely on it: also where its row is still on its way.
#[tokio::test(start_paused = true)]
async fn nobody_hears_of_a_lease_before_it_is_durable_or_of_its_end() {
    let engine = Arc::new(Faulty::new(Arc::new(Memory::new()), Mood::default(), 1));
    let store = open(&engine, "a", ReadFence::Engine).await;
    store.grant(1, 60, Revision::ZERO).await.expect("granted");
    engine.hold();
    let changes = [store.clone(), store.clone()];
    let [granting, revoking] = changes;
    let granted = tokio::spawn(async move { granting.grant(2, 60, Revision::ZERO).await.map(|_| ()) });
    sleep(Duration::from_millis(1)).await;
    let revoked = tokio::spawn(async move { revoking.revoke(1, Revision::ZERO).await.map(|_| ()) });
    sleep(Duration::from_millis(1)).await;
    for id in [1, 2] {
        assert_eq!(store.renew(id).await, Err(Fault::Timeout), "lease {id}");
        let found = store.of_leases(Revision::ZERO, |leases| leases.exists(id)).await;
        assert_eq!(found, Err(Fault::Timeout), "lease {id}");
    }
    engine.release();
    for change in [granted, revoked] {
        assert_eq!(change.await.expect("no panic"), Err(Fault::Timeout), "long ago");
    }
    assert_eq!(store.renew(1).await, Ok(None));
    assert_eq!(store.renew(2).await, Ok(Some((60, Vec::new()))));
}

/// It would wait for ever: who is deposed sweeps no more.
#[tokio::test(start_paused = true)]
async fn a_physical_compaction_ends_with_its_master() {
    let (one, other) = shared();
    let older = open(&one, "a", ReadFence::Engine).await;
    put(&older, "k").await.expect("put");
    let compacting = older.clone();
    let compacted = tokio::spawn(async move { compacting.compact(2, true, Revision::ZERO).await });
    sleep(Duration::from_millis(10)).await;
    let _newer = open(&other, "b", ReadFence::Engine).await;
    assert!(read(&older, false).await.is_err());
    let compacted = tokio::time::timeout(Duration::from_secs(5), compacted).await;
    assert_eq!(compacted.expect("ends").expect("no panic"), Err(Fault::LeaderChanged));
}

/// As [`open`], answering by the master lease.
async fn open_leased(engine: &Arc<Faulty>, name: &str, tenure: &Tenure, stood_still: Duration) -> Store {
    let group = GroupName::parse("core").expect("a name");
    let config = Config {
        read_fence: ReadFence::Lease,
        tenure: Some(tenure.clone()),
        planted: Planted { clock_stood_still: stood_still, ..Planted::default() },
        ..Config::new(group.clone(), name)
    };
    Store::open(config, engine.clone(), Arc::new(Placement::single(group))).await.expect("opens")
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_the_master_lease_is_held_and_the_engine_when_it_is_not() {
    let ((engine, _), tenure) = (shared(), Tenure::default());
    let hold = |time| tenure.hold(1, Instant::now() + time);
    hold(LEASE);
    let store = open_leased(&engine, "a", &tenure, Duration::ZERO).await;
    let asked = async || {
        let before = engine.snapshots();
        read(&store, false).await.expect("reads");
        assert!(store.advance(Revision::ZERO).await.is_ok());
        engine.snapshots() - before
    };
    assert_eq!(asked().await, 0);
    sleep(LEASE - Duration::from_millis(1)).await;
    assert_eq!(asked().await, 0, "up to the last moment");
    sleep(Duration::from_millis(1)).await;
    assert_eq!(asked().await, 2, "it has run out");
    hold(LEASE);
    assert_eq!(asked().await, 0, "renewed");
    tenure.lose();
    assert_eq!(asked().await, 2);
    // One that never was elected asks.
    let ((engine, _), tenure) = (shared(), Tenure::default());
    let store = open_leased(&engine, "a", &tenure, Duration::ZERO).await;
    tenure.hold(1, Instant::now() + LEASE);
    let before = engine.snapshots();
    read(&store, false).await.expect("reads");
    assert_eq!(engine.snapshots() - before, 1, "the takeover was not made in this term");
}

/// What the lease gives away: an answer from the past needs a clock that stood still. A process that slept, with a clock
/// that went on, asks the engine. By the engine neither is fooled.
#[tokio::test(start_paused = true)]
async fn one_whose_clock_stood_still_answers_from_its_past() {
    let sleeps = Duration::from_secs(60);
    for (stood_still, expected) in [(Duration::ZERO, Err(Fault::LeaderChanged)), (sleeps, Ok(1))] {
        let ((one, other), tenure) = (shared(), Tenure::default());
        tenure.hold(1, Instant::now() + LEASE);
        let older = open_leased(&one, "a", &tenure, stood_still).await;
        sleep(sleeps).await;
        let newer = open(&other, "b", ReadFence::Engine).await;
        assert_eq!(put(&newer, "k").await, Ok(2));
        assert_eq!(read(&older, false).await, expected, "{stood_still:?}");
        assert!(put(&older, "k").await.is_err(), "a write finds out, whatever clocks say");
        assert_eq!(read(&older, false).await, Err(Fault::LeaderChanged));
    }
}

/// A master that lost the lease and has it again: its older store slept through another's term.
#[tokio::test(start_paused = true)]
async fn a_lease_that_was_won_again_proves_nothing_of_the_time_before() {
    let ((one, other), tenure) = (shared(), Tenure::default());
    tenure.hold(1, Instant::now() + LEASE);
    let older = open_leased(&one, "a", &tenure, Duration::ZERO).await;
    sleep(LEASE).await;
    let between = open(&other, "b", ReadFence::Engine).await;
    assert_eq!(put(&between, "k").await, Ok(2));
    tenure.hold(3, Instant::now() + LEASE);
    assert_eq!(read(&older, false).await, Err(Fault::LeaderChanged));
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<trace::Ended>>>);

impl Sink for Told {
    fn take(&self, span: trace::Ended) {
        self.0.lock().push(span);
    }
}

/// A request that is traced from here on, with what it makes somebody do, and for how long.
async fn traced<T>(request: impl Future<Output = T>) -> (T, Vec<(Work, Duration, Code)>) {
    let (told, number) = (Told::default(), AtomicU64::new(1));
    let tracer = Tracer::new(told.clone(), MILLION, move || number.fetch_add(1, Ordering::Relaxed));
    let span = tracer.serve(&mut HeaderMap::new(), Name::of(method::PUT), true).expect("all are");
    let answer = within(Some(&span), request).await;
    let spans = told.0.lock();
    assert!(spans.iter().all(|step| step.parent == Some(span.context())), "{spans:?}");
    (answer, spans.iter().map(|span| (span.work, span.took, span.code)).collect())
}

#[tokio::test(start_paused = true)]
async fn what_a_request_waits_for_is_in_its_trace() {
    let (engine, _) = shared();
    let store = open(&engine, "a", ReadFence::Engine).await;
    let (written, steps) = traced(put(&store, "k")).await;
    assert_eq!(written, Ok(2));
    let works: Vec<_> = steps.iter().map(|(work, ..)| *work).collect();
    let commit = Step::Commit { system: "memory", writes: 3 };
    assert_eq!(works, [Step::Queue, Step::Batch, commit, Step::Fence].map(Work::Does), "{steps:?}");
    assert!(steps.iter().all(|(.., code)| *code == Code::Ok), "{steps:?}");
    assert_eq!(traced(read(&store, true)).await.1, [], "nobody is asked");
    engine.hold();
    let held = engine.clone();
    let releases = async move {
        sleep(Duration::from_millis(70)).await;
        held.release();
    };
    let ((read_late, steps), ()) = tokio::join!(traced(read(&store, false)), releases);
    assert_eq!(read_late, Ok(2));
    assert_eq!(steps, [(Work::Does(Step::Fence), Duration::from_millis(70), Code::Ok)]);
    engine.hold();
    let (timed_out, steps) = traced(read(&store, false)).await;
    assert_eq!(timed_out, Err(Fault::Timeout));
    assert_eq!(steps, [(Work::Does(Step::Fence), ANSWER_TIMEOUT, Code::Unavailable)]);
    assert_eq!(traced(put(&store, "k")).await.1.len(), 2, "its commit has no end yet");
}
