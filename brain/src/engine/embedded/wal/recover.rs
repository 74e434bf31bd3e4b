//! What a crash has left: records up to the last one that is whole, and proof that nothing behind it was
//! acknowledged.
//!
//! At the first sector that does not begin a whole record, one of these is true:
//! * It is a seal: the log goes on in the next segment, which exists.
//! * It is old, or it begins a record of which another sector is old. A record is acknowledged when all its sectors
//!   are new, so this one was not, nor anything behind it: the log ends here. Should there be a later record all the
//!   same, the disk has lost something that it had confirmed.
//! * Anything else is damage: what is there may have been acknowledged, and cannot be read.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::RecoverError;
use super::pool::{Others, Sealed};
use super::sector::{self, Part, SECTOR, Sector};
use super::segment::{self, Head, Segment};

/// The number of a log's first segment, which alone may be the oldest and have no record.
const FIRST: u64 = 1;

/// A log that was read.
pub(super) struct Found {
    /// Where the log ends.
    pub(super) active: Segment,
    /// The sector in it, and the number, of the next record.
    pub(super) next: u32,
    pub(super) record: u64,
    pub(super) others: Others,
}

/// How the reading of a segment ended.
enum End {
    /// At a seal.
    Sealed,
    /// The log ends at this sector.
    Here(u32),
}

/// Reads all records in order, and makes the end of the log clean.
pub(super) fn recover(
    directory: &Path,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), String>,
) -> Result<Found, RecoverError> {
    let mut others = Others::default();
    let mut segments = needed(directory, &mut others)?.into_iter().peekable();
    let mut record = None;
    while let Some((_, (segment, head))) = segments.next() {
        let number = segment.number();
        let mut reader = Reader { bytes: segment.read()?, segment: &segment, record: head.record };
        reader.record = match (record, reader.sector(1)) {
            (Some(record), _) => record,
            // A head was written ahead of use, and tells the least that the first record can be.
            (None, Sector::New(mark, _)) => mark.record,
            (None, Sector::Old) if number > FIRST => {
                return Err(reader.damaged(1, "the first record is missing"));
            }
            (None, _) => head.record,
        };
        if reader.record < head.record {
            return Err(
                reader.damaged(0, format!("it begins at record {}, not {}", head.record, reader.record))
            );
        }
        let end = reader.read(&mut each)?;
        record = Some(reader.record);
        match end {
            End::Sealed if segments.peek().is_none() => {
                return Err(missing(directory, number + 1));
            }
            End::Sealed => {
                let last = reader.record - 1;
                others.sealed.push_back(Sealed { segment, last });
            }
            End::Here(next) => {
                reader.check_nothing_behind(next)?;
                let rest: Vec<_> = segments.map(|(_, (segment, _))| segment).collect();
                for later in &rest {
                    let bytes = later.read()?;
                    Reader { bytes, segment: later, record: reader.record }.check_empty()?;
                }
                reader.clean(next)?;
                let record = reader.record;
                let mut rest = rest.into_iter();
                others.spare = rest.next();
                if let Some(segment) = rest.next() {
                    return Err(damaged(&segment, 0, "it follows a segment that was never used"));
                }
                return Ok(Found { active: segment, next, record, others });
            }
        }
    }
    Err(missing(directory, others.claimed))
}

/// The segments from the oldest that is needed, by number, without a gap; the others become free.
fn needed(directory: &Path, others: &mut Others) -> Result<BTreeMap<u64, (Segment, Head)>, RecoverError> {
    let mut segments = BTreeMap::new();
    let files = match segment::list(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(directory, FIRST)),
        listed => listed?,
    };
    for file in files {
        match Segment::open(file.clone())? {
            Ok((segment, head)) => {
                let number = segment.number();
                if let Some((other, _)) = segments.insert(number, (segment, head)) {
                    return Err(damaged(&other, 0, "there is another file of the same segment"));
                }
            }
            Err(what) => return Err(RecoverError::Damaged { file, offset: 0, what }),
        }
    }
    let Some((newest, (_, head))) = segments.last_key_value() else { return Err(missing(directory, FIRST)) };
    let (newest, oldest) = (*newest, head.oldest);
    if let Some(number) = (oldest..=newest).find(|number| !segments.contains_key(number)) {
        return Err(missing(directory, number));
    }
    let needed = segments.split_off(&oldest);
    others.free = segments.into_values().map(|(segment, _)| segment).collect();
    others.claimed = oldest;
    Ok(needed)
}

/// A segment in memory, and how far the log was read.
struct Reader<'a> {
    bytes: Vec<u8>,
    segment: &'a Segment,
    /// The next record.
    record: u64,
}

impl Reader<'_> {
    fn sector(&self, index: u32) -> Sector<'_> {
        let at = index as usize * SECTOR;
        sector::judge(&self.bytes[at..at + SECTOR], self.segment.number(), index)
    }

    /// Reads records to the end of the log or of the segment.
    fn read(&mut self, each: &mut impl FnMut(u64, &[u8]) -> Result<(), String>) -> Result<End, RecoverError> {
        let mut payload = Vec::new();
        let mut index = 1;
        while index < self.segment.sectors() {
            let length = match self.sector(index) {
                Sector::Old => return Ok(End::Here(index)),
                Sector::Damaged => return self.torn(index),
                Sector::New(mark, _) if mark.record != self.record => {
                    return Err(
                        self.damaged(index, format!("record {} follows {}", mark.record, self.record - 1))
                    );
                }
                Sector::New(mark, _) => match mark.part {
                    Part::Seal => return Ok(End::Sealed),
                    Part::Record { position: 0, length } => length,
                    Part::Record { .. } | Part::Head => {
                        return Err(self.damaged(index, "a record begins in its middle"));
                    }
                },
            };
            let sectors = sector::count(length);
            if sectors >= self.segment.sectors() - index {
                return Err(self.damaged(index, "a record goes on behind the end of the file"));
            }
            payload.clear();
            for position in 0..sectors {
                match self.sector(index + position) {
                    Sector::New(mark, part)
                        if mark.record == self.record && mark.part == (Part::Record { position, length }) =>
                    {
                        payload.extend_from_slice(part);
                    }
                    Sector::New(..) => {
                        return Err(self.damaged(index + position, "another record in the middle of one"));
                    }
                    Sector::Old => return Ok(End::Here(index)),
                    Sector::Damaged => return self.torn_of(index, sectors, index + position),
                }
            }
            each(self.record, &payload).map_err(|what| self.damaged(index, what))?;
            self.record += 1;
            index += sectors;
        }
        Err(self.damaged(index - 1, "the segment is full and has no seal"))
    }

    /// The first sector of a record is damaged: what the others say of it decides.
    fn torn(&self, index: u32) -> Result<End, RecoverError> {
        let next = (index + 1 < self.segment.sectors()).then(|| self.sector(index + 1));
        match next {
            Some(Sector::New(mark, _)) if mark.record == self.record => match mark.part {
                Part::Record { position: 1, length } => {
                    let sectors = sector::count(length).min(self.segment.sectors() - index);
                    self.torn_of(index, sectors, index)
                }
                _ => Err(self.unreadable(index)),
            },
            _ => Err(self.unreadable(index)),
        }
    }

    /// A sector of a record is damaged: no harm if another one is old.
    fn torn_of(&self, index: u32, sectors: u32, damaged: u32) -> Result<End, RecoverError> {
        if (index..index + sectors).any(|index| self.sector(index) == Sector::Old) {
            return Ok(End::Here(index));
        }
        Err(self.unreadable(damaged))
    }

    /// Behind the end of the log there may be remains of the record that would have been next, and of no other.
    fn check_nothing_behind(&self, end: u32) -> Result<(), RecoverError> {
        for index in end..self.segment.sectors() {
            if let Sector::New(mark, _) = self.sector(index)
                && (mark.record != self.record || !matches!(mark.part, Part::Record { .. }))
            {
                let what = format!("the record before {} is missing", mark.record);
                return Err(self.damaged(index, what));
            }
        }
        Ok(())
    }

    /// A segment after the end of the log has a head only.
    fn check_empty(&self) -> Result<(), RecoverError> {
        for index in 1..self.segment.sectors() {
            if let Sector::New(mark, _) = self.sector(index) {
                let what = format!("the record before {} is missing", mark.record);
                return Err(self.damaged(index, what));
            }
        }
        Ok(())
    }

    /// Overwrites what is not old behind the end of the log.
    fn clean(&self, end: u32) -> Result<(), RecoverError> {
        let dirty: Vec<_> =
            (end..self.segment.sectors()).filter(|index| self.sector(*index) != Sector::Old).collect();
        if dirty.is_empty() {
            return Ok(());
        }
        for index in dirty {
            self.segment.file().write_all_at(&[0; SECTOR], u64::from(index) * SECTOR as u64)?;
        }
        Ok(self.segment.file().sync_data()?)
    }

    fn unreadable(&self, index: u32) -> RecoverError {
        self.damaged(index, format!("record {} cannot be read", self.record))
    }

    fn damaged(&self, index: u32, what: impl Into<String>) -> RecoverError {
        damaged(self.segment, index, what)
    }
}

fn damaged(segment: &Segment, index: u32, what: impl Into<String>) -> RecoverError {
    RecoverError::Damaged {
        file: segment.path().into(),
        offset: u64::from(index) * SECTOR as u64,
        what: what.into(),
    }
}

fn missing(directory: &Path, number: u64) -> RecoverError {
    RecoverError::Damaged { file: directory.into(), offset: 0, what: format!("segment {number} is missing") }
}
