//! Puts, deletions and transactions.

use std::collections::HashMap;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;

use super::batch::RevisionChanges;
use super::{Reply, WriteError, Writer, Written};
use crate::mvcc::answer::{Answer, Entry};
use crate::mvcc::codec;
use crate::mvcc::evaluate::{Change, Evaluator, needed};
use crate::mvcc::pending::View;
use crate::mvcc::read::read_fault;
use crate::mvcc::shared::Shared;
use crate::mvcc::{entry, ownership};
use crate::request::Op;

impl Writer {
    pub(super) async fn write(
        &mut self,
        op: Op,
        floor: Revision,
        part: Option<u64>,
        reply: Reply<Written, WriteError>,
    ) {
        if op.put_bytes() > 0 && self.shared.share.is_full() {
            let _gone = reply.send(Err(Fault::NoSpace.into()));
            return;
        }
        let written = match self.owned(&op, part) {
            Ok(()) => self.evaluate(&op, floor.get()).await.map_err(WriteError::Fault),
            Err(what) => Err(WriteError::NotOwner(what)),
        };
        self.answer(reply, written);
    }

    fn owned(&self, op: &Op, part: Option<u64>) -> Result<(), String> {
        let ranges = op.ranges();
        let placement = self.shared.placement.load();
        ownership::check(&placement, &self.shared.group, &ranges, part)?;
        match &self.preparing {
            Some(next) => ownership::check(next, &self.shared.group, &ranges, None),
            None => Ok(()),
        }
    }

    async fn evaluate(&mut self, op: &Op, floor: u64) -> Result<Written, Fault> {
        let bytes = op.put_bytes();
        if bytes > 0
            && let Err(fault) = self.make_room(bytes)
        {
            self.raise(floor);
            return Err(fault);
        }
        let now = self.counter.max(floor);
        let mut entries = Vec::new();
        needed(op, &View { index: &self.shared.index.read(), pending: &self.pending }, now, &mut entries);
        let values = values(&self.shared, entries).await?;
        let (answer, changes) = {
            let index = self.shared.index.read();
            let leases = self.shared.leases.lock();
            let mut evaluator = Evaluator {
                index: &index,
                pending: &mut self.pending,
                now,
                compacted: u64::try_from(self.compacted).unwrap_or(0),
                lease_exists: &|id| leases.exists(id),
                value_of: &|found: &Entry| {
                    values.get(&(found.key.clone(), found.version.revision)).cloned().unwrap_or_default()
                },
                changes: Vec::new(),
            };
            let answer = evaluator.run(op);
            (answer, evaluator.changes)
        };
        // An error is answered at or above the floor too.
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => {
                self.raise(floor);
                return Err(fault);
            }
        };
        self.shared.metrics.done(&answer);
        let revision = match changes.is_empty() {
            true => {
                self.raise(floor);
                now
            }
            false => self.add(now + 1, changes),
        };
        Ok(Written { answer: self.with_known_values(answer), revision: Revision::new(revision) })
    }

    /// Values that are in memory now: a later batch may push them out.
    fn with_known_values(&self, mut answer: Answer) -> Answer {
        answer.entries(&mut |found| {
            if found.kv.is_none() {
                found.kv = self.shared.values.cached(&found.key, found.version.revision);
            }
        });
        answer
    }

    /// Adds the changes of the next revision to the batch.
    pub(super) fn add(&mut self, revision: u64, mut changes: Vec<Change>) -> u64 {
        debug_assert!(revision > self.counter);
        self.counter = revision;
        self.filling.closes = revision;
        for change in &mut changes {
            let deleted = change.version.is_tombstone();
            let row = self.shared.layout.data(&change.key, Revision::new(revision));
            let value = codec::data_value((!deleted).then_some(&change.kv[..]));
            change.version = change.version.taking(&row, &value);
            self.shared.share.add(change.version.bytes);
            self.filling.put(row, value);
            if !deleted {
                self.record_owner(&change.key);
            }
        }
        {
            let mut leases = self.shared.leases.lock();
            for change in &changes {
                let before = change.before.as_ref().map_or(0, |before| before.version.lease);
                leases.move_key(&change.key, before, change.version.lease);
            }
        }
        self.filling.revisions.push(RevisionChanges { revision, changes });
        revision
    }

    /// Records on a kind's first write that it is this group's.
    fn record_owner(&mut self, key: &[u8]) {
        let unit = self.shared.placement.load().unit(key).start().clone();
        let known = self.owners.get(&unit);
        if known == Some(&self.shared.group) {
            return;
        }
        let row = self.shared.layout.owner(&unit);
        match known {
            None => self.filling.absent(row.clone()),
            Some(other) => {
                self.filling.equals(row.clone(), Bytes::copy_from_slice(other.as_str().as_bytes()))
            }
        }
        self.filling.put(row, Bytes::copy_from_slice(self.shared.group.as_str().as_bytes()));
        self.owners.insert(unit, self.shared.group.clone());
    }
}

/// Values that the evaluation will look at. Nothing changes while they are read: the writer is the only one to write.
async fn values(shared: &Shared, mut entries: Vec<Entry>) -> Result<HashMap<(Bytes, u64), Bytes>, Fault> {
    if let Err(error) = shared.values.fill(&mut entries).await {
        return Err(read_fault(shared, &error));
    }
    let values = entries.into_iter().map(|found| {
        let value = found.kv.as_ref().map(entry::value_of).unwrap_or_default();
        ((found.key, found.version.revision), value)
    });
    Ok(values.collect())
}

impl Op {
    fn ranges(&self) -> Vec<KeyRange> {
        match self {
            Self::Range(range) => vec![range.keys.clone()],
            Self::Put(put) => vec![KeyRange::one(put.key.clone())],
            Self::Delete(delete) => vec![delete.keys.clone()],
            Self::Txn(txn) => txn.ranges(),
        }
    }
}
