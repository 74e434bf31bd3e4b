//! [`SegmentPool`]: the segments of a log that are not being written, and how they are used again.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use thiserror::Error;

use super::sector::SECTOR;
use super::segment::{Head, Segment};
use super::sizes::Sizes;
use crate::engine::embedded::cause::is_want_of_room;

/// Files that wait to be used again: as many as one flush of a memtable sets free.
const FREE_MAX: usize = 3;

/// The segments of a log apart from the active one. Shared between the one that appends and the one that tends.
#[derive(Debug)]
pub(in crate::engine::embedded) struct SegmentPool {
    directory: PathBuf,
    sizes: Sizes,
    files: Mutex<Files>,
    /// Of all files, for those who ask often.
    bytes: AtomicU64,
}

#[derive(Debug)]
struct Files {
    /// Full ones that are still needed, oldest first.
    sealed: VecDeque<Sealed>,
    /// Has a head, and is the next to become active.
    spare: Option<Segment>,
    /// Not needed.
    free: Vec<Segment>,
    /// Number of the active segment.
    active: u64,
    /// The newest segment, and the oldest that its head says is needed.
    newest: u64,
    claimed: u64,
    /// The size of the next new file.
    next_bytes: u64,
}

/// Segments of a log that was found, apart from the active one.
#[derive(Debug, Default)]
pub(super) struct Others {
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) spare: Option<Segment>,
    pub(super) free: Vec<Segment>,
    /// The oldest segment that the newest head says is needed.
    pub(super) claimed: u64,
}

/// A full segment and its last record.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) segment: Segment,
    pub(super) last: u64,
}

/// Why the next segment was not begun.
#[derive(Debug, Error)]
pub(super) enum RollError {
    /// It could not be made; the active one is as it was.
    #[error("it cannot be made: {0}")]
    Make(io::Error),
    /// The active one could not be sealed.
    #[error("the one before cannot be ended: {0}")]
    Seal(io::Error),
}

impl SegmentPool {
    /// The others of a log that was found.
    pub(super) fn new(directory: &Path, sizes: Sizes, active: &Segment, found: Others) -> Self {
        let Others { sealed, spare, free, claimed } = found;
        let others = sealed.iter().map(|sealed| &sealed.segment).chain(&spare).chain(&free);
        let bytes = others.clone().map(Segment::bytes).sum::<u64>() + active.bytes();
        let largest = others.map(Segment::bytes).max().unwrap_or(0).max(active.bytes());
        let files = Files {
            sealed,
            active: active.number(),
            newest: spare.as_ref().map_or(active.number(), Segment::number),
            claimed,
            spare,
            free,
            next_bytes: (largest * 2).clamp(sizes.first, sizes.max),
        };
        Self { directory: directory.into(), sizes, files: Mutex::new(files), bytes: AtomicU64::new(bytes) }
    }

    /// What the disk should have free for this log, in bytes: the size of its next new file.
    pub(in crate::engine::embedded) fn wanted(&self) -> u64 {
        self.files.lock().next_bytes
    }

    /// Bytes of all files of the log.
    pub(in crate::engine::embedded) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Records up to this one are not needed any more: they are elsewhere, durable.
    ///
    /// The oldest segment that is kept begins with one that was acknowledged: it tells the log's first number.
    pub(in crate::engine::embedded) fn release(&self, record: u64) {
        let files = &mut *self.files.lock();
        while let Some(sealed) = files.sealed.pop_front_if(|sealed| sealed.last < record) {
            files.free.push(sealed.segment);
        }
    }

    /// Makes the next segment ready if it is not, and removes files that nobody will use. Takes as long as writing a
    /// segment, in which no other call here returns: call it where nobody waits.
    ///
    /// # Errors
    /// What the system said. It may be called again.
    pub(in crate::engine::embedded) fn prepare(&self, record: u64) -> io::Result<()> {
        let files = &mut *self.files.lock();
        if files.spare.is_none() {
            let spare = self.make(files, 0, record)?;
            files.spare = Some(spare);
        }
        self.tidy(files)
    }

    /// Seals the active segment, keeps it, and puts the next one in its place, which is made to measure if none is
    /// ready. All under one lock: a head that is written in between would not know of the one or the other.
    pub(super) fn roll(
        &self,
        active: &mut Segment,
        sectors: u32,
        record: u64,
        seal: &mut impl FnMut(&Segment) -> io::Result<()>,
    ) -> Result<(), RollError> {
        let files = &mut *self.files.lock();
        let next = match files.spare.take() {
            Some(spare) => spare,
            None => self.make(files, sectors, record).map_err(RollError::Make)?,
        };
        if let Err(error) = seal(active) {
            files.spare = Some(next);
            return Err(RollError::Seal(error));
        }
        files.active = next.number();
        let segment = std::mem::replace(active, next);
        files.sealed.push_back(Sealed { segment, last: record - 1 });
        Ok(())
    }

    /// A segment with the next number. One that is just large enough will do where the disk has no room for more.
    fn make(&self, files: &mut Files, sectors: u32, record: u64) -> io::Result<Segment> {
        let measure = (u64::from(sectors) + 2) * SECTOR as u64;
        let wanted = files.next_bytes.max(measure);
        let least = self.sizes.first.max(measure);
        match self.make_of(files, wanted, record) {
            Err(error) if is_want_of_room(&error) && least < wanted => self.make_of(files, least, record),
            made => made,
        }
    }

    /// A segment with the next number, of at least so many bytes.
    fn make_of(&self, files: &mut Files, bytes: u64, record: u64) -> io::Result<Segment> {
        let number = files.newest + 1;
        let oldest = files.sealed.front().map_or(files.active, |sealed| sealed.segment.number());
        let head = Head { record, oldest };
        let usable = |file: &Segment| {
            file.number() < number && (bytes..=self.sizes.max.max(bytes)).contains(&file.bytes())
        };
        let segment = match files.free.iter().position(usable) {
            Some(place) => {
                let mut segment = files.free.swap_remove(place);
                // Not for want of room, whatever the system says: it may bear the number now.
                segment.reuse(number, head).map_err(io::Error::other)?;
                segment
            }
            None => {
                let segment = Segment::create(&self.directory, number, bytes, head)?;
                self.bytes.fetch_add(segment.bytes(), Ordering::Relaxed);
                files.next_bytes = (bytes * 2).clamp(files.next_bytes, self.sizes.max);
                segment
            }
        };
        files.newest = number;
        files.claimed = oldest;
        Ok(segment)
    }

    /// Removes free files that nobody will use. The newest head says that they are not needed, so a crash may bring
    /// them back.
    fn tidy(&self, files: &mut Files) -> io::Result<()> {
        let mut kept = 0;
        let (keep, remove): (Vec<_>, _) = std::mem::take(&mut files.free).into_iter().partition(|file| {
            let claimed = file.number() >= files.claimed;
            let useful = (files.next_bytes..=self.sizes.max).contains(&file.bytes()) && kept < FREE_MAX;
            kept += usize::from(useful && !claimed);
            claimed || useful
        });
        files.free = keep;
        for file in remove {
            self.bytes.fetch_sub(file.bytes(), Ordering::Relaxed);
            file.remove()?;
        }
        Ok(())
    }
}
