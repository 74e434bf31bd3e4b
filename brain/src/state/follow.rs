//! [`FollowState`]: what a slave follows and how far it is, for all that read it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::Pair;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::lease::Leases;
use super::upstream::{Following, Upstream};
use crate::decide::index::Index;
use crate::rows::version::Version;

/// How far a slave must be before it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// It has applied all revisions up to this one.
    pub(crate) revision: u64,
    /// It knows that everything below this revision is compacted; -1 where nothing is.
    pub(crate) compacted: i64,
    /// What it goes by: the master may have given keys away that a slave would still serve, at this very revision.
    pub(crate) placement: Pair,
}

/// How far a slave is, and whom it follows. On a master it says that there is nothing to follow.
pub(crate) struct FollowState {
    slave: AtomicBool,
    loaded: AtomicBool,
    /// This slave has heard by which placement its master goes.
    placed: AtomicBool,
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

impl FollowState {
    fn new(slave: bool) -> Self {
        Self {
            slave: AtomicBool::new(slave),
            loaded: AtomicBool::new(false),
            placed: AtomicBool::new(false),
            swept: AtomicU64::new(0),
            batch: AtomicU64::new(0),
            leased: Mutex::default(),
            upstream: watch::Sender::new(None),
            state: watch::Sender::new(Following::default()),
            late: Notify::new(),
        }
    }

    /// For a slave that is not attached to a master yet.
    pub(crate) fn slave() -> Self {
        Self::new(true)
    }

    /// For a master, which follows nobody.
    pub(crate) fn master() -> Self {
        Self::new(false)
    }

    pub(crate) fn is_slave(&self) -> bool {
        self.slave.load(Ordering::Acquire)
    }

    /// True on a master, and on a slave that has loaded all keys.
    pub(crate) fn is_loaded(&self) -> bool {
        !self.is_slave() || self.loaded.load(Ordering::Acquire)
    }

    pub(crate) fn set_loaded(&self, loaded: bool) {
        self.loaded.store(loaded, Ordering::Release);
        self.change(|following| following.loaded = loaded);
    }

    pub(crate) fn set_placed(&self) {
        self.placed.store(true, Ordering::Release);
    }

    pub(crate) fn is_placed(&self) -> bool {
        self.placed.load(Ordering::Acquire)
    }

    /// Up to which revision the master has taken compacted versions out of the engine.
    pub(crate) fn swept(&self) -> u64 {
        self.swept.load(Ordering::Acquire)
    }

    pub(crate) fn raise_swept(&self, swept: u64) {
        self.swept.fetch_max(swept, Ordering::AcqRel);
    }

    pub(crate) fn batch(&self) -> u64 {
        self.batch.load(Ordering::Acquire)
    }

    pub(crate) fn raise_batch(&self, batch: u64) {
        self.batch.fetch_max(batch, Ordering::AcqRel);
    }

    /// Notes which keys hang on leases, of all keys there are.
    pub(crate) fn set_leased(&self, index: &Index) {
        let leased = index.newest().filter(|(_, newest)| newest.lease != 0);
        *self.leased.lock() = leased.map(|(key, newest)| (key.clone(), newest.lease)).collect();
    }

    /// Notes whether the new version of a key hangs on a lease.
    pub(crate) fn note_lease(&self, key: &Bytes, version: &Version) {
        let mut leased = self.leased.lock();
        match version.lease {
            0 if leased.is_empty() => {}
            0 => drop(leased.remove(key)),
            lease => drop(leased.insert(key.clone(), lease)),
        }
    }

    /// Gives the leases of the group their keys; there is nothing to note any more.
    pub(crate) fn attach_leased(&self, leases: &mut Leases) {
        for (key, lease) in std::mem::take(&mut *self.leased.lock()) {
            leases.move_key(&key, 0, lease);
        }
    }

    pub(crate) fn attach(&self, upstream: Arc<dyn Upstream>) {
        self.change(|following| {
            following.level = false;
            following.leaving = false;
            "asking the master".clone_into(&mut following.trouble);
        });
        self.upstream.send_replace(Some(upstream));
    }

    pub(crate) fn detach(&self, why: &str) {
        self.change(|following| {
            following.level = false;
            why.clone_into(&mut following.trouble);
        });
        self.upstream.send_replace(None);
    }

    pub(crate) fn upstream(&self) -> watch::Receiver<Option<Arc<dyn Upstream>>> {
        self.upstream.subscribe()
    }

    pub(crate) fn state(&self) -> watch::Receiver<Following> {
        self.state.subscribe()
    }

    pub(crate) fn is_level(&self) -> bool {
        self.state.borrow().level
    }

    /// Changes what this slave says of itself, and wakes whoever waits for another answer.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Following)) {
        self.state.send_if_modified(|following| {
            let before = following.clone();
            change(following);
            Following { level_at: None, ..before } != Following { level_at: None, ..following.clone() }
        });
    }

    /// The master was heard of just now, while this slave is level with it.
    pub(crate) fn heard(&self) {
        self.state.send_if_modified(|following| {
            following.level_at = Some(Instant::now());
            false
        });
    }

    pub(crate) fn promoted(&self) {
        self.slave.store(false, Ordering::Release);
        drop(std::mem::take(&mut *self.leased.lock()));
        self.change(|following| {
            following.level = false;
            "it is the master".clone_into(&mut following.trouble);
        });
    }

    /// An answer has waited in vain: whoever follows the master asks it how far it is.
    pub(crate) fn tell_late(&self) {
        self.late.notify_one();
    }

    /// Returns when an answer has waited in vain.
    pub(crate) async fn late(&self) {
        self.late.notified().await;
    }

    /// Refuses a request that would wait for a master which cannot be asked.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`].
    pub(crate) fn may_ask(&self) -> Result<(), Fault> {
        let asks = self.is_loaded() && self.is_placed() && self.upstream.borrow().is_some();
        if asks { Ok(()) } else { Err(Fault::LeaderChanged) }
    }
}
