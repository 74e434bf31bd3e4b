//! One thing at a time.

use tokio::time::Instant;

use super::*;
use crate::decide::held::Unserved;
use crate::decide::held::testing::{document, raising};
use crate::engine::{Batch, CommitError, Engine, ReadError, Snapshot, Span};
use crate::lead::command::{Decision, PlaceStep};
use crate::planted::Planted;
use crate::state::values::ValueCache;
use crate::store::{Ranged, Terms};

/// Of one master with some keys: the slave's store, itself, and the way between.
async fn pair(planted: Planted) -> (Store, Store, Slave, Arc<Link>) {
    let memory = Arc::new(Memory::new());
    let master = master(&way(&memory, 1), "master").await;
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        put(&master, key, value).await;
    }
    let config = Config { planted, ..config("slave") };
    let (store, slave, link) = followed(&way(&memory, 2), config, &master).await;
    (master, store, slave, link)
}

#[tokio::test(start_paused = true)]
async fn a_slave_answers_what_its_master_would() {
    let (master, store, slave, _link) = pair(Planted::default()).await;
    assert!(slave.state().borrow().loaded && slave.state().borrow().epoch == 1);
    assert_eq!(now(&store).await, now(&master).await);
    let last = put(&master, "c", "3").await;
    let (revision, kvs) = now(&store).await.expect("reads");
    assert_eq!((revision, pairs(&kvs)), (last, vec!["a=2".into(), "b=1".into(), "c=3".into()]));
    delete(&master, "b").await;
    for revision in 1..=6 {
        assert_eq!(at(&store, revision).await, at(&master, revision).await, "at r{revision}");
    }
    assert_eq!(at(&store, 7).await, Err(Fault::FutureRevision));
    assert_eq!(store.state().identity().epoch, 1);
}

/// What lies before it was a slave comes from the log, what follows from its window.
#[tokio::test(start_paused = true)]
async fn a_watcher_of_a_slave_hears_what_one_of_its_master_hears() {
    let (master, store, _slave, _link) = pair(Planted::default()).await;
    let mut from_history = Watching::new(&store, 2).await.expect("watches");
    let mut from_now = Watching::new(&store, 0).await.expect("watches");
    assert_eq!(from_now.created, 4);
    put(&master, "b", "3").await;
    delete(&master, "a").await;
    let want = ["a=1<-@2", "b=1<-@3", "a=2<1@4", "b=3<1@5", "a=<2@6"];
    assert_eq!(from_history.listen().await, want);
    assert_eq!(from_now.listen().await, &want[3..]);
    let mut from_window = Watching::new(&store, 5).await.expect("watches");
    assert_eq!(from_window.listen().await, &want[3..]);
}

/// A question is on its way back when a write is acknowledged, and a read comes after that: it has a question of its own.
async fn joins_what_is_in_flight(planted: Planted) -> bool {
    let (master, store, _slave, link) = pair(planted).await;
    link.hold_answers(true);
    let first = tokio::spawn({
        let store = store.clone();
        async move { now(&store).await }
    });
    sleep(Duration::from_millis(10)).await;
    let before = link.questions();
    link.hold_responses(true);
    let written = put(&master, "c", "3").await;
    let second = tokio::spawn({
        let store = store.clone();
        async move { now(&store).await }
    });
    sleep(Duration::from_millis(10)).await;
    link.hold_answers(false);
    assert_eq!(first.await.expect("no panic").expect("reads").0, 4, "at the revision of its own question");
    sleep(Duration::from_millis(10)).await;
    let early = second.is_finished();
    link.hold_responses(false);
    let (revision, _) = second.await.expect("no panic").expect("reads");
    assert_eq!(early, revision < written);
    assert_eq!(link.questions() - before, u64::from(!early), "one more question for one more read");
    early
}

#[tokio::test(start_paused = true)]
async fn a_read_never_joins_the_question_that_is_in_flight() {
    assert!(!joins_what_is_in_flight(Planted::default()).await);
    let planted = Planted { early_fence: true, ..Planted::default() };
    assert!(joins_what_is_in_flight(planted).await, "the planted fault is not seen");
}

#[tokio::test(start_paused = true)]
async fn reads_that_wait_share_the_next_question() {
    let (_master, store, _slave, link) = pair(Planted::default()).await;
    let before = link.questions();
    link.hold_answers(true);
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..3 {
        for _ in 0..100 {
            let store = store.clone();
            reads.spawn(async move { now(&store).await });
        }
        sleep(Duration::from_millis(1)).await;
    }
    link.hold_answers(false);
    while let Some(answer) = reads.join_next().await {
        assert_eq!(answer.expect("no panic").expect("reads").0, 4);
    }
    assert_eq!(link.questions() - before, 2, "one in flight, and the next one");
}

#[tokio::test(start_paused = true)]
async fn a_slave_that_is_behind_refuses_until_it_is_not() {
    let (master, store, slave, link) = pair(Planted::default()).await;
    link.hold_responses(true);
    let written = put(&master, "c", "3").await;
    let asked = Instant::now();
    assert_eq!(now(&store).await, Err(Fault::LeaderChanged));
    assert_eq!(asked.elapsed(), Duration::from_secs(2));
    sleep(Duration::from_millis(1)).await;
    assert!(!slave.state().borrow().level, "{slave:?}");
    assert_eq!(old(&store).await.map(|(revision, _)| revision), Ok(4), "serializable: it may be old");
    let watch = Watching::new(&store, 0).await.err().map(|status| status.code());
    assert_eq!(watch, Some(tonic::Code::Unavailable), "it does not know what is now");
    link.hold_responses(false);
    level(&slave).await;
    assert_eq!(now(&store).await.map(|(revision, _)| revision), Ok(written));
}

/// Its master answers, and it cannot find out whether that is the master.
#[tokio::test(start_paused = true)]
async fn a_slave_that_cannot_look_into_the_log_refuses_until_it_can() {
    let memory = Arc::new(Memory::new());
    let master = master(&way(&memory, 1), "master").await;
    let written = put(&master, "a", "1").await;
    let engine = way(&memory, 2);
    let (store, slave, _link) = followed(&engine, config("slave"), &master).await;
    engine.hold();
    let asked = Instant::now();
    assert_eq!(now(&store).await, Err(Fault::LeaderChanged));
    assert_eq!(asked.elapsed(), Duration::from_secs(2));
    sleep(Duration::from_millis(1)).await;
    assert!(!slave.state().borrow().level, "proxies are told: {slave:?}");
    assert_eq!(old(&store).await.map(|(revision, _)| revision), Ok(written), "serializable: it may be old");
    engine.release();
    level(&slave).await;
    assert_eq!(now(&store).await.map(|(revision, _)| revision), Ok(written));
}

/// Its master was stopped while another one took over, and neither of them knows.
#[tokio::test(start_paused = true)]
async fn the_slave_of_a_deposed_master_answers_nothing_from_the_past() {
    let memory = Arc::new(Memory::new());
    let older = master(&way(&memory, 1), "older").await;
    put(&older, "a", "1").await;
    let (store, mut slave, _link) = followed(&way(&memory, 2), config("slave"), &older).await;
    let newer = master(&way(&memory, 3), "newer").await;
    put(&newer, "a", "2").await;
    assert_eq!(now(&store).await, Err(Fault::LeaderChanged));
    assert_eq!(old(&store).await.map(|(_, kvs)| pairs(&kvs)), Ok(vec!["a=1".into()]));
    let mut watching = Watching::new(&store, 2).await.expect("watches");
    assert_eq!(watching.listen().await, ["a=1<-@2"]);
    let link = Link::to(&newer);
    slave.attach(link.clone());
    level(&slave).await;
    assert_eq!(now(&store).await, now(&newer).await);
    assert_eq!(watching.listen().await, ["a=1<-@2", "a=2<1@3"], "the watcher goes on");
    assert_eq!((slave.state().borrow().epoch, store.state().identity().epoch), (2, 2));
    assert_eq!(*link.subscribed.lock(), [3], "it goes on from where it was");
}

#[tokio::test(start_paused = true)]
async fn without_a_master_nothing_is_fresh_at_once() {
    let (_master, store, slave, link) = pair(Planted::default()).await;
    link.kill();
    sleep(Duration::from_secs(10)).await;
    assert!(!slave.state().borrow().level && slave.state().borrow().trouble == "it is dead", "{slave:?}");
    let asked = Instant::now();
    assert_eq!(now(&store).await, Err(Fault::LeaderChanged));
    assert!(asked.elapsed() <= Duration::from_secs(2), "{:?}", asked.elapsed());
    slave.detach("no master is elected");
    let asked = Instant::now();
    assert_eq!(now(&store).await, Err(Fault::LeaderChanged));
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(slave.state().borrow().trouble, "no master is elected");
    assert!(old(&store).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slave_is_lifted_without_an_event_and_lifts_its_master() {
    let (master, store, _slave, _link) = pair(Planted::default()).await;
    master.advance(Revision::new(5000)).await.expect("advances");
    sleep(Duration::from_millis(10)).await;
    assert_eq!(store.state().committed().get(), 5000, "long before the next beat");
    let reached = store.advance(Revision::new(7000)).await.expect("advances");
    assert_eq!((reached.get(), master.state().committed().get()), (7000, 7000));
    assert_eq!(put(&master, "d", "4").await, 7001);
    let all = futures_util::future::join_all((1..=5).map(|step| {
        let store = store.clone();
        async move { store.advance(Revision::new(8000 + step)).await.map(Revision::get) }
    }));
    for (step, reached) in (1..=5).zip(all.await) {
        assert!(reached.is_ok_and(|reached| reached >= 8000 + step), "{step}: {reached:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_a_master_does_is_refused_at_once() {
    let (_master, store, _slave, _link) = pair(Planted::default()).await;
    let began = Instant::now();
    let changed = Err(Fault::LeaderChanged);
    assert_eq!(put_with(&store, "a", "9", 0).await, Err(WriteError::Fault(Fault::LeaderChanged)));
    assert_eq!(store.compact(2, false, Revision::ZERO).await.map(drop), changed);
    assert_eq!(store.grant(1, 60, Revision::ZERO).await.map(drop), changed);
    assert_eq!(store.revoke(1, Revision::ZERO).await.map(drop), changed);
    assert_eq!(store.renew(1).await.map(drop), changed);
    assert_eq!(store.settle().await, changed);
    assert_eq!(store.of_leases(Revision::ZERO, |_| ()).await.map(drop), changed);
    assert_eq!(store.content_of_all().await.map(drop), changed);
    assert_eq!(store.export(Revision::ZERO, -1, Revision::ZERO).await.map(drop), changed);
    let step = PlaceStep::Take { document: document(1, ALONE), accept_loss: true };
    assert_eq!(store.place(step).await.map(drop), changed);
    assert_eq!(store.decide(Decision::default()).await, changed);
    let fed = store.feed(0).boxed().next().await.map(|fed| fed.map(drop));
    assert_eq!(fed, Some(changed));
    store.close().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// A row is gone from the engine before the slave has heard that it may be: a read of "now" finds what is there instead.
#[tokio::test(start_paused = true)]
async fn what_is_swept_under_a_slaves_read_is_read_anew() {
    let memory = Arc::new(Memory::new());
    let master = master(&way(&memory, 1), "master").await;
    put(&master, "a", "1").await;
    put(&master, "b", "1").await;
    let engine = way(&memory, 2);
    let config = Config { value_cache: ValueCache::new(1), ..config("slave") };
    let (store, _slave, _link) = followed(&engine, config, &master).await;
    let reading = |range: Range| {
        let store = store.clone();
        tokio::spawn(async move { read(&store, &range).await.map(|(revision, kvs)| (revision, pairs(&kvs))) })
    };
    engine.hold();
    let latest = reading(read_all(ReadAt::Latest));
    let serializable = reading(Range { serializable: true, ..read_all(ReadAt::Latest) });
    let named = reading(read_all(ReadAt::Revision(Revision::new(3))));
    let streaming = store.clone();
    let streamed = tokio::spawn(async move {
        let streamed = streaming.range_stream(read_all(ReadAt::Latest), Terms::default()).await;
        let Ranged::Whole((_, chunks, _)) = streamed.expect("begins") else {
            panic!("nobody has offered to cut it")
        };
        chunks.collect::<Vec<_>>().await
    });
    sleep(Duration::from_millis(10)).await;
    put(&master, "a", "2").await;
    let last = put(&master, "b", "2").await;
    master.compact(last.cast_signed(), true, Revision::ZERO).await.expect("compacts");
    assert!(!latest.is_finished() && !named.is_finished());
    engine.release();
    let want = vec!["a=2".to_owned(), "b=2".to_owned()];
    assert_eq!(latest.await.expect("no panic"), Ok((last, want.clone())));
    assert_eq!(serializable.await.expect("no panic"), Ok((last, want.clone())));
    assert_eq!(named.await.expect("no panic"), Err(Fault::Compacted));
    let mut kvs = Vec::new();
    for chunk in streamed.await.expect("no panic") {
        let chunk = kubebrain_proto::etcdserverpb::RangeStreamResponse::decode(chunk.expect("no fault"));
        kvs.extend(chunk.expect("a message").range_response.expect("a part").kvs);
    }
    assert_eq!(pairs(&kvs), want);
}

/// An engine on which one snapshot is waited for.
struct Gated {
    inner: Arc<Faulty>,
    /// Snapshots to go before that one.
    left: AtomicU64,
    open: watch::Sender<bool>,
}

#[async_trait]
impl Engine for Gated {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1) {
            let mut open = self.open.subscribe();
            let _gone = open.wait_for(|open| *open).await;
        }
        self.inner.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        self.inner.commit(batch).await
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        self.inner.partitions(range).await
    }

    fn size(&self) -> u64 {
        0
    }
}

/// The log was read and the rows were not, when both went: a watcher hears that it is compacted, and its stream goes on.
#[tokio::test(start_paused = true)]
async fn history_that_is_swept_while_a_slave_reads_it_is_compacted() {
    let memory = Arc::new(Memory::new());
    let master = master(&way(&memory, 1), "master").await;
    for value in ["1", "2", "3"] {
        put(&master, "a", value).await;
    }
    let engine =
        Arc::new(Gated { inner: way(&memory, 2), left: AtomicU64::new(0), open: watch::Sender::new(false) });
    let config = Config { value_cache: ValueCache::new(1), window_bytes: 1, ..config("slave") };
    let (store, mut slave) = Store::follow(config, engine.clone(), placement(ALONE));
    let link = Link::to(&master);
    slave.attach(link.clone());
    level(&slave).await;
    link.hold_responses(true);
    engine.left.store(2, Ordering::Relaxed);
    let mut watching = Watching::new(&store, 2).await.expect("watches");
    assert!(watching.listen().await.is_empty());
    let last = put(&master, "a", "4").await;
    master.compact(last.cast_signed(), true, Revision::ZERO).await.expect("compacts");
    engine.open.send_replace(true);
    watching.listen().await;
    assert_eq!((watching.cancelled, watching.ended), (Some(last.cast_signed()), None));
}

/// A slave forgets what its master has swept, but for what is being read of it.
#[tokio::test(start_paused = true)]
async fn a_slaves_index_shrinks_as_its_masters_does() {
    let (master, store, _slave, _link) = pair(Planted::default()).await;
    for round in 0..20 {
        put(&master, "a", &format!("v{round}")).await;
    }
    delete(&master, "b").await;
    sleep(Duration::from_millis(10)).await;
    let versions = |store: &Store| store.state().index.read().versions();
    assert_eq!((versions(&master), versions(&store)), (24, 24));
    let pin = store.state().pin();
    put(&master, "a", "last").await;
    let last = put(&master, "a", "last").await;
    master.compact(last.cast_signed(), true, Revision::ZERO).await.expect("compacts");
    settle().await;
    assert_eq!((versions(&master), versions(&store)), (1, 3), "what is pinned stays");
    assert_eq!(store.state().compacted(), last.cast_signed());
    drop(pin);
    settle().await;
    assert_eq!(versions(&store), 1);
    let used = |store: &Store| store.state().share.quota().used();
    assert_eq!(used(&store), used(&master), "bytes are counted alike");
    assert_eq!(at(&store, last - 1).await, Err(Fault::Compacted));
}

#[tokio::test(start_paused = true)]
async fn a_slave_that_comes_back_too_late_loads_anew_and_its_watchers_are_told() {
    let (master, store, mut slave, link) = pair(Planted::default()).await;
    let mut watching = Watching::new(&store, 2).await.expect("watches");
    watching.listen().await;
    let mut states = slave.state();
    link.kill();
    for round in 0..5 {
        put(&master, "a", &format!("v{round}")).await;
    }
    delete(&master, "b").await;
    let last = put(&master, "c", "3").await;
    master.compact(last.cast_signed(), true, Revision::ZERO).await.expect("compacts");
    drop(master);
    settle().await;
    // Its window has none of it.
    let engine = store.state().engine.clone();
    let newer = Store::open(config("newer"), engine, placement(ALONE)).await.expect("opens");
    slave.attach(Link::to(&newer));
    states.wait_for(|state| !state.loaded).await.expect("its history is gone");
    level(&slave).await;
    watching.listen().await;
    assert_eq!(watching.ended, Some(tonic::Code::Unavailable));
    assert_eq!(now(&store).await, now(&newer).await);
    assert_eq!(now(&store).await.map(|(_, kvs)| pairs(&kvs)), Ok(vec!["a=v4".into(), "c=3".into()]));
    let mut again = Watching::new(&store, last).await.expect("watches");
    put(&newer, "d", "4").await;
    assert_eq!(again.listen().await.last().map(String::as_str), Some(&*format!("d=4<-@{}", last + 1)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_lost_goes_on_where_it_was() {
    let (master, store, slave, link) = pair(Planted::default()).await;
    let mut watching = Watching::new(&store, 5).await.expect("watches");
    let mut want = Vec::new();
    for round in 0..5 {
        let revision = put(&master, "x", &format!("{round}")).await;
        let before = if round == 0 { "-".to_owned() } else { format!("{}", round - 1) };
        want.push(format!("x={round}<{before}@{revision}"));
        link.cut();
        let revision = put(&master, "y", "v").await;
        let before = if round == 0 { "-" } else { "v" };
        want.push(format!("y=v<{before}@{revision}"));
        sleep(Duration::from_millis(100)).await;
    }
    level(&slave).await;
    assert_eq!(watching.listen().await, want);
    assert_eq!(link.subscribed.lock().len(), 6);
    assert_eq!(store.state().metrics.follow.loads.get(), 1);
}

const MOVED: &str = "{prefix: /r, home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: m, group: b}]}";

async fn place(store: &Store, step: PlaceStep) {
    assert_eq!(store.place(step).await.expect("an answer").refusal, "");
}

async fn adopt(store: &Store, number: u64, text: &str) {
    place(store, PlaceStep::Prepare { base: None, next: document(number, text), known: false }).await;
}

/// A slave hears in the stream by what its group goes, and gives nothing away later than its master has.
#[tokio::test(start_paused = true)]
async fn a_slave_goes_by_what_its_master_goes_by() {
    let (master, store, slave, link) = pair(Planted::default()).await;
    let mut watching = Watching::new(&store, 0).await.expect("watches");
    let moved = [KeyRange::one(Bytes::from_static(b"/r/m/x"))];
    link.hold_responses(true);
    adopt(&master, 1, MOVED).await;
    settle().await;
    assert_eq!(store.owns(&moved, None), Ok(()), "it has not heard of it");
    link.hold_responses(false);
    // A fresh answer is of a moment after the adoption: the slave waits until it has heard, and then it is not the owner.
    let one = Range { keys: moved[0].clone(), ..read_all(ReadAt::Latest) };
    let asked = store.range_owned(&one, Revision::ZERO, None).await;
    assert!(matches!(asked, Err(WriteError::Unserved(Unserved::Changing(_)))), "{asked:?}");
    assert!(matches!(store.owns(&moved, None), Err(Unserved::Changing(_))));
    assert!(slave.state().borrow().level, "everything else goes on: {slave:?}");
    place(&master, PlaceStep::Take { document: raising(1, 500, 400, MOVED), accept_loss: false }).await;
    settle().await;
    assert!(matches!(store.owns(&moved, None), Err(Unserved::NotOwner(_))));
    assert_eq!((store.state().committed().get(), store.state().compacted()), (500, 400));
    assert!(now(&store).await.is_ok());
    watching.listen().await;
    assert_eq!(watching.ended, Some(tonic::Code::Unavailable), "some of its keys are another group's");
}

/// What a group gains is served by a slave once it has come as far as the record, and what it loses before that.
#[tokio::test(start_paused = true)]
async fn a_slave_that_is_behind_serves_what_is_the_groups_by_both() {
    let (master, store, _slave, link) = pair(Planted::default()).await;
    let kind = |name: &str| [KeyRange::prefix(format!("/r/{name}/").into())];
    const BACK: &str =
        "{prefix: /r, home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: n, group: b}]}";
    adopt(&master, 1, MOVED).await;
    place(&master, PlaceStep::Take { document: document(1, MOVED), accept_loss: false }).await;
    settle().await;
    assert!(store.owns(&kind("m"), None).is_err() && store.owns(&kind("n"), None).is_ok());
    let before = store.state().held.load().pair();
    link.hold_responses(true);
    adopt(&master, 2, BACK).await;
    place(&master, PlaceStep::Take { document: raising(2, 900, -1, BACK), accept_loss: false }).await;
    settle().await;
    assert_eq!(store.state().held.load().pair(), before);
    link.hold_responses(false);
    settle().await;
    assert!(store.owns(&kind("m"), None).is_ok() && store.owns(&kind("n"), None).is_err());
    assert_eq!(store.state().committed().get(), 900, "and nothing that it gained was served below that");
}

/// Whoever takes over goes by what the log says, however far behind it was.
#[tokio::test(start_paused = true)]
async fn a_slave_that_is_promoted_goes_by_what_is_in_the_store() {
    let (master, store, mut slave, link) = pair(Planted::default()).await;
    adopt(&master, 1, ALONE).await;
    place(&master, PlaceStep::Take { document: document(1, ALONE), accept_loss: false }).await;
    settle().await;
    link.kill();
    adopt(&master, 2, MOVED).await;
    put(&master, "/r/n/late", "1").await;
    drop(master);
    slave.promote().await.expect("takes over");
    let held = store.state().held.load();
    assert_eq!((held.pair().number, held.pair().adopted, held.is_settled()), (1, 2, true));
    assert!(matches!(
        put_with(&store, "/r/m/x", "1", 0).await,
        Err(WriteError::Unserved(Unserved::Changing(_)))
    ));
    let (_, kvs) = now(&store).await.expect("reads");
    assert!(pairs(&kvs).contains(&"/r/n/late=1".to_owned()), "{kvs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slave_loads_beside_writes_and_compactions() {
    for seed in 0..12 {
        let memory = Arc::new(Memory::new());
        let master = master(&way(&memory, 1), "master").await;
        for number in 0..300 {
            put(&master, &format!("k{:03}", number % 100), "old").await;
        }
        let writing = tokio::spawn({
            let master = master.clone();
            async move {
                for number in 0..400_u64 {
                    let key = format!("k{:03}", (number * 37 + seed) % 130);
                    let last = match number % 5 {
                        0 => delete(&master, &key).await,
                        _ => put(&master, &key, &format!("{number}")).await,
                    };
                    if number % 50 == 49 {
                        let at = last.saturating_sub(10).cast_signed();
                        master.compact(at, number % 100 == 99, Revision::ZERO).await.expect("compacts");
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let engine = way(&memory, seed);
        engine.set(Mood { slow_reads: 0.8, blind: 0.1, cut: 0.2, expires: 0.5, ..Mood::default() });
        let (store, mut slave) = slave(&engine, config("slave"));
        slave.attach(Link::to(&master));
        level(&slave).await;
        engine.calm();
        let (begun, kvs) = now(&store).await.expect("reads");
        assert_eq!(Ok(kvs), at(&master, begun).await, "seed {seed}, r{begun}");
        writing.await.expect("no panic");
        assert_eq!(now(&store).await, now(&master).await, "seed {seed}");
        for revision in begun.saturating_sub(20)..=master.state().committed().get() {
            assert_eq!(at(&store, revision).await, at(&master, revision).await, "seed {seed}, r{revision}");
        }
    }
}

/// Nothing is sent where nothing happens but a beat; and what is left to say is said before the end.
#[tokio::test(start_paused = true)]
async fn a_feed_beats_tells_of_the_leave_and_ends_with_everything() {
    let memory = Arc::new(Memory::new());
    let master = master(&way(&memory, 1), "master").await;
    put(&master, "a", "1").await;
    let mut feed = master.feed(0).boxed();
    let mut next = async || feed.next().await.map(|response| response.expect("no fault"));
    let first = next().await.expect("at once");
    assert_eq!((first.closed, first.epoch, first.compacted, first.batch), (2, 1, -1, 2));
    assert!(first.revisions.is_empty() && !first.leaving);
    let began = Instant::now();
    let beat = next().await.expect("a beat");
    assert_eq!((beat.closed, began.elapsed()), (2, Duration::from_millis(500)));
    put(&master, "a", "2").await;
    let response = next().await.expect("an event");
    let shape: Vec<_> = response.revisions.iter().map(|of| (of.revision, of.events.len())).collect();
    assert_eq!((shape, response.closed), (vec![(3, 1)], 3));
    master.compact(3, false, Revision::ZERO).await.expect("compacts");
    let response = next().await.expect("a compaction");
    assert_eq!((response.compacted, response.closed), (3, 3));
    master.leave();
    let response = next().await.expect("the leave");
    assert!(response.leaving && response.closed == 3);
    put(&master, "a", "3").await;
    master.close().await;
    let response = next().await.expect("the last event");
    assert!(response.leaving && response.closed == 4, "{response:?}");
    assert!(next().await.is_none_or(|last| last.closed == 4));
}

/// As many messages as it takes, none of them much larger than it should be, and every revision once.
#[tokio::test(start_paused = true)]
async fn a_feed_from_far_behind_is_cut_into_messages() {
    for window_bytes in [1, 64 << 20] {
        let memory = Arc::new(Memory::new());
        let config = Config { window_bytes, ..config("master") };
        let master = Store::open(config, way(&memory, 1), placement(ALONE)).await.expect("opens");
        let value = "x".repeat(100_000);
        for number in 0..100 {
            put(&master, &format!("k{number}"), &value).await;
        }
        let (mut feed, mut seen, mut messages) = (master.feed(2).boxed(), Vec::new(), 0);
        while seen.last() != Some(&101) {
            let response = feed.next().await.expect("more").expect("no fault");
            assert!(response.encoded_len() < 3 << 20, "{}", response.encoded_len());
            seen.extend(response.revisions.iter().map(|revision| revision.revision));
            assert!(seen.last().is_none_or(|last| *last <= response.closed));
            assert!(response.batch == 0 || response.closed == 101, "{} {}", response.batch, response.closed);
            messages += 1;
        }
        assert_eq!(seen, (2..=101).collect::<Vec<_>>(), "window of {window_bytes}");
        assert!(messages >= 9, "{messages}");
    }
}
