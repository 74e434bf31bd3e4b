//! [`Proxy`]: built, started, reloaded and stopped.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use kubebrain_net::dial::Connector;
use kubebrain_shared::compaction::Policy;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::config::Config;
use crate::core::Core;
use crate::group::{Group, GroupView};
use crate::service::compact::Together;
use crate::table::Table;

pub use crate::stack::{Answering, Service};

/// How many refreshes pass between two looks at who the home group is.
const IDENTITY_EVERY: u32 = 10;

/// One proxy. [`Proxy::stop`] ends it and waits; dropping it only asks.
pub struct Proxy {
    core: Arc<Core>,
}

impl Proxy {
    /// A proxy that has not talked to anybody. `connectors` are the brains of each group of the placement.
    pub fn new(
        config: Config,
        placement: Arc<Placement>,
        connectors: HashMap<GroupName, Vec<Connector>>,
    ) -> Self {
        let changes = Arc::default();
        let table = Table::new(placement, connectors, None, &config, &changes);
        let core = Arc::new(Core::new(config, table, changes));
        let shown = Arc::downgrade(&core);
        core.config.metrics.show(move || shown.upgrade().map(|core| core.figures()));
        Self { core }
    }

    /// Fences every group, so that this proxy's floor is at or above all that any of them has acknowledged; ready
    /// then. Returns when ready or stopped; a group that does not answer is waited for.
    ///
    /// # Cancel safety
    /// A dropped call leaves a proxy that is not ready; it may be called again.
    pub async fn start(&self) {
        let Some(stop) = self.core.stop_handle() else { return };
        self.core.table().listen(&self.core.config);
        tokio::select! {
            () = stop.asked() => return,
            () = fence_all(&self.core) => {}
        }
        if !self.core.ready().send_replace(true) {
            let core = Arc::clone(&self.core);
            self.core.keep("the task that keeps revisions near each other", |stop| refresh(core, stop));
        }
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

    /// Replaces the table. Requests in flight end by the old one; watchers move over without a gap. A group that stays
    /// keeps its connections unless `connectors` names it again.
    pub fn replace_placement(
        &self,
        placement: Arc<Placement>,
        connectors: HashMap<GroupName, Vec<Connector>>,
    ) {
        let (config, changes) = (&self.core.config, self.core.changes());
        let table = Table::new(placement, connectors, Some(&self.core.table()), config, changes);
        table.listen(config);
        tracing::info!(version = format!("{:x}", table.version()), "the placement was replaced");
        self.core.replace_table(table);
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

/// Until every group of the newest table has answered, and home has said who it is.
async fn fence_all(core: &Core) {
    let mut said = String::new();
    loop {
        // First who they are: a brain of another group would answer as well.
        join_all(core.table().groups().map(|group| group.heard())).await;
        let fenced = core.fence(core.table().groups()).await;
        let learned = core.learn_identity().await;
        match fenced.map(|_| ()).and(learned) {
            Ok(()) => return,
            // Each reason once.
            Err(status) if said == status.message() => {}
            Err(status) => {
                tracing::warn!(
                    reason = status.message(),
                    "not ready: not every group answers. Clients wait, and are refused as Unavailable after some seconds"
                );
                status.message().clone_into(&mut said);
            }
        }
        let _never_over = core.retry().pause().await;
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
