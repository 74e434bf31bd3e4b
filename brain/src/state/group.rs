//! [`GroupState`]: what the writer changes and everybody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use kubebrain_net::kinds::Kinds;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::limit_doubt;
use kubebrain_shared::revision::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::alarm::{AlarmKind, Alarms};
use super::beat::Beat;
use super::changes::RevisionChanges;
use super::ended::Ended;
use super::fence::Fence;
use super::follow::FollowState;
use super::lease::Leases;
use super::metrics::GroupMetrics;
use super::pins::{Pin, Pins};
use super::quota::Share;
use super::unplaced::Unplaced;
use super::values::Values;
use crate::decide::held::Held;
use crate::decide::identity::Identity;
use crate::decide::index::Index;
use crate::engine::{Bounds, Engine};
use crate::events::hub::Hub;
#[cfg(any(test, feature = "faults"))]
use crate::planted::Planted;
use crate::rows::codec::{AlarmsRow, DecidedRow, Layout};

/// Everything that one group keeps in memory, on its master and on its slaves.
///
/// Lock order: `index`, then `leases` or what a slave notes of them, then `pins`; the hub's lock is taken with none of them held.
///
/// On a master the writer changes it, on a slave the one task that follows the master; never both at once.
pub struct GroupState {
    /// The group that this is the state of.
    pub group: GroupName,
    identity: Identity,
    /// The epoch of the master that this is or follows.
    epoch: AtomicU64,
    /// Where each row of the group is stored.
    pub layout: Layout,
    /// The storage below.
    pub engine: Arc<dyn Engine>,
    /// Every uncompacted version of every key, without the values.
    pub index: RwLock<Index>,
    /// The values of those versions: some in memory, all in the engine.
    pub values: Values,
    /// Leases that are granted. Empty on a slave.
    pub leases: Mutex<Leases>,
    /// Alarms that were raised and are not disarmed.
    pub alarms: Alarms,
    /// What this group uses of the quota that all groups of a store have together.
    pub share: Share,
    /// The kinds of keys that requests are about, and their limits.
    pub(crate) kinds: Kinds,
    /// The window of recent events, and who watches them.
    pub hub: Hub,
    window_bytes: usize,
    pub(crate) metrics: GroupMetrics,
    /// Which proofs that this is the master have begun and succeeded, and which requests wait for one.
    pub(crate) fence: Fence,
    /// What a slave follows, and how far it is; says on a master that there is nothing to follow.
    pub(crate) follow: FollowState,
    /// How large keys, values and batches may be in the engine.
    pub bounds: Bounds,
    #[cfg(any(test, feature = "faults"))]
    pub(crate) planted: Planted,
    /// Which keys are this group's. Changed by the writer after what it closes is visible, and by who follows.
    pub held: ArcSwap<Held>,
    /// At the home group's master: the placement of the cluster.
    decided: ArcSwap<DecidedRow>,
    /// Counts the changes of both.
    placed: watch::Sender<u64>,
    unplaced: Unplaced,
    /// The cluster's id, as a placement says it; 0 where none does.
    cluster: AtomicU64,
    committed: AtomicU64,
    compacted: AtomicI64,
    /// Counts how often everything was replaced: what was read before and after does not belong together.
    generation: AtomicU64,
    /// The master is about to leave: those who follow it are told.
    leaving: AtomicBool,
    /// The writer has finished what was taken on, and is gone.
    closed: AtomicBool,
    pins: Pins,
    ended: watch::Sender<Option<Ended>>,
    beat: Beat,
}

/// A writer that was not at work for so long has stopped for good: it looks up each second.
const STANDS_STILL: Duration = Duration::from_secs(15);

/// All keys of a group as of one moment.
#[derive(Debug)]
pub(crate) struct Contents {
    pub index: Index,
    /// What the rows of these keys take in the engine.
    pub bytes: u64,
    pub committed: u64,
    /// -1 where nothing was compacted.
    pub compacted: i64,
}

/// What a group's state is made of.
pub(crate) struct Parts {
    pub(crate) group: GroupName,
    pub(crate) identity: Identity,
    pub(crate) layout: Layout,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) values: Values,
    pub(crate) share: Share,
    /// Bytes of recent events kept for watchers.
    pub(crate) window_bytes: usize,
    pub(crate) held: Held,
    pub(crate) decided: DecidedRow,
    pub(crate) contents: Contents,
    pub(crate) metrics: GroupMetrics,
    pub(crate) fence: Fence,
    pub(crate) follow: FollowState,
    #[cfg(any(test, feature = "faults"))]
    pub(crate) planted: Planted,
}

impl GroupState {
    pub(crate) fn new(parts: Parts) -> Self {
        let Contents { index, committed, compacted, .. } = parts.contents;
        let (kinds, hub) = (Kinds::default(), Hub::new(parts.window_bytes, committed));
        kinds.go_by(parts.held.table());
        hub.set_prefix(parts.held.table().prefix());
        Self {
            bounds: parts.engine.bounds(),
            fence: parts.fence,
            follow: parts.follow,
            #[cfg(any(test, feature = "faults"))]
            planted: parts.planted,
            group: parts.group,
            epoch: AtomicU64::new(parts.identity.epoch),
            identity: parts.identity,
            layout: parts.layout,
            engine: parts.engine,
            index: RwLock::new(index),
            values: parts.values,
            leases: Mutex::default(),
            alarms: Alarms::default(),
            share: parts.share,
            kinds,
            hub,
            window_bytes: parts.window_bytes,
            metrics: parts.metrics,
            cluster: AtomicU64::new(parts.held.document().cluster()),
            held: ArcSwap::from_pointee(parts.held),
            decided: ArcSwap::from_pointee(parts.decided),
            placed: watch::Sender::new(0),
            unplaced: Unplaced::default(),
            committed: AtomicU64::new(committed),
            compacted: AtomicI64::new(compacted),
            generation: AtomicU64::new(0),
            beat: Beat::none(),
            leaving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pins: Pins::default(),
            ended: watch::Sender::new(None),
        }
    }

    /// Who answers, in the present epoch.
    pub fn identity(&self) -> Identity {
        let cluster = match self.cluster.load(Ordering::Relaxed) {
            0 => self.identity.cluster,
            placed => placed,
        };
        Identity { epoch: self.epoch.load(Ordering::Acquire), cluster, ..self.identity }
    }

    /// From now on keys are the group's by this. Watch streams look at whose their keys are.
    pub(crate) fn hold(&self, held: Held) {
        self.cluster.store(held.document().cluster(), Ordering::Relaxed);
        let before = self.held.load();
        if before.table().limits() != held.table().limits() {
            for (kind, meant) in held.table().limit_doubts() {
                tracing::warn!(group = %self.group, "placement {}: {}", held.document().number(), limit_doubt(kind, &meant));
            }
        }
        self.kinds.go_by(held.table());
        self.hub.set_prefix(held.table().prefix());
        self.held.store(Arc::new(held));
        self.placed.send_modify(|count| *count += 1);
        self.hub.wake();
    }

    /// At the home group's master: the placement of the cluster.
    pub fn decided(&self) -> Arc<DecidedRow> {
        self.decided.load_full()
    }

    pub(crate) fn decide(&self, decided: DecidedRow) {
        self.decided.store(Arc::new(decided));
        self.placed.send_modify(|count| *count += 1);
    }

    /// Counts the changes of what the group goes by, and of what the home group has decided.
    pub fn placed(&self) -> watch::Receiver<u64> {
        self.placed.subscribe()
    }

    /// Why nothing is served, for people; `None` of a group that a placement names, or that has what is recorded as its own.
    pub fn unplaced(&self) -> Option<String> {
        self.unplaced.why(&self.held.load(), &self.group)
    }

    /// It waits for this, as a sentence; true where that is news.
    pub fn waits_for(&self, what: &str) -> bool {
        self.unplaced.says(what)
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// True until it is promoted, where it has begun as a slave.
    pub fn is_slave(&self) -> bool {
        self.follow.is_slave()
    }

    /// Grows when everything is replaced: see `Self::replace`.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// True once [`Store::leave`](crate::store::Store::leave) was called.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.hub.stir();
    }

    /// True where nothing will be written any more, and nothing is on its way.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.hub.stir();
    }

    /// Makes whole revisions visible that the index has, oldest first: values, committed revision, watchers; then a
    /// compaction. So whoever hears of a revision can read it.
    pub(crate) fn show(&self, revisions: Vec<RevisionChanges>, closes: u64, compacted: Option<u64>) {
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
    pub(crate) fn replace(&self, contents: Contents) {
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

    /// Ends reads and watches that have begun: what they have read does not belong to what comes next.
    pub(crate) fn cut_off(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.hub.wake();
    }

    /// Every write up to here is durable, visible and published; nothing up to here will ever appear again.
    pub fn committed(&self) -> Revision {
        Revision::new(self.committed.load(Ordering::Acquire))
    }

    pub(crate) fn set_committed(&self, revision: u64) {
        let before = self.committed.swap(revision, Ordering::AcqRel);
        assert!(before <= revision, "the committed revision never goes back");
    }

    /// The alarms of a row stand, and no others.
    pub(crate) fn set_alarms(&self, row: &AlarmsRow) {
        self.alarms.replace(row);
        self.share.set_alarmed(self.alarms.has(AlarmKind::NoSpace));
    }

    /// Reads below it are refused; -1 where nothing was compacted yet.
    pub fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    pub(crate) fn set_compacted(&self, revision: u64) {
        self.compacted.store(revision.cast_signed(), Ordering::Release);
    }

    /// True if reads at `revision` are refused.
    pub fn is_compacted(&self, revision: Revision) -> bool {
        revision.to_wire() < self.compacted()
    }

    /// Pins the committed revision: a read of "now" is never refused because of a compaction.
    pub fn pin(&self) -> Pin<'_> {
        self.pins.pin(|| self.committed().get())
    }

    /// Pins what compaction has kept so far, however far it goes meanwhile. The second half is the compacted revision.
    pub fn pin_history(&self) -> (Pin<'_>, i64) {
        let mut compacted = -1;
        let pin = self.pins.pin(|| {
            compacted = self.compacted();
            u64::try_from(compacted).unwrap_or(0)
        });
        (pin, compacted)
    }

    /// Versions that only reads at or below this revision need may go.
    pub(crate) fn sweepable(&self) -> u64 {
        self.pins.lowest_or(|| u64::try_from(self.compacted()).unwrap_or(0))
    }

    pub(crate) fn end(&self, ended: Ended) {
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
    pub(crate) fn beat(&self) {
        self.beat.beat();
    }

    /// The writer has ended in good order.
    pub(crate) fn beat_no_more(&self) {
        self.beat.stop();
    }

    /// False if the writer stands still: it is there, and was not at work for so long. One that waits for the storage
    /// is at work.
    pub fn is_beating(&self, within: Duration) -> bool {
        self.beat.is_beating(within)
    }

    /// Whether the group can be served, for as much as is known here.
    ///
    /// # Errors
    /// A sentence about why it cannot.
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

    /// True once the group has ended: see [`Self::ended`].
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }
}
