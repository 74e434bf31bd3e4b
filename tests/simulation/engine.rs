//! The simulation's engine: a [`Disk`] that writes down what was committed. Each brain process reaches it on a way of its
//! own, a [`Faulty`](kubebrain_brain::engine::faulty::Faulty): slow, now and then silent, and dead when the process is.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_brain::engine::memory::Memory;
use kubebrain_brain::engine::{Batch, CommitError, Condition, Engine, ReadError, Snapshot, Span, Write};
use kubebrain_brain::rows::{Layout, Record, read_message};
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::range::KeyRange;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Instant;

pub(crate) use crate::record::{Clock, Committed};

/// What survives processes.
pub(crate) struct Disk {
    memory: Arc<Memory>,
    layouts: Vec<(GroupName, Layout)>,
    clock: Arc<Clock>,
    log: Mutex<Log>,
    /// Planted fault: `absent` is not looked at.
    ignores_absent: bool,
    /// Hears of each revision as it is committed.
    hears: Option<Hears>,
}

type Hears = Box<dyn Fn(&Committed) + Send + Sync>;

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
            hears: None,
        })
    }

    /// One whose commits somebody hears of at once.
    pub(crate) fn watched(groups: &[GroupName], clock: Arc<Clock>, hears: Hears) -> Arc<Self> {
        let mut disk = Self::new(groups, clock, false);
        if let Some(disk) = Arc::get_mut(&mut disk) {
            disk.hears = Some(hears);
        }
        disk
    }

    /// Everything committed so far, and what is wrong with it.
    pub(crate) fn log(&self) -> (Vec<Committed>, Vec<String>) {
        let log = self.log.lock();
        (log.committed.clone(), log.wrong.clone())
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
                let committed = Committed {
                    group: group.clone(),
                    revision,
                    changes,
                    tick: self.clock.tick(),
                    at: Instant::now(),
                };
                if let Some(hears) = &self.hears {
                    hears(&committed);
                }
                log.committed.push(committed);
            }
        }
        if let Some(((key, revision), _)) = rows.first_key_value() {
            log.wrong.push(format!("a row of {key:?} at {revision} stands in no record"));
        }
    }
}

/// Commits one after the other, each written down as it is applied.
#[async_trait]
impl Engine for Disk {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        self.memory.snapshot().await
    }

    async fn commit(&self, mut batch: Batch) -> Result<(), CommitError> {
        if self.ignores_absent {
            batch.conditions.retain(|condition| !matches!(condition, Condition::Absent(_)));
        }
        self.memory.commit(batch.clone()).await?;
        self.record(&batch);
        Ok(())
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        self.memory.partitions(range).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn size(&self) -> u64 {
        0
    }
}
