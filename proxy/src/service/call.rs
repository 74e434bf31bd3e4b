//! [`Call`]: one unary request, and how it is passed on to one group.

use std::sync::Arc;

use http::{HeaderMap, Response};
use kubebrain_shared::fault::Fault;
use tonic::Status;
use tonic::body::Body;

use crate::answer::Answer;
use crate::call::{Ask, Failure};
use crate::classify::Footprint;
use crate::core::Core;
use crate::group::Group;
use crate::grpc::Framed;
use crate::retry::Retry;
use crate::table::Table;

/// One unary request.
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Arc<Core>,
    /// The client's headers, as far as brains may see them.
    pub(crate) headers: HeaderMap,
    pub(crate) message: Framed,
    /// What it touches; nothing where it names no keys.
    pub(crate) footprint: Footprint,
}

impl Call<'_> {
    /// What one group is sent: the bytes that arrived.
    pub(super) fn ask(&self, path: &'static str) -> Ask<'_> {
        Ask::new(path, &self.headers, self.message.clone())
    }

    /// Passed on to the home group.
    pub(crate) async fn at_home(&self, path: &'static str, reads: bool) -> Result<Response<Body>, Status> {
        let home = |core: &Core| vec![Arc::clone(core.table().home())];
        let answer = self.forward(path, reads, |core, _| Ok(home(core))).await?;
        Ok(answer.relay())
    }

    /// Sends to the one group that `place` names by the newest table, again where it surely was not applied.
    ///
    /// # Errors
    /// `place`'s; `Unavailable` when the time is over, and for a write of which the outcome is not known.
    pub(crate) async fn forward(
        &self,
        path: &'static str,
        reads: bool,
        place: impl Fn(&Core, &Table) -> Result<Vec<Arc<Group>>, Status>,
    ) -> Result<Answer, Status> {
        self.forward_with_group(path, reads, place).await.map(|(answer, _)| answer)
    }

    /// As [`Call::forward`]; also says which group answered.
    pub(crate) async fn forward_with_group(
        &self,
        path: &'static str,
        reads: bool,
        place: impl Fn(&Core, &Table) -> Result<Vec<Arc<Group>>, Status>,
    ) -> Result<(Answer, Arc<Group>), Status> {
        let ask = self.ask(path);
        let mut retry = self.retry();
        loop {
            let table = self.core.table();
            let groups = place(self.core, &table)?;
            let group = groups.into_iter().next().unwrap_or_else(|| Arc::clone(table.home()));
            match self.core.send(&group, &ask).await {
                Ok(answer) => return Ok((answer, group)),
                Err(Failure::Unknown) if !reads => return Err(Fault::Timeout.into()),
                Err(failure) => {
                    tracing::debug!(group = %group.name(), path, %failure, "tried again");
                    retry.pause_after(failure).await?;
                }
            }
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        let config = &self.core.config;
        Retry::of_request(config.retry_for, &self.headers, self.core.changes())
            .counted(&config.metrics.all.retries)
    }
}
