//! Compact: for all groups, or for none that is above every one of them.

use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use http::{HeaderMap, Response};
use kubebrain_proto::etcdserverpb::{CompactionRequest, CompactionResponse};
use kubebrain_shared::compaction::{Compactable, Policy};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use crate::call::Failure;
use crate::classify::Footprint;
use crate::core::Core;
use crate::group::Group;
use crate::grpc::{self, Framed};

const PATH: &str = method::COMPACT;

impl Call<'_> {
    /// After it, reads below the revision are refused by every group.
    ///
    /// # Errors
    /// `ErrFutureRev` above every group's revision; `ErrCompacted` if all of them were compacted there already;
    /// `Unavailable` where one may not have been.
    pub(crate) async fn compact(&self) -> Result<Response<Body>, Status> {
        let request: CompactionRequest = grpc::decode(self.message.message())?;
        let table = self.core.table();
        let groups: Vec<Arc<Group>> = table.groups().map(Arc::clone).collect();
        if groups.len() == 1 {
            return self.at_home(PATH, false).await;
        }
        let committed = self.core.fence(&groups).await?;
        let newest = committed.iter().copied().max().unwrap_or_default();
        if request.revision > newest.to_wire() {
            return Err(Fault::FutureRevision.into());
        }
        if let Some(revision) = Revision::checked_from(request.revision) {
            let behind = groups.iter().zip(&committed).filter(|(_, committed)| **committed < revision);
            try_join_all(behind.map(|(group, _)| self.core.advance(group, revision))).await?;
        }
        let outcomes = join_all(groups.iter().map(|group| self.compact_one(group))).await;
        self.conclude(outcomes)
    }

    async fn compact_one(&self, group: &Group) -> Result<(), Status> {
        let ask = self.ask(PATH);
        let mut retry = self.core.retry().counted(&self.core.config.metrics.all.retries);
        loop {
            match self.core.send(group, &ask).await {
                Ok(answer) => return answer.message(4096).await.map(|_| ()),
                Err(Failure::Unknown) => return Err(Fault::Timeout.into()),
                Err(failure @ (Failure::NotSent | Failure::NotOwner)) => retry.pause_after(failure).await?,
            }
        }
    }

    fn conclude(&self, outcomes: Vec<Result<(), Status>>) -> Result<Response<Body>, Status> {
        let mut compacted = false;
        for outcome in outcomes {
            match outcome {
                Ok(()) => compacted = true,
                Err(status) if Fault::of(&status) == Some(Fault::Compacted) => {}
                Err(status) => return Err(status),
            }
        }
        if !compacted {
            return Err(Fault::Compacted.into());
        }
        let header = self.core.identity().header(self.core.floor.get());
        Ok(grpc::answer(&CompactionResponse { header: Some(header) }))
    }
}

/// All groups of a proxy, for automatic compaction: at one revision, by the way that a client's `Compact` takes.
pub(crate) struct Together {
    pub(crate) core: Arc<Core>,
}

impl Together {
    /// Compacts by a policy until `stop`.
    pub(crate) async fn run(self, policy: Policy, stop: Stop) {
        policy.run(self, stop).await;
    }
}

impl Compactable for Together {
    /// The highest revision of any group, with all of them raised to it: also through other proxies, nothing is written
    /// at or below it any more.
    async fn current(&self) -> Result<i64, Status> {
        let groups: Vec<Arc<Group>> = self.core.table().groups().map(Arc::clone).collect();
        let committed = self.core.fence(&groups).await?;
        let newest = committed.iter().copied().max().unwrap_or_default();
        let behind = groups.iter().zip(&committed).filter(|(_, committed)| **committed < newest);
        try_join_all(behind.map(|(group, _)| self.core.advance(group, newest))).await?;
        Ok(newest.to_wire())
    }

    async fn compact(&self, revision: i64) -> Result<(), Status> {
        let message = Framed::of(&CompactionRequest { revision, physical: false });
        let footprint = Footprint::default();
        let call = Call { core: &self.core, headers: HeaderMap::new(), message, footprint };
        let response = call.compact().await?;
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != tonic::Code::Ok => Err(status),
            _ => Ok(()),
        }
    }
}
