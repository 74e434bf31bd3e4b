//! [`Shared`]: what the writer changes and everybody reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::alarm::{AlarmKind, Alarms};
use super::answer::Identity;
use super::codec::{AlarmsRow, Layout, Record};
use super::fence::Fence;
use super::follow::Course;
use super::index::Index;
use super::landing::RevisionChanges;
use super::lease::Leases;
use super::metrics::GroupMetrics;
use super::quota::Share;
use super::values::Values;
use crate::engine::{Bounds, Engine};
use crate::watch::Hub;

/// Lock order: `index`, then `leases` or what a slave notes of them, then `pins`; the hub's lock is taken with none of them held.
///
/// The writer of a master changes it, or the one task that follows a master; never both.
pub struct Shared {
    /// The group.
    pub group: GroupName,
    identity: Identity,
    /// The term of the master that this is or follows.
    term: AtomicU64,
    /// Stored keys.
    pub layout: Layout,
    /// The storage.
    pub engine: Arc<dyn Engine>,
    /// Versions.
    pub index: RwLock<Index>,
    /// Values.
    pub values: Values,
    /// Leases.
    pub leases: Mutex<Leases>,
    /// Alarms that stand.
    pub alarms: Alarms,
    /// What this group has of the store's quota.
    pub share: Share,
    /// Watchers.
    pub hub: Hub,
    window_bytes: usize,
    pub(crate) metrics: GroupMetrics,
    /// What makes answers fresh.
    pub(crate) fence: Fence,
    /// Of a slave: what it follows, and how far it is.
    pub(crate) course: Course,
    /// What the engine holds at once.
    pub bounds: Bounds,
    #[cfg(any(test, feature = "faults"))]
    pub(super) planted: super::Planted,
    /// Which keys are this group's. Changed by the writer, between two writes.
    pub placement: ArcSwap<Placement>,
    committed: AtomicU64,
    compacted: AtomicI64,
    /// Counts how often everything was replaced: what was read before and after does not belong together.
    generation: AtomicU64,
    /// The master is about to leave: those who follow it are told.
    leaving: AtomicBool,
    /// The writer has finished what was taken on, and is gone.
    closed: AtomicBool,
    /// Revisions that reads are at, with how many.
    pins: Mutex<BTreeMap<u64, usize>>,
    ended: watch::Sender<Option<Ended>>,
    /// When the writer was last seen at work, in milliseconds after `began`; `u64::MAX` where there is none.
    beat: AtomicU64,
    began: Instant,
}

/// A writer that was not at work for so long has stopped for good: it looks up each second.
const STANDS_STILL: Duration = Duration::from_secs(15);

/// Why a group's writer ended by itself. The process should end too: another master may be at work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Another master has taken over.
    #[error(
        "group {group}: brain {by:?} took over (epoch {epoch}, batch {number}), this one stops; without elections only \
        one brain of a group may run"
    )]
    Deposed {
        /// The group.
        group: GroupName,
        /// The other master's name.
        by: String,
        /// Its term.
        epoch: u64,
        /// Its takeover, or what stands where a batch of ours should be.
        number: u64,
    },
    /// Planted: see `Planted::unknown_is_failed`.
    #[cfg(any(test, feature = "faults"))]
    #[error("a batch was given up")]
    Failed,
    /// The storage turned a batch away or failed.
    #[error("group {group}: the storage failed: {reason}")]
    Storage {
        /// The group.
        group: GroupName,
        /// What it said.
        reason: String,
    },
    /// A task without which the group cannot be served is gone.
    #[error(
        "group {group}: {what} has panicked, which is a bug: this process cannot serve the group any more"
    )]
    Panicked {
        /// The group.
        group: GroupName,
        /// The task.
        what: &'static str,
    },
}

/// Dropped with a task that a group cannot do without.
struct Watched {
    shared: Arc<Shared>,
    what: &'static str,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (group, what) = (self.shared.group.clone(), self.what);
            self.shared.end(Ended::Panicked { group, what });
        }
    }
}

/// Starts a task that a group cannot do without: where it panics, the group ends.
pub(super) fn keep<T: Send + 'static>(
    shared: &Arc<Shared>,
    what: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let watched = Watched { shared: shared.clone(), what };
    tokio::spawn(async move {
        let _watched = watched;
        task.await
    })
}

impl Ended {
    /// `record` stands under the number of our next batch.
    pub(super) fn deposed(shared: &Shared, number: u64, record: &Record) -> Self {
        Self::Deposed {
            group: shared.group.clone(),
            by: record.takeover.clone(),
            epoch: record.epoch,
            number,
        }
    }
}

/// All keys as of one moment.
#[derive(Debug)]
pub(super) struct Contents {
    pub index: Index,
    /// What its rows take.
    pub bytes: u64,
    pub committed: u64,
    /// -1 where nothing was compacted.
    pub compacted: i64,
}

/// A revision whose versions stay while this lives.
pub struct Pin<'a> {
    shared: &'a Shared,
    revision: u64,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once, with one argument per part")]
    pub(super) fn new(
        group: GroupName,
        identity: Identity,
        layout: Layout,
        engine: Arc<dyn Engine>,
        values: Values,
        share: Share,
        window_bytes: usize,
        placement: Arc<Placement>,
        contents: Contents,
        metrics: GroupMetrics,
        fence: Fence,
        course: Course,
    ) -> Self {
        let Contents { index, committed, compacted, .. } = contents;
        Self {
            bounds: engine.bounds(),
            fence,
            course,
            #[cfg(any(test, feature = "faults"))]
            planted: super::Planted::default(),
            group,
            term: AtomicU64::new(identity.term),
            identity,
            layout,
            engine,
            index: RwLock::new(index),
            values,
            leases: Mutex::default(),
            alarms: Alarms::default(),
            share,
            hub: Hub::new(window_bytes, committed),
            window_bytes,
            metrics,
            placement: ArcSwap::new(placement),
            committed: AtomicU64::new(committed),
            compacted: AtomicI64::new(compacted),
            generation: AtomicU64::new(0),
            beat: AtomicU64::new(u64::MAX),
            began: Instant::now(),
            leaving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pins: Mutex::new(BTreeMap::new()),
            ended: watch::Sender::new(None),
        }
    }

    /// Who answers, in the present term.
    pub fn identity(&self) -> Identity {
        Identity { term: self.term.load(Ordering::Acquire), ..self.identity }
    }

    pub(super) fn set_term(&self, term: u64) {
        self.term.store(term, Ordering::Release);
    }

    /// True until it is promoted, where it has begun as a slave.
    pub fn is_slave(&self) -> bool {
        self.course.is_slave()
    }

    /// Grows when everything is replaced: see `Self::replace`.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// True once [`Store::leave`](super::Store::leave) was called.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.hub.stir();
    }

    /// True where nothing will be written any more, and nothing is on its way.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.hub.stir();
    }

    /// Makes whole revisions visible that the index has, oldest first: values, committed revision, watchers; then a
    /// compaction. So whoever hears of a revision can read it.
    pub(super) fn show(&self, revisions: Vec<RevisionChanges>, closes: u64, compacted: Option<u64>) {
        let mut events = Vec::with_capacity(revisions.len());
        for revision in revisions {
            for change in revision.changes.iter().filter(|change| !change.version.is_tombstone()) {
                self.values.insert(change.key.clone(), revision.revision, change.kv.clone());
            }
            events.push(revision.into_events(&self.values));
        }
        let closed = closes.max(self.committed().get());
        self.set_committed(closed);
        self.hub.publish(events, closed);
        if let Some(compacted) = compacted {
            self.set_compacted(compacted);
            self.hub.stir();
        }
    }

    /// Puts other contents in the place of all keys. Reads that have begun begin anew, watch streams end.
    pub(super) fn replace(&self, contents: Contents) {
        {
            let mut index = self.index.write();
            // Under the lock: whoever has read of the new index finds it out.
            self.generation.fetch_add(1, Ordering::AcqRel);
            *index = contents.index;
            self.share.reset(contents.bytes);
            self.set_committed(contents.committed);
            self.compacted.store(contents.compacted, Ordering::Release);
        }
        self.hub.reset(self.window_bytes, contents.committed);
    }

    /// Nothing that was read, and no watch, goes on.
    pub(super) fn cut_off(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.hub.wake();
    }

    /// Every write up to here is durable, visible and published; nothing up to here will ever appear again.
    pub fn committed(&self) -> Revision {
        Revision::new(self.committed.load(Ordering::Acquire))
    }

    pub(super) fn set_committed(&self, revision: u64) {
        let before = self.committed.swap(revision, Ordering::AcqRel);
        assert!(before <= revision, "the committed revision never goes back");
    }

    /// The alarms of a row stand, and no others.
    pub(super) fn set_alarms(&self, row: &AlarmsRow) {
        self.alarms.replace(row);
        self.share.set_alarmed(self.alarms.has(AlarmKind::NoSpace));
    }

    /// Reads below it are refused; -1 where nothing was compacted yet.
    pub fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    pub(super) fn set_compacted(&self, revision: u64) {
        self.compacted.store(revision.cast_signed(), Ordering::Release);
    }

    /// True if reads at `revision` are refused.
    pub fn is_compacted(&self, revision: Revision) -> bool {
        revision.to_wire() < self.compacted()
    }

    /// Pins the committed revision: a read of "now" is never refused because of a compaction.
    pub fn pin(&self) -> Pin<'_> {
        let mut pins = self.pins.lock();
        let revision = self.committed().get();
        *pins.entry(revision).or_default() += 1;
        Pin { shared: self, revision }
    }

    /// Pins what compaction has kept so far, however far it goes meanwhile. The second half is the compacted revision.
    pub fn pin_history(&self) -> (Pin<'_>, i64) {
        let mut pins = self.pins.lock();
        // Read under the lock: whatever is swept beside this was compacted before.
        let compacted = self.compacted();
        let revision = u64::try_from(compacted).unwrap_or(0);
        *pins.entry(revision).or_default() += 1;
        (Pin { shared: self, revision }, compacted)
    }

    /// Versions that only reads at or below this revision need may go.
    pub(super) fn sweepable(&self) -> u64 {
        let pins = self.pins.lock();
        let compacted = u64::try_from(self.compacted()).unwrap_or(0);
        pins.first_key_value().map_or(compacted, |(pinned, _)| compacted.min(*pinned))
    }

    pub(super) fn end(&self, ended: Ended) {
        self.fence.end();
        self.ended.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                tracing::error!(group = %self.group, "{ended}");
                *state = Some(ended);
            }
            first
        });
    }

    /// The writer is at work.
    pub(super) fn beat(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.beat.store(millis, Ordering::Relaxed);
    }

    /// The writer has ended in good order.
    pub(super) fn beat_no_more(&self) {
        self.beat.store(u64::MAX, Ordering::Relaxed);
    }

    /// False if the writer stands still: it is there, and was not at work for so long. One that waits for the storage
    /// is at work.
    pub fn is_beating(&self, within: Duration) -> bool {
        let beat = self.beat.load(Ordering::Relaxed);
        beat == u64::MAX || self.began.elapsed().saturating_sub(Duration::from_millis(beat)) < within
    }

    /// Whether the group can be served, for as much as is known here.
    ///
    /// # Errors
    /// Why not.
    pub fn works(&self) -> Result<(), String> {
        if self.has_ended() {
            return Err("the store has ended".to_owned());
        }
        if !self.is_beating(STANDS_STILL) {
            return Err(format!("the task that orders writes to group {} stands still", self.group));
        }
        Ok(())
    }

    /// What streams end with when this process leaves them: where others can serve the group, one of them will.
    pub fn leaves_as(&self) -> Fault {
        if self.engine.is_shared() { Fault::LeaderChanged } else { Fault::Stopped }
    }

    /// Returns when the group's writer has ended by itself.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&self) -> Ended {
        let mut state = self.ended.subscribe();
        loop {
            if let Some(ended) = state.borrow_and_update().clone() {
                return ended;
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// True once it has.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }
}

impl Pin<'_> {
    /// The pinned revision.
    pub const fn revision(&self) -> Revision {
        Revision::new(self.revision)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}
