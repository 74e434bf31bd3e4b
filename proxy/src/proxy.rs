//! [`Proxy`]: built, started, reloaded and stopped.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use kubebrain_net::dial::Connector;
use kubebrain_shared::compaction::Policy;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentId};
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::config::Config;
use crate::core::Core;
use crate::group::{Group, GroupView};
use crate::kept::Kept;
use crate::learn::Learner;
pub use crate::learn::{Contacts, Reach};
use crate::service::compact::Together;
use crate::starting;
use crate::table::Table;

pub use crate::stack::{Answering, Service};

/// How many refreshes pass between two looks at who the home group is.
const IDENTITY_EVERY: u32 = 10;

/// One proxy. [`Proxy::stop`] ends it and waits; dropping it only asks.
pub struct Proxy {
    core: Arc<Core>,
    contacts: watch::Sender<Contacts>,
}

/// How a proxy finds its cluster.
#[derive(Debug)]
pub struct Joining {
    /// The way to a brain.
    pub reach: Reach,
    /// Where brains may be found.
    pub contacts: Contacts,
    /// Where it keeps what it needs to start while the home group is away; nowhere by default.
    pub directory: Option<PathBuf>,
}

impl Proxy {
    /// A proxy that has not talked to anybody and goes by this document. `connectors` are the brains of each of its groups.
    pub fn new(config: Config, document: Document, connectors: HashMap<GroupName, Vec<Connector>>) -> Self {
        let changes = Arc::default();
        let table = Table::new(document, connectors, None, &config, &changes);
        Self::of(Core::new(config, table, changes), Contacts::default())
    }

    fn of(core: Core, contacts: Contacts) -> Self {
        let core = Arc::new(core);
        let shown = Arc::downgrade(&core);
        core.config.metrics.show(move || shown.upgrade().map(|core| core.figures()));
        Self { core, contacts: watch::Sender::new(contacts) }
    }

    /// A proxy that learns the cluster's placement from whoever it finds, and every next one. Where it has kept one, it goes
    /// by that until it hears of another. Called within a runtime: its tasks begin here.
    pub fn joining(config: Config, joining: Joining) -> Self {
        let Joining { reach, contacts, directory } = joining;
        let changes = Arc::default();
        let (kept, found) = directory.map(Kept::open).unzip();
        let found = found.unwrap_or_default();
        let table = match found.document {
            Some(document) => {
                tracing::info!(number = document.number(), "begins by the placement that it has kept");
                let connectors = Learner::connectors_of(&document, &reach, &contacts);
                Table::new(document, connectors, None, &config, &changes)
            }
            None => Table::unknown(&config, &changes),
        };
        let proxy = Self::of(Core::new(config, table, changes), contacts);
        proxy.core.remember(found.identity, found.left, found.ceiling);
        if let Some(kept) = kept {
            let core = Arc::clone(&proxy.core);
            proxy.core.keep("the task that keeps what the next start needs", |stop| kept.run(core, stop));
        }
        proxy.learn(reach);
        proxy
    }

    /// From now on it goes by whatever placement its brains tell. Once; called within a runtime.
    pub fn learn(&self, reach: Reach) {
        let learner = Learner::new(&self.core, reach, self.contacts.subscribe());
        self.core.table().listen(&self.core.config);
        self.core.keep("the task that learns the placement", |stop| learner.run(stop));
    }

    /// Brains of the cluster may be found at these addresses from now on.
    pub fn set_contacts(&self, contacts: Contacts) {
        self.contacts.send_if_modified(|before| {
            let is_new = *before != contacts;
            *before = contacts;
            is_new
        });
    }

    /// Reaches every group, so that this proxy's floor is at or above all that any of them has acknowledged; ready then.
    /// One that has kept how far it was is ready as soon as some group answers: nothing that it shows is below what it has
    /// shown before, and what belongs to the others waits and is refused. Returns when ready or stopped; before there is a
    /// placement that is waited for.
    ///
    /// # Cancel safety
    /// A dropped call leaves a proxy that is not ready; it may be called again.
    pub async fn start(&self) {
        let Some(stop) = self.core.stop_handle() else { return };
        self.core.table().listen(&self.core.config);
        tokio::select! {
            () = stop.asked() => return,
            () = starting::reach_groups(&self.core) => {}
        }
        if !self.core.ready().send_replace(true) {
            let core = Arc::clone(&self.core);
            self.core.keep("the task that keeps revisions near each other", |stop| refresh(core, stop));
        }
    }

    /// The groups that have not answered since the start.
    pub fn away(&self) -> Vec<GroupName> {
        let table = self.core.table();
        let mut away: Vec<_> = table.groups().filter(|group| group.known() == Revision::ZERO).collect();
        away.sort_by(|one, next| one.name().cmp(next.name()));
        away.into_iter().map(|group| group.name().clone()).collect()
    }

    /// The placement that it goes by; without a number before it has heard of one, and of one that has none.
    pub fn document(&self) -> Document {
        self.core.table().document().clone()
    }

    /// Hears of every placement that comes into use.
    pub fn documents(&self) -> watch::Receiver<DocumentId> {
        self.core.tables()
    }

    /// The service for `shared::serve`.
    pub fn service(&self) -> Service {
        Service::new(&self.core)
    }

    /// True once every group was fenced, until the stop.
    pub fn is_ready(&self) -> bool {
        *self.core.ready().borrow()
    }

    /// The highest revision that any answer through this proxy has shown.
    pub fn floor(&self) -> Revision {
        self.core.floor.get()
    }

    /// What it knows of its groups' brains, in the order of the groups' names.
    pub fn groups(&self) -> Vec<GroupView> {
        let table = self.core.table();
        let is_home = |group: &Group| group.name() == table.home().name();
        let mut groups: Vec<_> = table.groups().map(|group| group.view(is_home(group))).collect();
        groups.sort_by(|one, next| one.name.cmp(&next.name));
        groups
    }

    /// Goes by another document. Requests in flight end by the old one; watchers move over without a gap. A group that stays
    /// keeps its connections unless `connectors` names it again.
    pub fn replace_placement(&self, document: Document, connectors: HashMap<GroupName, Vec<Connector>>) {
        self.core.use_document(document, connectors);
    }

    /// Compacts all groups by a policy, at one revision, until the stop. Once is enough for all proxies; with several, each
    /// compacts what it has seen, and what another one has compacted counts as done.
    pub fn compact_automatically(&self, policy: Policy) {
        let groups = Together { core: Arc::clone(&self.core) };
        self.core.keep("automatic compaction", |stop| groups.run(policy, stop));
    }

    /// Returns when a task has panicked that the proxy cannot do without, with what it was.
    pub fn broken(&self) -> impl Future<Output = &'static str> + Send + use<> {
        self.core.broken()
    }

    /// Ends every stream with `Unavailable` "server stopped" and waits for them, up to the configured drain time. New
    /// requests are refused in the same way.
    ///
    /// # Cancel safety
    /// A dropped call has asked; what is inside ends by itself.
    pub async fn stop(&self) {
        self.core.ready().send_replace(false);
        if let Some(stopper) = self.core.take_stopper() {
            stopper.ask();
            if timeout(self.core.config.drain, stopper.stop()).await.is_err() {
                tracing::warn!("some streams did not end in time: their clients do not read");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.core.ready().send_replace(false);
        if let Some(stopper) = self.core.take_stopper() {
            stopper.ask();
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("ready", &self.is_ready())
            .field("floor", &self.floor())
            .finish_non_exhaustive()
    }
}

/// Keeps the floor near the groups' revisions, so that "watch from now" means now, and the groups near the floor, so
/// that a quiet group's progress keeps up with the others' writes. Ends when asked to.
async fn refresh(core: Arc<Core>, stop: Stop) {
    let every = core.config.refresh_every;
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = stop.asked() => return,
            _ = ticks.tick() => {}
        }
        round = round.wrapping_add(1);
        let table = core.table();
        let asked = join_all(table.groups().map(|group| core.advance_once(group, core.floor_to_send())));
        let work = async {
            for status in asked.await.into_iter().filter_map(Result::err) {
                tracing::debug!(%status, "a group does not answer");
            }
            if round.is_multiple_of(IDENTITY_EVERY) {
                let _kept = core.learn_identity().await;
            }
        };
        tokio::select! {
            () = stop.asked() => return,
            _late = timeout(core.config.retry_for, work) => {}
        }
    }
}
