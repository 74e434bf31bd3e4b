//! [`Course`]: what a slave follows and how far it is, for all that read it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::{Fenced, Following, Upstream};
use crate::mvcc::fence;
use crate::mvcc::index::{Index, Version};
use crate::mvcc::lease::Leases;
use crate::mvcc::shared::Shared;

/// A question that is not answered for so long is given up.
const QUESTION_MAX: Duration = Duration::from_secs(2);

/// How far a slave must be before it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// Applied up to here.
    pub(crate) revision: u64,
    /// Compacted up to here, or -1.
    pub(crate) compacted: i64,
    /// By a placement of this version; 0 is any.
    pub(crate) placement: u64,
}

/// See the module. On a master it says that there is nothing to follow.
pub(crate) struct Course {
    slave: AtomicBool,
    loaded: AtomicBool,
    /// The placement is the master's.
    agreed: AtomicBool,
    /// The master has taken compacted versions up to here out of the engine.
    swept: AtomicU64,
    /// A batch of the log up to which everything is applied; 0 where none is known.
    batch: AtomicU64,
    /// Keys that hang on leases: whoever is promoted does not look for them.
    leased: Mutex<HashMap<Bytes, i64>>,
    upstream: watch::Sender<Option<Arc<dyn Upstream>>>,
    state: watch::Sender<Following>,
    /// An answer has waited in vain for what should have been applied.
    late: Notify,
}

impl Course {
    fn new(slave: bool) -> Self {
        Self {
            slave: AtomicBool::new(slave),
            loaded: AtomicBool::new(false),
            agreed: AtomicBool::new(false),
            swept: AtomicU64::new(0),
            batch: AtomicU64::new(0),
            leased: Mutex::default(),
            upstream: watch::Sender::new(None),
            state: watch::Sender::new(Following::default()),
            late: Notify::new(),
        }
    }

    /// Of one that follows nobody yet.
    pub(in crate::mvcc) fn slave() -> Self {
        Self::new(true)
    }

    /// Of one that follows nobody.
    pub(in crate::mvcc) fn master() -> Self {
        Self::new(false)
    }

    pub(crate) fn is_slave(&self) -> bool {
        self.slave.load(Ordering::Acquire)
    }

    /// True where there are keys to be read.
    pub(crate) fn is_loaded(&self) -> bool {
        !self.is_slave() || self.loaded.load(Ordering::Acquire)
    }

    pub(super) fn set_loaded(&self, loaded: bool) {
        self.loaded.store(loaded, Ordering::Release);
        self.change(|state| state.loaded = loaded);
    }

    pub(super) fn set_agreed(&self, agreed: bool) {
        self.agreed.store(agreed, Ordering::Release);
    }

    pub(super) fn is_agreed(&self) -> bool {
        self.agreed.load(Ordering::Acquire)
    }

    /// See the field.
    pub(in crate::mvcc) fn swept(&self) -> u64 {
        self.swept.load(Ordering::Acquire)
    }

    pub(super) fn raise_swept(&self, swept: u64) {
        self.swept.fetch_max(swept, Ordering::AcqRel);
    }

    pub(super) fn batch(&self) -> u64 {
        self.batch.load(Ordering::Acquire)
    }

    pub(super) fn raise_batch(&self, batch: u64) {
        self.batch.fetch_max(batch, Ordering::AcqRel);
    }

    /// All keys are these.
    pub(super) fn set_leased(&self, index: &Index) {
        let leased = index.newest().filter(|(_, newest)| newest.lease != 0);
        *self.leased.lock() = leased.map(|(key, newest)| (key.clone(), newest.lease)).collect();
    }

    /// A key has a new version.
    pub(super) fn note_lease(&self, key: &Bytes, version: &Version) {
        let mut leased = self.leased.lock();
        match version.lease {
            0 if leased.is_empty() => {}
            0 => drop(leased.remove(key)),
            lease => drop(leased.insert(key.clone(), lease)),
        }
    }

    /// Gives the leases of the group their keys; there is nothing to note any more.
    pub(super) fn attach_leased(&self, leases: &mut Leases) {
        for (key, lease) in std::mem::take(&mut *self.leased.lock()) {
            leases.move_key(&key, 0, lease);
        }
    }

    pub(super) fn attach(&self, upstream: Arc<dyn Upstream>) {
        self.change(|state| {
            state.level = false;
            state.leaving = false;
            "asking the master".clone_into(&mut state.trouble);
        });
        self.upstream.send_replace(Some(upstream));
    }

    pub(super) fn detach(&self, why: &str) {
        self.change(|state| {
            state.level = false;
            why.clone_into(&mut state.trouble);
        });
        self.upstream.send_replace(None);
    }

    pub(super) fn upstream(&self) -> watch::Receiver<Option<Arc<dyn Upstream>>> {
        self.upstream.subscribe()
    }

    pub(super) fn state(&self) -> watch::Receiver<Following> {
        self.state.subscribe()
    }

    pub(in crate::mvcc) fn is_level(&self) -> bool {
        self.state.borrow().level
    }

    /// Changes what is said, and tells of it where it is another.
    pub(super) fn change(&self, change: impl FnOnce(&mut Following)) {
        self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            Following { level_at: None, ..before } != Following { level_at: None, ..state.clone() }
        });
    }

    /// It heard of its master, and is level.
    pub(super) fn heard(&self) {
        self.state.send_if_modified(|state| {
            state.level_at = Some(Instant::now());
            false
        });
    }

    pub(super) fn promoted(&self) {
        self.slave.store(false, Ordering::Release);
        drop(std::mem::take(&mut *self.leased.lock()));
        self.change(|state| {
            state.level = false;
            "it is the master".clone_into(&mut state.trouble);
        });
    }

    pub(crate) fn is_late(&self) {
        self.late.notify_one();
    }

    /// Returns when an answer has waited in vain.
    pub(super) async fn late(&self) {
        self.late.notified().await;
    }

    /// Refuses what would only wait in vain.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`].
    pub(crate) fn may_ask(&self) -> Result<(), Fault> {
        let asks = self.is_loaded() && self.is_agreed() && self.upstream.borrow().is_some();
        if asks { Ok(()) } else { Err(Fault::LeaderChanged) }
    }

    /// What the master says. A question that its master's end leaves open is given up with it.
    async fn ask(&self, floor: u64) -> Result<Fenced, String> {
        let mut upstream = self.upstream();
        let Some(master) = upstream.borrow_and_update().clone() else {
            return Err("no master is known".to_owned());
        };
        tokio::select! {
            biased;
            _another = upstream.changed() => Err("another master is followed".to_owned()),
            fenced = timeout(QUESTION_MAX, master.ask(Revision::new(floor))) => match fenced {
                Ok(Ok(fenced)) => Ok(fenced),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the master does not answer".to_owned()),
            },
        }
    }
}

impl Shared {
    /// Asks the master how far one must be, and looks into the log whether it is the master.
    ///
    /// # Errors
    /// A sentence about why that is not known.
    ///
    /// # Cancel safety
    /// Safe.
    pub(in crate::mvcc) async fn ask_master(&self, floor: u64) -> Result<Need, String> {
        let Fenced { revision, compacted, placement, claim } = self.course.ask(floor).await?;
        #[cfg(any(test, feature = "faults"))]
        let claim = claim.filter(|_| !self.fence.planted_faults().believes_claims);
        if let Some(claim) = claim {
            match fence::look(self, claim).await {
                Ok(None) => {}
                Ok(Some((number, record))) => {
                    return Err(format!(
                        "the brain that is followed, in term {}, is not the master any more: record {number} of the log is of term {}",
                        claim.term, record.epoch
                    ));
                }
                Err(error) => {
                    // Whoever asks next is sent elsewhere at once, until a question is answered again.
                    self.course.is_late();
                    return Err(error.to_string());
                }
            }
        }
        Ok(Need { revision: revision.get(), compacted, placement })
    }

    /// True if a slave is so far.
    pub(in crate::mvcc) fn has(&self, need: &Need) -> bool {
        !self.is_slave()
            || (self.course.is_loaded()
                && self.committed().get() >= need.revision
                && self.compacted() >= need.compacted
                && (need.placement == 0 || self.placement.load().version() == need.placement))
    }

    /// Returns when a slave is so far.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn reach(&self, need: &Need) {
        loop {
            let mut moved = std::pin::pin!(self.hub.moved());
            moved.as_mut().enable();
            if self.has(need) {
                return;
            }
            moved.await;
        }
    }
}
