//! [`Record`]: what a snapshot is made of.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{MAGIC, VERSION};

/// The first record.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// What is in here is what every group held at this revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// History below it is not in here; -1 where nothing was compacted.
    #[prost(sint64, tag = "2")]
    pub compacted: i64,
    /// Groups in the order of their sections, which is that of their names.
    #[prost(string, repeated, tag = "3")]
    pub groups: Vec<String>,
    /// The version of the placement in use; 0 for a brain without one.
    #[prost(fixed64, tag = "4")]
    pub placement_version: u64,
    /// What stood before every stored key. For the record: a restored store may have another.
    #[prost(bytes = "bytes", tag = "5")]
    pub store_prefix: Bytes,
    /// The program that wrote it and its version.
    #[prost(string, tag = "6")]
    pub program: String,
}

/// Begins a group's section.
#[derive(Clone, PartialEq, Message)]
pub struct Group {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// All keys that begin with this are recorded as the group's.
#[derive(Clone, PartialEq, Message)]
pub struct Owner {
    /// The beginning.
    #[prost(bytes = "bytes", tag = "1")]
    pub unit: Bytes,
}

/// A granted lease.
#[derive(Clone, PartialEq, Message)]
pub struct Lease {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds to live after each renewal.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// What was left of them.
    #[prost(int64, tag = "3")]
    pub remaining_ms: i64,
    /// At the home group: other groups that hold it.
    #[prost(string, repeated, tag = "4")]
    pub holders: Vec<String>,
}

/// What one revision changed, for watches that resume below the snapshot's revision.
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

/// Ends a group's section and says what it should have held.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GroupEnd {
    /// Rows that are puts.
    #[prost(uint64, tag = "1")]
    pub puts: u64,
    /// Rows that are deletions.
    #[prost(uint64, tag = "2")]
    pub tombstones: u64,
    /// Recorded beginnings.
    #[prost(uint64, tag = "3")]
    pub owners: u64,
    /// Leases.
    #[prost(uint64, tag = "4")]
    pub leases: u64,
    /// Revisions with their changes.
    #[prost(uint64, tag = "5")]
    pub writes: u64,
    /// [`super::Content`] of the rows: the group's HashKV at the snapshot's revision.
    #[prost(fixed32, tag = "6")]
    pub hash: u32,
}

/// The last record, without which a snapshot was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct End {
    /// Sections.
    #[prost(uint64, tag = "1")]
    pub groups: u64,
    /// Puts and deletions of all groups.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// HashKV over all groups.
    #[prost(fixed32, tag = "3")]
    pub hash: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// See [`Header`].
    Header(Header),
    /// See [`Group`].
    Group(Group),
    /// See [`Owner`].
    Owner(Owner),
    /// A version of a key: the `KeyValue` as clients get it. Rows are in key order, of one key newest first.
    Put(Bytes),
    /// A deletion: a `KeyValue` of key and `mod_revision`.
    Tombstone(Bytes),
    /// See [`Lease`].
    Lease(Lease),
    /// See [`Write`].
    Write(Write),
    /// See [`GroupEnd`].
    GroupEnd(GroupEnd),
    /// See [`End`].
    End(End),
}

impl Record {
    fn parts(&self) -> (u8, Bytes) {
        let message = |kind, message: &dyn Fn() -> Vec<u8>| (kind, Bytes::from(message()));
        match self {
            Self::Header(header) => message(1, &|| header.encode_to_vec()),
            Self::Group(group) => message(2, &|| group.encode_to_vec()),
            Self::Owner(owner) => message(3, &|| owner.encode_to_vec()),
            Self::Put(kv) => (4, kv.clone()),
            Self::Tombstone(kv) => (5, kv.clone()),
            Self::Lease(lease) => message(6, &|| lease.encode_to_vec()),
            Self::Write(write) => message(7, &|| write.encode_to_vec()),
            Self::GroupEnd(end) => message(8, &|| end.encode_to_vec()),
            Self::End(end) => message(9, &|| end.encode_to_vec()),
        }
    }

    /// Reads a payload.
    pub(super) fn read(kind: u8, payload: Bytes) -> Result<Self, &'static str> {
        fn message<M: Message + Default>(payload: Bytes) -> Result<M, &'static str> {
            M::decode(payload).map_err(|_| "a record's message")
        }
        Ok(match kind {
            1 => Self::Header(message(payload)?),
            2 => Self::Group(message(payload)?),
            3 => Self::Owner(message(payload)?),
            4 => Self::Put(payload),
            5 => Self::Tombstone(payload),
            6 => Self::Lease(message(payload)?),
            7 => Self::Write(message(payload)?),
            8 => Self::GroupEnd(message(payload)?),
            9 => Self::End(message(payload)?),
            _ => return Err("a kind of record"),
        })
    }
}

/// What a file begins with.
pub fn put_preamble(buffer: &mut BytesMut) {
    let start = buffer.len();
    buffer.put_slice(&MAGIC);
    buffer.put_u32(VERSION);
    let sum = crc32c::crc32c(&buffer[start..]);
    buffer.put_u32(sum);
}

/// Appends a record.
pub fn put_record(buffer: &mut BytesMut, record: &Record) {
    let (kind, payload) = record.parts();
    let start = buffer.len();
    let length = u32::try_from(payload.len()).expect("one record is a part of one batch of an engine");
    buffer.put_u32(length);
    buffer.put_u8(kind);
    buffer.put_slice(&payload);
    let sum = crc32c::crc32c(&buffer[start..]);
    buffer.put_u32(sum);
}
