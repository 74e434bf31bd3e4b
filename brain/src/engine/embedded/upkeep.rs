//! [`Upkeep`]: what goes on behind the commits. One thread writes full memtables out as tables and then gives the
//! log's segments free; another merges tables.
//!
//! ```text
//! committer ──memtable is full──▶ flush thread ──tables durable──▶ log's segments are free
//!     │                                └──▶ merge thread
//!     └── waits only if two memtables are full already, or merges are far behind
//! ```
//!
//! The first failure poisons the engine: nothing is tried twice, but for what could not begin because the system had no
//! descriptors or memory to give.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use lsm_tree::compaction::{CompactionStrategy, Leveled};
use lsm_tree::{AbstractTree, InternalValue, Memtable};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::engine::embedded::commit::poison;
use crate::engine::embedded::exhaustion::{is_exhaustion, lacks_descriptors, patiently};
use crate::engine::embedded::manifest;
use crate::engine::embedded::open::{Applied, Store};
use crate::engine::embedded::wal::Ring;
use crate::engine::error::{Cause, OpenError, Poison};

/// Memtables that wait to be written out before commits wait: memory and the log are bounded by it.
const SEALED_MAX: usize = 2;
/// From so many unmerged tables on each commit waits a little, and from so many until some are merged: every read
/// has to look into all of them. The numbers are fjall's.
const UNMERGED_SLOW: usize = 20;
const UNMERGED_MAX: usize = 30;

/// The size of a table after everything was written once more, as after a merge.
const TABLE_BYTES: u64 = 64 << 20;

/// A memtable that takes no more writes.
pub(super) struct Full {
    pub(super) memtable: Arc<Memtable>,
    /// The last record of the log that is in it.
    pub(super) record: u64,
}

/// A store whose tables were written once more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewritten {
    /// Bytes of its tables.
    pub(super) bytes: u64,
    /// Those of them that belong to values which nobody can read.
    pub(super) stale: u64,
}

/// The background of a store. Dropping it ends and joins the threads, except in a poisoned engine.
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    store: Arc<Store>,
    ring: Arc<Ring>,
    poison: watch::Sender<Option<Poison>>,
    work: Mutex<Work>,
    /// Told of every change of `work`, and of every table that was written or merged.
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    full: VecDeque<Full>,
    /// The log's next segment should be made ready, with this next record.
    segment: Option<u64>,
    merge: bool,
    stop: bool,
    failed: bool,
}

impl Upkeep {
    /// Starts the threads; they begin with memtables that were full when the store was opened.
    pub(super) fn start(
        store: &Arc<Store>,
        ring: &Arc<Ring>,
        poison: watch::Sender<Option<Poison>>,
        full: Vec<Full>,
    ) -> Result<Arc<Self>, OpenError> {
        let work = Work { full: full.into(), merge: true, ..Work::default() };
        let shared = Arc::new(Shared {
            store: Arc::clone(store),
            ring: Arc::clone(ring),
            poison,
            work: Mutex::new(work),
            changed: Condvar::new(),
        });
        let mut upkeep = Self { shared, threads: Vec::new() };
        upkeep.spawn("engine-flush", Shared::flush)?;
        upkeep.spawn("engine-merge", Shared::merge)?;
        Ok(Arc::new(upkeep))
    }

    fn spawn(&mut self, name: &str, run: fn(&Shared) -> Result<(), Cause>) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        let run = move || {
            // The tree asserts some of what it reads from disk.
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| run(&shared)));
            match ended.unwrap_or_else(|_| Err("a thread failed an assertion".into())) {
                Ok(()) => {}
                Err(cause) if is_exhaustion(&*cause) && shared.work.lock().stop => {} // the log has it
                Err(cause) => shared.fail(&*cause),
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let directory = || self.shared.store.tree_path().to_owned();
        self.threads.push(thread.map_err(|source| OpenError::Io { directory: directory(), source })?);
        Ok(())
    }

    /// Lets a memtable be written out. Called under the lock of what was applied.
    pub(super) fn flush(&self, applied: &mut Applied) {
        applied.logged = 0;
        if let Some(memtable) = self.shared.store.tree().rotate_memtable() {
            self.shared.work.lock().full.push_back(Full { memtable, record: applied.record() });
            self.shared.changed.notify_all();
        }
    }

    /// Lets the log's next segment be made ready.
    pub(super) fn prepare(&self, record: u64) {
        self.shared.work.lock().segment = Some(record);
        self.shared.changed.notify_all();
    }

    /// Waits until a write may be added.
    ///
    /// # Errors
    /// If that will never be: the engine is poisoned.
    pub(super) fn wait(&self) -> Result<(), Cause> {
        let mut work = self.shared.work.lock();
        let mut waited = false;
        loop {
            if work.failed {
                return Err("a background write of the store failed earlier".into());
            }
            let unmerged = self.shared.store.tree().l0_run_count();
            if work.full.len() >= SEALED_MAX || unmerged >= UNMERGED_MAX {
                self.shared.changed.wait(&mut work);
            } else if unmerged >= UNMERGED_SLOW && !waited {
                waited = true;
                let delay = Duration::from_millis(1 + (unmerged - UNMERGED_SLOW) as u64);
                let _merged = self.shared.changed.wait_for(&mut work, delay);
            } else {
                return Ok(());
            }
        }
    }

    /// Waits until all full memtables are written out, or never will be.
    pub(super) fn settle(&self) {
        let mut work = self.shared.work.lock();
        while !work.full.is_empty() && self.shared.poison.borrow().is_none() {
            // Who poisons the engine elsewhere tells nobody here.
            let _changed = self.shared.changed.wait_for(&mut work, Duration::from_millis(100));
        }
    }

    /// Writes out what is in memory, and everything that is in tables once more, without what nobody can read.
    ///
    /// # Errors
    /// What the tree said; what is stored is as before.
    pub(super) fn rewrite(&self) -> Result<Rewritten, Cause> {
        let store = &self.shared.store;
        self.flush(&mut store.applied().lock());
        self.settle();
        store.tree().major_compact(TABLE_BYTES, store.moments().watermark())?;
        store.blobs().synced()?;
        self.shared.refresh();
        Ok(Rewritten { bytes: store.tree().disk_space(), stale: store.tree().stale_blob_bytes() })
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep").finish_non_exhaustive()
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.shared.work.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _panicked = thread.join(); // never: it catches that itself
        }
    }
}

impl Shared {
    /// The thread that writes memtables out. What is full when it is stopped stays in the log.
    fn flush(&self) -> Result<(), Cause> {
        let mut work = self.work.lock();
        loop {
            if work.stop || self.poison.borrow().is_some() {
                return Ok(());
            }
            if let Some(record) = work.segment.take() {
                drop(work);
                let ends = || self.has_ended();
                patiently("the log's next segment", lacks_descriptors, ends, || self.ring.prepare(record))?;
                work = self.work.lock();
            } else if let Some(full) = work.full.front() {
                let (memtable, record) = (Arc::clone(&full.memtable), full.record);
                drop(work);
                self.try_on("writing rows out of memory", || self.write_out(&memtable))?;
                drop(memtable);
                self.ring.release(record);
                self.refresh();
                work = self.work.lock();
                work.full.pop_front();
                work.merge = true;
                self.changed.notify_all();
            } else {
                self.changed.wait(&mut work);
            }
        }
    }

    /// Writes a memtable out as tables. On return they are part of the tree, and durable.
    fn write_out(&self, memtable: &Memtable) -> Result<(), Cause> {
        let tree = self.store.tree();
        let _alone = tree.get_flush_lock();
        let watermark = self.store.moments().watermark();
        let (tables, blobs) = tree.flush_to_tables(newest(memtable, watermark).map(Ok))?.unwrap_or_default();
        self.store.blobs().sync()?; // before the manifest names them
        tree.register_tables(&tables, blobs.as_deref(), None, &[memtable.id()], watermark)?;
        Ok(())
    }

    /// The thread that merges.
    fn merge(&self) -> Result<(), Cause> {
        let strategy: Arc<dyn CompactionStrategy> = Arc::new(Leveled::default());
        let tree = self.store.tree();
        loop {
            {
                let mut work = self.work.lock();
                while !work.merge && !work.stop && !work.failed {
                    self.changed.wait(&mut work);
                }
                if work.stop || self.poison.borrow().is_some() {
                    return Ok(());
                }
                work.merge = false;
            }
            let before = tree.current_version().id();
            self.try_on("a merge of tables", || {
                tree.compact(Arc::clone(&strategy), self.store.moments().watermark())?;
                Ok(self.store.blobs().synced()?)
            })?;
            self.refresh();
            if tree.current_version().id() != before {
                let mut work = self.work.lock();
                work.merge = true; // until there is nothing left to do
                self.changed.notify_all();
            }
        }
    }

    /// A step of the tree, again and again as long as the system lacks what it needs. Not where the manifest on disk is
    /// newer than ours: then the step has failed after it was done, and what it did is learned by opening again.
    fn try_on(&self, what: &'static str, mut step: impl FnMut() -> Result<(), Cause>) -> Result<(), Cause> {
        let ends = || self.has_ended();
        let may_pass = |cause: &Cause| is_exhaustion(&**cause) && self.is_at_its_manifest();
        patiently(what, may_pass, ends, &mut step)
    }

    fn is_at_its_manifest(&self) -> bool {
        let ends = || self.has_ended();
        let read = || manifest::number(self.store.tree_path());
        let on_disk = patiently("the store's manifest", lacks_descriptors, ends, read);
        on_disk.is_ok_and(|number| number == self.store.tree().current_version().id())
    }

    fn has_ended(&self) -> bool {
        self.work.lock().stop || self.poison.borrow().is_some()
    }

    /// Lets readers see a moment after the change of tables: the one before needs the memtable or the tables that
    /// were replaced, and would keep them in memory and on disk until the next write.
    fn refresh(&self) {
        self.store.publish(&self.store.applied().lock());
        let watermark = self.store.moments().watermark();
        let kept =
            self.store.tree().get_version_history_lock().maintenance(self.store.tree_path(), watermark);
        if let Err(error) = kept {
            tracing::warn!(%error, "old manifests of the store could not be removed, it will be tried again");
        }
    }

    fn fail(&self, cause: &(dyn std::error::Error + 'static)) {
        poison(&self.poison, "a background write to the disk failed", cause);
        self.work.lock().failed = true;
        self.changed.notify_all();
    }
}

/// A memtable's rows without those that nobody can read: of the versions of a key below the watermark all but the
/// newest. Versions of a key follow one another, newest first.
fn newest(memtable: &Memtable, watermark: u64) -> impl Iterator<Item = InternalValue> {
    let mut last: Option<lsm_tree::Slice> = None; // the key of which a version below the watermark was given
    memtable.iter().filter(move |item| {
        let key = &item.key;
        if last.as_ref() == Some(&key.user_key) {
            return false;
        }
        if key.seqno < watermark {
            last = Some(key.user_key.clone());
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use lsm_tree::ValueType;

    use super::*;

    #[test]
    fn of_the_versions_that_nobody_tells_apart_the_newest_is_written() {
        let memtable = Memtable::new(0);
        for (key, stamp) in [("a", 1), ("a", 3), ("a", 5), ("a", 9), ("b", 2), ("b", 4), ("c", 7), ("c", 8)] {
            memtable.insert(InternalValue::from_components(key, "value", stamp, ValueType::Value));
        }
        let written: Vec<_> = newest(&memtable, 6)
            .map(|item| (item.key.user_key.escape_ascii().to_string(), item.key.seqno))
            .collect();
        let expected = [("a", 9), ("a", 5), ("b", 4), ("c", 8), ("c", 7)];
        assert_eq!(written, expected.map(|(key, stamp)| (key.to_owned(), stamp)));
    }
}
