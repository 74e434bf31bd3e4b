//! Writes to one group: Put, Txn, and a DeleteRange that one group owns.

use std::sync::Arc;

use futures_util::future::try_join_all;
use http::Response;
use kubebrain_proto::peer::{AdoptLeaseRequest, AdoptLeaseResponse, ShareLeaseRequest, ShareLeaseResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::revision::Revision;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use super::target::only_owner;
use crate::group::Group;

impl Call<'_> {
    pub(crate) async fn txn(&self) -> Result<Response<Body>, Status> {
        self.core.look_for(self.footprint.revision).await?;
        self.write(method::TXN).await
    }

    /// Sends a write to its one group. A lease that the group does not know is brought there from home, once.
    ///
    /// # Errors
    /// `InvalidArgument` for keys of two groups; `Unavailable` where the outcome is not known.
    pub(crate) async fn write(&self, path: &'static str) -> Result<Response<Body>, Status> {
        let found = &self.footprint;
        let send = || self.forward_with_group(path, false, |_, table| only_owner(table, &found.spans));
        let (mut answer, group) = send().await?;
        let lease_unknown = answer.error.as_ref().and_then(Fault::of) == Some(Fault::LeaseNotFound);
        if lease_unknown && self.bring_leases(&group, &found.leases).await? {
            (answer, _) = send().await?;
        }
        if found.touches_compact_key()
            && let Some(revision) = answer.revision
            && !self.core.config.planted(|seams| seams.skip_sync_point)
        {
            self.sync(&group, revision).await?;
        }
        Ok(answer.relay())
    }

    /// Makes the group hold these leases of the home group. False if it cannot: home itself does not know one.
    async fn bring_leases(&self, group: &Group, leases: &[i64]) -> Result<bool, Status> {
        let core = self.core;
        let table = core.table();
        if table.home().is_same(group) {
            return Ok(false);
        }
        for &id in leases {
            // The holder first: a lease that home lists and the holder does not know could never be renewed. But what home
            // does not list yet is only offered to the holder, which hangs no key on it: nobody would renew it there.
            let share = |group: String| async {
                let share = ShareLeaseRequest { id, group };
                let path = method::SHARE_LEASE;
                let shared: Result<ShareLeaseResponse, Status> = core.ask(table.home(), path, &share).await;
                match shared {
                    Ok(lease) => Ok(Some(lease)),
                    Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
                    Err(status) => Err(unavailable(status)),
                }
            };
            let adopt = |lease: ShareLeaseResponse, offered| async move {
                let ShareLeaseResponse { ttl, remaining_ms } = lease;
                let adopt = AdoptLeaseRequest { id, ttl, remaining_ms, offered };
                let adopted: Result<AdoptLeaseResponse, Status> =
                    core.ask(group, method::ADOPT_LEASE, &adopt).await;
                adopted.map(drop).map_err(unavailable)
            };
            let Some(lease) = share(String::new()).await? else { return Ok(false) };
            adopt(lease, true).await?;
            let Some(lease) = share(group.name().to_string()).await? else { return Ok(false) };
            adopt(lease, false).await?;
        }
        Ok(!leases.is_empty())
    }

    /// The answer to a compactor, also of a failed compare, means "before this moment" in every group: none may write
    /// at or below its revision afterwards.
    async fn sync(&self, answered: &Group, revision: Revision) -> Result<(), Status> {
        let table = self.core.table();
        let others: Vec<Arc<Group>> =
            table.groups().filter(|group| !group.is_same(answered)).map(Arc::clone).collect();
        try_join_all(others.iter().map(|group| self.core.advance(group, revision))).await?;
        Ok(())
    }
}

/// Nothing was applied, but not for a reason that a client can use.
fn unavailable(status: Status) -> Status {
    tracing::debug!(%status, "a lease could not be brought to a group");
    Fault::Timeout.into()
}
