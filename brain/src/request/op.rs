//! What a request asks for, and nothing of how it came.

use std::num::NonZeroUsize;

use bytes::Bytes;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;

/// At which revision a read is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// At the committed revision when it runs.
    Latest,
    /// As of this revision.
    Revision(Revision),
}

/// Which column a range is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortTarget {
    /// The key: what an unsorted range gives.
    Key,
    /// Puts since the key was created.
    Version,
    /// The revision of its creation.
    Create,
    /// The revision of its last change.
    Mod,
    /// The value's bytes.
    Value,
}

/// Bounds on an entry's revisions; `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Lowest modification revision.
    pub min_mod: Option<u64>,
    /// Highest modification revision.
    pub max_mod: Option<u64>,
    /// Lowest creation revision.
    pub min_create: Option<u64>,
    /// Highest creation revision.
    pub max_create: Option<u64>,
}

/// A range read.
#[derive(Clone, Debug)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// The revision at which it is read.
    pub at: ReadAt,
    /// At most so many entries, after filter and sort.
    pub limit: Option<NonZeroUsize>,
    /// `None`: ascending by key, the order of the store.
    pub sort: Option<(SortTarget, bool)>,
    /// Entries without their values.
    pub keys_only: bool,
    /// Only how many there are.
    pub count_only: bool,
    /// Bounds on revisions.
    pub filter: Filter,
    /// May be answered from the past.
    pub serializable: bool,
}

impl Range {
    /// True if entries can leave in the order and number in which the index has them.
    pub fn is_plain(&self) -> bool {
        self.sort.is_none() && self.filter == Filter::default()
    }
}

/// What a put does with the value or the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given<T> {
    /// The new one.
    New(T),
    /// The old one stays; the key must exist.
    Kept,
}

/// A put of one key.
#[derive(Clone, Debug)]
pub struct Put {
    /// The key, never empty.
    pub key: Bytes,
    /// Its value.
    pub value: Given<Bytes>,
    /// Its lease; 0 is none.
    pub lease: Given<i64>,
    /// Answer with the entry as it was.
    pub prev_kv: bool,
}

/// A deletion of all keys in a range.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Which keys.
    pub keys: KeyRange,
    /// Answer with the entries as they were.
    pub prev_kv: bool,
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// A read.
    Range(Range),
    /// A put.
    Put(Put),
    /// A deletion.
    Delete(Delete),
    /// A nested transaction.
    Txn(Txn),
}

impl Op {
    /// Keys and values that it may put, of the branches of a transaction the larger one; 0 if it puts nothing.
    pub fn put_bytes(&self) -> u64 {
        let all = |ops: &[Self]| ops.iter().map(Self::put_bytes).sum::<u64>();
        match self {
            Self::Range(_) | Self::Delete(_) => 0,
            Self::Put(put) => {
                let value = match &put.value {
                    Given::New(value) => value.len(),
                    Given::Kept => 0,
                };
                (put.key.len() + value) as u64
            }
            Self::Txn(txn) => all(&txn.success).max(all(&txn.failure)),
        }
    }
}

/// What a comparison looks at, and what it is held against.
#[derive(Clone, Debug)]
pub enum Operand {
    /// Puts since creation; 0 for a missing key.
    Version(i64),
    /// Creation revision; 0 for a missing key.
    Create(i64),
    /// Modification revision; 0 for a missing key.
    Mod(i64),
    /// Lease; 0 for none.
    Lease(i64),
    /// Value; false for a missing key.
    Value(Bytes),
}

/// How a comparison compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
    /// `!=`
    NotEqual,
}

/// A condition on every key of a range.
#[derive(Clone, Debug)]
pub struct Compare {
    /// Which keys; of one key, a missing one is compared too.
    pub keys: KeyRange,
    /// How.
    pub comparison: Comparison,
    /// What it is compared with.
    pub operand: Operand,
}

/// A transaction: if all comparisons hold then the first operations, else the second.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Conditions, all of which must hold.
    pub compares: Vec<Compare>,
    /// Done if they hold.
    pub success: Vec<Op>,
    /// Done if not.
    pub failure: Vec<Op>,
}

impl Op {
    /// True if it may change a key.
    pub fn changes(&self) -> bool {
        match self {
            Self::Range(_) => false,
            Self::Put(_) | Self::Delete(_) => true,
            Self::Txn(txn) => txn.success.iter().chain(&txn.failure).any(Self::changes),
        }
    }
}

impl Txn {
    /// Every range of keys that it names, nested ones too.
    pub fn ranges(&self) -> Vec<KeyRange> {
        let mut ranges: Vec<_> = self.compares.iter().map(|compare| compare.keys.clone()).collect();
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Range(range) => ranges.push(range.keys.clone()),
                Op::Put(put) => ranges.push(KeyRange::one(put.key.clone())),
                Op::Delete(delete) => ranges.push(delete.keys.clone()),
                Op::Txn(txn) => ranges.extend(txn.ranges()),
            }
        }
        ranges
    }
}
