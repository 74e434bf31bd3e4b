//! What a request does, decided on a view: pure, no waiting, no I/O.
//!
//! Everything that can fail is checked before anything changes, so a failed request leaves no trace. Changes go
//! straight into [`Pending`] under the next revision: later operations of the transaction and later requests of the
//! batch see them. A key changes at most once per revision (checked at the door), so (key, revision) names a version.

use bytes::Bytes;
use kubebrain_shared::fault::Fault;

use super::answer::{Answer, ByValue, Entry, RangeAnswer, sort};
use super::index::Index;
use super::pending::{Pending, PendingVersion, View};
use crate::request::{
    Compare, Comparison, Delete, Filter, Given, Op, Operand, Put, Range, ReadAt, SortTarget, Txn,
};
use crate::rows::entry;
use crate::rows::version::Version;

/// One change of a revision, in the order of its operations.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The key.
    pub key: Bytes,
    /// What it is now.
    pub version: Version,
    /// `KeyValue` of a put; of a deletion what its event says.
    pub kv: Bytes,
    /// What it was.
    pub before: Option<Entry>,
}

/// The state that requests are held against.
pub(crate) struct Evaluator<'a> {
    /// What is durable.
    pub index: &'a Index,
    /// What is given out.
    pub pending: &'a mut Pending,
    /// The highest revision given out: reads see up to here.
    pub now: u64,
    /// Reads below it fail.
    pub compacted: u64,
    /// True if a lease is granted.
    pub lease_exists: &'a dyn Fn(i64) -> bool,
    /// The value of an entry that a comparison needs; read beforehand.
    pub value_of: &'a dyn Fn(&Entry) -> Bytes,
    /// Changes so far, all under `now + 1`.
    pub changes: Vec<Change>,
}

impl Evaluator<'_> {
    /// The revision that a header shows at this point.
    fn shown(&self) -> u64 {
        self.now + u64::from(!self.changes.is_empty())
    }

    fn view(&self) -> View<'_> {
        View { index: self.index, pending: self.pending }
    }

    /// Does one operation. Nothing is changed if it fails.
    ///
    /// # Errors
    /// What etcd answers for it.
    pub(crate) fn run(&mut self, op: &Op) -> Result<Answer, Fault> {
        let mut path = Vec::new();
        self.choose(op, &mut path);
        self.check(op, &mut path.iter().copied())?;
        Ok(self.apply(op, &mut path.into_iter()))
    }

    /// Which branch each transaction takes, outer before inner: all on the state before any change.
    fn choose(&self, op: &Op, path: &mut Vec<bool>) {
        let Op::Txn(txn) = op else { return };
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in txn.branch(succeeded) {
            self.choose(op, path);
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entries = self.view().live(&compare.keys, self.now);
        let value = |entry: &Entry| match compare.operand {
            Operand::Value(_) => (self.value_of)(entry),
            _ => Bytes::new(),
        };
        // No key at all is compared as a missing one, also of a range.
        match entries.is_empty() {
            true => {
                !matches!(compare.operand, Operand::Value(_))
                    && held(compare, &Version::default(), &Bytes::new())
            }
            false => entries.iter().all(|entry| held(compare, &entry.version, &value(entry))),
        }
    }

    fn check(&self, op: &Op, path: &mut impl Iterator<Item = bool>) -> Result<(), Fault> {
        match op {
            Op::Range(range) => self.check_range(range),
            Op::Put(put) => self.check_put(put),
            Op::Delete(_) => Ok(()),
            Op::Txn(txn) => {
                let succeeded = path.next().expect("each transaction has chosen");
                txn.branch(succeeded).iter().try_for_each(|op| self.check(op, path))
            }
        }
    }

    fn check_range(&self, range: &Range) -> Result<(), Fault> {
        match range.at {
            ReadAt::Latest => Ok(()),
            ReadAt::Revision(at) if at.get() > self.now => Err(Fault::FutureRevision),
            ReadAt::Revision(at) if at.get() < self.compacted => Err(Fault::Compacted),
            ReadAt::Revision(_) => Ok(()),
        }
    }

    fn check_put(&self, put: &Put) -> Result<(), Fault> {
        // The lease first, as etcd looks.
        if matches!(put.lease, Given::New(id) if id != 0 && !(self.lease_exists)(id)) {
            return Err(Fault::LeaseNotFound);
        }
        let kept = put.value == Given::Kept || put.lease == Given::Kept;
        if kept && self.view().get(&put.key, self.now).is_none() {
            return Err(Fault::KeyNotFound);
        }
        Ok(())
    }

    fn apply(&mut self, op: &Op, path: &mut impl Iterator<Item = bool>) -> Answer {
        match op {
            Op::Range(range) => Answer::Range(self.range(range)),
            Op::Put(put) => self.put(put),
            Op::Delete(delete) => self.delete(delete),
            Op::Txn(txn) => {
                let succeeded = path.next().expect("each transaction has chosen");
                let answers = txn.branch(succeeded).iter().map(|op| {
                    let answer = self.apply(op, path);
                    (self.shown(), answer)
                });
                let answers = answers.collect();
                Answer::Txn { succeeded, answers }
            }
        }
    }

    fn range(&self, range: &Range) -> RangeAnswer {
        let at = match range.at {
            ReadAt::Latest => self.now + 1,
            ReadAt::Revision(at) => at.get(),
        };
        select(self.view().live(&range.keys, at), range)
    }

    fn put(&mut self, put: &Put) -> Answer {
        let before = self.view().get(&put.key, self.now);
        let revision = self.now + 1;
        let lease = match put.lease {
            Given::New(lease) => lease,
            Given::Kept => before.as_ref().map_or(0, |before| before.version.lease),
        };
        let version = match &before {
            Some(before) => Version { revision, lease, count: before.version.count + 1, ..before.version },
            None => Version { revision, create: revision, count: 1, lease, bytes: 0 },
        };
        let value = match &put.value {
            Given::New(value) => value.clone(),
            Given::Kept => before.as_ref().map_or_else(Bytes::new, |before| (self.value_of)(before)),
        };
        // Own memory: a slice of the request would keep all of it alive for as long as the key lives.
        let kv = entry::key_value(&put.key, &version, &value);
        let key = Bytes::copy_from_slice(&put.key);
        self.pending.insert(key.clone(), PendingVersion { version, kv: Some(kv.clone()) });
        let prev = before.clone().filter(|_| put.prev_kv);
        self.changes.push(Change { key, version, kv, before });
        Answer::Put { prev }
    }

    fn delete(&mut self, delete: &Delete) -> Answer {
        let entries = self.view().live(&delete.keys, u64::MAX);
        let version = Version::tombstone(self.now + 1);
        for before in &entries {
            let key = before.key.clone();
            self.pending.insert(key.clone(), PendingVersion { version, kv: None });
            let kv = entry::deleted(&key, version.revision);
            self.changes.push(Change { key, version, kv, before: Some(before.clone()) });
        }
        Answer::Delete { deleted: entries.len(), prev: if delete.prev_kv { entries } else { Vec::new() } }
    }
}

impl Txn {
    fn branch(&self, succeeded: bool) -> &[Op] {
        if succeeded { &self.success } else { &self.failure }
    }
}

fn held(compare: &Compare, version: &Version, value: &Bytes) -> bool {
    let order = match &compare.operand {
        Operand::Version(number) => version.count.cast_signed().cmp(number),
        Operand::Create(number) => version.create.cast_signed().cmp(number),
        Operand::Mod(number) => version.revision.cast_signed().cmp(number),
        Operand::Lease(number) => version.lease.cmp(number),
        Operand::Value(other) => value.cmp(other),
    };
    match compare.comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::Greater => order.is_gt(),
        Comparison::Less => order.is_lt(),
        Comparison::NotEqual => order.is_ne(),
    }
}

/// Filters, sorts and cuts live entries as a range asks for.
pub(crate) fn select(mut entries: Vec<Entry>, range: &Range) -> RangeAnswer {
    let count = entries.len();
    if range.count_only {
        return RangeAnswer { count, ..RangeAnswer::default() };
    }
    if range.filter != Filter::default() {
        entries.retain(|entry| passes(&range.filter, &entry.version));
    }
    let limit = range.limit.map_or(usize::MAX, |limit| limit.get());
    if let Some((SortTarget::Value, descending)) = range.sort {
        let by_value = Some(ByValue { descending, limit, keys_only: range.keys_only });
        return RangeAnswer { entries, count, more: false, by_value };
    }
    if let Some((target, descending)) = range.sort {
        sort(&mut entries, target, descending);
    }
    let more = entries.len() > limit;
    entries.truncate(limit);
    if range.keys_only {
        entries.iter_mut().for_each(Entry::strip);
    }
    RangeAnswer { entries, more, count, by_value: None }
}

/// Entries whose values [`Evaluator::run`] will ask for: those compared by value, and those that a put keeps.
pub(crate) fn needed(op: &Op, view: &View<'_>, now: u64, found: &mut Vec<Entry>) {
    match op {
        Op::Range(_) | Op::Delete(_) => {}
        Op::Put(put) if put.value == Given::Kept => found.extend(view.get(&put.key, now)),
        Op::Put(_) => {}
        Op::Txn(txn) => {
            for compare in txn.compares.iter().filter(|compare| matches!(compare.operand, Operand::Value(_)))
            {
                found.extend(view.live(&compare.keys, now));
            }
            txn.success.iter().chain(&txn.failure).for_each(|op| needed(op, view, now, found));
        }
    }
}

fn passes(filter: &Filter, version: &Version) -> bool {
    filter.min_mod.is_none_or(|bound| version.revision >= bound)
        && filter.max_mod.is_none_or(|bound| version.revision <= bound)
        && filter.min_create.is_none_or(|bound| version.create >= bound)
        && filter.max_create.is_none_or(|bound| version.create <= bound)
}
