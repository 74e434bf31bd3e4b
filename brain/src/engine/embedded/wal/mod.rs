//! [`Log`]: a write-ahead log. A record that was appended is there after every crash, whole and in its place.
//!
//! ```text
//! segment   head │ record 41 │ record 42        │ record 43 │ seal │ old sectors ...
//! sectors    ▢   │   ▢ ▢     │  ▢ ▢ ▢ ▢ ▢ ▢     │    ▢      │  ▢   │
//! ```
//!
//! The log is a row of segments: files that were written with zeros when they were made, so that a sync moves no
//! metadata. One is active; full ones are kept until [`Ring::release`] says that their records are not needed, and
//! are then used again. What a file is for is said by its first sector; its name says only when it was made.
//!
//! A segment is cut into sectors of 512 bytes, which a disk writes whole or not at all. Each says for itself, under a
//! checksum, which segment, which place in it and which part of which record it is. So each is *new* (of the life
//! that the segment has now), *old* (of an earlier life, or zeros) or *damaged*, whatever its neighbours are.
//!
//! Invariants:
//! * Record numbers have no gap. A record is in one segment; one that would not fit begins the next.
//! * An append returns after a sync. After one that failed nothing is written again.
//! * What follows the last record in its segment is old: the torn remains of a record that was never acknowledged are
//!   overwritten with zeros, and that is synced, before the log is used.
//! * A segment that is full ends with a seal, which is synced before the next segment gets a record. So a missing
//!   last file is noticed.
//! * The newest head names the oldest segment that was needed when it was written. From there on every segment
//!   exists. A file below that may be used again or removed.
//!
//! [`Log::open`] reads: a record of which some sectors are old, with nothing behind it, is a torn tail, and is dropped.
//! Damaged sectors, or a gap with something behind it, are damage and stop the open.

mod recover;
mod ring;
mod sector;
mod segment;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::exhaustion::{lacks_descriptors, patiently};
use super::private;
use super::room::is_want_of_room;
pub(super) use ring::Ring;
use ring::TurnError;
use sector::{Mark, Part, ROOM, SECTOR};
use segment::Segment;

/// The first segment of a store; each new one is twice as large, up to [`Sizes::max`]. A store that is hardly
/// written stays small.
const SEGMENT_BYTES_FIRST: u64 = 1 << 20;
/// Writes end where a page of the system ends, or it would read the page from the disk first.
const PAGE: usize = 4096;
/// At least so much is written at once of what is more, in bytes.
const PIECE: usize = 1 << 20;

/// How large segments are made, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The first one.
    pub(super) first: u64,
    /// The largest. A record that does not fit gets a segment to measure, which is not used again.
    pub(super) max: u64,
}

/// The end of a log where records are added.
#[derive(Debug)]
pub(super) struct Log {
    ring: Arc<Ring>,
    active: Segment,
    /// The sector at which the next record begins.
    next: u32,
    /// The number of the next record.
    record: u64,
    /// A segment of this size, half full, has a successor made for it.
    warned: bool,
    broken: bool,
    buffer: Vec<u8>,
}

/// Why a record was not appended.
#[derive(Debug, Error)]
pub(super) enum AppendError {
    /// Nothing of it was written, for want of room on the disk. A later one may be.
    #[error("the disk has no room for the log")]
    Full(#[source] io::Error),
    /// Nothing of it was written.
    #[error("no room could be made in the log")]
    Refused(#[source] io::Error),
    /// It may be there after a restart, whole.
    #[error("the log was not written")]
    Unknown(#[source] io::Error),
}

/// Why a log was not opened.
#[derive(Debug, Error)]
pub(super) enum RecoverError {
    /// What it holds cannot come from a crash.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Damaged {
        /// The file, or the directory where one is missing.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// What the system said.
    #[error("the log cannot be read")]
    Io(#[from] io::Error),
}

/// What an append left to do for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    /// The record's number.
    pub(super) record: u64,
    /// True once a segment: [`Ring::prepare`] should be called, elsewhere, before it is full.
    pub(super) prepare: bool,
}

impl Sizes {
    /// Segments up to `max` bytes.
    pub(super) fn up_to(max: u64) -> Self {
        Self { first: SEGMENT_BYTES_FIRST.min(max), max }
    }
}

impl Log {
    /// Makes an empty log in a directory, which is made too. Its own name is the caller's to sync.
    ///
    /// # Errors
    /// What the system said; the directory is of no use then.
    pub(super) fn create(directory: &Path, sizes: Sizes) -> io::Result<()> {
        private::make_directory(directory)?;
        Segment::create(directory, 1, sizes.first, segment::Head { record: 1, oldest: 1 })?;
        Ok(())
    }

    /// Reads a log from its oldest record, giving each to `each` with its number, and makes it ready for the next.
    ///
    /// # Errors
    /// [`RecoverError::Damaged`] where it is not what was written; also when `each` says so.
    pub(super) fn open(
        directory: &Path,
        sizes: Sizes,
        each: impl FnMut(u64, &[u8]) -> Result<(), String>,
    ) -> Result<Self, RecoverError> {
        let found = recover::recover(directory, each)?;
        let ring = Ring::new(directory, sizes, &found.active, found.others);
        Ok(Self {
            ring: Arc::new(ring),
            active: found.active,
            next: found.next,
            record: found.record,
            warned: false,
            broken: false,
            buffer: Vec::new(),
        })
    }

    /// The files of this log, for whoever tends them.
    pub(super) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The number that the next record gets.
    pub(super) fn next_record(&self) -> u64 {
        self.record
    }

    /// Adds a record; on return it is on disk.
    ///
    /// # Errors
    /// See [`AppendError`]. After one every further append is refused, but for [`AppendError::Full`].
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<Appended, AppendError> {
        if self.broken {
            return Err(AppendError::Refused(io::Error::other("an earlier write to the log failed")));
        }
        let appended = self.try_append(payload);
        self.broken = !matches!(appended, Ok(_) | Err(AppendError::Full(_)));
        appended
    }

    fn try_append(&mut self, payload: &[u8]) -> Result<Appended, AppendError> {
        let too_long = || AppendError::Refused(io::Error::other("a record is longer than 4 GiB"));
        let length = u32::try_from(payload.len()).map_err(|_| too_long())?;
        let sectors = sector::count(length);
        // The last sector is the seal's.
        while self.active.sectors() - self.next < sectors.saturating_add(1) {
            self.turn(sectors)?; // twice if the segment that was made ready is too small
        }
        self.write(payload, length).map_err(AppendError::Unknown)?;
        self.next += sectors;
        self.record += 1;
        let prepare = !self.warned && self.next > self.active.sectors() / 2;
        self.warned |= prepare;
        Ok(Appended { record: self.record - 1, prepare })
    }

    /// Writes a record where the next one goes, and syncs it. In pieces: a huge record needs not be in memory twice.
    fn write(&mut self, payload: &[u8], length: u32) -> io::Result<()> {
        let file = self.active.file();
        let mut at = u64::from(self.next) * SECTOR as u64;
        self.buffer.clear();
        for (position, part) in (0..).zip(parts(payload)) {
            let mark = Mark {
                segment: self.active.number(),
                index: self.next + position,
                part: Part::Record { position, length },
                record: self.record,
            };
            mark.write(part, &mut self.buffer);
            let end = at + self.buffer.len() as u64;
            if self.buffer.len() >= PIECE && end.is_multiple_of(PAGE as u64) {
                file.write_all_at(&self.buffer, at)?;
                at = end;
                self.buffer.clear();
            }
        }
        let end = (at as usize + self.buffer.len()).next_multiple_of(PAGE).min(self.active.bytes() as usize);
        self.buffer.resize(end - at as usize, 0);
        file.write_all_at(&self.buffer, at)?;
        file.sync_data()
    }

    /// Seals the active segment and goes on in the next one. Nothing of the record is written on an error.
    fn turn(&mut self, sectors: u32) -> Result<(), AppendError> {
        let (index, record, buffer) = (self.next, self.record, &mut self.buffer);
        let seal = |full: &Segment| -> io::Result<()> {
            let mark = Mark { segment: full.number(), index, part: Part::Seal, record };
            buffer.clear();
            mark.write(&[], buffer);
            full.file().write_all_at(buffer, u64::from(index) * SECTOR as u64)?;
            full.file().sync_data()
        };
        let (ring, active) = (&self.ring, &mut self.active);
        let mut seal = seal;
        // Nothing is written before the next segment is open.
        let turned = patiently(
            "the log's next segment",
            |error| matches!(error, TurnError::Make(error) if lacks_descriptors(error)),
            || false,
            || ring.turn(active, sectors, record, &mut seal),
        );
        turned.map_err(|error| match error {
            TurnError::Make(error) if is_want_of_room(&error) => AppendError::Full(error),
            TurnError::Make(error) | TurnError::Seal(error) => AppendError::Refused(error),
        })?;
        self.next = 1;
        self.warned = false;
        Ok(())
    }
}

/// A payload in what goes into one sector each; an empty one fills one, too.
fn parts(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty: Option<&[u8]> = payload.is_empty().then_some(&[]);
    empty.into_iter().chain(payload.chunks(ROOM))
}

#[cfg(test)]
mod tests;
