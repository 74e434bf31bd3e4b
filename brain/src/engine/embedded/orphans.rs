//! [`Orphans`]: files that the tree began and could not finish for want of room. They hold the very room that is missing,
//! and the tree removes them at its next opening only.
//!
//! Whoever makes tables holds [`Orphans::making`] meanwhile. Where nobody does, a file is an orphan if it was never seen in
//! a version of the tree: finished ones are noted as soon as they are named.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lsm_tree::{AbstractTree, AnyTree};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The tree's own directories, for tables and for large values. A file's name is its number.
const TABLES: &str = "tables";
const BLOBS: &str = "blobs";

/// So many numbers are remembered before those of files that are gone are forgotten.
const SEEN_MIN: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Orphans {
    tables: PathBuf,
    blobs: PathBuf,
    making: RwLock<()>,
    seen: Mutex<Seen>,
}

/// Numbers of files that were named by a version since the opening.
#[derive(Debug)]
struct Seen {
    tables: HashSet<u64>,
    blobs: HashSet<u64>,
    /// With more than this, those that are gone are forgotten.
    max: usize,
}

impl Orphans {
    /// Of a tree in a directory that was just opened: what it has is finished.
    pub(super) fn new(tree: &AnyTree, path: &Path) -> Self {
        let seen = Seen { tables: HashSet::new(), blobs: HashSet::new(), max: SEEN_MIN };
        let (tables, blobs) = (path.join(TABLES), path.join(BLOBS));
        let orphans = Self { tables, blobs, making: RwLock::new(()), seen: Mutex::new(seen) };
        orphans.see(tree);
        orphans
    }

    /// To be held while tables are made.
    pub(super) fn making(&self) -> RwLockReadGuard<'_, ()> {
        self.making.read()
    }

    /// Waits until nobody makes tables, and keeps it so.
    pub(super) fn nobody_makes(&self) -> RwLockWriteGuard<'_, ()> {
        self.making.write()
    }

    /// To be called when tables were made, before [`Self::making`] is let go.
    pub(super) fn see(&self, tree: &AnyTree) {
        let version = tree.current_version();
        let mut seen = self.seen.lock();
        seen.tables.extend(version.iter_tables().map(lsm_tree::Table::id));
        seen.blobs.extend(version.blob_files.list_ids());
        if seen.tables.len() + seen.blobs.len() > seen.max {
            seen.tables.retain(|number| self.tables.join(number.to_string()).exists());
            seen.blobs.retain(|number| self.blobs.join(number.to_string()).exists());
            seen.max = SEEN_MIN + 2 * (seen.tables.len() + seen.blobs.len());
        }
    }

    /// Removes the orphans; how many there were.
    ///
    /// # Errors
    /// What the system said. Those that are left are removed by the next call, or opening.
    pub(super) fn remove(&self, _nobody: &RwLockWriteGuard<'_, ()>, tree: &AnyTree) -> io::Result<usize> {
        self.see(tree);
        let seen = self.seen.lock();
        Ok(sweep(&self.tables, &seen.tables)? + sweep(&self.blobs, &seen.blobs)?)
    }
}

/// Removes files that were not seen.
fn sweep(directory: &Path, seen: &HashSet<u64>) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !seen.contains(&number) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
