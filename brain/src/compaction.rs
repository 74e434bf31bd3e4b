//! [`Alone`]: automatic compaction of a group that is the whole store to its clients.

use kubebrain_shared::compaction::Compactable;
use kubebrain_shared::revision::Revision;
use tonic::Status;

use crate::store::Store;

/// One group without others beside it: several are compacted together, by the proxy.
pub struct Alone(pub Store);

impl Compactable for Alone {
    async fn current(&self) -> Result<i64, Status> {
        Ok(self.0.state().committed().to_wire())
    }

    async fn compact(&self, revision: i64) -> Result<(), Status> {
        Ok(self.0.compact(revision, false, Revision::ZERO).await.map(drop)?)
    }
}
