//! Several brains of one group on one engine, each of which may think that it is the master: asleep between any two
//! calls of the engine, or awake again; with lost answers, commits that land seconds after their sender died, and a log
//! that is trimmed meanwhile. brain/src/fence and brain/src/lead/{takeover,sweep} say what must hold, this tries it.
//!
//! Checked: no revision is used twice; what was acknowledged is in the log, what was answered as surely not done is
//! not; whatever is answered as fresh has all that any brain had answered before it was asked; watchers hear exactly
//! what the log says, from whichever brain; what a new master loads is what the log says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use kubebrain_brain::config::{self, ValueCache};
use kubebrain_brain::engine::faulty::{Faulty, Mood};
use kubebrain_brain::request::{Delete, Limits, Put, Range, ReadAt, Txn};
use kubebrain_brain::store::{Ended, Store, WriteError, read_all};
use kubebrain_brain::watch::{StreamConfig, WatchStream};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use crate::client::op;
use crate::engine::{Clock, Disk};
use crate::number;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// On the paused clock.
const TIME: Duration = Duration::from_secs(14);
/// Clients give up after this; what they asked for goes on.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Brains that clients still ask: the newest of them, and what came before.
const ASKED: usize = 4;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, Default)]
struct Broken {
    planted: config::Planted,
    ignores_absent: bool,
}

struct Instance {
    name: String,
    store: Store,
}

/// What a read found: at which revision, keys and values.
type Found = (i64, Vec<(Bytes, Bytes)>);

/// What one watcher was told.
struct Watched {
    by: String,
    start: i64,
    heard: Vec<(i64, Bytes, Option<Bytes>)>,
}

struct Group {
    disk: Arc<Disk>,
    rng: Mutex<StdRng>,
    broken: Broken,
    mood: Mood,
    instances: Mutex<Vec<Arc<Instance>>>,
    /// Of every process, also of those that do not serve yet.
    engines: Mutex<Vec<Arc<Faulty>>>,
    /// The highest revision that was answered as fresh.
    shown: Mutex<i64>,
    /// Values that were acknowledged, with their revisions, and values that surely were not written.
    acknowledged: Mutex<BTreeMap<String, i64>>,
    refused: Mutex<Vec<String>>,
    reads: Mutex<Vec<Found>>,
    watched: Mutex<Vec<Watched>>,
    wrong: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
    began: Instant,
    serial: Mutex<u64>,
    stopper: Stopper,
}

type Shared = Arc<Group>;

impl Group {
    fn says(&self, what: &str) {
        self.notes.lock().push(format!("{:>6} {what}", self.began.elapsed().as_millis()));
    }

    fn wrong(&self, what: String) {
        self.says(&format!("WRONG {what}"));
        self.wrong.lock().push(what);
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.lock().random_range(0..bound)
    }

    fn chance(&self, of: f64) -> bool {
        self.rng.lock().random_bool(of)
    }

    fn value(&self) -> String {
        let mut serial = self.serial.lock();
        *serial += 1;
        format!("v{serial}")
    }

    fn instance(&self) -> Option<Arc<Instance>> {
        let instances = self.instances.lock();
        let newest = instances.len().checked_sub(1)?;
        let back = if self.chance(0.5) { 0 } else { self.below(ASKED as u64) as usize };
        Some(Arc::clone(&instances[newest - back.min(newest)]))
    }

    /// What is answered as fresh, at `revision`, to a request before which `need` had been shown.
    fn fresh(&self, by: &Instance, what: &str, need: i64, revision: i64) {
        if revision < need {
            self.wrong(format!("{} answered {what} at r{revision}, r{need} had been shown before", by.name));
        }
        let mut shown = self.shown.lock();
        *shown = (*shown).max(revision);
    }

    fn config(&self, name: &str) -> config::Config {
        let group = GroupName::parse("core").expect("a name");
        let small = self.chance(0.5);
        config::Config {
            window_bytes: if small { 1 } else { 1 << 20 },
            value_cache: ValueCache::new(if small { 1 } else { 1 << 20 }),
            planted: self.broken.planted,
            ..config::Config::new(group, name)
        }
    }
}

/// Starts one more brain, which takes the group over if it can.
async fn start(group: Shared, mood: Mood) {
    let name = format!("brain{}", group.engines.lock().len());
    let engine = Arc::new(Faulty::new(Arc::clone(&group.disk) as _, mood, group.rng.lock().random()));
    group.engines.lock().push(engine.clone());
    group.says(&format!("{name} starts"));
    let config = group.config(&name);
    let placement = Arc::new(Placement::single(config.group.clone()));
    match Store::open(config, engine.clone(), placement).await {
        Ok(store) => {
            let (term, revision) = (store.state().identity().epoch, store.state().committed());
            group.says(&format!("{name} serves, epoch {term} at {revision}"));
            let instance = Arc::new(Instance { name, store });
            for _ in 0..2 {
                tokio::spawn(watch(group.clone(), instance.clone()));
            }
            tokio::spawn(end(group.clone(), instance.clone()));
            group.instances.lock().push(instance);
        }
        Err(error) => group.says(&format!("{name} does not open: {error}")),
    }
}

/// Only a later master ends one.
async fn end(group: Shared, instance: Arc<Instance>) {
    match instance.store.ended().await {
        Ended::Deposed { epoch, number, .. } => {
            group.says(&format!("{} is deposed by epoch {epoch} at {number}", instance.name));
            if epoch <= instance.store.state().identity().epoch {
                group.wrong(format!("{} was deposed by itself or by an older one", instance.name));
            }
        }
        other => group.wrong(format!("{}: {other}", instance.name)),
    }
}

async fn watch(group: Shared, instance: Arc<Instance>) {
    let start_revision = match group.chance(0.4) {
        true => 0,
        false => (*group.shown.lock() - group.below(12).cast_signed()).max(1),
    };
    let need = *group.shown.lock();
    let create =
        pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), start_revision, ..<_>::default() };
    let create =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let inbound = futures_util::stream::iter([Ok(create)]).chain(futures_util::stream::pending());
    let config = StreamConfig { progress_interval: Duration::from_secs(600), part: None, tells_all: false };
    let stop = group.stopper.handle();
    let messages = WatchStream::new(instance.store.clone(), inbound, config, stop).into_messages();
    let mut messages = std::pin::pin!(messages);
    let mut place = None;
    while let Some(Ok(message)) = messages.next().await {
        let message = pb::WatchResponse::decode(message).expect("a message");
        if message.created {
            let revision = message.header.as_ref().map_or(0, |header| header.revision);
            let start = if start_revision == 0 { revision + 1 } else { start_revision };
            if start_revision == 0 && revision < need {
                group.wrong(format!("{} watches from r{revision} on, r{need} was shown", instance.name));
            }
            let mut watched = group.watched.lock();
            place = Some(watched.len());
            watched.push(Watched { by: instance.name.clone(), start, heard: Vec::new() });
        }
        let Some(place) = place else { continue };
        for event in message.events {
            let deleted = event.r#type == pb_delete();
            let kv = event.kv.unwrap_or_default();
            let value = (!deleted).then_some(kv.value);
            group.watched.lock()[place].heard.push((kv.mod_revision, kv.key, value));
        }
        if message.canceled {
            return;
        }
    }
}

fn pb_delete() -> i32 {
    kubebrain_proto::mvccpb::event::EventType::Delete.into()
}

/// One client: asks whichever brain it finds.
async fn ask(group: Shared) {
    while group.began.elapsed() < TIME {
        sleep(Duration::from_millis(group.below(40))).await;
        let Some(instance) = group.instance() else { continue };
        let key = KEYS[group.below(KEYS.len() as u64) as usize];
        let asked = async {
            match group.below(10) {
                0..4 => put(&group, &instance, key).await,
                4 => delete(&group, &instance, key).await,
                5 | 6 => compare(&group, &instance, key).await,
                7 => advance(&group, &instance).await,
                _ => read(&group, &instance).await,
            }
        };
        let _unanswered = timeout(PATIENCE, asked).await;
    }
}

fn told(group: &Group, value: &str, outcome: Result<i64, WriteError>) {
    match outcome {
        Ok(revision) => drop(group.acknowledged.lock().insert(value.to_owned(), revision)),
        Err(WriteError::Fault(Fault::NoSpace | Fault::TooManyRequests)) => {
            group.refused.lock().push(value.to_owned());
        }
        Err(_) => {}
    }
}

async fn put(group: &Group, instance: &Instance, key: &str) {
    let (need, value) = (*group.shown.lock(), group.value());
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.clone().into(), ..<_>::default() };
    let outcome = instance.store.put(Put::try_from(put).expect("legal"), Revision::ZERO).await;
    let outcome = outcome.map(|reply| reply.revision.to_wire());
    if let Ok(revision) = outcome {
        group.fresh(instance, "a put", need, revision);
        group.says(&format!("{} put {key}={value} at r{revision}", instance.name));
    }
    told(group, &value, outcome);
}

async fn delete(group: &Group, instance: &Instance, key: &str) {
    let need = *group.shown.lock();
    let delete = Delete { keys: KeyRange::one(key.to_owned().into()), prev_kv: false };
    if let Ok(reply) = instance.store.delete(delete, Revision::ZERO, None).await {
        group.fresh(instance, "a deletion", need, reply.revision.to_wire());
        group.says(&format!("{} deleted {key} at {}", instance.name, reply.revision));
    }
}

/// A put of a key that is not there, or what is there instead.
async fn compare(group: &Group, instance: &Instance, key: &str) {
    let (need, value) = (*group.shown.lock(), group.value());
    let key = Bytes::copy_from_slice(key.as_bytes());
    let compare = pb::Compare {
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(0)),
        ..<_>::default()
    };
    let put = pb::PutRequest { key: key.clone(), value: value.clone().into(), ..<_>::default() };
    let get = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..<_>::default() };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put))],
        failure: vec![op(Request::RequestRange(get))],
    };
    let txn = Txn::from_wire(txn, &Limits::default()).expect("legal");
    match instance.store.txn(txn, Revision::ZERO).await {
        Ok(reply) => {
            let answer = pb::TxnResponse::decode(reply.message).expect("a message");
            let revision = reply.revision.to_wire();
            group.fresh(instance, "a transaction", need, revision);
            if answer.succeeded {
                group.says(&format!("{} put {key:?}={value} at r{revision}, new", instance.name));
                told(group, &value, Ok(revision));
                return;
            }
            for response in answer.responses {
                if let Some(pb::response_op::Response::ResponseRange(range)) = response.response {
                    found(group, revision, range);
                }
            }
        }
        Err(error) => told(group, &value, Err(error)),
    }
}

async fn advance(group: &Group, instance: &Instance) {
    let need = *group.shown.lock();
    let floor = Revision::new(need.cast_unsigned() + if group.chance(0.1) { group.below(3) } else { 0 });
    if let Ok(revision) = instance.store.advance(floor).await {
        group.fresh(instance, "an advance", need, revision.to_wire());
    }
}

async fn read(group: &Group, instance: &Instance) {
    let (need, serializable) = (*group.shown.lock(), group.chance(0.2));
    let range = Range { serializable, ..read_all(ReadAt::Latest) };
    let Ok(reply) = instance.store.range(&range, Revision::ZERO).await else { return };
    let revision = reply.revision.to_wire();
    if !serializable {
        group.fresh(instance, "a read", need, revision);
    }
    found(group, revision, pb::RangeResponse::decode(reply.message).expect("a message"));
}

fn found(group: &Group, revision: i64, range: pb::RangeResponse) {
    let kvs = range.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
    group.reads.lock().push((revision, kvs));
}

/// Starts, stops, kills and compacts.
async fn trouble(group: Shared) {
    while group.began.elapsed() < TIME {
        sleep(Duration::from_millis(group.below(500))).await;
        let engine = {
            let engines = group.engines.lock();
            let back = group.below(ASKED as u64) as usize;
            engines.get(engines.len().saturating_sub(1 + back)).cloned()
        };
        let Some(engine) = engine else { continue };
        match group.below(12) {
            0..3 => {
                let mood = match group.below(4) {
                    0 => Mood::default(),
                    // Its takeover comes late.
                    1 => Mood { stuck: 0.5, ..group.mood },
                    _ => group.mood,
                };
                tokio::spawn(start(group.clone(), mood));
            }
            3..6 => {
                let pause = Duration::from_millis([60, 400, 5000][group.below(3) as usize]);
                let pause = pause.mul_f64(group.below(100) as f64 / 100.0);
                engine.hold();
                tokio::spawn(async move {
                    sleep(pause).await;
                    engine.release();
                });
            }
            6 => engine.kill(),
            7 => engine.set(group.mood),
            _ => {
                let Some(instance) = group.instance() else { continue };
                let at = *group.shown.lock() - group.below(4).cast_signed();
                let store = instance.store.clone();
                let compacting = store.compact(at.max(1), false, Revision::ZERO);
                if let Ok(Ok(_)) = timeout(PATIENCE, compacting).await {
                    group.says(&format!("{} compacted r{at}", instance.name));
                }
            }
        }
    }
}

async fn simulate(seed: u64, broken: Broken) -> Shared {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut chance = |of: f64, value: f64| if rng.random_bool(of) { value } else { 0.0 };
    let mood = Mood {
        slow: chance(0.5, 0.3),
        stuck: chance(0.4, 0.05),
        unknown: chance(0.6, 0.15),
        lingers: chance(0.6, 0.7),
        refuses: chance(0.2, 0.05),
        late_answer: chance(0.6, 0.4),
        hasty: chance(0.3, 0.3),
        slow_reads: chance(0.7, 0.4),
        blind: chance(0.2, 0.05),
        cut: chance(0.2, 0.05),
        expires: 0.5,
    };
    let name = GroupName::parse("core").expect("a name");
    let group = Arc::new(Group {
        disk: Disk::new(&[name], Arc::new(Clock::default()), broken.ignores_absent),
        rng: Mutex::new(rng),
        broken,
        mood,
        instances: Mutex::default(),
        engines: Mutex::default(),
        shown: Mutex::new(1),
        acknowledged: Mutex::default(),
        refused: Mutex::default(),
        reads: Mutex::default(),
        watched: Mutex::default(),
        wrong: Mutex::default(),
        notes: Mutex::default(),
        began: Instant::now(),
        serial: Mutex::new(0),
        stopper: Stopper::default(),
    });
    start(group.clone(), Mood::default()).await;
    let mut acting = vec![tokio::spawn(trouble(group.clone()))];
    acting.extend((0..4).map(|_| tokio::spawn(ask(group.clone()))));
    for task in acting {
        task.await.expect("no panic");
    }
    group.engines.lock().iter().for_each(|engine| engine.calm());
    // What lingers has landed, and whoever was deposed has heard of it.
    sleep(Duration::from_secs(30)).await;
    start(group.clone(), Mood::default()).await;
    let last = group.instances.lock().last().cloned().expect("a calm engine opens");
    for key in KEYS {
        put(&group, &last, key).await;
    }
    read(&group, &last).await;
    sleep(Duration::from_secs(1)).await;
    group.stopper.ask();
    group
}

/// What does not fit to the log.
fn judge(group: &Group) -> Vec<String> {
    let (log, mut wrong) = group.disk.log();
    wrong.extend(group.wrong.lock().iter().cloned());
    let mut revisions: BTreeMap<i64, Vec<(Bytes, Option<Bytes>)>> = BTreeMap::new();
    let mut values: BTreeMap<String, i64> = BTreeMap::new();
    for committed in &log {
        for (key, kv) in &committed.changes {
            let value = kv.as_ref().map(|kv| kv.value.clone());
            if let Some(value) = &value {
                values.insert(String::from_utf8_lossy(value).into_owned(), committed.revision);
            }
            revisions.entry(committed.revision).or_default().push((key.clone(), value));
        }
    }
    for (value, revision) in &*group.acknowledged.lock() {
        if values.get(value) != Some(revision) {
            wrong.push(format!(
                "{value} was acknowledged at r{revision}, the log has {:?}",
                values.get(value)
            ));
        }
    }
    for value in &*group.refused.lock() {
        if let Some(revision) = values.get(value) {
            wrong.push(format!("{value} was answered as not written and is in the log at r{revision}"));
        }
    }
    let mut states: BTreeMap<i64, BTreeMap<Bytes, Bytes>> = BTreeMap::new();
    let mut state = BTreeMap::new();
    for (revision, changes) in &revisions {
        for (key, value) in changes {
            match value {
                Some(value) => drop(state.insert(key.clone(), value.clone())),
                None => drop(state.remove(key)),
            }
        }
        states.insert(*revision, state.clone());
    }
    for (revision, found) in &*group.reads.lock() {
        let state = states.range(..=revision).next_back().map(|(_, state)| state.clone()).unwrap_or_default();
        if *found != state.into_iter().collect::<Vec<_>>() {
            wrong.push(format!("a read at r{revision} found something else than the log says"));
        }
    }
    for watched in &*group.watched.lock() {
        let due = revisions.range(watched.start..);
        let due = due.flat_map(|(revision, changes)| {
            changes.iter().map(move |(key, value)| (*revision, key.clone(), value.clone()))
        });
        let due: Vec<_> = due.take(watched.heard.len()).collect();
        if due != watched.heard {
            let place = due.iter().zip(&watched.heard).take_while(|(due, heard)| due == heard).count();
            wrong.push(format!(
                "a watcher of {} from r{} heard {:?} where the log has {:?}",
                watched.by,
                watched.start,
                watched.heard.get(place),
                due.get(place)
            ));
        }
    }
    wrong
}

/// One seed: what is wrong with it, and what it did.
fn run(seed: u64, broken: Broken) -> (Shared, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let group = runtime.expect("a runtime").block_on(simulate(seed, broken));
    let wrong = judge(&group);
    (group, wrong)
}

#[test]
fn masters_of_one_group_break_no_promise() {
    let full = std::env::var_os("KUBEBRAIN_FULL").is_some();
    let (first, count) = match (number("KUBEBRAIN_SEED"), number("KUBEBRAIN_SEEDS")) {
        (Some(seed), None) => (seed, 1),
        (seed, count) => (seed.unwrap_or(1), count.unwrap_or(if full { 200 } else { 25 })),
    };
    let (mut served, mut acknowledged, mut reads, mut heard) = (0, 0, 0, 0);
    for seed in first..first + count {
        let (group, wrong) = run(seed, Broken::default());
        let notes = group.notes.lock();
        for line in notes.iter().filter(|_| !wrong.is_empty() || number("KUBEBRAIN_VERBOSE").is_some()) {
            eprintln!("{line}");
        }
        assert!(wrong.is_empty(), "KUBEBRAIN_SEED={seed}: {wrong:#?}");
        served += group.instances.lock().len();
        acknowledged += group.acknowledged.lock().len();
        reads += group.reads.lock().len();
        heard += group.watched.lock().iter().map(|watched| watched.heard.len()).sum::<usize>();
    }
    println!(
        "{count} seeds from {first}: {served} masters, {acknowledged} acknowledged, {reads} reads, {heard} events"
    );
    assert!(served > 2 * count as usize && reads > 20 * count as usize && heard > 50 * count as usize);
}

/// A deposed master does not know what its successor has compacted, and history comes from the log that both share.
#[tokio::test(start_paused = true)]
async fn a_watcher_of_a_deposed_master_hears_of_its_successors_compaction() {
    let group = GroupName::parse("core").expect("a name");
    let disk = Disk::new(std::slice::from_ref(&group), Arc::new(Clock::default()), false);
    let open = async |name: &str| {
        let engine = Arc::new(Faulty::new(Arc::clone(&disk) as _, Mood::default(), 1));
        let config = config::Config { window_bytes: 1, ..config::Config::new(group.clone(), name) };
        Store::open(config, engine, Arc::new(Placement::single(group.clone()))).await.expect("opens")
    };
    let write = async |store: &Store, key: &'static str| {
        let put = pb::PutRequest { key: key.into(), value: "v".into(), ..<_>::default() };
        store.put(Put::try_from(put).expect("legal"), Revision::ZERO).await.expect("put");
    };
    let older = open("older").await;
    for key in ["a", "b", "c", "d", "e", "f"] {
        write(&older, key).await;
    }
    let newer = open("newer").await;
    write(&newer, "g").await;
    newer.compact(5, true, Revision::ZERO).await.expect("compacted");
    sleep(Duration::from_secs(2)).await;
    for start_revision in 2..=7 {
        let create = pb::WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision,
            ..<_>::default()
        };
        let create =
            pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let inbound = futures_util::stream::iter([Ok(create)]).chain(futures_util::stream::pending());
        let stopper = Stopper::default();
        let config =
            StreamConfig { progress_interval: Duration::from_secs(600), part: None, tells_all: false };
        let messages = WatchStream::new(older.clone(), inbound, config, stopper.handle()).into_messages();
        let mut messages = std::pin::pin!(messages);
        let mut heard = Vec::new();
        let compacted = loop {
            let message = messages.next().await.expect("never ends").expect("no error");
            let message = pb::WatchResponse::decode(message).expect("a message");
            heard.extend(message.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.mod_revision));
            if message.canceled || heard.last() == Some(&7) {
                break message.compact_revision;
            }
        };
        match start_revision < 5 {
            true => assert_eq!((compacted, heard.as_slice()), (5, &[][..]), "from r{start_revision}"),
            false => {
                assert_eq!((compacted, heard), (0, (start_revision..=7).collect()), "from r{start_revision}")
            }
        }
    }
}

/// Each fault is found, and the seed printed that finds it.
fn finds(name: &str, broken: Broken) {
    let first = number("KUBEBRAIN_SEED").unwrap_or(1);
    for seed in first..first + 400 {
        let (_, wrong) = run(seed, broken);
        if let Some(wrong) = wrong.first() {
            println!("{name}: found with seed {seed}: {wrong}");
            return;
        }
    }
    panic!("{name}: not found with 400 seeds from {first}");
}

macro_rules! planted {
    ($($test:ident: $fault:ident;)*) => {$(
        #[test]
        fn $test() {
            let planted = config::Planted { $fault: true, ..config::Planted::default() };
            finds(stringify!($fault), Broken { planted, ..Broken::default() });
        }
    )*};
}

planted! {
    masters_whose_fence_joins_one_in_flight_are_found: early_fence;
    masters_whose_fence_accepts_their_own_record_are_found: mine_is_fresh;
    masters_that_trim_takeovers_are_found: trims_takeovers;
    masters_that_trim_before_takeovers_are_found: trims_before_takeovers;
    masters_that_give_an_unknown_batch_up_are_found: unknown_is_failed;
    masters_that_load_before_their_takeover_are_found: loads_before_takeover;
    masters_that_take_over_a_trimmed_number_are_found: takeover_ignores_trims;
    masters_that_forget_repeated_batches_are_found: forgets_repeats;
}

#[test]
fn masters_without_a_condition_are_found() {
    finds("ignores_absent", Broken { ignores_absent: true, ..Broken::default() });
}
