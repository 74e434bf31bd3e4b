//! [`Committer`]: one thread that joins all waiting batches into one write and one sync.
//!
//! No timer: while one write is being made durable the next one fills. Batches are judged in the order of the queue,
//! each against what is stored and the accepted ones before it in the same round, and all are answered after the
//! sync, conflicts included: a conflict with a batch that is not durable yet would tell of it too early.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use lsm_tree::{AbstractTree, SeqNo};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::engine::batch::{Batch, Condition, Write};
use crate::engine::embedded::config::Config;
use crate::engine::embedded::metrics::Metrics;
use crate::engine::embedded::poison::{WriteError, poison};
use crate::engine::embedded::room::Room;
use crate::engine::embedded::rows::{self, Row};
use crate::engine::embedded::store::Store;
use crate::engine::embedded::upkeep::Upkeep;
use crate::engine::embedded::wal::error::{AppendError, Appended};
use crate::engine::embedded::wal::log::Log;
use crate::engine::error::{Cause, CommitError, Poison, Refusal};

/// A round takes no more batches once it has this much: some milliseconds of writing, which the others wait for.
const ROUND_BYTES_MAX: usize = 16 << 20;

/// A buffer for records stays this large; larger ones are rare.
const RECORD_BYTES_KEPT: usize = 1 << 20;

/// A batch and where its outcome is awaited.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) batch: Batch,
    /// Its size.
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<(), CommitError>>,
}

/// What the committer needs of a disk; a seam for tests that make it fail.
pub(super) trait Disk: Send + 'static {
    /// The value that is stored now.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Cause>;
    /// Writes all or nothing: durable on `Ok`, and visible to readers. `None` removes a key.
    fn write(&mut self, rows: &[Row]) -> Result<(), WriteError>;
}

/// Owns the only write access to a store. Runs until every sender of orders is gone; after a failed write it goes on
/// refusing until then.
pub(super) struct Committer<D> {
    disk: D,
    orders: mpsc::Receiver<Order>,
    poison: watch::Sender<Option<Poison>>,
}

/// The writes of one round, the newest for each key.
#[derive(Default)]
struct Round {
    rows: Vec<Row>,
    places: HashMap<Bytes, usize>,
}

/// How a batch was judged.
enum Verdict {
    Accepted,
    Failed(CommitError),
}

impl<D: Disk> Committer<D> {
    pub(super) fn new(disk: D, orders: mpsc::Receiver<Order>, poison: watch::Sender<Option<Poison>>) -> Self {
        Self { disk, orders, poison }
    }

    /// The thread.
    pub(super) fn run(mut self) {
        while let Some(first) = self.orders.blocking_recv() {
            let orders = self.round(first);
            let poison = self.poison.borrow().clone();
            match poison {
                None => self.commit(orders),
                Some(poison) => refuse(orders, &poison),
            }
        }
    }

    /// The order and those that wait behind it.
    fn round(&mut self, first: Order) -> Vec<Order> {
        let mut bytes = first.bytes;
        let mut orders = vec![first];
        while bytes < ROUND_BYTES_MAX {
            let Ok(order) = self.orders.try_recv() else { break };
            bytes += order.bytes;
            orders.push(order);
        }
        orders
    }

    /// Judges, writes, answers.
    fn commit(&mut self, orders: Vec<Order>) {
        let mut round = Round::default();
        let mut judged = Vec::with_capacity(orders.len());
        for Order { batch, answer, .. } in orders {
            let verdict = match round.judge(&self.disk, &batch.conditions) {
                Ok(()) => {
                    round.take(batch.writes);
                    Verdict::Accepted
                }
                Err(error) => Verdict::Failed(error),
            };
            judged.push((verdict, answer));
        }
        let written = if round.rows.is_empty() { Ok(()) } else { self.disk.write(&round.rows) };
        match written {
            Ok(()) => {
                for (verdict, answer) in judged {
                    let outcome = match verdict {
                        Verdict::Accepted => Ok(()),
                        Verdict::Failed(error) => Err(error),
                    };
                    let _gone = answer.send(outcome);
                }
            }
            Err(WriteError::NoSpace) => {
                // Conflicts too: they may have been with a batch of this round, which is gone.
                for (_, answer) in judged {
                    let _gone = answer.send(Err(CommitError::Refused(Refusal::NoSpace)));
                }
            }
            Err(WriteError::Refused(cause)) => self.give_up(judged, true, &cause),
            Err(WriteError::Unknown(cause)) => self.give_up(judged, false, &cause),
        }
    }

    /// Poisons the engine and answers a round that was not written.
    fn give_up(
        &self,
        judged: Vec<(Verdict, oneshot::Sender<Result<(), CommitError>>)>,
        surely_not: bool,
        cause: &Cause,
    ) {
        let poison = poison(&self.poison, "a write to the disk failed", &**cause);
        for (verdict, answer) in judged {
            // A conflict may have been with a batch of this round, which may be gone: only "not written" is sure.
            let outcome = match verdict {
                Verdict::Accepted if !surely_not => CommitError::Unknown(poison.clone().into()),
                Verdict::Accepted | Verdict::Failed(_) => {
                    CommitError::Refused(Refusal::Stopped(poison.clone()))
                }
            };
            let _gone = answer.send(Err(outcome));
        }
    }
}

impl<D> Drop for Committer<D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.poison.send_replace(Some(Poison::new("the committer failed an assertion, which is a bug")));
        }
    }
}

impl Round {
    /// Tries conditions against what is stored and this round's earlier batches.
    fn judge(&self, disk: &impl Disk, conditions: &[Condition]) -> Result<(), CommitError> {
        for condition in conditions {
            let key = condition.key();
            let holds = match self.places.get(key) {
                Some(&place) => condition.holds(self.rows[place].1.as_deref()),
                None => {
                    let stored =
                        disk.get(key).map_err(|cause| CommitError::Refused(Refusal::Unavailable(cause)))?;
                    condition.holds(stored.as_deref())
                }
            };
            if !holds {
                return Err(CommitError::Conflict { key: key.clone() });
            }
        }
        Ok(())
    }

    /// Adds writes; later ones win. One record must not hold a key twice: both would bear one stamp.
    fn take(&mut self, writes: Vec<Write>) {
        for write in writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value)),
                Write::Delete(key) => (key, None),
            };
            match self.places.get(&key) {
                Some(&place) => self.rows[place].1 = value,
                None => {
                    self.places.insert(key.clone(), self.rows.len());
                    self.rows.push((key, value));
                }
            }
        }
    }
}

/// Answers orders that came after the end.
fn refuse(orders: Vec<Order>, poison: &Poison) {
    for order in orders {
        let _gone = order.answer.send(Err(CommitError::Refused(Refusal::Stopped(poison.clone()))));
    }
}

/// A store and the end of its log.
#[derive(Debug)]
pub(super) struct Writer {
    store: Arc<Store>,
    log: Log,
    upkeep: Arc<Upkeep>,
    room: Arc<Room>,
    memtable_bytes: u64,
    metrics: Metrics,
    record: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        store: Arc<Store>,
        log: Log,
        upkeep: Arc<Upkeep>,
        room: Arc<Room>,
        config: &Config,
    ) -> Self {
        let (memtable_bytes, metrics) = (config.memtable_bytes, config.metrics.clone());
        Self { store, log, upkeep, room, memtable_bytes, metrics, record: Vec::new() }
    }
}

/// Adds a record to the log, in the room that was kept back if there is no other.
fn append(log: &mut Log, room: &Room, record: &[u8]) -> Result<Appended, WriteError> {
    let mut appended = log.append(record);
    if matches!(appended, Err(AppendError::Full(_))) && room.spend() {
        appended = log.append(record);
    }
    appended.map_err(|error| match error {
        AppendError::Full(_) => WriteError::NoSpace,
        AppendError::Refused(_) => WriteError::Refused(error.into()),
        AppendError::Unknown(_) => WriteError::Unknown(error.into()),
    })
}

impl Disk for Writer {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Cause> {
        self.store.get(key, SeqNo::MAX)
    }

    fn write(&mut self, rows: &[Row]) -> Result<(), WriteError> {
        let began = Instant::now();
        self.upkeep.wait()?;
        let mut applied = self.store.applied().lock();
        let stamp = self.store.stamp(&applied);
        rows::encode(stamp, rows, &mut self.record);
        let logging = Instant::now();
        let appended = append(&mut self.log, &self.room, &self.record)?;
        self.metrics.sync.observe(logging.elapsed().as_secs_f64());
        self.store.apply(&mut applied, appended.record, stamp, rows);
        applied.logged += self.record.len() as u64;
        if applied.logged.max(self.store.tree().active_memtable().size()) > self.memtable_bytes {
            self.upkeep.flush(&mut applied);
        }
        drop(applied);
        if appended.prepare {
            self.upkeep.prepare(self.log.next_record());
        }
        self.record.shrink_to(RECORD_BYTES_KEPT);
        self.metrics.commit.observe(began.elapsed().as_secs_f64());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
