//! [`Faulty`]: one process's way to an engine that is slow, silent, forgetful or gone, by seed. For tests.
//!
//! Whatever it does, the trait allows: a batch is applied whole, under its conditions, at most once for each call; an
//! answer that says "not written" is true; a snapshot shows all that was answered before it was asked for. What a
//! caller must live with is only everything else.
//!
//! ```text
//! commit ─ asleep? ─ nap ─┬─ refused, and nothing happened
//!                         ├─ a condition failed when it was first looked at: a conflict
//!                         ├─ unknown: applied now, some time later (even when this process is gone), or never
//!                         └─ applied ─ nap ─ asleep? ─ answered
//! ```
//!
//! Several of them over one engine are several processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::engine::{Batch, Bounds, CommitError, Engine, Page, ReadError, Refusal, Snapshot, Span, Write};

/// How unkind it is: chances, per call where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mood {
    /// A commit takes up to 60 ms.
    pub slow: f64,
    /// A commit takes longer than clients wait: up to 9 s.
    pub stuck: f64,
    /// "Unknown", applied before, after, or never.
    pub unknown: f64,
    /// Of the unknown ones that are applied after: it takes seconds instead of up to 200 ms.
    pub lingers: f64,
    /// "Not now".
    pub refuses: f64,
    /// A commit is durable up to 200 ms before its answer comes.
    pub late_answer: f64,
    /// A commit is judged when it is called and not only when it is applied.
    pub hasty: f64,
    /// A snapshot takes up to 60 ms, seldom a second; it may show the moment of the call, or that of the answer.
    pub slow_reads: f64,
    /// A snapshot is not given.
    pub blind: f64,
    /// Of a snapshot, per read: it is not answered, nor is any that follows.
    pub cut: f64,
    /// Of the cut ones: because they are too old.
    pub expires: f64,
}

/// See the module.
pub struct Faulty {
    inner: Arc<dyn Engine>,
    mood: Mutex<Mood>,
    rng: Arc<Mutex<StdRng>>,
    dead: AtomicBool,
    asleep: watch::Sender<bool>,
    shared: bool,
    bounds: Bounds,
    snapshots: AtomicU64,
    largest: AtomicUsize,
}

impl Faulty {
    /// In this mood from the start.
    pub fn new(inner: Arc<dyn Engine>, mood: Mood, seed: u64) -> Self {
        Self {
            shared: inner.is_shared(),
            bounds: inner.bounds(),
            inner,
            mood: Mutex::new(mood),
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
            dead: AtomicBool::new(false),
            asleep: watch::Sender::new(false),
            snapshots: AtomicU64::new(0),
            largest: AtomicUsize::new(0),
        }
    }

    /// Says that other processes write the engine too.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// Holds so much, and refuses what is more.
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Changes its mood.
    pub fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// No more trouble from here on, but what is on its way.
    pub fn calm(&self) {
        self.set(Mood::default());
        self.release();
    }

    /// The process is gone: what it still does has no effect, and it hears nothing any more. What it has sent may land.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// The process is stopped before its next call and before the answer of one under way, until [`Self::release`].
    pub fn hold(&self) {
        self.asleep.send_replace(true);
    }

    /// It goes on.
    pub fn release(&self) {
        self.asleep.send_replace(false);
    }

    /// True while held.
    pub fn is_held(&self) -> bool {
        *self.asleep.borrow()
    }

    /// Snapshots asked for so far.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// The largest batch so far, in bytes.
    pub fn largest_batch(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    fn check(&self, batch: &Batch) -> Result<(), Refusal> {
        let (bounds, size) = (&self.bounds, batch.size());
        self.largest.fetch_max(size, Ordering::Relaxed);
        let too_large = |bytes, max| Err(Refusal::TooLarge { bytes, max });
        if size > bounds.batch_bytes_max {
            return too_large(size, bounds.batch_bytes_max);
        }
        for write in &batch.writes {
            let bytes = write.key().len();
            if bytes > bounds.key_bytes_max {
                return Err(Refusal::Key { bytes, max: bounds.key_bytes_max });
            }
            if let Write::Put(_, value) = write
                && value.len() > bounds.value_bytes_max
            {
                return too_large(value.len(), bounds.value_bytes_max);
            }
        }
        Ok(())
    }

    fn chance(&self, of: impl Fn(&Mood) -> f64) -> bool {
        let chance = of(&self.mood.lock());
        chance > 0.0 && self.rng.lock().random_bool(chance)
    }

    async fn nap(&self, millis_max: u64) {
        let millis = self.rng.lock().random_range(0..=millis_max);
        sleep(Duration::from_millis(millis)).await;
    }

    /// Waits while asleep, for ever once gone.
    async fn live(&self) {
        let mut asleep = self.asleep.subscribe();
        drop(asleep.wait_for(|asleep| !asleep).await);
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// The first condition that does not hold now.
    async fn fails(&self, batch: &Batch) -> Option<Bytes> {
        let snapshot = self.inner.snapshot().await.ok()?;
        for condition in &batch.conditions {
            let stored = snapshot.get(condition.key()).await.ok()?;
            if !condition.holds(stored.as_deref()) {
                return Some(condition.key().clone());
            }
        }
        None
    }

    async fn unknown(&self, batch: Batch) -> CommitError {
        let unknown = CommitError::Unknown("no answer".into());
        let kind = self.rng.lock().random_range(0..3);
        if kind == 0 {
            let _whatever = self.inner.commit(batch).await;
        } else if kind == 1 {
            let millis_max = if self.chance(|mood| mood.lingers) { 9000 } else { 200 };
            let (inner, millis) = (Arc::clone(&self.inner), self.rng.lock().random_range(1..millis_max));
            tokio::spawn(async move {
                sleep(Duration::from_millis(millis)).await;
                let _whatever = inner.commit(batch).await;
            });
        }
        unknown
    }
}

#[async_trait]
impl Engine for Faulty {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        self.live().await;
        if self.chance(|mood| mood.blind) {
            return Err(ReadError::Unavailable("not now".into()));
        }
        let mut snapshot = None;
        if self.chance(|mood| mood.slow_reads) {
            let (early, millis_max) = {
                let mut rng = self.rng.lock();
                (rng.random(), if rng.random_bool(0.1) { 1000 } else { 60 })
            };
            if early {
                snapshot = Some(self.inner.snapshot().await?);
            }
            self.nap(millis_max).await;
        }
        let inner = match snapshot {
            Some(snapshot) => snapshot,
            None => self.inner.snapshot().await?,
        };
        self.live().await;
        let (cut, expires) = {
            let mood = self.mood.lock();
            (mood.cut, mood.expires)
        };
        match cut > 0.0 {
            false => Ok(inner),
            true => Ok(Box::new(Cut {
                inner,
                cut,
                expires,
                rng: Arc::clone(&self.rng),
                failed: Mutex::default(),
            })),
        }
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        self.live().await;
        self.check(&batch).map_err(CommitError::Refused)?;
        if self.chance(|mood| mood.hasty)
            && let Some(key) = self.fails(&batch).await
        {
            return Err(CommitError::Conflict { key });
        }
        if self.chance(|mood| mood.stuck) {
            self.nap(9000).await;
        } else if self.chance(|mood| mood.slow) {
            self.nap(60).await;
        }
        if self.chance(|mood| mood.refuses) {
            return Err(CommitError::Refused(Refusal::Unavailable("not now".into())));
        }
        self.live().await;
        if self.chance(|mood| mood.unknown) {
            return Err(self.unknown(batch).await);
        }
        let outcome = self.inner.commit(batch).await;
        if self.chance(|mood| mood.late_answer) {
            self.nap(200).await;
        }
        self.live().await;
        outcome
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        self.inner.partitions(range).await
    }

    async fn defragment(&self) -> Result<(), ReadError> {
        self.inner.defragment().await
    }

    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn is_short(&self) -> bool {
        self.inner.is_short()
    }

    fn waits_for(&self) -> Option<String> {
        self.is_held().then(|| "a test".to_owned())
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }
}

/// A snapshot that is lost midway.
struct Cut {
    inner: Box<dyn Snapshot>,
    cut: f64,
    expires: f64,
    rng: Arc<Mutex<StdRng>>,
    /// Whether it is too old.
    failed: Mutex<Option<bool>>,
}

impl Cut {
    fn read(&self) -> Result<(), ReadError> {
        let mut failed = self.failed.lock();
        let mut rng = self.rng.lock();
        if failed.is_none() && rng.random_bool(self.cut) {
            *failed = Some(rng.random_bool(self.expires));
        }
        match *failed {
            None => Ok(()),
            Some(true) => Err(ReadError::Expired),
            Some(false) => Err(ReadError::Unavailable("cut".into())),
        }
    }
}

#[async_trait]
impl Snapshot for Cut {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.read()?;
        self.inner.get(key).await
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError> {
        self.read()?;
        self.inner.get_many(keys).await
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError> {
        self.read()?;
        self.inner.scan(span, limit).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::engine::contract;
    use crate::engine::memory::Memory;

    contract::suite!({
        let stores = Mutex::new(HashMap::new());
        move |name: String| {
            let inner: Arc<Memory> =
                Arc::clone(stores.lock().entry(name).or_insert_with(|| Arc::new(Memory::new())));
            std::future::ready(Arc::new(Faulty::new(inner, Mood::default(), 1)))
        }
    });

    fn claim(name: &str) -> Batch {
        let mut batch = Batch::new();
        batch.absent("k").put("k", name.to_owned());
        batch
    }

    async fn holder(engine: &dyn Engine) -> Option<Bytes> {
        engine.snapshot().await.expect("snapshot").get(b"k").await.expect("get")
    }

    /// Every outcome comes, and each is true.
    #[tokio::test(start_paused = true)]
    async fn whatever_it_says_is_true() {
        let mood = Mood {
            slow: 0.3,
            unknown: 0.4,
            lingers: 0.3,
            refuses: 0.2,
            late_answer: 0.2,
            hasty: 0.3,
            slow_reads: 0.3,
            ..Mood::default()
        };
        let mut seen = [0; 7];
        for seed in 0..400 {
            let memory = Arc::new(Memory::new());
            let engine = Faulty::new(memory.clone(), mood, seed);
            let outcome = engine.commit(claim("a")).await;
            let at_once = holder(&*memory).await;
            sleep(Duration::from_secs(10)).await;
            let (later, after) = (holder(&*memory).await, engine.commit(claim("b")).await);
            match (&outcome, at_once.is_some(), later.is_some()) {
                (Ok(()), true, true) => seen[0] += 1,
                (Err(CommitError::Refused(_)), false, false) => seen[1] += 1,
                (Err(CommitError::Unknown(_)), true, true) => seen[2] += 1,
                (Err(CommitError::Unknown(_)), false, true) => seen[3] += 1,
                (Err(CommitError::Unknown(_)), false, false) => seen[4] += 1,
                other => panic!("seed {seed}: {other:?}"),
            }
            match after {
                Ok(()) => assert!(later.is_none(), "seed {seed}: two claims"),
                Err(CommitError::Conflict { .. }) => {
                    assert!(later.is_some(), "seed {seed}: a conflict with nothing");
                    seen[5] += 1;
                }
                Err(_) => seen[6] += 1,
            }
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_lands_after_the_sender_is_gone_and_nothing_else_does() {
        let mut landed = 0;
        for seed in 0..60 {
            let memory = Arc::new(Memory::new());
            let mood = Mood { unknown: 1.0, lingers: 1.0, ..Mood::default() };
            let engine = Faulty::new(memory.clone(), mood, seed);
            assert!(matches!(engine.commit(claim("a")).await, Err(CommitError::Unknown(_))));
            let before = holder(&*memory).await.is_some();
            engine.kill();
            let silent = tokio::time::timeout(Duration::from_secs(1), engine.commit(claim("b"))).await;
            assert!(silent.is_err(), "the dead hear nothing");
            sleep(Duration::from_secs(10)).await;
            let after = holder(&*memory).await;
            assert_ne!(after.as_deref(), Some(&b"b"[..]), "the dead write nothing");
            landed += usize::from(!before && after.is_some());
        }
        assert!(landed > 5, "{landed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_process_goes_on_where_it_was() {
        let memory = Arc::new(Memory::new());
        let engine = Arc::new(Faulty::new(memory.clone(), Mood::default(), 1));
        engine.hold();
        let held = engine.clone();
        let commit = tokio::spawn(async move { held.commit(claim("a")).await });
        sleep(Duration::from_secs(100)).await;
        assert!(!commit.is_finished() && holder(&*memory).await.is_none());
        engine.release();
        commit.await.expect("no panic").expect("committed");
        engine.set(Mood { cut: 1.0, expires: 1.0, ..Mood::default() });
        let snapshot = engine.snapshot().await.expect("given");
        assert!(matches!(snapshot.get(b"k").await, Err(ReadError::Expired)));
    }
}
