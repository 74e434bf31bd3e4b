//! Masters and slaves of one group under whatever happens, from a seed.
//!
//! Writers, readers and watchers go on all the time; streams are cut and held, slaves and masters are stopped, killed and
//! started, the group is handed over with warning and without. Held against the log of all revisions, which an engine
//! under everybody writes down:
//! * what a slave or a master answers at a revision is what the log says of it, at old revisions too;
//! * what is answered as fresh has all that was answered before it was asked;
//! * a watcher hears exactly what the log has from its start on, whoever it asks, also through a promotion;
//! * what was acknowledged is there, under the revision that it was acknowledged with;
//! * what hangs on a lease goes with it, whoever is the master by then;
//! * once all is quiet every slave has its master's keys, versions, bytes and revisions.
//!
//! ```text
//! cargo test -p kubebrain-brain --lib follow::tests::model         KUBEBRAIN_SEED=7 one seed, KUBEBRAIN_SEEDS=500 so many
//! ```

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::engine::{Batch, Bounds, CommitError, Engine, ReadError, Snapshot, Span, Write};
use crate::load::error::OpenError;
use crate::planted::Planted;
use crate::rows::codec::{Layout, Record};
use crate::state::values::ValueCache;

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// On the paused clock.
const TIME: Duration = Duration::from_secs(12);
const BRAINS: usize = 3;
const PATIENCE: Duration = Duration::from_millis(1500);

/// What the keys are after each revision.
type States = BTreeMap<u64, BTreeMap<String, String>>;

/// Memory under all of them, that writes every revision down as it becomes durable.
struct Ledger {
    memory: Memory,
    layout: Layout,
    written: Mutex<BTreeMap<u64, Vec<String>>>,
    states: Mutex<States>,
}

impl Ledger {
    fn new() -> Self {
        let layout = Layout::new(b"", &group());
        let (written, states) = (Mutex::default(), Mutex::new(States::from([(1, BTreeMap::new())])));
        Self { memory: Memory::new(), layout, written, states }
    }

    fn state(&self, revision: u64) -> Vec<String> {
        let states = self.states.lock();
        let found = states.range(..=revision).next_back().map(|(_, state)| state.clone());
        found.unwrap_or_default().into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Events from a revision on, as [`Watching`] tells them.
    fn events(&self, from: u64) -> Vec<String> {
        self.written.lock().range(from..).flat_map(|(_, events)| events.clone()).collect()
    }

    fn note(&self, record: &Record, rows: &BTreeMap<Bytes, Bytes>) {
        let (mut written, mut states) = (self.written.lock(), self.states.lock());
        for write in &record.writes {
            let last = states.last_key_value().map(|(last, state)| (*last, state.clone()));
            let (last, mut state) = last.expect("the first one is there");
            assert!(last < write.revision, "r{} after r{last}", write.revision);
            let mut events = Vec::new();
            for change in &write.changes {
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let key = text(&change.key);
                let before = state.get(&key).cloned().unwrap_or_else(|| "-".to_owned());
                let row = self.layout.data(&change.key, Revision::new(write.revision));
                let value = rows.get(&row).expect("a row for each change");
                let kv = self.layout.read_data(&row, value).expect("a row").kv;
                let value = kv.map(|kv| text(&KeyValue::decode(kv).expect("an entry").value));
                events.push(format!(
                    "{key}={}<{before}@{}",
                    value.clone().unwrap_or_default(),
                    write.revision
                ));
                match value {
                    Some(value) => drop(state.insert(key, value)),
                    None => drop(state.remove(&key)),
                }
            }
            written.insert(write.revision, events);
            states.insert(write.revision, state);
        }
    }
}

#[async_trait]
impl Engine for Ledger {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        self.memory.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let rows: BTreeMap<Bytes, Bytes> = batch
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Put(key, value) => Some((key.clone(), value.clone())),
                Write::Delete(_) => None,
            })
            .collect();
        // Memory answers at once: nothing comes between.
        self.memory.commit(batch).await?;
        let span = self.layout.log_span(0);
        for (_, value) in rows.iter().filter(|(key, _)| span.contains(key)) {
            self.note(&Record::decode(value.clone()).expect("a record"), &rows);
        }
        Ok(())
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        self.memory.partitions(range).await
    }

    fn bounds(&self) -> Bounds {
        self.memory.bounds()
    }

    fn size(&self) -> u64 {
        0
    }
}

/// One brain of the group, in one of its lives.
#[derive(Clone)]
struct Brain {
    name: String,
    engine: Arc<Faulty>,
    store: Store,
    slave: Arc<tokio::sync::Mutex<Slave>>,
    link: Arc<Mutex<Option<Arc<Link>>>>,
}

struct World {
    ledger: Arc<Ledger>,
    rng: Mutex<StdRng>,
    planted: Planted,
    mood: Mood,
    brains: Mutex<Vec<Brain>>,
    /// Who was promoted last.
    master: Mutex<Option<Brain>>,
    /// The highest revision that was answered as fresh.
    shown: Mutex<u64>,
    acknowledged: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, usize>>,
    began: Instant,
    lives: AtomicU64,
}

impl World {
    fn says(&self, what: &str) {
        self.notes.lock().push(format!("{:>6} {what}", self.began.elapsed().as_millis()));
    }

    fn wrong(&self, what: String) {
        self.says(&format!("WRONG {what}"));
        self.wrong.lock().push(what);
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.lock().random_range(0..bound)
    }

    fn chance(&self, of: f64) -> bool {
        self.rng.lock().random_bool(of)
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= TIME
    }

    fn brain(&self) -> Brain {
        let brains = self.brains.lock();
        brains[self.below(brains.len() as u64) as usize].clone()
    }

    fn master(&self) -> Option<Brain> {
        self.master.lock().clone()
    }

    fn shown(&self) -> u64 {
        *self.shown.lock()
    }

    fn fresh(&self, by: &str, what: &str, need: u64, revision: u64) {
        if revision < need {
            self.wrong(format!("{by} answered {what} at r{revision}, r{need} had been shown before"));
        }
        let mut shown = self.shown.lock();
        *shown = (*shown).max(revision);
    }

    /// A new life of the brain in this place: a slave of whoever is the master.
    fn start(&self, place: usize) {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        let name = format!("brain{place}.{life}");
        let seed = self.rng.lock().random();
        let small = self.chance(0.5);
        let engine = Arc::new(Faulty::new(self.ledger.clone() as _, self.mood, seed).shared());
        let config = Config {
            window_bytes: if small { 1 } else { 1 << 20 },
            value_cache: ValueCache::new(if small { 1 } else { 1 << 20 }),
            planted: self.planted,
            ..config(&name)
        };
        let (store, slave) = slave(&engine, config);
        self.says(&format!("{name} starts"));
        let slave = Arc::new(tokio::sync::Mutex::new(slave));
        let brain = Brain { name, engine, store, slave, link: Arc::default() };
        let mut brains = self.brains.lock();
        match brains.get_mut(place) {
            Some(before) => {
                before.engine.kill();
                if let Some(link) = &*before.link.lock() {
                    link.kill();
                }
                *before = brain;
            }
            None => brains.push(brain),
        }
    }

    /// Slaves hear of the master, but for some who go on with another one for a while.
    async fn attach_most(&self) {
        let Some(master) = self.master() else { return };
        let brains = self.brains.lock().clone();
        for brain in brains {
            let follows = brain.link.lock().as_ref().is_some_and(|link| {
                Arc::ptr_eq(link.store.state(), master.store.state()) && !*link.dead.borrow()
            });
            if !follows && self.chance(0.6) {
                self.attach(&brain, &master).await;
            }
        }
    }

    async fn attach(&self, brain: &Brain, master: &Brain) {
        let Ok(mut slave) = brain.slave.try_lock() else { return };
        if brain.name == master.name || !brain.store.state().is_slave() {
            return;
        }
        let link = Link::to(&master.store);
        if let Some(before) = brain.link.lock().replace(link.clone()) {
            before.kill();
        }
        slave.attach(link);
    }
}

type Shared = Arc<World>;

/// What a client asks, of whoever it finds.
async fn ask(world: Shared) {
    while !world.is_over() {
        sleep(Duration::from_millis(world.below(30))).await;
        let brain = match world.chance(0.4) {
            true => world.master().unwrap_or_else(|| world.brain()),
            false => world.brain(),
        };
        let asked = async {
            match world.below(12) {
                0..4 => write(&world, &brain).await,
                4 => advance(&world, &brain).await,
                5 | 6 => read_old(&world, &brain).await,
                _ => read_now(&world, &brain).await,
            }
        };
        let _unanswered = timeout(PATIENCE, asked).await;
    }
}

async fn write(world: &World, asked: &Brain) {
    let brain = world.master().unwrap_or_else(|| asked.clone());
    let key = KEYS[world.below(KEYS.len() as u64) as usize];
    let need = world.shown();
    // Leases of the master before are as good.
    let lease = if world.chance(0.2) { world.below(4).cast_signed() + 1 } else { 0 };
    if lease > 0 && world.chance(0.5) {
        let _exists = brain.store.grant(lease, 2 + lease, Revision::ZERO).await;
    }
    let value = format!("{}{}", if lease > 0 { "leased" } else { "v" }, world.rng.lock().random::<u32>());
    if world.chance(0.3) {
        let delete = Delete { keys: KeyRange::one(Bytes::from_static(key.as_bytes())), prev_kv: false };
        if let Ok(reply) = brain.store.delete(delete, Revision::ZERO, None).await {
            world.fresh(&brain.name, "a deletion", need, reply.revision.get());
        }
        return;
    }
    if let Ok(revision) = put_with(&brain.store, key, &value, lease).await {
        world.fresh(&brain.name, "a put", need, revision);
        world.says(&format!("{} put {key}={value} at r{revision}", brain.name));
        world.acknowledged.lock().insert(format!("{key}={value}"), revision);
        world.count(if lease > 0 { "leased writes" } else { "writes" });
    }
}

async fn advance(world: &World, brain: &Brain) {
    let need = world.shown();
    let floor = need + if world.chance(0.1) { world.below(3) } else { 0 };
    if let Ok(revision) = brain.store.advance(Revision::new(floor)).await {
        world.fresh(&brain.name, "an advance", need.max(floor), revision.get());
    }
}

fn judge_read(world: &World, brain: &Brain, revision: u64, kvs: &[KeyValue]) {
    let (found, want) = (pairs(kvs), world.ledger.state(revision));
    if found != want {
        world.wrong(format!("{} read {found:?} at r{revision}, the log has {want:?}", brain.name));
    }
}

fn role(brain: &Brain) -> &'static str {
    if brain.store.state().is_slave() { "reads of slaves" } else { "reads of masters" }
}

async fn read_now(world: &World, brain: &Brain) {
    let (need, serializable) = (world.shown(), world.chance(0.2));
    let range = Range { serializable, ..read_all(ReadAt::Latest) };
    match read(&brain.store, &range).await {
        Ok((revision, kvs)) => {
            world.count(if serializable { "serializable reads" } else { role(brain) });
            if !serializable {
                world.fresh(&brain.name, "a read", need, revision);
            }
            judge_read(world, brain, revision, &kvs);
        }
        Err(Fault::LeaderChanged | Fault::Timeout | Fault::Stopped) => {}
        Err(fault) => world.wrong(format!("{}: a read of now ended as {fault:?}", brain.name)),
    }
}

async fn read_old(world: &World, brain: &Brain) {
    let need = world.shown();
    let revision = need.saturating_sub(world.below(15)).max(1);
    match at(&brain.store, revision).await {
        Ok(kvs) => judge_read(world, brain, revision, &kvs),
        Err(Fault::FutureRevision) => {
            world.wrong(format!("{} does not know r{revision}, r{need} was shown", brain.name));
        }
        Err(_) => {}
    }
    world.count("old reads");
}

/// Watches one brain for a while, through whatever becomes of it.
async fn watch(world: Shared) {
    while !world.is_over() {
        sleep(Duration::from_millis(world.below(300))).await;
        let (brain, need) = (world.brain(), world.shown());
        let start = match world.chance(0.4) {
            true => 0,
            false => need.saturating_sub(world.below(12)).max(1),
        };
        let watching = timeout(PATIENCE, Watching::new(&brain.store, start)).await;
        let Ok(Ok(mut watching)) = watching else { continue };
        if start == 0 && watching.created < need {
            world.wrong(format!("{} watches from r{} on, r{need} was shown", brain.name, watching.created));
        }
        let from = if start == 0 { watching.created + 1 } else { start };
        let until = world.began.elapsed() + Duration::from_millis(world.below(4000));
        while world.began.elapsed() < until && watching.ended.is_none() && watching.cancelled.is_none() {
            watching.listen().await;
            sleep(Duration::from_millis(20)).await;
        }
        let due = world.ledger.events(from);
        let heard = &watching.heard;
        let place = due.iter().zip(heard).take_while(|(due, heard)| same_event(due, heard)).count();
        if place < heard.len() {
            world.wrong(format!(
                "a watcher of {} from r{from} heard {:?} where the log has {:?}",
                brain.name,
                heard.get(place),
                due.get(place)
            ));
        }
        *world.counts.lock().entry("events").or_default() += heard.len();
    }
}

/// The entry before may have been compacted.
fn same_event(due: &str, heard: &str) -> bool {
    let forgotten = |event: &str| {
        let (head, rest) = event.split_once('<')?;
        Some(format!("{head}<-@{}", rest.split_once('@')?.1))
    };
    due == heard || forgotten(due).as_deref() == Some(heard)
}

/// Promotes a slave, as an election would: whether or not the master before it knows.
async fn hand_over(world: &Shared, candidate: Brain) {
    let before = world.master();
    if !candidate.store.state().is_slave() {
        return;
    }
    if let Some(before) = before.filter(|_| world.chance(0.5)) {
        before.store.leave();
        if world.chance(0.5) {
            let _late = timeout(Duration::from_millis(200), before.store.close()).await;
        }
    }
    let Ok(mut slave) = candidate.slave.try_lock() else { return };
    let loaded = slave.state().borrow().loaded;
    let give_up = Duration::from_millis(if world.chance(0.2) { world.below(150) } else { 5000 });
    world.says(&format!("{} is promoted, loaded: {loaded}", candidate.name));
    match timeout(give_up, slave.promote()).await {
        Ok(Ok(())) => {
            drop(slave);
            let (epoch, at) = (candidate.store.state().identity().epoch, candidate.store.state().committed());
            world.says(&format!("{} is the master, epoch {epoch}, at {at}", candidate.name));
            world.count(if loaded { "warm promotions" } else { "cold promotions" });
            let need = world.shown();
            if at.get() < need {
                world.wrong(format!("{} begins at {at}, r{need} was shown", candidate.name));
            }
            *world.master.lock() = Some(candidate);
            world.attach_most().await;
        }
        Ok(Err(error)) => {
            world.says(&format!("{} is not: {error}", candidate.name));
            drop(slave);
            if matches!(error, OpenError::Deposed { .. }) {
                restart(world, &candidate).await;
            }
            world.attach_most().await;
        }
        Err(_) => {
            drop(slave);
            world.says(&format!("{} gives its promotion up", candidate.name));
            world.attach_most().await;
        }
    }
}

async fn restart(world: &Shared, brain: &Brain) {
    let place = world.brains.lock().iter().position(|other| other.name == brain.name);
    let Some(place) = place else { return };
    world.start(place);
    let (started, master) = (world.brains.lock()[place].clone(), world.master());
    if let Some(master) = master {
        world.attach(&started, &master).await;
    }
}

async fn trouble(world: Shared) {
    while !world.is_over() {
        sleep(Duration::from_millis(world.below(400))).await;
        let brain = world.brain();
        let link = brain.link.lock().clone();
        match world.below(16) {
            0..3 => hand_over(&world, brain).await,
            3 => restart(&world, &brain).await,
            4..6 => {
                if let Some(link) = link {
                    link.cut();
                }
            }
            6 | 7 => {
                let Some(link) = link else { continue };
                let pause = Duration::from_millis(world.below(3000));
                let what = world.chance(0.5);
                if what {
                    link.hold_responses(true)
                } else {
                    link.hold_answers(true)
                }
                tokio::spawn(async move {
                    sleep(pause).await;
                    if what { link.hold_responses(false) } else { link.hold_answers(false) }
                });
            }
            8 | 9 => {
                let pause = Duration::from_millis(world.below(3000));
                brain.engine.hold();
                tokio::spawn(async move {
                    sleep(pause).await;
                    brain.engine.release();
                });
            }
            _ => {
                let Some(master) = world.master() else { continue };
                let at = world.shown().saturating_sub(world.below(6)).cast_signed();
                let compacting = master.store.compact(at.max(1), world.chance(0.5), Revision::ZERO);
                if let Ok(Ok(_)) = timeout(PATIENCE, compacting).await {
                    world.says(&format!("{} compacted r{at}", master.name));
                    world.count("compactions");
                }
            }
        }
        world.attach_most().await;
        // A master that is gone is replaced some time.
        if world.master().is_none_or(|master| master.store.state().has_ended()) && world.chance(0.5) {
            hand_over(&world, world.brain()).await;
        }
        let ended: Vec<_> = {
            let (brains, master) = (world.brains.lock(), world.master());
            let gone = |brain: &&Brain| {
                let is_master = master.as_ref().is_some_and(|master| master.name == brain.name);
                !brain.store.state().is_slave() && !is_master
            };
            brains.iter().filter(gone).cloned().collect()
        };
        for brain in ended {
            if world.chance(0.5) {
                restart(&world, &brain).await;
            }
        }
    }
}

async fn simulate(seed: u64, planted: Planted) -> Shared {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut chance = |of: f64, value: f64| if rng.random_bool(of) { value } else { 0.0 };
    let mood = Mood {
        slow: chance(0.5, 0.3),
        unknown: chance(0.4, 0.1),
        lingers: chance(0.5, 0.5),
        late_answer: chance(0.6, 0.3),
        slow_reads: chance(0.5, 0.3),
        blind: chance(0.2, 0.05),
        cut: chance(0.2, 0.05),
        expires: 0.5,
        ..Mood::default()
    };
    let world = Arc::new(World {
        ledger: Arc::new(Ledger::new()),
        rng: Mutex::new(rng),
        planted,
        mood,
        brains: Mutex::default(),
        master: Mutex::default(),
        shown: Mutex::new(1),
        acknowledged: Mutex::default(),
        wrong: Mutex::default(),
        notes: Mutex::default(),
        counts: Mutex::default(),
        began: Instant::now(),
        lives: AtomicU64::new(0),
    });
    (0..BRAINS).for_each(|place| world.start(place));
    hand_over(&world, world.brain()).await;
    let mut acting: Vec<JoinHandle<()>> = vec![tokio::spawn(trouble(world.clone()))];
    acting.extend((0..4).map(|_| tokio::spawn(ask(world.clone()))));
    acting.extend((0..3).map(|_| tokio::spawn(watch(world.clone()))));
    for task in acting {
        task.await.expect("no panic");
    }
    quiet(&world).await;
    world
}

/// Nothing happens any more: all brains agree.
async fn quiet(world: &Shared) {
    let calm = |world: &World| world.brains.lock().iter().for_each(|brain| brain.engine.calm());
    calm(world);
    sleep(Duration::from_secs(15)).await;
    // A master that nobody doubts, and slaves of it, some of them fresh.
    for place in 0..BRAINS {
        let brain = world.brains.lock()[place].clone();
        if !brain.store.state().is_slave() {
            world.start(place);
        }
    }
    calm(world);
    let candidate = world.brains.lock()[0].clone();
    {
        let mut slave = candidate.slave.lock().await;
        if let Err(error) = slave.promote().await {
            return world.wrong(format!("{} is not promoted in quiet: {error}", candidate.name));
        }
    }
    *world.master.lock() = Some(candidate.clone());
    let brains = world.brains.lock().clone();
    for brain in brains.iter().skip(1) {
        world.attach(brain, &candidate).await;
        level(&*brain.slave.lock().await).await;
    }
    sleep(Duration::from_secs(10)).await;
    let left = now(&candidate.store).await.map(|(_, kvs)| pairs(&kvs)).unwrap_or_default();
    if let Some(leased) = left.iter().find(|pair| pair.contains("=leased")) {
        world.wrong(format!("{leased} is there, and its lease is not"));
    }
    for key in KEYS {
        let revision = put(&candidate.store, key, "last").await;
        let shown = world.shown();
        world.fresh(&candidate.name, "a put", shown, revision);
    }
    let (last, compacted) = (candidate.store.state().committed().get(), candidate.store.state().compacted());
    for brain in &brains {
        for revision in u64::try_from(compacted).unwrap_or(1).max(1).max(last.saturating_sub(40))..=last {
            match at(&brain.store, revision).await {
                Ok(kvs) => judge_read(world, brain, revision, &kvs),
                Err(fault) => world.wrong(format!("{}: r{revision} ended as {fault:?}", brain.name)),
            }
        }
        let mut watching = Watching::new(&brain.store, last - 5).await.expect("watches");
        if watching.listen().await.len() != 6 {
            world.wrong(format!("{} tells {:?}", brain.name, watching.heard));
        }
    }
    // Everything but the newest goes, on each of them.
    let compacting = candidate.store.compact(last.cast_signed(), true, Revision::ZERO);
    if timeout(Duration::from_secs(60), compacting).await.is_err() {
        world.wrong("a compaction in quiet does not end".to_owned());
    }
    settle().await;
    for brain in &brains {
        let state = brain.store.state();
        let all = (state.committed().get(), state.compacted(), state.index.read().versions());
        if all != (last, last.cast_signed(), KEYS.len()) {
            world.wrong(format!("{} ends with {all:?} at r{last}", brain.name));
        }
        if state.share.quota().used() != candidate.store.state().share.quota().used() {
            world.wrong(format!("{} counts other bytes than its master", brain.name));
        }
    }
    for (pair, revision) in &*world.acknowledged.lock() {
        let there = world.ledger.events(*revision).first().is_some_and(|event| {
            event.starts_with(&format!("{pair}<")) && event.ends_with(&format!("@{revision}"))
        });
        if !there {
            world.wrong(format!("{pair} was acknowledged at r{revision}, and is not in the log"));
        }
    }
}

fn run(seed: u64, planted: Planted) -> (Shared, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let world = runtime.expect("a runtime").block_on(simulate(seed, planted));
    let wrong = world.wrong.lock().clone();
    (world, wrong)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn slaves_and_their_masters_break_no_promise() {
    let full = std::env::var_os("KUBEBRAIN_FULL").is_some();
    let (first, seeds) = match (number("KUBEBRAIN_SEED"), number("KUBEBRAIN_SEEDS")) {
        (Some(seed), None) => (seed, 1),
        (seed, seeds) => (seed.unwrap_or(1), seeds.unwrap_or(if full { 300 } else { 25 })),
    };
    let mut counts = BTreeMap::new();
    for seed in first..first + seeds {
        let (world, wrong) = run(seed, Planted::default());
        let notes = world.notes.lock();
        for line in notes.iter().filter(|_| !wrong.is_empty() || number("KUBEBRAIN_VERBOSE").is_some()) {
            eprintln!("{line}");
        }
        assert!(wrong.is_empty(), "KUBEBRAIN_SEED={seed}: {wrong:#?}");
        for (what, count) in &*world.counts.lock() {
            *counts.entry(*what).or_insert(0) += count;
        }
    }
    println!("{seeds} seeds from {first}: {counts:?}");
    if seeds >= 25 {
        let enough = |what| counts.get(what).is_some_and(|count| *count > 2 * seeds as usize);
        for what in ["warm promotions", "reads of slaves", "events", "writes", "leased writes", "compactions"]
        {
            assert!(enough(what), "{what}: {counts:?}");
        }
    }
}

#[test]
fn planted_faults_are_found() {
    let faults = [
        Planted { early_fence: true, ..Planted::default() },
        Planted { closes_before_events: true, ..Planted::default() },
        Planted { skips_tail: true, ..Planted::default() },
        Planted { believes_claims: true, ..Planted::default() },
        Planted { mine_is_fresh: true, ..Planted::default() },
    ];
    for planted in faults {
        // Some of them end in an assertion before anybody looks.
        let found = (1..300).find(|seed| {
            let ran = std::panic::catch_unwind(|| run(*seed, planted).1);
            ran.map_or(true, |wrong| !wrong.is_empty())
        });
        println!("{planted:?} is found by seed {found:?}");
        assert!(found.is_some(), "{planted:?} is not found");
    }
}
