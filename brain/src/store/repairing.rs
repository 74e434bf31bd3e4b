//! Keys that stand in a group which does not own them: which they are, and taking them out, or in at their owner. All of
//! it by a document that whoever asks comes with: the group may go by another one, or by none yet.

use std::num::NonZeroUsize;

use bytes::Bytes;
use kubebrain_shared::placement::Document;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;

use super::Store;
use crate::decide::answer::{Answer, Entry};
use crate::decide::held::Unserved;
use crate::decide::repair::{By, may_repair};
use crate::lead::command::{Command, WriteError};
use crate::read::fault::read_fault;
use crate::request::{Compare, Comparison, Delete, Given, Op, Operand, Put, Txn};
use crate::rows::entry;

/// Keys looked at with the index locked.
const LOOKED_AT_MAX: usize = 10_000;
/// What is found at once takes about so much.
const FOUND_BYTES_MAX: u64 = 1 << 20;

/// A key of a group that does not own it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The key.
    pub key: Bytes,
    /// Of its last change.
    pub revision: u64,
    /// Only history tells of it.
    pub is_deleted: bool,
    /// Its lease; 0 for none.
    pub lease: i64,
    /// Empty unless it was asked for.
    pub value: Bytes,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In key order.
    pub strays: Vec<Stray>,
    /// There may be more from here on.
    pub next: Option<Bytes>,
}

/// What an owner has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Of the keys that were asked for those that are there, with their revisions and leases.
    pub keys: Vec<Stray>,
    /// Keys of each unit that was asked for.
    pub units: Vec<(Bytes, u64)>,
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was written, or deleted.
    Done,
    /// It is there already, with this value and this lease.
    Same,
    /// It is there with another value or lease; or it is not any more what was to be deleted.
    Other,
}

impl Store {
    /// The next keys of `range` that the group has and that are another one's by `document`.
    ///
    /// # Errors
    /// [`WriteError::Unserved`] where the group does not judge by that document; [`WriteError::Fault`] on a slave.
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn strays(
        &self,
        document: &Document,
        range: &KeyRange,
        keys_max: NonZeroUsize,
        values: bool,
    ) -> Result<Found, WriteError> {
        self.leads()?;
        let ticket = self.ticket();
        self.judges_by(document)?;
        let _pin = self.state.pin();
        let (mut entries, next) = self.find(document, range, keys_max.get());
        if values {
            let mut live: Vec<Entry> =
                entries.iter().filter(|entry| !entry.version.is_tombstone()).cloned().collect();
            let filled = self.state.values.fill_once(&mut live).await;
            filled.map_err(|error| read_fault(&self.state, &error))?;
            let mut live = live.into_iter();
            for entry in entries.iter_mut().filter(|entry| !entry.version.is_tombstone()) {
                entry.kv = live.next().and_then(|filled| filled.kv);
            }
        }
        self.fence(ticket).await?;
        Ok(Found { strays: entries.iter().map(stray).collect(), next })
    }

    fn find(&self, document: &Document, range: &KeyRange, keys_max: usize) -> (Vec<Entry>, Option<Bytes>) {
        let (table, group) = (document.table(), &self.state.group);
        let parts = table.partition(range).unwrap_or_else(|| vec![(range.clone(), group.clone())]);
        // A table that cannot be cut names one part, whoever owns what in it.
        let is_cut = table.partition(range).is_some();
        let (mut found, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        let index = self.state.index.read();
        for (part, owner) in parts {
            if is_cut && owner == *group {
                continue;
            }
            for (key, version) in index.newest_in(&part) {
                if found.len() >= keys_max || looked_at >= LOOKED_AT_MAX || bytes >= FOUND_BYTES_MAX {
                    return (found, Some(key.clone()));
                }
                looked_at += 1;
                if table.owner(key) != group {
                    let entry = Entry { key: key.clone(), version, kv: None };
                    bytes += entry.weight();
                    found.push(entry);
                }
            }
        }
        (found, None)
    }

    /// Which of these keys the group has, and how many of these units, by `document`.
    ///
    /// # Errors
    /// As [`Self::strays`].
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn look(
        &self,
        document: &Document,
        keys: &[Bytes],
        units: &[Bytes],
    ) -> Result<Looked, WriteError> {
        self.leads()?;
        let ticket = self.ticket();
        self.judges_by(document)?;
        let mut looked = Looked::default();
        {
            let index = self.state.index.read();
            for key in keys {
                if let Some(version) = index.get(key, u64::MAX) {
                    looked.keys.push(stray(&Entry { key: key.clone(), version, kv: None }));
                }
            }
        }
        for unit in units {
            looked.units.push((unit.clone(), self.count(document, unit)));
        }
        self.fence(ticket).await?;
        Ok(looked)
    }

    /// Keys of a unit, a page at a time.
    fn count(&self, document: &Document, unit: &Bytes) -> u64 {
        let table = document.table();
        let range = table.unit(unit);
        let (mut from, mut count) = (range.start().clone(), 0);
        loop {
            let index = self.state.index.read();
            let rest = KeyRange::new(from.clone(), range.end().cloned());
            let mut seen = 0;
            let mut last = None;
            for (key, version) in index.newest_in(&rest).take(LOOKED_AT_MAX) {
                seen += 1;
                last = Some(key);
                let is_of_it = !version.is_tombstone() && table.unit(key).start() == unit;
                count += u64::from(is_of_it);
            }
            match last.filter(|_| seen == LOOKED_AT_MAX) {
                // The next key there could be.
                Some(last) => from = [&last[..], b"\0"].concat().into(),
                None => return count,
            }
        }
    }

    /// Writes a key that is the group's by `document`, under a new revision, unless it is there. With `overwrite` also
    /// where it is there with another value or lease; with `dry_run` nothing is written.
    ///
    /// # Errors
    /// [`WriteError::Unserved`]: it is not the group's, or lies in the storage of the group that has it.
    /// [`WriteError::Fault`]: a timeout may have happened; repeating it is harmless.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out.
    pub async fn take_in(
        &self,
        document: &Document,
        key: Stray,
        overwrite: bool,
        dry_run: bool,
    ) -> Result<Done, WriteError> {
        let range = KeyRange::one(key.key.clone());
        let compare = |operand| Compare { keys: range.clone(), comparison: Comparison::Equal, operand };
        let put = || {
            let (value, lease) = (Given::New(key.value.clone()), Given::New(key.lease));
            Op::Put(Put { key: key.key.clone(), value, lease, prev_kv: false })
        };
        let write = || if dry_run { Vec::new() } else { vec![put()] };
        let there = Txn {
            compares: vec![compare(Operand::Value(key.value.clone())), compare(Operand::Lease(key.lease))],
            success: Vec::new(),
            failure: if overwrite { write() } else { Vec::new() },
        };
        let txn = Txn {
            compares: vec![compare(Operand::Version(0))],
            success: write(),
            failure: vec![Op::Txn(there)],
        };
        let answer = self.repair(txn, By::Owner(document.clone())).await?;
        Ok(match answer {
            Answer::Txn { succeeded: true, .. } => Done::Done,
            Answer::Txn { answers, .. } => match answers.first() {
                Some((_, Answer::Txn { succeeded: true, .. })) => Done::Same,
                _ if overwrite => Done::Done,
                _ => Done::Other,
            },
            _ => Done::Other,
        })
    }

    /// Deletes a key that is another group's by `document`, if it is what it was.
    ///
    /// # Errors
    /// [`WriteError::Unserved`]: it is the group's. [`WriteError::Fault`]: a timeout may have happened; repeating it is harmless.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out.
    pub async fn take_out(&self, document: &Document, key: Bytes, revision: u64) -> Result<Done, WriteError> {
        let range = KeyRange::one(key);
        let unchanged = Compare {
            keys: range.clone(),
            comparison: Comparison::Equal,
            operand: Operand::Mod(revision.cast_signed()),
        };
        let delete = Op::Delete(Delete { keys: range, prev_kv: false });
        let txn = Txn { compares: vec![unchanged], success: vec![delete], failure: Vec::new() };
        let answer = self.repair(txn, By::Stray(document.clone())).await?;
        Ok(match answer {
            Answer::Txn { succeeded: true, .. } => Done::Done,
            _ => Done::Other,
        })
    }

    async fn repair(&self, txn: Txn, by: By) -> Result<Answer, WriteError> {
        self.state.alarms.trusted()?;
        let (op, floor) = (Op::Txn(txn), Revision::ZERO);
        let ask = |reply| Command::Write { op, floor, by, queued: None, span: None, reply };
        Ok(self.ask(ask).await?.answer)
    }

    fn judges_by(&self, document: &Document) -> Result<(), WriteError> {
        let may = may_repair(&self.state.held.load(), &self.state.group, document);
        may.map_err(|why| Unserved::NotOwner(why).into())
    }
}

fn stray(entry: &Entry) -> Stray {
    Stray {
        key: entry.key.clone(),
        revision: entry.version.revision,
        is_deleted: entry.version.is_tombstone(),
        lease: entry.version.lease,
        value: entry.kv.as_ref().map(entry::value_of).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
