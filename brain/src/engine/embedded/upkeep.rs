//! [`Upkeep`]: what goes on behind the commits. One thread writes full memtables out as tables and then gives the
//! log's segments free; another merges tables.
//!
//! ```text
//! committer ──memtable is full──▶ flush thread ──tables durable──▶ log's segments are free
//!     │                                └──▶ merge thread
//!     └── waits only if two memtables are full already, or merges are far behind
//! ```
//!
//! The first failure poisons the engine: nothing is tried twice, but for two: what could not begin because the system had
//! no descriptors or memory to give; and want of room, as long as the tree is as it was: what could not be written is
//! given up and written anew later, and meanwhile nothing is added. See [`Room`].

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

use crate::engine::embedded::cause::{is_want_of_room, was_want_of_room};
use crate::engine::embedded::exhaustion::{is_exhaustion, lacks_descriptors, patiently};
use crate::engine::embedded::manifest;
use crate::engine::embedded::orphans::Orphans;
use crate::engine::embedded::poison::{WriteError, poison};
use crate::engine::embedded::room::Room;
use crate::engine::embedded::store::{Applied, Full, Store};
use crate::engine::embedded::wal::pool::SegmentPool;
use crate::engine::error::{Cause, OpenError, Poison};

/// Memtables that wait to be written out before commits wait: memory and the log are bounded by it.
const SEALED_MAX: usize = 2;
/// From so many unmerged tables on each commit waits a little, and from so many until some are merged: every read
/// has to look into all of them. The numbers are fjall's.
const UNMERGED_SLOW: usize = 20;
const UNMERGED_MAX: usize = 30;

/// Between two looks at the disk's room.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A merge for which there was no room is tried again after so long: it reads and writes much in vain.
const MERGE_AGAIN: Duration = Duration::from_secs(10);

/// The size of a table after everything was written once more, as after a merge.
const TABLE_BYTES: u64 = 64 << 20;

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
    pool: Arc<SegmentPool>,
    room: Arc<Room>,
    orphans: Orphans,
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
    /// The oldest memtable, or the segment, could not be written for want of room.
    starved: bool,
    stop: bool,
    failed: bool,
}

impl Upkeep {
    /// Starts the threads; they begin with memtables that were full when the store was opened.
    pub(super) fn start(
        store: &Arc<Store>,
        pool: &Arc<SegmentPool>,
        room: &Arc<Room>,
        poison: watch::Sender<Option<Poison>>,
        full: Vec<Full>,
    ) -> Result<Arc<Self>, OpenError> {
        let work = Work { full: full.into(), merge: true, ..Work::default() };
        let shared = Arc::new(Shared {
            store: Arc::clone(store),
            pool: Arc::clone(pool),
            room: Arc::clone(room),
            orphans: Orphans::new(store.tree(), store.tree_path()),
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
    /// If that will never be, as the engine is poisoned, or not before there is room on the disk.
    pub(super) fn wait(&self) -> Result<(), WriteError> {
        let mut work = self.shared.work.lock();
        let mut waited = false;
        loop {
            if work.failed {
                return Err(WriteError::Refused("a background write of the store failed earlier".into()));
            }
            let is_short = self.shared.room.is_short();
            if is_short && work.full.len() >= SEALED_MAX {
                return Err(WriteError::NoSpace);
            }
            let unmerged = self.shared.store.tree().l0_run_count();
            if is_short {
                return Ok(()); // merges need room
            } else if work.full.len() >= SEALED_MAX || unmerged >= UNMERGED_MAX {
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
    ///
    /// # Errors
    /// If the disk has no room for them.
    pub(super) fn settle(&self) -> Result<(), Cause> {
        let mut work = self.shared.work.lock();
        while !work.full.is_empty() && self.shared.poison.borrow().is_none() {
            if work.starved {
                return Err("the disk has no room to write out what is in memory".into());
            }
            // Who poisons the engine elsewhere tells nobody here.
            let _changed = self.shared.changed.wait_for(&mut work, Duration::from_millis(100));
        }
        Ok(())
    }

    /// Writes out what is in memory, and everything that is in tables once more, without what nobody can read.
    ///
    /// # Errors
    /// What the tree said; what is stored is as before.
    pub(super) fn rewrite(&self) -> Result<Rewritten, Cause> {
        let store = &self.shared.store;
        self.flush(&mut store.applied().lock());
        self.settle()?;
        let rewrite = || -> Result<(), Cause> {
            Ok(store.tree().major_compact(TABLE_BYTES, store.moments().watermark())?)
        };
        match self.shared.make(rewrite)? {
            Made::Done => {}
            Made::NoRoom(cause) => return Err(cause),
        }
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

/// How the making of tables went, where the tree is what it was before or what it should be.
enum Made {
    Done,
    /// The disk had no room; the tree is as it was.
    NoRoom(Cause),
}

impl Shared {
    /// The thread that writes memtables out, and looks after the room for them. What is full when it is stopped stays in
    /// the log.
    fn flush(&self) -> Result<(), Cause> {
        let mut work = self.work.lock();
        loop {
            if work.stop || self.poison.borrow().is_some() {
                return Ok(());
            }
            let segment = work.segment;
            let full = work.full.front().map(|full| (Arc::clone(&full.memtable), full.record));
            drop(work);
            let mut starved = match segment {
                Some(record) => self.make_segment(record)?,
                None => false,
            };
            if let Some((memtable, record)) = full {
                starved |= self.write_out_or_starve(memtable, record)?;
            }
            self.room.look(self.pool.wanted(), starved);
            work = self.work.lock();
            work.starved = starved;
            let is_idle = work.segment.is_none() && work.full.is_empty();
            if (is_idle || starved) && !work.stop {
                let _looked = self.changed.wait_for(&mut work, LOOK_EVERY);
            }
        }
    }

    /// Makes the log's next segment ready; true if there is no room for it.
    fn make_segment(&self, record: u64) -> Result<bool, Cause> {
        let prepare = || self.pool.prepare(record);
        match patiently("the log's next segment", lacks_descriptors, || self.has_ended(), prepare) {
            Ok(()) => {
                // The log may have turned to it, and want the next one.
                self.work.lock().segment.take_if(|wanted| *wanted == record);
                Ok(false)
            }
            Err(error) if is_want_of_room(&error) => {
                self.room.ran_out();
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the oldest full memtable out and sets its part of the log free; true if there is no room for it.
    fn write_out_or_starve(&self, memtable: Arc<Memtable>, record: u64) -> Result<bool, Cause> {
        // Less than that will hardly do, and trying costs the room that there is.
        let starved = self.work.lock().starved;
        if starved && !self.room.has(memtable.size() / 2) && !self.room.spend() {
            return Ok(true);
        }
        let write_out = || self.try_on("writing rows out of memory", || self.write_out(&memtable));
        let mut made = self.make(write_out)?;
        if matches!(made, Made::NoRoom(_)) && self.room.spend() {
            made = self.make(write_out)?;
        }
        if matches!(made, Made::NoRoom(_)) {
            return Ok(true);
        }
        drop(memtable);
        self.pool.release(record);
        self.refresh();
        let mut work = self.work.lock();
        work.full.pop_front();
        work.merge = true;
        self.changed.notify_all();
        Ok(false)
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

    /// Makes tables. If the disk has no room for them, what was begun is removed, and it may be tried again.
    ///
    /// # Errors
    /// Any other failure; or the tree's manifest may be another one on disk than in memory.
    fn make(&self, make: impl FnOnce() -> Result<(), Cause>) -> Result<Made, Cause> {
        let tree = self.store.tree();
        let cause = {
            let _making = self.orphans.making();
            match make() {
                Ok(()) => {
                    self.orphans.see(tree);
                    return Ok(Made::Done);
                }
                Err(cause) => cause,
            }
        };
        if !was_want_of_room(&*cause) {
            return Err(cause);
        }
        self.room.ran_out();
        let nobody = self.orphans.nobody_makes();
        if !self.is_at_its_manifest() {
            return Err(cause);
        }
        let remove = || self.orphans.remove(&nobody, tree);
        let removed = patiently("tidying a full disk", lacks_descriptors, || self.has_ended(), remove)?;
        tracing::debug!(removed, "the disk has no room for tables: {cause}");
        Ok(Made::NoRoom(cause))
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
            let compact = || {
                self.try_on("a merge of tables", || {
                    Ok(tree.compact(Arc::clone(&strategy), self.store.moments().watermark())?)
                })
            };
            if matches!(self.make(compact)?, Made::NoRoom(_)) {
                let _not_named = self.store.blobs().synced();
                let mut work = self.work.lock();
                work.merge = true;
                if !work.stop {
                    let _tried = self.changed.wait_for(&mut work, MERGE_AGAIN);
                }
                continue;
            }
            self.store.blobs().synced()?;
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
