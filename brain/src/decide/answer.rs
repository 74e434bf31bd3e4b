//! Answers, first as what was decided, then as bytes.
//!
//! What a request does is decided on metadata alone, under a lock. The values that an answer carries are put in
//! afterwards, from cache or engine, without one; then the message is encoded once.

use std::cmp::Reverse;

use bytes::{Bytes, BytesMut};
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::{put_bytes_field, put_bytes_header, put_varint_field};

use super::identity::{Identity, put_header};
use crate::request::SortTarget;
use crate::rows::entry;
use crate::rows::version::Version;

/// What an entry takes beside its key and its value: its revisions, and its place in an answer that is made.
pub(crate) const OVERHEAD_BYTES: u64 = 128;

/// One entry of an answer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Which version of it.
    pub version: Version,
    /// Its `KeyValue`; `None` until it is read. Where `keys_only`, the one without a value.
    pub kv: Option<Bytes>,
}

/// Entries of a range.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeAnswer {
    /// What was selected, in order, unless `by_value` is still to be done.
    pub entries: Vec<Entry>,
    /// The limit cut some off.
    pub more: bool,
    /// Live keys in the range, whatever the limit or the filter.
    pub count: usize,
    /// What is left to do once values are read.
    pub by_value: Option<ByValue>,
}

/// A sort by value, and what follows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByValue {
    /// Highest first.
    pub descending: bool,
    /// Entries that stay.
    pub limit: usize,
    /// They stay without their values.
    pub keys_only: bool,
}

/// What a request did.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// What a range read gave.
    Range(RangeAnswer),
    /// What a put did.
    Put {
        /// The entry before, if asked for and there was one.
        prev: Option<Entry>,
    },
    /// What a deletion did.
    Delete {
        /// How many keys.
        deleted: usize,
        /// The entries before, if asked for.
        prev: Vec<Entry>,
    },
    /// What a transaction did.
    Txn {
        /// The comparisons held.
        succeeded: bool,
        /// One answer for each operation, with the revision in its header.
        answers: Vec<(u64, Answer)>,
    },
}

impl Entry {
    /// What it takes in memory with its value.
    pub fn weight(&self) -> u64 {
        weight(&self.version)
    }

    /// Takes its value away.
    pub fn strip(&mut self) {
        self.kv = Some(entry::key_value(&self.key, &self.version, b""));
    }

    fn bytes(&self) -> &Bytes {
        self.kv.as_ref().expect("values are filled in before encoding")
    }
}

impl RangeAnswer {
    /// Sorts by value and cuts, if that was left for when values are read.
    pub(crate) fn settle(&mut self) {
        let Some(by_value) = self.by_value.take() else { return };
        match by_value.descending {
            false => self.entries.sort_by_cached_key(|found| entry::value_of(found.bytes())),
            true => self.entries.sort_by_cached_key(|found| Reverse(entry::value_of(found.bytes()))),
        }
        self.more = self.entries.len() > by_value.limit;
        self.entries.truncate(by_value.limit);
        if by_value.keys_only {
            self.entries.iter_mut().for_each(Entry::strip);
        }
    }

    fn encode(&self, buffer: &mut BytesMut) {
        buffer.reserve(self.entries.iter().map(|entry| entry.bytes().len() + 6).sum());
        for entry in &self.entries {
            put_bytes_field(buffer, 2, entry.bytes());
        }
        if self.more {
            put_varint_field(buffer, 3, 1);
        }
        if self.count > 0 {
            put_varint_field(buffer, 4, self.count as u64);
        }
    }
}

impl Answer {
    /// Calls `each` on every range, nested ones too.
    pub(crate) fn ranges(&mut self, each: &mut impl FnMut(&mut RangeAnswer)) {
        match self {
            Self::Range(range) => each(range),
            Self::Txn { answers, .. } => answers.iter_mut().for_each(|(_, answer)| answer.ranges(each)),
            Self::Put { .. } | Self::Delete { .. } => {}
        }
    }

    /// Calls `each` on every entry, nested ones too.
    pub(crate) fn entries(&mut self, each: &mut impl FnMut(&mut Entry)) {
        match self {
            Self::Range(range) => range.entries.iter_mut().for_each(each),
            Self::Put { prev } => prev.iter_mut().for_each(each),
            Self::Delete { prev, .. } => prev.iter_mut().for_each(each),
            Self::Txn { answers, .. } => answers.iter_mut().for_each(|(_, answer)| answer.entries(each)),
        }
    }

    /// The message of this answer. Headers of operations carry only the revision, those of nested transactions nothing.
    pub(crate) fn encode(&self, identity: Option<&Identity>, revision: Revision) -> Bytes {
        let mut buffer = BytesMut::with_capacity(64);
        self.append(&mut buffer, identity, revision.get());
        buffer.freeze()
    }

    fn append(&self, buffer: &mut BytesMut, identity: Option<&Identity>, revision: u64) {
        put_header(buffer, identity, revision);
        match self {
            Self::Range(range) => range.encode(buffer),
            Self::Put { prev } => prev.iter().for_each(|entry| put_bytes_field(buffer, 2, entry.bytes())),
            Self::Delete { deleted, prev } => {
                if *deleted > 0 {
                    put_varint_field(buffer, 2, *deleted as u64);
                }
                prev.iter().for_each(|entry| put_bytes_field(buffer, 3, entry.bytes()));
            }
            Self::Txn { succeeded, answers } => {
                if *succeeded {
                    put_varint_field(buffer, 2, 1);
                }
                for (revision, answer) in answers {
                    answer.append_op(buffer, *revision);
                }
            }
        }
    }

    /// As `ResponseOp` in field 3 of a `TxnResponse`.
    fn append_op(&self, buffer: &mut BytesMut, revision: u64) {
        let arm = match self {
            Self::Range(_) => 1,
            Self::Put { .. } => 2,
            Self::Delete { .. } => 3,
            Self::Txn { .. } => 4,
        };
        let mut message = BytesMut::new();
        // Of a nested transaction etcd fills in nothing.
        let revision = if matches!(self, Self::Txn { .. }) { 0 } else { revision };
        self.append(&mut message, None, revision);
        put_bytes_header(buffer, 3, kubebrain_shared::wire::bytes_field_len(arm, message.len()));
        put_bytes_field(buffer, arm, &message);
    }
}

/// What an entry takes in an answer that is made.
pub(crate) const fn weight(version: &Version) -> u64 {
    version.bytes + OVERHEAD_BYTES
}

/// Sorts entries by what the index knows of them. Equal ones stay in key order, in both directions.
pub(crate) fn sort(entries: &mut [Entry], target: SortTarget, descending: bool) {
    let column: fn(&Entry) -> u64 = match target {
        SortTarget::Key if descending => return entries.reverse(),
        SortTarget::Key | SortTarget::Value => return,
        SortTarget::Version => |entry| entry.version.count,
        SortTarget::Create => |entry| entry.version.create,
        SortTarget::Mod => |entry| entry.version.revision,
    };
    match descending {
        false => entries.sort_by_key(column),
        true => entries.sort_by_key(|entry| Reverse(column(entry))),
    }
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::etcdserverpb as wire;
    use prost::Message;

    use super::*;

    fn entry(key: &'static str, revision: u64) -> Entry {
        let version = Version { revision, create: revision, count: 1, ..Version::default() };
        let kv = Some(entry::key_value(key.as_bytes(), &version, b"same"));
        Entry { key: Bytes::from_static(key.as_bytes()), version, kv }
    }

    fn keys(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| std::str::from_utf8(&entry.key).expect("text")).collect()
    }

    #[test]
    fn equal_entries_stay_in_key_order_in_both_directions() {
        let all = vec![entry("a", 5), entry("b", 7), entry("c", 5), entry("d", 5)];
        for (descending, want) in [(false, ["a", "c", "d", "b"]), (true, ["b", "a", "c", "d"])] {
            let mut entries = all.clone();
            sort(&mut entries, SortTarget::Mod, descending);
            assert_eq!(keys(&entries), want, "descending: {descending}");
        }
        for descending in [false, true] {
            let by_value = Some(ByValue { descending, limit: 2, keys_only: false });
            let mut answer = RangeAnswer { entries: all.clone(), by_value, ..RangeAnswer::default() };
            answer.settle();
            assert_eq!(
                (keys(&answer.entries), answer.more),
                (vec!["a", "b"], true),
                "descending: {descending}"
            );
        }
    }

    #[test]
    fn a_nested_transaction_has_an_empty_header_and_its_operations_have_the_revision() {
        let put = Answer::Put { prev: None };
        let inner = Answer::Txn { succeeded: true, answers: vec![(9, put)] };
        let outer = Answer::Txn { succeeded: true, answers: vec![(9, inner)] };
        let answer = wire::TxnResponse::decode(outer.encode(None, Revision::new(9))).expect("a message");
        assert_eq!(answer.header.map(|header| header.revision), Some(9));
        let Some(wire::response_op::Response::ResponseTxn(inner)) = &answer.responses[0].response else {
            panic!("not a transaction: {answer:?}");
        };
        assert_eq!(inner.header, Some(wire::ResponseHeader::default()));
        let Some(wire::response_op::Response::ResponsePut(put)) = &inner.responses[0].response else {
            panic!("not a put: {answer:?}");
        };
        assert_eq!(put.header.as_ref().map(|header| header.revision), Some(9));
    }
}
