//! Fences: questions after which it is known how far groups are, and that they are at least so far.

use std::sync::Arc;

use futures_util::future::try_join_all;
use http::HeaderMap;
use kubebrain_proto::etcdserverpb::{StatusRequest, StatusResponse};
use kubebrain_proto::peer::{AdvanceRequest, AdvanceResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use tonic::Status;

use crate::call::Ask;
use crate::core::Core;
use crate::group::Group;
use crate::grpc::Framed;
use crate::identity::Identity;

/// What a group says when it was advanced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Advanced {
    /// Its revision: at least what was asked for, with every write that was acknowledged before.
    pub(crate) revision: Revision,
    /// The revision below which nothing can be read; -1 where nothing was compacted.
    pub(crate) compacted: i64,
}

impl Core {
    /// One fence of one group: raises it to `floor`, and this proxy's floor to what it has. Asked after the caller's
    /// request arrived and joined by nobody, so it contains every write acknowledged before.
    ///
    /// # Errors
    /// As the group gives it, or `Unavailable`.
    pub(crate) async fn advance_once(&self, group: &Group, floor: Revision) -> Result<Advanced, Status> {
        let request = AdvanceRequest { floor: floor.to_wire() };
        let message = Framed::of(&request);
        let path = method::ADVANCE;
        let headers = HeaderMap::new();
        let ask = Ask { floor: false, ..Ask::new(path, &headers, message) };
        let answer = self.send(group, &ask).await.map_err(|_| Fault::Timeout)?;
        let answer: AdvanceResponse = answer.decode(1024).await?;
        let revision = Revision::checked_from(answer.revision)
            .ok_or_else(|| Status::internal("a brain's revision is out of bounds"))?;
        group.reached(revision);
        self.floor.raise(revision);
        let (now, said) = (self.table().id(), DocumentId { lineage: answer.lineage, number: answer.number });
        if said.number > 0 && (said.lineage != now.lineage || said.number > now.number) {
            self.changes().ask(group.name()); // its stream is late, if it is not behind
        }
        Ok(Advanced { revision, compacted: answer.compacted })
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
    pub(crate) async fn advance_fully(&self, group: &Group, floor: Revision) -> Result<Advanced, Status> {
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
        let answer: StatusResponse = self.ask(table.home(), method::STATUS, &StatusRequest {}).await?;
        if let Some(header) = &answer.header {
            self.set_identity(Identity::of(header));
        }
        Ok(())
    }
}
