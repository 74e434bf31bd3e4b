//! [`Room`]: whether the disk has room, and what is kept back for when it has none.
//!
//! ```text
//! room ──less is free than a segment of the log takes, or a file cannot grow──▶ short: who asks adds nothing any more
//!  ▲                                                                              │
//!  └──all that waited for room has got it, the reserve is whole, more is free─────┘
//! ```
//!
//! While it is short, reads, deletions, compactions and starts go on. What they write goes into segments of the log that
//! are there; when those are used up, and when a memtable must be written out, the reserve is given up: a file that
//! holds nothing but room. So a full disk takes what makes it emptier, through many restarts.
//!
//! A file that could not grow is given up and made anew later. Nothing is built on a sync that failed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use super::private;

/// The reserve's name in a store.
const RESERVE: &str = "reserve";
/// Zeros are written in pieces of this size where the file system cannot set room aside.
const PIECE: usize = 1 << 20;

/// See the module. Shared by all who write.
#[derive(Debug)]
pub(super) struct Room {
    /// The store.
    store: PathBuf,
    short: AtomicBool,
    /// What the reserve should hold, and what should be free beside it, in bytes.
    wanted: AtomicU64,
    /// One at a time changes the reserve.
    reserve: Mutex<()>,
}

impl Room {
    /// Of a store; makes the reserve if there is room.
    pub(super) fn new(store: &Path, wanted: u64) -> Self {
        let room = Self {
            store: store.into(),
            short: AtomicBool::new(false),
            wanted: AtomicU64::new(wanted),
            reserve: Mutex::new(()),
        };
        room.look(wanted, false);
        room
    }

    /// True while nothing should be added. It may turn at any time.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Judges again, and makes the reserve whole. `waiting`: something could not be written for want of room, and is not yet.
    pub(super) fn look(&self, wanted: u64, waiting: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
        let _alone = self.reserve.lock();
        let missing = wanted.saturating_sub(self.reserved());
        if missing > 0 && free(&self.store) >= missing.saturating_add(wanted) {
            let _later = self.grow(wanted);
        }
        let free = free(&self.store);
        let enough = if self.is_short() { wanted.saturating_add(wanted / 4) } else { wanted };
        let is_short = waiting || self.reserved() < wanted || free < enough;
        self.turn(is_short, free);
    }

    /// True if so many bytes are free, as far as the system says.
    pub(super) fn has(&self, bytes: u64) -> bool {
        free(&self.store) >= bytes
    }

    /// A file could not grow.
    pub(super) fn ran_out(&self) {
        self.turn(true, free(&self.store));
    }

    /// Gives the reserve up for what must be written now. False if there is none any more.
    pub(super) fn spend(&self) -> bool {
        self.ran_out();
        let _alone = self.reserve.lock();
        let bytes = self.reserved();
        let spent = bytes > 0 && fs::remove_file(self.store.join(RESERVE)).is_ok();
        if spent {
            tracing::warn!(store = %self.store.display(), bytes, "the room that was kept back on the disk is given up");
        }
        spent
    }

    fn turn(&self, short: bool, free: u64) {
        if self.short.swap(short, Ordering::Relaxed) == short {
            return;
        }
        let (store, wanted) = (self.store.display(), self.wanted.load(Ordering::Relaxed));
        match short {
            true => tracing::error!(
                %store, free, wanted,
                "the disk is full: puts and new leases are refused (\"etcdserver: mvcc: database space exceeded\"), reads \
                 and deletions go on; make room on the disk, not in the data directory, or grow it"
            ),
            false => tracing::info!(%store, free, "the disk has room again: puts are taken"),
        }
    }

    /// Bytes of the reserve.
    fn reserved(&self) -> u64 {
        fs::metadata(self.store.join(RESERVE)).map_or(0, |data| data.len())
    }

    /// Makes the reserve larger. What there is of it stays on an error.
    fn grow(&self, wanted: u64) -> io::Result<()> {
        let file =
            private::options().write(true).create(true).truncate(false).open(self.store.join(RESERVE))?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&file, wanted),
            Err(error) => {
                // What was set aside is a length, and not surely room.
                let _shorter = file.set_len(0);
                Err(error.into())
            }
        }
    }
}

/// Writes zeros up to a length.
fn fill(file: &fs::File, wanted: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let zeros = vec![0; PIECE];
    let mut at = file.metadata()?.len();
    while at < wanted {
        let piece = (wanted - at).min(PIECE as u64);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
    }
    file.sync_data()
}

/// Bytes that this user may write on the file system of a directory; as many as there can be where it does not say.
fn free(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |found| found.f_bavail.saturating_mul(found.f_frsize))
}
