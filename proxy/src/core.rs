//! [`Core`]: what every request of one proxy shares.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::try_join_all;
use http::HeaderMap;
use kubebrain_proto::etcdserverpb::{StatusRequest, StatusResponse};
use kubebrain_proto::peer::{AdvanceRequest, AdvanceResponse};
use kubebrain_net::budget::Budget;
use kubebrain_shared::fault::Fault;
use kubebrain_net::intake;
use kubebrain_net::reflection::{CLIENT_SERVICES, Reflection};
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::{Stop, Stopper};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use crate::call::Ask;
use crate::config::{Config, Seam};
use crate::floor::Floor;
use crate::group::Group;
use crate::group::news::News;
use crate::grpc::Framed;
use crate::identity::Identity;
use crate::retry::Retry;
use crate::table::Table;

/// What a group says to a fence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fenced {
    /// At least what was asked for, and every write acknowledged before.
    pub(crate) revision: Revision,
    /// Below it nothing can be read; -1 where nothing was compacted.
    pub(crate) compacted: i64,
}

/// The state of a proxy.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) floor: Floor,
    pub(crate) in_flight: Arc<Semaphore>,
    /// Large requests.
    pub(crate) requests: Arc<Budget>,
    pub(crate) reflection: Option<Reflection>,
    table: ArcSwap<Table>,
    identity: ArcSwap<Identity>,
    /// The placement's version; changes after the table did.
    version: watch::Sender<u64>,
    ready: watch::Sender<bool>,
    news: Arc<News>,
    stopper: Mutex<Option<Stopper>>,
}

impl Core {
    pub(crate) fn new(config: Config, table: Table, news: Arc<News>) -> Self {
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
            news,
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
        self.news.tell();
    }

    /// Of who serves what, in all groups, and of tables.
    pub(crate) fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// For what is tried again for as long as a request may take.
    pub(crate) fn retry(&self) -> Retry {
        Retry::new(self.config.retry_for, &self.news)
    }

    /// Hears of every new table.
    pub(crate) fn tables(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn identity(&self) -> Identity {
        **self.identity.load()
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
        if self.config.planted(Seam::IgnoreFloor) { Revision::ZERO } else { self.floor.get() }
    }

    /// One fence of one group: raises it to `floor`, and this proxy's floor to what it has. Asked after the caller's
    /// request arrived and joined by nobody, so it contains every write acknowledged before.
    ///
    /// # Errors
    /// As the group gives it, or `Unavailable`.
    pub(crate) async fn advance_once(&self, group: &Group, floor: Revision) -> Result<Fenced, Status> {
        let request = AdvanceRequest { floor: floor.to_wire() };
        let message = Framed::of(&request);
        let path = "/kubebrain.peer.v1.Peer/Advance";
        let ask = Ask { path, headers: &HeaderMap::new(), message, part: None, floor: false };
        let answer = self.send(group, &ask).await.map_err(|_| Fault::Timeout)?;
        let answer: AdvanceResponse = answer.decode(1024).await?;
        let revision = Revision::checked_from(answer.revision)
            .ok_or_else(|| Status::internal("a brain's revision is out of bounds"))?;
        group.reached(revision);
        self.floor.raise(revision);
        Ok(Fenced { revision, compacted: answer.compacted })
    }

    /// As [`Core::advance_once`], tried again for as long as a request may take: advancing twice does no harm.
    ///
    /// # Errors
    /// `Unavailable` "request timed out".
    pub(crate) async fn advance(&self, group: &Group, floor: Revision) -> Result<Revision, Status> {
        Ok(self.advance_fully(group, floor).await?.revision)
    }

    /// As [`Core::advance`], with all that the group says.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn advance_fully(&self, group: &Group, floor: Revision) -> Result<Fenced, Status> {
        self.repeat(group, |_| true, || self.advance_once(group, floor)).await
    }

    /// Asks again, for as long as a request may take, while what comes back `passes`. For what does no harm twice.
    ///
    /// # Errors
    /// What does not pass; `Unavailable` "request timed out".
    pub(crate) async fn repeat<T, F: Future<Output = Result<T, Status>>>(
        &self,
        group: &Group,
        passes: impl Fn(&Status) -> bool,
        ask: impl Fn() -> F,
    ) -> Result<T, Status> {
        let mut retry = self.retry().counted(&self.config.metrics.all.retries);
        loop {
            match tokio::time::timeout_at(retry.until(), ask()).await {
                Ok(Err(status)) if passes(&status) => {
                    tracing::debug!(group = %group.name(), %status, "asked in vain");
                }
                Ok(answer) => return answer,
                Err(_late) => return Err(Fault::Timeout.into()),
            }
            retry.pause().await?;
        }
    }

    /// Fences these groups at once, in their order.
    ///
    /// # Errors
    /// `Unavailable` if one of them does not answer.
    pub(crate) async fn fence(
        &self,
        groups: impl IntoIterator<Item = &Arc<Group>>,
    ) -> Result<Vec<Revision>, Status> {
        try_join_all(groups.into_iter().map(|group| self.advance(group, Revision::ZERO))).await
    }

    /// A revision that a client names above the floor may have been shown by another proxy: only the groups know.
    /// What is named never becomes a floor.
    ///
    /// # Errors
    /// As [`Core::fence`].
    pub(crate) async fn look_for(&self, named: i64) -> Result<(), Status> {
        if named > self.floor.get().to_wire() {
            self.fence(self.table().groups()).await?;
        }
        Ok(())
    }

    /// Learns who the home group says it is.
    ///
    /// # Errors
    /// The home group's.
    pub(crate) async fn learn_identity(&self) -> Result<(), Status> {
        let table = self.table();
        let answer: StatusResponse =
            self.ask(table.home(), "/etcdserverpb.Maintenance/Status", &StatusRequest {}).await?;
        if let Some(header) = &answer.header {
            self.identity.store(Arc::new(Identity::of(header)));
        }
        Ok(())
    }
}
