//! [`Store`]: a data directory that this process holds: the tree, the log's files, and the lock.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lsm_tree::{AbstractTree, AnyTree, Memtable, SeqNo, SequenceNumberCounter};
use parking_lot::{Mutex, MutexGuard};

use super::blobs::Blobs;
use super::moment::Moments;
use super::rows;
use super::wal::log::Log;
use super::wal::pool::SegmentPool;
use crate::engine::error::Cause;

/// A memtable that takes no more writes.
pub(super) struct Full {
    pub(super) memtable: Arc<Memtable>,
    /// The last record of the log that is in it.
    pub(super) record: u64,
}

/// An open store. The lock outlives what it protects: fields are dropped in order.
pub(super) struct Store {
    tree: AnyTree,
    moments: Moments,
    /// Where stamps come from. The tree takes some for itself, when its set of tables changes.
    stamps: SequenceNumberCounter,
    applied: Mutex<Applied>,
    blobs: Blobs,
    pool: Arc<SegmentPool>,
    /// The tree's directory.
    path: PathBuf,
    _lock: File,
}

/// What the tree holds. Locked from the taking of a stamp until it is published, so that no moment is published
/// between the two.
#[derive(Debug)]
pub(super) struct Applied {
    /// The last record of the log that is in the tree.
    record: u64,
    /// Bytes of the log since the memtable was begun.
    pub(super) logged: u64,
}

impl Applied {
    pub(super) fn record(&self) -> u64 {
        self.record
    }
}

impl Store {
    /// Of a tree that holds everything that its log does.
    pub(super) fn new(
        tree: AnyTree,
        stamps: SequenceNumberCounter,
        blobs: Blobs,
        log: &Log,
        path: PathBuf,
        lock: File,
    ) -> Self {
        let applied = Applied { record: log.next_record() - 1, logged: tree.active_memtable().size() };
        Self {
            moments: Moments::new(stamps.get()),
            tree,
            stamps,
            applied: Mutex::new(applied),
            blobs,
            pool: Arc::clone(log.pool()),
            path,
            _lock: lock,
        }
    }

    pub(super) fn tree(&self) -> &AnyTree {
        &self.tree
    }

    /// The value of a key at a moment.
    ///
    /// # Errors
    /// What the tree said, or that it gave something else than what was written.
    pub(super) fn get(&self, key: &[u8], at: SeqNo) -> Result<Option<Bytes>, Cause> {
        self.tree.get(key, at)?.map(|sealed| unseal(key, &sealed)).transpose()
    }

    pub(super) fn tree_path(&self) -> &Path {
        &self.path
    }

    pub(super) fn moments(&self) -> &Moments {
        &self.moments
    }

    pub(super) fn applied(&self) -> &Mutex<Applied> {
        &self.applied
    }

    /// The next stamp.
    pub(super) fn stamp(&self, _lock: &MutexGuard<'_, Applied>) -> u64 {
        self.stamps.next()
    }

    /// Puts a record's rows into the tree and shows them to readers. They are durable in the log.
    pub(super) fn apply(
        &self,
        applied: &mut MutexGuard<'_, Applied>,
        record: u64,
        stamp: u64,
        rows: &[rows::Row],
    ) {
        for (key, value) in rows {
            match value {
                Some(value) => self.tree.insert(&key[..], rows::seal(key, value), stamp),
                None => self.tree.remove(&key[..], stamp),
            };
        }
        applied.record = record;
        self.publish(applied);
    }

    /// Shows readers all that was applied.
    pub(super) fn publish(&self, _lock: &MutexGuard<'_, Applied>) {
        self.moments.publish(self.stamps.get());
    }

    /// Where the tree keeps large values.
    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Bytes of tables and of the log on disk.
    pub(super) fn size(&self) -> u64 {
        self.tree.disk_space() + self.pool.bytes()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What was written under a key, copied: a slice of a block would keep the whole block in memory for as long as one row
/// lives.
pub(super) fn unseal(key: &[u8], sealed: &[u8]) -> Result<Bytes, Cause> {
    match rows::unseal(key, sealed) {
        Some(value) => Ok(Bytes::copy_from_slice(value)),
        None => Err(format!("the value of {} is not what was written", key.escape_ascii()).into()),
    }
}
