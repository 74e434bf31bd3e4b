//! [`Reader`]: a snapshot from any source of bytes.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use kubebrain_proto::mvccpb::KeyValue;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::record::{End, GroupEnd, Record};
use super::{
    BLOCK_BYTES, Content, MAGIC, PAYLOAD_BYTES_MAX, PREAMBLE_BYTES, RECORD_PREFIX_BYTES, SUM_BYTES, VERSION,
};

/// Why bytes are not a snapshot, or not a whole one. Offsets are in bytes from the beginning.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Something else.
    #[error("this is not a snapshot of kubebrain: it does not begin as one")]
    Foreign,
    /// An etcd's.
    #[error(
        "this is a snapshot of etcd (a bbolt database), not of kubebrain: importing one is not built; copy the keys over with a client instead"
    )]
    Etcd,
    /// Another version's.
    #[error(
        "the snapshot has format {found}, this program reads format {VERSION}: use the version that wrote it"
    )]
    Version {
        /// What it says.
        found: u32,
    },
    /// It ends too early.
    #[error(
        "the snapshot is cut off at byte {offset}: saving it was interrupted or the copy is not whole; take another"
    )]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// A checksum, a count or an order is wrong.
    #[error("the snapshot is damaged at byte {offset}: {what}; take another copy")]
    Damaged {
        /// Where the record begins.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The sum over everything.
    #[error("the snapshot is damaged: its sha256 is not the one at its end; take another copy")]
    Sum,
    /// The source failed.
    #[error("the snapshot cannot be read at byte {offset}")]
    Io {
        /// How far it came.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// Where in the order of records the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Start,
    Groups,
    Owners,
    Rows,
    Leases,
    Writes,
    Ended,
}

/// Gives the records of a snapshot in order and, after the last one, `None`: then everything was checked, the sum too
/// unless that was not wanted. What was given before that may belong to a damaged file.
pub struct Reader<R> {
    source: R,
    sum: Option<Sha256>,
    offset: u64,
    place: Place,
    revision: u64,
    groups: Vec<String>,
    /// Sections begun.
    begun: usize,
    /// The row before this one in the section.
    row: Option<(Bytes, i64)>,
    /// The write before this one in the section.
    written: u64,
    found: GroupEnd,
    all: End,
    content: Content,
    digest: Option<[u8; SUM_BYTES]>,
}

impl<R: Read> Reader<R> {
    /// Reads the preamble. Without `check_sum` the sha256 at the end is neither compared nor needed.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn new(source: R, check_sum: bool) -> Result<Self, ReadError> {
        let mut reader = Self {
            source,
            sum: check_sum.then(Sha256::default),
            offset: 0,
            place: Place::Start,
            revision: 0,
            groups: Vec::new(),
            begun: 0,
            row: None,
            written: 0,
            found: GroupEnd::default(),
            all: End::default(),
            content: Content::default(),
            digest: None,
        };
        reader.preamble()?;
        Ok(reader)
    }

    /// Bytes read so far.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The sha256 that stands in the file, once it was read.
    pub const fn digest(&self) -> Option<[u8; SUM_BYTES]> {
        self.digest
    }

    fn preamble(&mut self) -> Result<(), ReadError> {
        let start = self.take_up_to(PREAMBLE_BYTES)?;
        if start.len() < MAGIC.len() || start[..MAGIC.len()] != MAGIC {
            // bbolt's first page: a header of 16 bytes, then the magic of its meta page.
            let meta = self.take_up_to(4)?;
            return Err(match &meta[..] {
                [0xed, 0xda, 0x0c, 0xed] => ReadError::Etcd,
                _ => ReadError::Foreign,
            });
        }
        if start.len() < PREAMBLE_BYTES {
            return Err(ReadError::Truncated { offset: self.offset });
        }
        let (version, sum) = (start.clone().split_off(8).get_u32(), start.clone().split_off(12).get_u32());
        if crc32c::crc32c(&start[..12]) != sum {
            return Err(ReadError::Damaged { offset: 0, what: "the checksum of its beginning is wrong" });
        }
        if version != VERSION {
            return Err(ReadError::Version { found: version });
        }
        Ok(())
    }

    /// The next record; `None` after the last one, when everything was checked.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        if self.place == Place::Ended {
            return Ok(None);
        }
        let offset = self.offset;
        let damaged = |what| ReadError::Damaged { offset, what };
        let prefix = self.take(RECORD_PREFIX_BYTES)?;
        let (length, kind) = (prefix.clone().get_u32() as usize, prefix[RECORD_PREFIX_BYTES - 1]);
        if length > PAYLOAD_BYTES_MAX {
            return Err(damaged("a record's length is impossible"));
        }
        let payload = self.take(length)?;
        let sum = self.take(4)?.get_u32();
        if crc32c::crc32c_append(crc32c::crc32c(&prefix), &payload) != sum {
            return Err(damaged("a record's checksum is wrong"));
        }
        let record = Record::read(kind, payload).map_err(|_| damaged("a record cannot be read"))?;
        self.check(&record).map_err(damaged)?;
        if self.place == Place::Ended {
            self.finish()?;
        }
        Ok(Some(record))
    }

    /// Holds the record against those before it.
    fn check(&mut self, record: &Record) -> Result<(), &'static str> {
        let order = Err("a record stands where none of its kind may");
        match record {
            Record::Header(header) => {
                if self.place != Place::Start {
                    return order;
                }
                if !header.groups.is_sorted_by(|one, next| one < next) {
                    return Err("its groups are not in the order of their names");
                }
                if header.compacted > header.revision.cast_signed() || header.revision.cast_signed() < 1 {
                    return Err("its revisions contradict each other");
                }
                self.revision = header.revision;
                self.groups = header.groups.clone();
                self.place = Place::Groups;
            }
            Record::Group(group) => {
                if self.place != Place::Groups {
                    return order;
                }
                if self.groups.get(self.begun) != Some(&group.name) {
                    return Err("a group is not the one that its header names next");
                }
                self.begun += 1;
                (self.row, self.written, self.found) = (None, 0, GroupEnd::default());
                self.content = Content::default();
                self.place = Place::Owners;
            }
            Record::Owner(_) => {
                self.found.owners += 1;
                self.reach(Place::Owners)?;
            }
            Record::Put(kv) => {
                self.found.puts += 1;
                self.reach(Place::Rows)?;
                self.row(false, kv)?;
            }
            Record::Tombstone(kv) => {
                self.found.tombstones += 1;
                self.reach(Place::Rows)?;
                self.row(true, kv)?;
            }
            Record::Lease(_) => {
                self.found.leases += 1;
                self.reach(Place::Leases)?;
            }
            Record::Write(write) => {
                self.found.writes += 1;
                self.reach(Place::Writes)?;
                if write.revision <= self.written || write.revision > self.revision {
                    return Err("a revision's changes are out of order");
                }
                self.written = write.revision;
            }
            Record::GroupEnd(end) => {
                if self.place < Place::Owners {
                    return order;
                }
                self.found.hash = self.content.hash();
                if self.found != *end {
                    return Err("a group does not hold what its end says");
                }
                self.all.groups += 1;
                self.all.rows += end.puts + end.tombstones;
                self.all.hash = self.all.hash.wrapping_add(end.hash);
                self.place = Place::Groups;
            }
            Record::End(end) => {
                if self.place != Place::Groups || self.begun != self.groups.len() {
                    return order;
                }
                if self.all != *end {
                    return Err("it does not hold what its end says");
                }
                self.place = Place::Ended;
            }
        }
        Ok(())
    }

    /// Inside a section, kinds of records stand in one order.
    fn reach(&mut self, place: Place) -> Result<(), &'static str> {
        if self.place < Place::Owners || self.place > place {
            return Err("a record stands where none of its kind may");
        }
        self.place = place;
        Ok(())
    }

    fn row(&mut self, deleted: bool, kv: &Bytes) -> Result<(), &'static str> {
        let row = KeyValue::decode(kv.clone()).map_err(|_| "a row cannot be read")?;
        if row.mod_revision < 1 || row.mod_revision.cast_unsigned() > self.revision || row.key.is_empty() {
            return Err("a row's revision or key is impossible");
        }
        if let Some((key, revision)) = &self.row {
            let ascends = *key < row.key || (*key == row.key && *revision > row.mod_revision);
            if !ascends {
                return Err("rows are out of order");
            }
        }
        self.row = Some((row.key, row.mod_revision));
        self.content.add(deleted, kv);
        Ok(())
    }

    /// Padding and sum.
    fn finish(&mut self) -> Result<(), ReadError> {
        let start = self.offset;
        let padding = usize::try_from(start.next_multiple_of(BLOCK_BYTES) - start).unwrap_or(0);
        if self.take(padding)?.iter().any(|byte| *byte != 0) {
            return Err(ReadError::Damaged { offset: start, what: "its padding is not empty" });
        }
        let wanted = self.sum.take().map(|sum| -> [u8; SUM_BYTES] { sum.finalize().into() });
        let found = self.take_up_to(SUM_BYTES)?;
        let found = <[u8; SUM_BYTES]>::try_from(&found[..]).ok();
        match (wanted, found) {
            (None, _) => {}
            (Some(_), None) => return Err(ReadError::Truncated { offset: self.offset }),
            (Some(wanted), Some(found)) if wanted != found => return Err(ReadError::Sum),
            (Some(_), Some(_)) => {}
        }
        self.digest = found;
        match self.take_up_to(1)?.is_empty() {
            true => Ok(()),
            false => Err(ReadError::Damaged { offset: self.offset - 1, what: "it goes on after its end" }),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<Bytes, ReadError> {
        let taken = self.take_up_to(bytes)?;
        match taken.len() == bytes {
            true => Ok(taken),
            false => Err(ReadError::Truncated { offset: self.offset }),
        }
    }

    /// Fewer bytes only at the end of the source. Memory grows with what is there, not with what is asked for.
    fn take_up_to(&mut self, bytes: usize) -> Result<Bytes, ReadError> {
        let mut taken = Vec::with_capacity(bytes.min(64 << 10));
        let read = self.source.by_ref().take(bytes as u64).read_to_end(&mut taken);
        read.map_err(|source| ReadError::Io { offset: self.offset, source })?;
        self.offset += taken.len() as u64;
        if let Some(sum) = &mut self.sum {
            sum.update(&taken);
        }
        Ok(taken.into())
    }
}
