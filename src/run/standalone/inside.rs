//! The way to the groups of this process, for the one that decides the placement. A group that a new placement names is
//! opened when it is asked for the first time.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubebrain_brain::authority::{Authority, Reach, Unreached, here};
use kubebrain_brain::service::{Decided, Decides};
use kubebrain_brain::store::Store;
use kubebrain_proto::admin::{PlacementCommand, PlacementQuery};
use kubebrain_proto::peer::{PlaceRequest, PlaceResponse, PlacementResponse, RepairRequest, RepairResponse};
use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::async_trait;

/// More groups than that are not asked for at once: each caller waits for its own.
const WANTED_MAX: usize = 64;

/// A group that is to be opened.
pub(super) struct Wanted {
    pub group: GroupName,
    /// Dropped where it cannot be opened.
    pub opened: oneshot::Sender<Store>,
}

/// See the module. Clones share their stores.
#[derive(Clone)]
pub(super) struct Inside {
    stores: Arc<Mutex<BTreeMap<GroupName, Store>>>,
    wanted: mpsc::Sender<Wanted>,
}

impl Inside {
    pub(super) fn new() -> (Self, mpsc::Receiver<Wanted>) {
        let (wanted, asked) = mpsc::channel(WANTED_MAX);
        (Self { stores: Arc::default(), wanted }, asked)
    }

    pub(super) fn is_open(&self, group: &GroupName, store: Store) {
        self.stores.lock().insert(group.clone(), store);
    }

    pub(super) fn is_closed(&self, group: &GroupName) {
        self.stores.lock().remove(group);
    }

    async fn store(&self, group: &GroupName) -> Result<Store, Unreached> {
        if let Some(store) = self.stores.lock().get(group).cloned() {
            return Ok(store);
        }
        let (opened, store) = oneshot::channel();
        let gone = || Unreached::Gone(format!("group {group} is not open in this process"));
        self.wanted.send(Wanted { group: group.clone(), opened }).await.map_err(|_over| gone())?;
        store.await.map_err(|_unopened| gone())
    }
}

#[async_trait]
impl Reach for Inside {
    async fn place(
        &self,
        group: &GroupName,
        _brains: &[String],
        request: PlaceRequest,
    ) -> Result<PlaceResponse, Unreached> {
        let store = self.store(group).await?;
        here::place(&store, request).await.map_err(|status| Unreached::Gone(status.message().to_owned()))
    }

    async fn repair(
        &self,
        group: &GroupName,
        _brains: &[String],
        request: RepairRequest,
    ) -> Result<RepairResponse, Unreached> {
        let store = self.store(group).await?;
        here::repair(&store, request).await.map_err(|status| Unreached::Gone(status.message().to_owned()))
    }

    async fn held(&self, group: &GroupName, _brains: &[String]) -> Result<PlacementResponse, Unreached> {
        Ok(here::held(&self.store(group).await?))
    }
}

/// The home group is in this process.
pub(super) struct Here(pub Authority);

#[async_trait]
impl Decides for Here {
    async fn report(&self, query: PlacementQuery, _is_passed_on: bool) -> Decided {
        self.0.report(query).await
    }

    async fn change(&self, command: PlacementCommand, _is_passed_on: bool) -> Decided {
        self.0.change(command).await
    }
}
