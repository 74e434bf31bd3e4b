//! Engines for the simulation: a [`Disk`] that writes down what was committed, and an [`Incarnation`], which is how one
//! brain process reaches it: slow, now and then silent, and dead when the process is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_brain::engine::memory::Memory;
use kubebrain_brain::engine::{Batch, CommitError, Engine, ReadError, Refusal, Snapshot, Span};
use kubebrain_brain::engine::{Condition, Write};
use kubebrain_brain::mvcc::codec::{Layout, Record, read_message};
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::range::KeyRange;
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::model::Change;

/// One order of everything that happens in a run.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    /// The next moment.
    pub(crate) fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A revision as it was committed.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub group: GroupName,
    pub revision: i64,
    pub changes: Vec<Change>,
    /// When.
    pub tick: u64,
    pub at: Instant,
}

/// What survives processes.
pub(crate) struct Disk {
    memory: Arc<Memory>,
    layouts: Vec<(GroupName, Layout)>,
    clock: Arc<Clock>,
    log: Mutex<Log>,
    /// Planted fault: `absent` is not looked at.
    ignores_absent: bool,
}

#[derive(Default)]
struct Log {
    committed: Vec<Committed>,
    last: BTreeMap<GroupName, i64>,
    wrong: Vec<String>,
}

impl Disk {
    pub(crate) fn new(groups: &[GroupName], clock: Arc<Clock>, ignores_absent: bool) -> Arc<Self> {
        let layouts = groups.iter().map(|group| (group.clone(), Layout::new(b"", group))).collect();
        Arc::new(Self {
            memory: Arc::new(Memory::new()),
            layouts,
            clock,
            log: Mutex::default(),
            ignores_absent,
        })
    }

    /// Everything committed so far, and what is wrong with it.
    pub(crate) fn log(&self) -> (Vec<Committed>, Vec<String>) {
        let log = self.log.lock();
        (log.committed.clone(), log.wrong.clone())
    }

    async fn commit(&self, mut batch: Batch) -> Result<(), CommitError> {
        if self.ignores_absent {
            batch.conditions.retain(|condition| !matches!(condition, Condition::Absent(_)));
        }
        self.memory.commit(batch.clone()).await?;
        self.record(&batch);
        Ok(())
    }

    fn record(&self, batch: &Batch) {
        let log = &mut *self.log.lock();
        let puts = batch.writes.iter().filter_map(|write| match write {
            Write::Put(key, value) => Some((key, value)),
            Write::Delete(_) => None,
        });
        let mut rows: BTreeMap<(Bytes, i64), Option<KeyValue>> = BTreeMap::new();
        let mut records = Vec::new();
        for (key, value) in puts {
            if let Some((group, _)) = self.layouts.iter().find(|(_, layout)| layout.log_span(0).contains(key))
            {
                let record: Record = read_message(key, value.clone()).expect("a log row is a record");
                records.push((group.clone(), record));
            } else if let Some((_, layout)) = self.layouts.first()
                && layout.data_span(&KeyRange::ALL).contains(key)
            {
                let row = layout.read_data(key, value).expect("a data row");
                let kv = row.kv.map(|kv| KeyValue::decode(kv).expect("a KeyValue"));
                rows.insert((row.key, row.revision.to_wire()), kv);
            }
        }
        for (group, record) in records {
            for write in record.writes {
                let revision = write.revision.cast_signed();
                let last = log.last.insert(group.clone(), revision).unwrap_or(1);
                if last >= revision {
                    log.wrong.push(format!("group {group}: revision {revision} committed after {last}"));
                }
                let changes = write.changes.into_iter().map(|change| {
                    let kv = rows.remove(&(change.key.clone(), revision));
                    if kv.as_ref().is_none_or(|kv| kv.is_none() != change.deleted) {
                        log.wrong.push(format!(
                            "group {group}: the record and the row of {:?} at {revision} differ",
                            change.key
                        ));
                    }
                    (change.key, kv.flatten())
                });
                let changes = changes.collect();
                log.committed.push(Committed {
                    group: group.clone(),
                    revision,
                    changes,
                    tick: self.clock.tick(),
                    at: Instant::now(),
                });
            }
        }
        if let Some(((key, revision), _)) = rows.first_key_value() {
            log.wrong.push(format!("a row of {key:?} at {revision} stands in no record"));
        }
    }
}

/// How unkind an engine is; all are chances per call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mood {
    /// A commit takes up to 60 ms.
    pub slow: f64,
    /// A commit takes longer than clients wait: up to 9 s.
    pub stuck: f64,
    /// "Unknown", applied before, after, or never.
    pub unknown: f64,
    /// "Not now".
    pub refuses: f64,
    /// A commit is durable long before its answer comes.
    pub late_answer: f64,
    /// A snapshot is not given.
    pub blind: f64,
}

/// One process's way to the disk.
pub(crate) struct Incarnation {
    disk: Arc<Disk>,
    mood: Mood,
    rng: Mutex<StdRng>,
    dead: AtomicBool,
    calm: AtomicBool,
}

impl Incarnation {
    pub(crate) fn new(disk: Arc<Disk>, mood: Mood, seed: u64) -> Arc<Self> {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(Self { disk, mood, rng, dead: AtomicBool::new(false), calm: AtomicBool::new(false) })
    }

    /// The process is gone: what it still does has no effect, and it hears nothing any more.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// No more trouble from here on.
    pub(crate) fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    fn chance(&self, of: f64) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.rng.lock().random_bool(of)
    }

    async fn nap(&self, millis_max: u64) {
        let millis = self.rng.lock().random_range(0..=millis_max);
        sleep(Duration::from_millis(millis)).await;
    }

    async fn live(&self) {
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Engine for Incarnation {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        self.live().await;
        if self.chance(self.mood.blind) {
            return Err(ReadError::Unavailable("not now".into()));
        }
        self.disk.memory.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        self.live().await;
        if self.chance(self.mood.stuck) {
            self.nap(9000).await;
        } else if self.chance(self.mood.slow) {
            self.nap(60).await;
        }
        if self.chance(self.mood.refuses) {
            return Err(CommitError::Refused(Refusal::Unavailable("not now".into())));
        }
        if self.chance(self.mood.unknown) {
            let unknown = Err(CommitError::Unknown("no answer".into()));
            let kind = self.rng.lock().random_range(0..3);
            if kind == 0 {
                let _whatever = self.disk.commit(batch).await;
            } else if kind == 1 {
                let (disk, millis) = (Arc::clone(&self.disk), self.rng.lock().random_range(1..200));
                tokio::spawn(async move {
                    sleep(Duration::from_millis(millis)).await;
                    let _whatever = disk.commit(batch).await;
                });
            }
            return unknown;
        }
        self.live().await;
        let outcome = self.disk.commit(batch).await;
        if self.chance(self.mood.late_answer) {
            self.nap(200).await;
        }
        self.live().await;
        outcome
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        self.disk.memory.partitions(range).await
    }

    fn size(&self) -> u64 {
        0
    }
}
