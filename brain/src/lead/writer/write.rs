//! Puts, deletions and transactions.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::trace::Span;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use tokio::time::{Instant, timeout};

use super::batch::recorded_bytes;
use super::task::Writer;
use crate::decide::answer::{Answer, Entry};
use crate::decide::evaluate::{Change, Evaluator, needed};
use crate::decide::held::Unserved;
use crate::decide::pending::View;
use crate::decide::repair::By;
use crate::lead::command::{Reply, WriteError, Written};
use crate::read::fault::read_fault;
use crate::request::Op;
use crate::rows::{codec, entry, ownership};
use crate::state::changes::RevisionChanges;

/// The writer waits for values so long.
const VALUES_MAX: Duration = Duration::from_secs(1);

impl Writer {
    pub(super) async fn write(
        &mut self,
        op: Op,
        floor: Revision,
        by: By,
        span: Option<Span>,
        reply: Reply<Written, WriteError>,
    ) {
        if op.put_bytes() > 0 && self.is_full() {
            let _gone = reply.send(Err(Fault::NoSpace.into()));
            return;
        }
        let written = match self.owned(&op, &by).await {
            Ok(()) => self.evaluate(&op, floor.get()).await,
            Err(refused) => Err(refused),
        };
        self.filling.spans.extend(span);
        self.answer(reply, written);
    }

    async fn owned(&mut self, op: &Op, by: &By) -> Result<(), WriteError> {
        let ranges = op.ranges();
        match &self.placing {
            Some(held) => by.check(held, &self.state.group, &ranges)?,
            None => by.check(&self.state.held.load(), &self.state.group, &ranges)?,
        }
        match by {
            By::Owner(_) => self.lie_apart(&ranges).await,
            By::Held(_) | By::Stray(_) => Ok(()),
        }
    }

    /// Refuses to take keys in that lie under another group's name in this very storage. Their rows do not say whose they
    /// are: what the other group deletes then would stand above what this one has written, and what this one records as its
    /// own would be all of the unit, of which it has not heard.
    async fn lie_apart(&mut self, keys: &[KeyRange]) -> Result<(), WriteError> {
        let group = self.state.group.clone();
        let recorded = |owners: &HashMap<Bytes, GroupName>, key: &KeyRange| {
            ownership::recorded(owners, key.start()).cloned()
        };
        if keys.iter().all(|key| recorded(&self.owners, key).as_ref() == Some(&group)) {
            return Ok(());
        }
        self.read_owners().await?;
        let found = keys.iter().find_map(|key| recorded(&self.owners, key).filter(|owner| *owner != group));
        let Some(other) = found else { return Ok(()) };
        Err(WriteError::Unserved(Unserved::NotOwner(format!(
            "groups {other} and {} have one storage, in which keys are not moved from group to group: let the home group's \
             file give them to group {other}, as they are recorded, or drop them",
            self.state.group
        ))))
    }

    async fn evaluate(&mut self, op: &Op, floor: u64) -> Result<Written, WriteError> {
        let bytes = op.put_bytes();
        if bytes > 0
            && let Err(fault) = self.make_room(bytes)
        {
            self.raise(floor);
            return Err(fault.into());
        }
        let now = self.counter.max(floor);
        let mut entries = Vec::new();
        needed(op, &View { index: &self.state.index.read(), pending: &self.pending }, now, &mut entries);
        let values = self.values(entries).await?;
        let (answer, changes) = {
            let index = self.state.index.read();
            let leases = self.state.leases.lock();
            let mut evaluator = Evaluator {
                index: &index,
                pending: &mut self.pending,
                now,
                compacted: u64::try_from(self.compacted).unwrap_or(0),
                lease_exists: &|id| leases.takes_keys(id),
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
                return Err(fault.into());
            }
        };
        if let Err(why) = self.fits(&changes) {
            changes.iter().for_each(|change| self.pending.undo(&change.key));
            self.raise(floor);
            return Err(WriteError::TooLarge(why));
        }
        self.state.metrics.done(&answer);
        let revision = match changes.is_empty() {
            true => {
                self.raise(floor);
                now
            }
            false => self.add(now + 1, changes),
        };
        Ok(Written { answer: self.with_known_values(answer), revision: Revision::new(revision) })
    }

    /// Refuses what the storage would: a batch that it refused would end the group.
    fn fits(&self, changes: &[Change]) -> Result<(), String> {
        let (layout, bounds) = (&self.state.layout, &self.state.bounds);
        let (mut bytes, mut record_bytes) = (0, 0);
        for change in changes {
            let deleted = change.version.is_tombstone();
            // A deletion stores that it is one, and nothing of what there was: its keys alone bound it.
            let (row, value) = (layout.data_len(&change.key), 1 + if deleted { 0 } else { change.kv.len() });
            if row > bounds.key_bytes_max {
                return Err(format!(
                    "a key of {} bytes takes {row} in the storage, which holds keys of up to {} bytes",
                    change.key.len(),
                    bounds.key_bytes_max
                ));
            }
            if value > bounds.value_bytes_max {
                return Err(format!(
                    "a value takes {value} bytes with its key, the storage holds up to {}",
                    bounds.value_bytes_max
                ));
            }
            record_bytes += recorded_bytes(&change.key);
            bytes += row + value;
        }
        let (bytes_max, record_max) = (bounds.request_bytes_max(), bounds.record_bytes_max());
        if bytes + record_bytes > bytes_max || record_bytes > record_max {
            return Err(format!(
                "{} keys with {bytes} bytes are too much to be changed at once in this storage: change them in parts",
                changes.len()
            ));
        }
        let mut attached =
            changes.iter().map(|change| change.version.lease).filter(|lease| *lease != 0).peekable();
        if attached.peek().is_none() {
            return Ok(());
        }
        let leases = self.state.leases.lock();
        let full = attached.find(|lease| {
            let ending = leases.get(*lease).map_or(0, |lease| lease.ending_bytes);
            // Its end changes all of its keys at once. What this request adds is judged by the next one.
            ending + bytes + record_bytes > bytes_max || ending > record_max
        });
        match full {
            Some(lease) => Err(format!(
                "lease {lease:x} has as many keys as the storage can let go of at once: grant another one"
            )),
            None => Ok(()),
        }
    }

    /// Values that are in memory now: a later batch may push them out.
    fn with_known_values(&self, mut answer: Answer) -> Answer {
        answer.entries(&mut |found| {
            if found.kv.is_none() {
                found.kv = self.state.values.cached(&found.key, found.version.revision);
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
            let row = self.state.layout.data(&change.key, Revision::new(revision));
            let value = codec::data_value((!deleted).then_some(&change.kv[..]));
            change.version = change.version.taking(&row, &value);
            self.state.share.add(change.version.bytes);
            self.filling.put(row, value);
            self.filling.will_record(&change.key);
            if !deleted {
                self.record_owner(&change.key);
            }
        }
        {
            let mut leases = self.state.leases.lock();
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
        let unit = match &self.placing {
            Some(held) => held.table().unit(key).start().clone(),
            None => self.state.held.load().table().unit(key).start().clone(),
        };
        let known = self.owners.get(&unit);
        if known == Some(&self.state.group) {
            return;
        }
        let row = self.state.layout.owner(&unit);
        match known {
            None => self.filling.absent(row.clone()),
            Some(other) => {
                self.filling.equals(row.clone(), Bytes::copy_from_slice(other.as_str().as_bytes()))
            }
        }
        self.filling.put(row, Bytes::copy_from_slice(self.state.group.as_str().as_bytes()));
        self.owners.insert(unit, self.state.group.clone());
    }
}

impl Writer {
    /// Values that the evaluation will look at. Nothing changes while they are read: the writer is the only one to write.
    /// It waits for them, and everybody for it: not for long, and not again at once.
    async fn values(&mut self, mut entries: Vec<Entry>) -> Result<HashMap<(Bytes, u64), Bytes>, Fault> {
        let known = |entry: &Entry| {
            entry.kv.is_some() || self.state.values.cached(&entry.key, entry.version.revision).is_some()
        };
        if self.blind_until > Instant::now() && !entries.iter().all(known) {
            return Err(Fault::Timeout);
        }
        match timeout(VALUES_MAX, self.state.values.fill(&mut entries)).await {
            Ok(Ok(())) => Ok(by_version(entries)),
            Ok(Err(error)) => Err(read_fault(&self.state, &error)),
            Err(_) => {
                self.blind_until = Instant::now() + VALUES_MAX;
                Err(Fault::Timeout)
            }
        }
    }
}

fn by_version(entries: Vec<Entry>) -> HashMap<(Bytes, u64), Bytes> {
    let values = entries.into_iter().map(|found| {
        let value = found.kv.as_ref().map(entry::value_of).unwrap_or_default();
        ((found.key, found.version.revision), value)
    });
    values.collect()
}
