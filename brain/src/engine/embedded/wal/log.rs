//! [`Log`]: the end of a log, where records are added.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::error::{AppendError, Appended, RecoverError};
use super::pool::{RollError, SegmentPool};
use super::recover;
use super::sector::{self, Mark, Part, ROOM, SECTOR};
use super::segment::{self, Segment};
use super::sizes::Sizes;
use crate::engine::embedded::cause::is_want_of_room;
use crate::engine::embedded::exhaustion::{lacks_descriptors, patiently};
use crate::engine::embedded::private;

/// Writes end where a page of the system ends, or it would read the page from the disk first.
const PAGE: usize = 4096;
/// At least so much is written at once of what is more, in bytes.
const PIECE: usize = 1 << 20;

/// The end of a log where records are added.
#[derive(Debug)]
pub(in crate::engine::embedded) struct Log {
    pool: Arc<SegmentPool>,
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

impl Log {
    /// Makes an empty log in a directory, which is made too. Its own name is the caller's to sync.
    ///
    /// # Errors
    /// What the system said; the directory is of no use then.
    pub(in crate::engine::embedded) fn create(directory: &Path, sizes: Sizes) -> io::Result<()> {
        private::make_directory(directory)?;
        Segment::create(directory, 1, sizes.first, segment::Head { record: 1, oldest: 1 })?;
        Ok(())
    }

    /// Reads a log from its oldest record, giving each to `each` with its number, and makes it ready for the next.
    ///
    /// # Errors
    /// [`RecoverError::Damaged`] where it is not what was written; also when `each` says so.
    pub(in crate::engine::embedded) fn open(
        directory: &Path,
        sizes: Sizes,
        each: impl FnMut(u64, &[u8]) -> Result<(), String>,
    ) -> Result<Self, RecoverError> {
        let found = recover::recover(directory, each)?;
        let pool = SegmentPool::new(directory, sizes, &found.active, found.others);
        Ok(Self {
            pool: Arc::new(pool),
            active: found.active,
            next: found.next,
            record: found.record,
            warned: false,
            broken: false,
            buffer: Vec::new(),
        })
    }

    /// The files of this log, for whoever tends them.
    pub(in crate::engine::embedded) fn pool(&self) -> &Arc<SegmentPool> {
        &self.pool
    }

    /// The number that the next record gets.
    pub(in crate::engine::embedded) fn next_record(&self) -> u64 {
        self.record
    }

    /// Adds a record; on return it is on disk.
    ///
    /// # Errors
    /// See [`AppendError`]. After one every further append is refused, but for [`AppendError::Full`].
    pub(in crate::engine::embedded) fn append(&mut self, payload: &[u8]) -> Result<Appended, AppendError> {
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
            self.roll(sectors)?; // twice if the segment that was made ready is too small
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
    fn roll(&mut self, sectors: u32) -> Result<(), AppendError> {
        let (index, record, buffer) = (self.next, self.record, &mut self.buffer);
        let seal = |full: &Segment| -> io::Result<()> {
            let mark = Mark { segment: full.number(), index, part: Part::Seal, record };
            buffer.clear();
            mark.write(&[], buffer);
            full.file().write_all_at(buffer, u64::from(index) * SECTOR as u64)?;
            full.file().sync_data()
        };
        let (pool, active) = (&self.pool, &mut self.active);
        let mut seal = seal;
        // Nothing is written before the next segment is open.
        let rolled = patiently(
            "the log's next segment",
            |error| matches!(error, RollError::Make(error) if lacks_descriptors(error)),
            || false,
            || pool.roll(active, sectors, record, &mut seal),
        );
        rolled.map_err(|error| match error {
            RollError::Make(error) if is_want_of_room(&error) => AppendError::Full(error),
            RollError::Make(error) | RollError::Seal(error) => AppendError::Refused(error),
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
