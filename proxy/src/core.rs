//! [`Core`]: what every request of one proxy shares.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kubebrain_net::budget::Budget;
use kubebrain_net::intake;
use kubebrain_net::kinds::Kinds;
use kubebrain_net::reflection::{CLIENT_SERVICES, Reflection};
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::{Stop, Stopper};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::floor::Floor;
use crate::identity::Identity;
use crate::retry::Retry;
use crate::table::Table;
use crate::topology::TopologyChanges;

/// The state of a proxy.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) floor: Floor,
    pub(crate) in_flight: Arc<Semaphore>,
    /// The kinds of keys that requests are about, and their limits.
    pub(crate) kinds: Arc<Kinds>,
    /// Parts of large ranges that may be held.
    pub(crate) fanouts: Arc<Semaphore>,
    /// What large requests may take in memory.
    pub(crate) requests: Arc<Budget>,
    pub(crate) reflection: Option<Reflection>,
    table: ArcSwap<Table>,
    identity: ArcSwap<Identity>,
    /// Which document the table is of; told after the table was replaced.
    documents: watch::Sender<DocumentId>,
    ready: watch::Sender<bool>,
    /// Lineages that this proxy has gone by before.
    left: Mutex<Vec<u64>>,
    /// Why there is no placement yet, for people.
    trouble: Mutex<String>,
    /// At or above whatever was shown before this start, where that was kept.
    ceiling: Mutex<Option<Revision>>,
    changes: Arc<TopologyChanges>,
    stopper: Mutex<Option<Stopper>>,
}

impl Core {
    pub(crate) fn new(config: Config, table: Table, changes: Arc<TopologyChanges>) -> Self {
        let documents = watch::Sender::new(table.id());
        let kinds = Arc::new(Kinds::default());
        kinds.go_by(table.document().table());
        Self {
            in_flight: Arc::new(Semaphore::new(config.in_flight_max)),
            kinds,
            fanouts: Arc::new(Semaphore::new(config.fanout_parts_max)),
            requests: Budget::of_requests(intake::DEFAULT_BYTES, config.held.clone()),
            config,
            floor: Floor::default(),
            reflection: Reflection::new(CLIENT_SERVICES.iter().copied()).ok(),
            table: ArcSwap::from_pointee(table),
            identity: ArcSwap::default(),
            documents,
            ready: watch::Sender::new(false),
            left: Mutex::default(),
            trouble: Mutex::default(),
            ceiling: Mutex::default(),
            changes,
            stopper: Mutex::new(Some(Stopper::default())),
        }
    }

    /// The newest table.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn replace_table(&self, table: Table) {
        let id = table.id();
        self.kinds.go_by(table.document().table());
        self.table.store(Arc::new(table));
        self.documents.send_replace(id);
        self.changes.announce();
    }

    /// Lineages that this proxy has gone by before.
    pub(crate) fn left(&self) -> Vec<u64> {
        self.left.lock().clone()
    }

    /// Another lineage has taken this one's place.
    pub(crate) fn leave(&self, lineage: u64) {
        let mut left = self.left.lock();
        if !left.contains(&lineage) {
            left.push(lineage);
        }
    }

    /// Why there is no placement yet, for people; empty before anybody was asked.
    pub(crate) fn trouble(&self) -> String {
        self.trouble.lock().clone()
    }

    /// Says it in the log too, each reason once.
    pub(crate) fn set_trouble(&self, trouble: String) {
        let mut before = self.trouble.lock();
        if *before != trouble {
            if !trouble.is_empty() {
                tracing::warn!("not ready: {trouble}. It is asked again");
            }
            *before = trouble;
        }
    }

    /// What was shown before this start is at or below this; none where that was not kept.
    pub(crate) fn ceiling(&self) -> Option<Revision> {
        *self.ceiling.lock()
    }

    /// Goes on where a proxy before it was.
    pub(crate) fn remember(&self, identity: Option<Identity>, left: Vec<u64>, ceiling: Option<Revision>) {
        identity.into_iter().for_each(|identity| self.set_identity(identity));
        *self.left.lock() = left;
        *self.ceiling.lock() = ceiling;
    }

    /// The changes in who serves what, in all groups, and in tables.
    pub(crate) fn changes(&self) -> &Arc<TopologyChanges> {
        &self.changes
    }

    /// A retry of what is tried again for as long as a request may take.
    pub(crate) fn retry(&self) -> Retry {
        Retry::new(self.config.retry_for, &self.changes)
    }

    /// Hears of every new table, also where it is of the same document.
    pub(crate) fn tables(&self) -> watch::Receiver<DocumentId> {
        self.documents.subscribe()
    }

    pub(crate) fn identity(&self) -> Identity {
        **self.identity.load()
    }

    /// What the home group has said of itself.
    pub(crate) fn set_identity(&self, identity: Identity) {
        self.identity.store(Arc::new(identity));
    }

    pub(crate) fn ready(&self) -> &watch::Sender<bool> {
        &self.ready
    }

    /// For a task or stream; `None` once the proxy was stopped.
    pub(crate) fn stop_handle(&self) -> Option<Stop> {
        self.stopper.lock().as_ref().map(Stopper::handle)
    }

    /// Starts a task that the proxy cannot do without; not once it was stopped.
    pub(crate) fn keep<F>(&self, what: &'static str, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(stopper) = &*self.stopper.lock() {
            stopper.keep(what, task);
        }
    }

    /// See `Proxy::broken`.
    pub(crate) fn broken(&self) -> impl Future<Output = &'static str> + Send + use<> {
        let broken = self.stopper.lock().as_ref().map(Stopper::broken);
        async move {
            match broken {
                Some(broken) => broken.await,
                None => std::future::pending().await,
            }
        }
    }

    pub(crate) fn take_stopper(&self) -> Option<Stopper> {
        self.stopper.lock().take()
    }

    /// What forwarded requests carry.
    pub(crate) fn floor_to_send(&self) -> Revision {
        if self.config.planted(|seams| seams.ignore_floor) { Revision::ZERO } else { self.floor.get() }
    }
}
