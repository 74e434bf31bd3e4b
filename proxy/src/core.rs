//! [`Core`]: what every request of one proxy shares.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kubebrain_net::budget::Budget;
use kubebrain_net::intake;
use kubebrain_net::reflection::{CLIENT_SERVICES, Reflection};
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
    /// What large requests may take in memory.
    pub(crate) requests: Arc<Budget>,
    pub(crate) reflection: Option<Reflection>,
    table: ArcSwap<Table>,
    identity: ArcSwap<Identity>,
    /// The placement's version; changes after the table did.
    version: watch::Sender<u64>,
    ready: watch::Sender<bool>,
    changes: Arc<TopologyChanges>,
    stopper: Mutex<Option<Stopper>>,
}

impl Core {
    pub(crate) fn new(config: Config, table: Table, changes: Arc<TopologyChanges>) -> Self {
        let version = watch::Sender::new(table.version());
        Self {
            in_flight: Arc::new(Semaphore::new(config.in_flight_max)),
            requests: Budget::of_requests(intake::DEFAULT_BYTES, config.held.clone()),
            config,
            floor: Floor::default(),
            reflection: Reflection::new(CLIENT_SERVICES.iter().copied()).ok(),
            table: ArcSwap::from_pointee(table),
            identity: ArcSwap::default(),
            version,
            ready: watch::Sender::new(false),
            changes,
            stopper: Mutex::new(Some(Stopper::default())),
        }
    }

    /// The newest table.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn replace_table(&self, table: Table) {
        let version = table.version();
        self.table.store(Arc::new(table));
        self.version.send_replace(version);
        self.changes.announce();
    }

    /// The changes in who serves what, in all groups, and in tables.
    pub(crate) fn changes(&self) -> &Arc<TopologyChanges> {
        &self.changes
    }

    /// A retry of what is tried again for as long as a request may take.
    pub(crate) fn retry(&self) -> Retry {
        Retry::new(self.config.retry_for, &self.changes)
    }

    /// Receives the version of every new table.
    pub(crate) fn tables(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
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
