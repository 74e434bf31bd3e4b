//! [`Shared`]: what the writer changes and everybody reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::alarm::Alarms;
use super::answer::Identity;
use super::codec::{Layout, Record};
use super::fence::Fence;
use super::index::Index;
use super::lease::Leases;
use super::metrics::GroupMetrics;
use super::quota::Share;
use super::values::Values;
use crate::engine::{Bounds, Engine};
use crate::watch::Hub;

/// Lock order: `index`, then `leases`, then `pins`; the hub's lock is taken with none of them held.
pub struct Shared {
    /// The group.
    pub group: GroupName,
    /// Who answers.
    pub identity: Identity,
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
    pub(crate) metrics: GroupMetrics,
    /// What makes answers fresh.
    pub(crate) fence: Fence,
    /// What the engine holds at once.
    pub bounds: Bounds,
    #[cfg(any(test, feature = "faults"))]
    pub(super) planted: super::Planted,
    /// Which keys are this group's. Changed by the writer, between two writes.
    pub placement: ArcSwap<Placement>,
    committed: AtomicU64,
    compacted: AtomicI64,
    /// Revisions that reads are at, with how many.
    pins: Mutex<BTreeMap<u64, usize>>,
    ended: watch::Sender<Option<Ended>>,
}

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
        index: Index,
        values: Values,
        leases: Leases,
        alarms: Alarms,
        share: Share,
        window_bytes: usize,
        placement: Arc<Placement>,
        committed: u64,
        compacted: i64,
        metrics: GroupMetrics,
        fence: Fence,
    ) -> Self {
        Self {
            bounds: engine.bounds(),
            fence,
            #[cfg(any(test, feature = "faults"))]
            planted: super::Planted::default(),
            group,
            identity,
            layout,
            engine,
            index: RwLock::new(index),
            values,
            leases: Mutex::new(leases),
            alarms,
            share,
            hub: Hub::new(window_bytes, committed),
            metrics,
            placement: ArcSwap::new(placement),
            committed: AtomicU64::new(committed),
            compacted: AtomicI64::new(compacted),
            pins: Mutex::new(BTreeMap::new()),
            ended: watch::Sender::new(None),
        }
    }

    /// Every write up to here is durable, visible and published; nothing up to here will ever appear again.
    pub fn committed(&self) -> Revision {
        Revision::new(self.committed.load(Ordering::Acquire))
    }

    pub(super) fn set_committed(&self, revision: u64) {
        let before = self.committed.swap(revision, Ordering::AcqRel);
        assert!(before <= revision, "the committed revision never goes back");
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
