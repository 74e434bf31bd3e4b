//! Every stored key and its layout. This is the only page that knows.
//!
//! ```text
//! <prefix> "c"                          collector  text           who collects an engine's garbage
//! <prefix> "d" esc(key) ^revision:u64   data row   0x01 KeyValue…   a put: the bytes that clients get
//!                                                  0x02             a tombstone
//! <prefix> "g" esc(group) "l" n:u64     log        Record           batch n of the group
//! <prefix> "g" esc(group) "s" name      small rows u64              "ceiling", "compacted", "trimmed"
//! <prefix> "g" esc(group) "s" "alarms"  alarms     AlarmsRow        there while one stands
//! <prefix> "g" esc(group) "s" "placement"  placement  PlacementRow  what the group goes by, once it has heard of one
//! <prefix> "g" esc(group) "s" "decided" decided    DecidedRow       at the home group: the placement of the cluster, and its change
//! <prefix> "g" esc(group) "h" n:u64     history    HistoryRow       at the home group: placement n
//! <prefix> "g" esc(group) "e"           election   MasterRecord     who is elected; outside the log, it fences nothing
//! <prefix> "g" esc(group) "t" id:u64    leases     LeaseRow
//! <prefix> "i"                          cluster    u64            the cluster's id; stores of before there were any lack it
//! <prefix> "o" esc(unit)                ownership  group name       who owns all keys that begin with `unit`
//! <prefix> "v"                          format     FORMAT
//! ```
//!
//! Numbers are big-endian. `esc` keeps the order of byte strings and ends them: 0x00 becomes 0x00 0xff, the end is
//! 0x00 0x00. The revision is inverted, so versions of one key are neighbours, newest first. Data rows do not name a
//! group: groups that share an engine can hand a kind over without copying it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use prost::Message;
use thiserror::Error;

use crate::engine::Span;

/// The format that this page describes. A store of another one is refused.
pub const FORMAT: u64 = 2;

/// The format before there were placements in the store. A store of it becomes one of [`FORMAT`] when it is opened.
pub(crate) const FORMAT_WITHOUT_PLACEMENTS: u64 = 1;

const PUT: u8 = 1;
const TOMBSTONE: u8 = 2;

/// A stored row that this page cannot read: the store is damaged or not ours.
#[derive(Debug, Error)]
#[error("stored row {key} cannot be read: {what}; the store is damaged, restore it from a backup")]
pub struct Damaged {
    /// The row's key, escaped.
    pub key: String,
    /// What was expected.
    pub what: &'static str,
}

pub(crate) fn damaged(key: &[u8], what: &'static str) -> Damaged {
    Damaged { key: key.escape_ascii().to_string(), what }
}

/// A data row, read.
#[derive(Debug, PartialEq)]
pub struct DataRow {
    /// The user's key.
    pub key: Bytes,
    /// The revision that wrote it.
    pub revision: Revision,
    /// The `KeyValue` message; `None` is a tombstone.
    pub kv: Option<Bytes>,
}

/// One batch of a group's log. Numbers are never used again, so the record is also the fence.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// The master's epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Tells this batch from another with the same number.
    #[prost(fixed64, tag = "2")]
    pub nonce: u64,
    /// The highest revision given out when this batch was closed.
    #[prost(uint64, tag = "3")]
    pub top: u64,
    /// In a takeover record: the new master's name.
    #[prost(string, tag = "4")]
    pub takeover: String,
    /// The writes, in revision order.
    #[prost(message, repeated, tag = "5")]
    pub writes: Vec<Write>,
    /// The batch before this one was tried more than once: one of the tries may still be on its way. As long as its
    /// record is there it comes to nothing, so that record is never trimmed.
    #[prost(bool, tag = "6")]
    pub after_repeats: bool,
}

impl Record {
    /// True of a batch of the master of that epoch, and not of its takeover.
    pub fn is_batch_of(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.takeover.is_empty()
    }
}

/// What one revision changed.
#[derive(Clone, PartialEq, Message)]
pub struct Write {
    /// The revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Its changes, in the order of its operations.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<Change>,
}

/// One key of a write.
#[derive(Clone, PartialEq, Message)]
pub struct Change {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Deleted, not put.
    #[prost(bool, tag = "2")]
    pub deleted: bool,
}

/// A granted lease.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseRow {
    /// Seconds to live after each renewal.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
    /// At the home group: other groups that hold it.
    #[prost(string, repeated, tag = "2")]
    pub holders: Vec<String>,
    /// Seconds that it had left when this was written; 0 is all of them.
    #[prost(int64, tag = "3")]
    pub remaining: i64,
    /// At another group than home: home has not recorded yet that it is held here, so no key may hang on it.
    #[prost(bool, tag = "4")]
    pub offered: bool,
}

/// The alarms that stand.
#[derive(Clone, PartialEq, Message)]
pub struct AlarmsRow {
    /// The alarms, in order of member and kind.
    #[prost(message, repeated, tag = "1")]
    pub alarms: Vec<AlarmRow>,
}

/// One alarm.
#[derive(Clone, PartialEq, Message)]
pub struct AlarmRow {
    /// The member that it is about.
    #[prost(fixed64, tag = "1")]
    pub member: u64,
    /// As on etcd's wire: 1 no space, 2 corrupt.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
}

/// What a group goes by.
#[derive(Clone, PartialEq, Message)]
pub struct PlacementRow {
    /// The document that holds; missing where none does yet.
    #[prost(message, optional, tag = "1")]
    pub current: Option<PlacementDocument>,
    /// The next one, which the group has agreed to.
    #[prost(message, optional, tag = "2")]
    pub adopted: Option<PlacementDocument>,
    /// The group's revision when it agreed.
    #[prost(uint64, tag = "3")]
    pub adopted_revision: u64,
    /// Its compacted revision then; -1 where nothing was compacted.
    #[prost(sint64, tag = "4")]
    pub adopted_compacted: i64,
    /// Its revision when this row was written.
    #[prost(uint64, tag = "5")]
    pub at: u64,
}

/// At the home group: the placement of the cluster.
#[derive(Clone, PartialEq, Message)]
pub struct DecidedRow {
    /// The one that holds; missing before the first one does.
    #[prost(message, optional, tag = "1")]
    pub current: Option<PlacementDocument>,
    /// A change that is under way. Its revisions are not known yet.
    #[prost(message, optional, tag = "2")]
    pub prepared: Option<PlacementDocument>,
    /// Groups that this change does without.
    #[prost(string, repeated, tag = "3")]
    pub without: Vec<String>,
    /// Groups that have gone by a placement of this cluster.
    #[prost(string, repeated, tag = "4")]
    pub members: Vec<String>,
    /// How the last change ended, for people.
    #[prost(string, tag = "5")]
    pub outcome: String,
    /// The number that it had.
    #[prost(uint64, tag = "6")]
    pub outcome_number: u64,
    /// It did not come to be.
    #[prost(bool, tag = "7")]
    pub outcome_refused: bool,
    /// A hash of the last file that was applied because it changed.
    #[prost(fixed64, tag = "8")]
    pub file: u64,
    /// The highest number that was ever given out.
    #[prost(uint64, tag = "9")]
    pub last: u64,
    /// Groups that are in no document any more and have not heard so.
    #[prost(string, repeated, tag = "10")]
    pub removed: Vec<String>,
}

/// At the home group: a placement that was current.
#[derive(Clone, PartialEq, Message)]
pub struct HistoryRow {
    /// The document.
    #[prost(message, optional, tag = "1")]
    pub document: Option<PlacementDocument>,
    /// When it became current, in seconds since 1970.
    #[prost(int64, tag = "2")]
    pub at: i64,
    /// Why, for people.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// A small number that a group keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Small {
    /// A new master starts above it.
    Ceiling,
    /// Reads below it are refused.
    Compacted,
    /// Log records below it may be gone.
    Trimmed,
}

/// Keys of one store, for one group.
#[derive(Clone, Debug)]
pub struct Layout {
    prefix: Bytes,
    group: Bytes,
}

impl Layout {
    /// `prefix` lets several clusters share one engine.
    pub fn new(prefix: &[u8], group: &GroupName) -> Self {
        let mut own = BytesMut::from(prefix);
        own.put_u8(b'g');
        escape(&mut own, group.as_str().as_bytes());
        Self { prefix: Bytes::copy_from_slice(prefix), group: own.freeze() }
    }

    /// What all keys begin with.
    pub const fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// The format row.
    pub fn format(&self) -> Bytes {
        self.section(b'v').freeze()
    }

    /// The row of the cluster's id.
    pub fn cluster(&self) -> Bytes {
        self.section(b'i').freeze()
    }

    fn section(&self, letter: u8) -> BytesMut {
        let mut key = BytesMut::from(&self.prefix[..]);
        key.put_u8(letter);
        key
    }

    fn own(&self, letter: u8) -> BytesMut {
        let mut key = BytesMut::from(&self.group[..]);
        key.put_u8(letter);
        key
    }

    /// The data row of a key at a revision.
    pub fn data(&self, key: &[u8], revision: Revision) -> Bytes {
        let mut row = BytesMut::with_capacity(self.prefix.len() + key.len() + 16);
        row.put_slice(&self.prefix);
        row.put_u8(b'd');
        escape(&mut row, key);
        row.put_u64(!revision.get());
        row.freeze()
    }

    /// How long the key of a data row is.
    pub fn data_len(&self, key: &[u8]) -> usize {
        self.prefix.len() + key.len() + key.iter().filter(|byte| **byte == 0).count() + 11
    }

    /// The data rows of a range of keys, all versions.
    pub fn data_span(&self, keys: &KeyRange) -> Span {
        let bound = |key: &[u8]| {
            let mut row = self.section(b'd');
            escape(&mut row, key);
            row.freeze()
        };
        let end = keys.end().map_or_else(|| self.section(b'd' + 1).freeze(), |end| bound(end));
        let start = if keys.start().is_empty() { self.section(b'd').freeze() } else { bound(keys.start()) };
        Span { start, end: Some(end) }
    }

    /// Reads a data row.
    pub fn read_data(&self, row: &Bytes, value: &Bytes) -> Result<DataRow, Damaged> {
        let what = "a data row";
        let body = self.prefix.len() + 1;
        let split =
            row.len().checked_sub(8).filter(|split| *split > body).ok_or_else(|| damaged(row, what))?;
        let key = unescape(&row[body..split]).ok_or_else(|| damaged(row, what))?;
        let revision = Revision::checked_from((!(&row[split..]).get_u64()).cast_signed());
        let revision = revision.ok_or_else(|| damaged(row, "a revision"))?;
        let kv = match value.first() {
            Some(&PUT) => Some(value.slice(1..)),
            Some(&TOMBSTONE) => None,
            _ => return Err(damaged(row, "a put or a tombstone")),
        };
        Ok(DataRow { key, revision, kv })
    }

    /// The record of batch `number`.
    pub fn log(&self, number: u64) -> Bytes {
        let mut key = self.own(b'l');
        key.put_u64(number);
        key.freeze()
    }

    /// The records from `number` on.
    pub fn log_span(&self, number: u64) -> Span {
        Span { start: self.log(number), end: Some(self.own(b'l' + 1).freeze()) }
    }

    /// The number in a log row's key.
    pub fn read_log_number(&self, row: &Bytes) -> Result<u64, Damaged> {
        let mut number = row.get(self.group.len() + 1..).filter(|number| number.len() == 8);
        number.as_mut().map(Buf::get_u64).ok_or_else(|| damaged(row, "a batch number"))
    }

    /// A small row.
    pub fn small(&self, small: Small) -> Bytes {
        let mut key = self.own(b's');
        key.put_slice(match small {
            Small::Ceiling => b"ceiling",
            Small::Compacted => b"compacted",
            Small::Trimmed => b"trimmed",
        });
        key.freeze()
    }

    /// The row of the alarms.
    pub fn alarms(&self) -> Bytes {
        let mut key = self.own(b's');
        key.put_slice(b"alarms");
        key.freeze()
    }

    /// The row of what the group goes by.
    pub fn placement(&self) -> Bytes {
        let mut key = self.own(b's');
        key.put_slice(b"placement");
        key.freeze()
    }

    /// At the home group: the row of the cluster's placement.
    pub fn decided(&self) -> Bytes {
        let mut key = self.own(b's');
        key.put_slice(b"decided");
        key.freeze()
    }

    /// At the home group: the row of placement `number`.
    pub fn history(&self, number: u64) -> Bytes {
        let mut key = self.own(b'h');
        key.put_u64(number);
        key.freeze()
    }

    /// At the home group: all placements that are kept.
    pub fn history_span(&self) -> Span {
        Span { start: self.own(b'h').freeze(), end: Some(self.own(b'h' + 1).freeze()) }
    }

    /// The row of the election.
    pub fn election(&self) -> Bytes {
        self.own(b'e').freeze()
    }

    /// The row of a lease.
    pub fn lease(&self, id: i64) -> Bytes {
        let mut key = self.own(b't');
        key.put_u64(id.cast_unsigned());
        key.freeze()
    }

    /// All leases of the group.
    pub fn lease_span(&self) -> Span {
        Span { start: self.own(b't').freeze(), end: Some(self.own(b't' + 1).freeze()) }
    }

    /// The id in a lease row's key.
    pub fn read_lease_id(&self, row: &Bytes) -> Result<i64, Damaged> {
        self.read_log_number(row).map(u64::cast_signed)
    }

    /// The ownership row of all keys that begin with `unit`.
    pub fn owner(&self, unit: &[u8]) -> Bytes {
        let mut key = self.section(b'o');
        escape(&mut key, unit);
        key.freeze()
    }

    /// All ownership rows.
    pub fn owner_span(&self) -> Span {
        Span { start: self.section(b'o').freeze(), end: Some(self.section(b'o' + 1).freeze()) }
    }

    /// Reads an ownership row: the unit and its group.
    pub fn read_owner(&self, row: &Bytes, value: &Bytes) -> Result<(Bytes, GroupName), Damaged> {
        let unit = row.get(self.prefix.len() + 1..).and_then(unescape);
        let unit = unit.ok_or_else(|| damaged(row, "a unit"))?;
        let group = std::str::from_utf8(value).ok().and_then(GroupName::parse);
        Ok((unit, group.ok_or_else(|| damaged(row, "a group"))?))
    }
}

/// The row of whoever collects the engine's garbage, where engines need that. It belongs to no group.
pub fn collector(prefix: &[u8]) -> Bytes {
    let mut key = BytesMut::from(prefix);
    key.put_u8(b'c');
    key.freeze()
}

/// The value of a data row.
pub fn data_value(kv: Option<&[u8]>) -> Bytes {
    let Some(kv) = kv else { return Bytes::from_static(&[TOMBSTONE]) };
    let mut value = BytesMut::with_capacity(1 + kv.len());
    value.put_u8(PUT);
    value.put_slice(kv);
    value.freeze()
}

/// The value of a small row.
pub fn small_value(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Reads a small row.
pub fn read_small(key: &[u8], value: &[u8]) -> Result<u64, Damaged> {
    let bytes = value.try_into().map_err(|_| damaged(key, "a number"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Reads a record or a lease.
pub fn read_message<M: Message + Default>(key: &[u8], value: Bytes) -> Result<M, Damaged> {
    M::decode(value).map_err(|_| damaged(key, "a message"))
}

fn escape(buffer: &mut BytesMut, key: &[u8]) {
    // Whole stretches: nearly all keys have no zero.
    for (position, stretch) in key.split(|byte| *byte == 0).enumerate() {
        if position > 0 {
            buffer.put_slice(&[0, 0xff]);
        }
        buffer.put_slice(stretch);
    }
    buffer.put_u16(0);
}

/// `None` if the bytes are not exactly one escaped string.
fn unescape(escaped: &[u8]) -> Option<Bytes> {
    let mut key = BytesMut::with_capacity(escaped.len());
    let mut rest = escaped;
    loop {
        match rest {
            [0, 0] => return Some(key.freeze()),
            [0, 0xff, tail @ ..] => {
                key.put_u8(0);
                rest = tail;
            }
            [byte, tail @ ..] if *byte != 0 => {
                key.put_u8(*byte);
                rest = tail;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Layout {
        Layout::new(b"p", &GroupName::parse("core").expect("a legal name"))
    }

    /// Keys over few letters, so that prefixes of each other and zero bytes are common.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        vec(prop::sample::select(vec![0u8, 1, b'/', 0xfe, 0xff]), 0..6)
    }

    proptest! {
        #[test]
        fn rows_sort_by_key_then_newest_first(a in keys(), b in keys(), r in 1u64..1000, s in 1u64..1000) {
            let (left, right) = (layout().data(&a, Revision::new(r)), layout().data(&b, Revision::new(s)));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b).then(s.cmp(&r)));
        }

        #[test]
        fn rows_read_back(key in keys(), r in 1u64..u64::MAX >> 2, kv in prop::option::of(vec(any::<u8>(), 0..9))) {
            let row = layout().data(&key, Revision::new(r));
            let read = layout().read_data(&row, &data_value(kv.as_deref())).expect("own row");
            prop_assert_eq!(layout().data_len(&key), row.len());
            prop_assert_eq!(read.key, key);
            prop_assert_eq!(read.revision, Revision::new(r));
            prop_assert_eq!(read.kv.as_deref(), kv.as_deref());
        }

        #[test]
        fn a_span_holds_exactly_the_versions_of_its_keys(key in keys(), start in keys(), end in prop::option::of(keys())) {
            let range = KeyRange::new(start.into(), end.map(Bytes::from));
            let row = layout().data(&key, Revision::new(7));
            let span = layout().data_span(&range);
            let inside = row >= span.start && span.end.is_none_or(|end| row < end);
            prop_assert_eq!(inside, range.contains(&key));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(row in vec(any::<u8>(), 0..40), value in vec(any::<u8>(), 0..10)) {
            let (row, value) = (Bytes::from(row), Bytes::from(value));
            let _read = layout().read_data(&row, &value);
            let _read = layout().read_log_number(&row);
        }
    }
}
