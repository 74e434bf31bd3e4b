//! Rules whose faults a random run hardly meets: each has a scene that breaks with the fault planted, and holds without.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kubebrain_brain::config::{Config, Planted};
use kubebrain_brain::engine::memory::Memory;
use kubebrain_brain::request::{Delete, Put, Range, ReadAt};
use kubebrain_brain::store::{
    Fenced, PlaceStep, Placed, Slave, Store, Upstream, UpstreamError, WriteError, read_all,
};
use kubebrain_brain::watch::{MOVED_REASON, StreamConfig, WatchStream};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::peer::FollowResponse;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::{Document, DocumentId, Placement};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::directed::{change, decided_after, document, opened};
use super::world::name;

/// A key that moves, and one that always is group a's.
const MOVES: &str = "/registry/u/x";
const STAYS: &str = "/registry/v/x";
/// The first revision that a group writes.
const FIRST: i64 = 2;

async fn put(store: &Store, key: &'static str, value: &str) -> Result<i64, WriteError> {
    let request = pb::PutRequest { key: key.into(), value: value.to_owned().into(), ..<_>::default() };
    let put = store.put(Put::try_from(request).expect("legal"), Revision::ZERO).await?;
    Ok(put.revision.to_wire())
}

/// What one of the keys is as the group says, and at which revision.
async fn read(
    store: &Store,
    key: &'static str,
    (at, part): (ReadAt, Option<DocumentId>),
    floor: i64,
) -> Result<(i64, Vec<Bytes>), WriteError> {
    let keys = KeyRange::one(key.into());
    let range = Range { keys, serializable: floor == 0, ..read_all(at) };
    let reply = store.range_owned(&range, Revision::new(floor.cast_unsigned()), part).await?;
    let response = pb::RangeResponse::decode(reply.message).expect("a message");
    Ok((reply.revision.to_wire(), response.kvs.into_iter().map(|kv| kv.value).collect()))
}

async fn place(store: &Store, step: PlaceStep) -> Placed {
    store.place(step).await.expect("an answer")
}

fn take(document: Document) -> PlaceStep {
    PlaceStep::Take { document, accept_loss: false }
}

fn prepare(base: u64, owner: &str, next: Document) -> PlaceStep {
    PlaceStep::Prepare { base: Some(document(base, owner, (0, -1))), next, known: true }
}

fn planted(fault: impl FnOnce(&mut Planted)) -> Planted {
    let mut planted = Planted::default();
    fault(&mut planted);
    planted
}

async fn delete(store: &Store, key: &'static str) -> Result<i64, WriteError> {
    let delete = Delete { keys: KeyRange::one(key.into()), prev_kv: false };
    Ok(store.delete(delete, Revision::ZERO, None).await?.revision.to_wire())
}

async fn compact(store: &Store, at: i64) {
    store.compact(at, true, Revision::ZERO).await.expect("compacted");
    sleep(Duration::from_secs(1)).await;
}

/// Two groups, of which the first has what moves.
async fn groups(planted: Planted) -> (Store, Store) {
    let (a, b) = (opened("a", planted).await, opened("b", planted).await);
    change([&a, &b], None, 1, "a").await;
    (a, b)
}

/// Its message was on its way for long: true if the group that has given the keys away writes them again.
async fn two_write(planted: Planted) -> bool {
    let (a, b) = groups(planted).await;
    change([&a, &b], Some(document(1, "a", (0, -1))), 2, "b").await;
    put(&b, MOVES, "b's").await.expect("its own");
    place(&a, take(document(1, "a", (0, -1)))).await;
    put(&a, MOVES, "a's").await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn what_an_older_document_says_is_past() {
    assert!(!two_write(Planted::default()).await);
    assert!(two_write(planted(|planted| planted.takes_older = true)).await, "the planted fault is not seen");
}

/// A home of before goes on deciding, until its numbers are above what the groups go by: true if one of them agrees.
async fn goes_back(planted: Planted) -> bool {
    let (a, b) = groups(planted).await;
    change([&a, &b], Some(document(1, "a", (0, -1))), 2, "b").await;
    put(&b, MOVES, "b's").await.expect("its own");
    let next = decided_after(document(3, "a", (0, -1)), 1);
    let adopted = place(&a, prepare(1, "a", next.clone())).await.adopted;
    let taken = place(&a, take(next)).await.id.number;
    assert_eq!(adopted == 3, taken == 3);
    taken == 3 && put(&a, MOVES, "a's").await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_before_what_a_group_goes_by_is_refused() {
    assert!(!goes_back(Planted::default()).await);
    assert!(
        goes_back(planted(|planted| planted.ignores_after = true)).await,
        "the planted fault is not seen"
    );
}

/// A read waits for a revision while its keys are given away: true if it is answered above what the group gave them away at.
async fn answers_late(planted: Planted) -> bool {
    let (a, _b) = groups(planted).await;
    let step = prepare(1, "a", document(2, "b", (0, -1)));
    let (placed, read) = tokio::join!(biased; place(&a, step), read(&a, MOVES, (ReadAt::Latest, None), 100));
    assert_eq!((placed.refusal.as_str(), placed.adopted), ("", 2));
    match read {
        Ok((revision, _)) => revision > placed.revision.to_wire(),
        Err(error) => {
            assert!(matches!(error, WriteError::Unserved(_)), "{error:?}");
            false
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whose_keys_are_is_judged_at_the_revision_of_the_answer() {
    assert!(!answers_late(Planted::default()).await);
    assert!(
        answers_late(planted(|planted| planted.judges_first = true)).await,
        "the planted fault is not seen"
    );
}

/// The gainer has heard of nothing between number 1 and an abort: true if it writes below what was shown.
async fn begins_below(planted: Planted, keeps: bool) -> bool {
    let (a, b) = groups(planted).await;
    for _ in 0..20 {
        put(&a, STAYS, "v").await.expect("its own");
    }
    let (shown, none) = read(&a, MOVES, (ReadAt::Latest, None), 1).await.expect("its own");
    assert!(none.is_empty());
    let mut revision = 0;
    for store in [&a, &b] {
        let placed = place(store, prepare(1, "a", document(2, "b", (0, -1)))).await;
        revision = revision.max(placed.revision.to_wire());
    }
    let floor = (revision, -1);
    assert_eq!(place(&a, take(document(2, "b", floor))).await.id.number, 2);
    // Number 3 was prepared somewhere else, and number 4 takes it back.
    let abort = decided_after(document(4, "b", if keeps { floor } else { (0, -1) }), 2);
    assert_eq!(place(&b, take(abort)).await.id.number, 4);
    put(&b, MOVES, "b's").await.expect("its own") <= shown
}

#[tokio::test(start_paused = true)]
async fn whoever_gains_begins_at_the_floor_and_an_abort_keeps_it() {
    assert!(!begins_below(Planted::default(), true).await);
    assert!(begins_below(Planted::default(), false).await, "an abort without a floor is not seen");
    let planted = planted(|planted| planted.ignores_floor = true);
    assert!(begins_below(planted, true).await, "the planted fault is not seen");
}

/// Parts of a read are asked for by the number that it began with, or by one that says the same: true if it is answered
/// below what another one was shown before it began.
async fn is_stale(by: u64) -> bool {
    let (a, b) = groups(Planted::default()).await;
    change([&a, &b], Some(document(1, "a", (0, -1))), 2, "b").await;
    b.advance(Revision::new(50)).await.expect("raised");
    let (shown, _) = read(&b, MOVES, (ReadAt::Latest, None), 1).await.expect("its own");
    // The read begins, of one who knows number 1: it is at the revision of all whom that names for its keys.
    let at = a.advance(Revision::ZERO).await.expect("a revision");
    change([&a, &b], Some(document(2, "b", (0, -1))), 3, "a").await;
    let id = document(by, "a", (0, -1)).id();
    let part = read(&a, MOVES, (ReadAt::Revision(at), Some(id)), at.to_wire()).await;
    assert!(part.is_ok() || matches!(part, Err(WriteError::Unserved(_))), "{part:?}");
    part.is_ok() && at.to_wire() < shown
}

/// Parts of a read are asked for by the number that it began with, or by the one that the group has: true if whoever gave
/// the keys away says that nothing is there.
async fn is_void(by: (u64, &str)) -> bool {
    let (a, b) = groups(Planted::default()).await;
    change([&a, &b], Some(document(1, "a", (0, -1))), 2, "b").await;
    let written = put(&b, MOVES, "b's").await.expect("its own");
    a.advance(Revision::new(written.cast_unsigned())).await.expect("raised");
    let at = ReadAt::Revision(Revision::new(written.cast_unsigned()));
    let id = document(by.0, by.1, (0, -1)).id();
    read(&a, MOVES, (at, Some(id)), written).await.is_ok_and(|(_, values)| values.is_empty())
}

#[tokio::test(start_paused = true)]
async fn parts_are_asked_for_by_one_number_and_not_by_what_it_says() {
    assert!(!is_void((1, "a")).await);
    assert!(is_void((2, "b")).await, "a merge by two numbers is not seen");
    assert!(!is_stale(1).await);
    assert!(is_stale(3).await, "a merge by content is not seen");
}

/// A key, or the history of one, goes to a group that has nothing of it: true if that one says that nothing was there.
async fn forgets(planted: Planted, (deletes, compacts): (bool, bool)) -> bool {
    let (a, b) = groups(planted).await;
    let written = put(&a, MOVES, "a's").await.expect("its own");
    let mut last = written;
    if deletes {
        last = delete(&a, MOVES).await.expect("its own");
    }
    if compacts {
        compact(&a, last).await;
    }
    let mut revisions = (0, -1);
    for store in [&a, &b] {
        let placed = place(store, prepare(1, "a", document(2, "b", (0, -1)))).await;
        if !placed.refusal.is_empty() {
            return false;
        }
        revisions = (revisions.0.max(placed.revision.to_wire()), revisions.1.max(placed.compacted));
    }
    assert_eq!(place(&b, take(document(2, "b", revisions))).await.id.number, 2);
    let at = ReadAt::Revision(Revision::new(written.cast_unsigned()));
    read(&b, MOVES, (at, None), 1).await.is_ok_and(|(_, values)| values.is_empty())
}

#[tokio::test(start_paused = true)]
async fn keys_and_their_history_are_not_given_away() {
    let keys = planted(|planted| planted.lets_keys_go = true);
    let history = planted(|planted| planted.lets_history_go = true);
    let compacted = planted(|planted| planted.ignores_compacted = true);
    for (fault, how) in [(keys, (false, false)), (history, (true, false)), (compacted, (true, true))] {
        assert!(!forgets(Planted::default(), how).await, "{how:?}");
        assert!(forgets(fault, how).await, "a planted fault is not seen: {fault:?}");
    }
}

/// The gainer has agreed, and the loser has not been asked: true if both write.
async fn both_write(planted: Planted) -> bool {
    let (a, b) = groups(planted).await;
    assert_eq!(place(&b, prepare(1, "a", document(2, "b", (0, -1)))).await.refusal, "");
    put(&a, MOVES, "a's").await.expect("its own");
    put(&b, MOVES, "b's").await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn what_is_gained_is_served_once_it_holds() {
    assert!(!both_write(Planted::default()).await);
    assert!(
        both_write(planted(|planted| planted.serves_early = true)).await,
        "the planted fault is not seen"
    );
}

/// A group gives keys away, and another brain takes it over: true if that one serves them.
async fn comes_back(planted: Planted) -> bool {
    let Slaves { a, memory, .. } = slaves(planted).await;
    assert_eq!(place(&a, prepare(1, "a", document(2, "b", (0, -1)))).await.adopted, 2);
    let table = Arc::new(Placement::single(name("a")));
    let next = Store::open(config_of("next", planted), memory, table).await.expect("opens");
    put(&next, MOVES, "a's").await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn what_a_group_has_agreed_to_is_in_its_log() {
    assert!(!comes_back(Planted::default()).await);
    let planted = planted(|planted| planted.adopts_in_memory = true);
    assert!(comes_back(planted).await, "the planted fault is not seen");
}

/// A group has lost all that it had: true if it serves as if it never had anything.
async fn serves_nothing(planted: Planted) -> bool {
    groups(planted).await.0.close().await;
    let empty = opened("a", planted).await;
    let refused = place(&empty, prepare(1, "a", document(2, "a", (0, -1)))).await.refusal;
    let taken = place(&empty, take(document(1, "a", (0, -1)))).await;
    assert_eq!(refused.is_empty(), taken.refusal.is_empty());
    read(&empty, MOVES, (ReadAt::Latest, None), 1).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_group_that_has_lost_its_data_says_so() {
    assert!(!serves_nothing(Planted::default()).await);
    let planted = planted(|planted| planted.ignores_losses = true);
    assert!(serves_nothing(planted).await, "the planted fault is not seen");
}

/// A group agrees to number 3 before it has heard of number 2, which gave it keys at a revision: true if it answers below.
async fn agrees_below(planted: Planted) -> bool {
    let (a, b) = groups(planted).await;
    a.advance(Revision::new(50)).await.expect("raised");
    let (shown, _) = read(&a, MOVES, (ReadAt::Latest, None), 1).await.expect("its own");
    for store in [&a, &b] {
        place(store, prepare(1, "a", document(2, "b", (0, -1)))).await;
    }
    let second = document(2, "b", (shown, -1));
    place(&a, take(second.clone())).await;
    let step = PlaceStep::Prepare { base: Some(second), next: document(3, "b", (0, -1)), known: true };
    let placed = place(&b, step).await;
    assert_eq!((placed.refusal.as_str(), placed.adopted), ("", 3));
    placed.revision.to_wire() < shown
}

#[tokio::test(start_paused = true)]
async fn a_group_takes_what_holds_before_it_agrees_to_what_comes() {
    assert!(!agrees_below(Planted::default()).await);
    assert!(
        agrees_below(planted(|planted| planted.skips_base = true)).await,
        "the planted fault is not seen"
    );
}

/// What a watcher was told of revisions, and up to where all was sent as its group gave its keys away.
#[derive(Default)]
struct Told {
    progress: Vec<i64>,
    events: usize,
    moved: Option<i64>,
}

/// A client that is slow watches from a revision on; then its keys are given away, and the group goes on with others.
/// What it is told after that, and where its keys were given away.
async fn watched(planted: Planted, from: i64) -> (Told, i64) {
    let (a, _b) = groups(planted).await;
    let written = put(&a, MOVES, "v").await.expect("its own");
    assert!(written == from || from == 0);
    let create = pb::WatchCreateRequest {
        key: MOVES.into(),
        start_revision: from,
        progress_notify: true,
        ..<_>::default()
    };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let inbound = futures_util::stream::iter([Ok(create)]).chain(futures_util::stream::pending());
    let config = StreamConfig { progress_interval: Duration::from_secs(1), part: None, tells_all: true };
    let stopper = Stopper::default();
    let stream = WatchStream::new(a.clone(), inbound, config, stopper.handle());
    let mut messages = std::pin::pin!(stream.into_messages());
    messages.next().await.expect("no end").expect("created");
    let deleted = delete(&a, MOVES).await.expect("its own");
    compact(&a, deleted).await;
    if from == 0 {
        // It has heard all and then of progress, has looked at what the group goes by, and waits for whatever comes.
        let until = Instant::now() + Duration::from_millis(2500);
        while timeout_at(until, messages.next()).await.is_ok() {}
    }
    let placed = place(&a, prepare(1, "a", document(2, "b", (0, -1)))).await;
    assert_eq!((placed.refusal.as_str(), placed.adopted), ("", 2));
    for _ in 0..5 {
        put(&a, STAYS, "v").await.expect("its own");
    }
    sleep(Duration::from_secs(2)).await;
    let mut told = Told::default();
    let until = Instant::now() + Duration::from_secs(5);
    while let Ok(Some(message)) = timeout_at(until, messages.next()).await {
        let response = pb::WatchResponse::decode(message.expect("no error")).expect("a message");
        let revision = response.header.expect("a header").revision;
        match response.cancel_reason == MOVED_REASON {
            true => told.moved = Some(revision),
            false if response.events.is_empty() => told.progress.push(revision),
            false => told.events += response.events.len(),
        }
    }
    (told, placed.revision.to_wire())
}

/// True if a watcher that has heard all is told of progress above where its keys were given away, or not that they were.
async fn tells_too_much(planted: Planted) -> (bool, bool) {
    let (told, given) = watched(planted, 0).await;
    (told.progress.iter().any(|revision| *revision > given), told.moved != Some(given))
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_is_handed_over_hears_of_no_progress_beyond() {
    assert_eq!(tells_too_much(Planted::default()).await, (false, false));
    let progress = planted(|planted| planted.keeps_progress = true);
    assert_eq!(tells_too_much(progress).await, (true, false), "the planted fault is not seen");
    let goes_on = planted(|planted| planted.keeps_watches = true);
    assert_eq!(tells_too_much(goes_on).await, (true, true), "the planted fault is not seen");
}

/// True if a watcher to which nothing was sent is told that all was.
async fn tells_too_little(planted: Planted) -> bool {
    let (told, _) = watched(planted, FIRST).await;
    told.events == 0 && told.moved.is_some_and(|sent| sent > FIRST)
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_is_handed_over_is_not_told_that_all_was_sent_if_it_was_not() {
    assert!(!tells_too_little(Planted::default()).await);
    let planted = planted(|planted| planted.claims_all_sent = true);
    assert!(tells_too_little(planted).await, "the planted fault is not seen");
}

/// A slave's way to its master, on which each response waits for leave.
struct Gate {
    master: Store,
    leave: Arc<Semaphore>,
}

#[async_trait]
impl Upstream for Gate {
    async fn follow(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<FollowResponse, UpstreamError>>, UpstreamError> {
        let leave = Arc::clone(&self.leave);
        let responses = self.master.feed(from).then(move |response| {
            let leave = Arc::clone(&leave);
            async move {
                leave.acquire().await.expect("it stays open").forget();
                response.map_err(|fault| match fault {
                    Fault::Compacted => UpstreamError::Compacted,
                    fault => UpstreamError::Lost(fault.wire().1.to_owned()),
                })
            }
        });
        Ok(responses.boxed())
    }

    async fn ask(&self, floor: Revision) -> Result<Fenced, UpstreamError> {
        self.master.claim(floor).await.map_err(|fault| UpstreamError::Lost(fault.wire().1.to_owned()))
    }
}

/// Two groups, and a slave of the first.
struct Slaves {
    a: Store,
    b: Store,
    leave: Arc<Semaphore>,
    store: Store,
    memory: Arc<Memory>,
    _slave: Slave,
}

fn config_of(brain: &str, planted: Planted) -> Config {
    Config { awaits_placement: true, planted, ..Config::new(name("a"), brain) }
}

async fn slaves(planted: Planted) -> Slaves {
    let (memory, table) = (Arc::new(Memory::new()), Arc::new(Placement::single(name("a"))));
    let master = config_of("master", planted);
    let a = Store::open(master, memory.clone(), Arc::clone(&table)).await.expect("opens");
    let b = opened("b", planted).await;
    change([&a, &b], None, 1, "a").await;
    let leave = Arc::new(Semaphore::new(1000));
    let (store, mut slave) = Store::follow(config_of("slave", planted), memory.clone(), table);
    slave.attach(Arc::new(Gate { master: a.clone(), leave: Arc::clone(&leave) }));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(store.state().held.load().pair().number, 1);
    Slaves { a, b, leave, store, memory, _slave: slave }
}

/// A slave is as far as its master, but has not heard that its keys are given away: true if it says what they are now.
async fn answers_unheard(planted: Planted) -> bool {
    let Slaves { a, b, leave, store, _slave, .. } = slaves(planted).await;
    leave.forget_permits(usize::MAX);
    change([&a, &b], Some(document(1, "a", (0, -1))), 2, "b").await;
    let written = put(&b, MOVES, "b's").await.expect("its own");
    let shown = read(&store, MOVES, (ReadAt::Latest, None), 1).await;
    shown.is_ok_and(|(revision, values)| revision < written && values.is_empty())
}

#[tokio::test(start_paused = true)]
async fn a_slave_waits_for_what_its_master_goes_by() {
    assert!(!answers_unheard(Planted::default()).await);
    let planted = planted(|planted| planted.waits_by_revision = true);
    assert!(answers_unheard(planted).await, "the planted fault is not seen");
}

/// A slave has applied what came after its keys were given away: true if it says what they are then.
async fn answers_beyond(planted: Planted) -> bool {
    let Slaves { a, store, _slave, .. } = slaves(planted).await;
    let placed = place(&a, prepare(1, "a", document(2, "b", (0, -1)))).await;
    let last = put(&a, STAYS, "v").await.expect("its own");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(store.state().committed().to_wire(), last);
    let shown = read(&store, MOVES, (ReadAt::Latest, None), 0).await;
    shown.is_ok_and(|(revision, _)| revision > placed.revision.to_wire())
}

#[tokio::test(start_paused = true)]
async fn a_slave_hears_what_its_master_goes_by_in_the_order_of_batches() {
    assert!(!answers_beyond(Planted::default()).await);
    let planted = planted(|planted| planted.hears_late = true);
    assert!(answers_beyond(planted).await, "the planted fault is not seen");
}

/// While a slave hears nothing its group gives keys away and gets them back: true if it answers for the time between.
async fn answers_for_another(planted: Planted) -> bool {
    let Slaves { a, b, leave, store, _slave, .. } = slaves(planted).await;
    leave.forget_permits(usize::MAX);
    change([&a, &b], Some(document(1, "a", (0, -1))), 2, "b").await;
    // Each of these makes a response of its own.
    let mut last = 0;
    for _ in 0..4 {
        last = put(&a, STAYS, &"v".repeat(1 << 20)).await.expect("its own");
    }
    let written = put(&b, MOVES, "b's").await.expect("its own");
    assert!(written < last, "{written} is within what the slave is told of in parts");
    b.advance(Revision::new(last.cast_unsigned())).await.expect("raised");
    let deleted = delete(&b, MOVES).await.expect("its own");
    compact(&b, deleted).await;
    change([&a, &b], Some(document(2, "b", (0, -1))), 3, "a").await;
    while store.state().committed().to_wire() < written {
        leave.add_permits(1);
        sleep(Duration::from_millis(1)).await;
    }
    assert!(store.state().committed().to_wire() < deleted, "in between");
    let shown = read(&store, MOVES, (ReadAt::Latest, None), 0).await;
    leave.add_permits(1000);
    sleep(Duration::from_secs(1)).await;
    let held = store.state().held.load_full();
    assert_eq!((held.pair().number, held.is_settled()), (3, true));
    shown.is_ok_and(|(revision, values)| revision >= written && values.is_empty())
}

#[tokio::test(start_paused = true)]
async fn a_slave_does_not_take_two_documents_for_one_that_say_the_same() {
    assert!(!answers_for_another(Planted::default()).await);
    let planted = planted(|planted| planted.compares_contents = true);
    assert!(answers_for_another(planted).await, "the planted fault is not seen");
}
