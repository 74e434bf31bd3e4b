//! Range, RangeStream, Put and DeleteRange: one group's as they came, several groups' by fan-out.

use std::sync::Arc;

use http::Response;
use kubebrain_shared::fault::Fault;
use tonic::Status;
use tonic::body::Body;

use super::Call;
use crate::call::{Answer, Failure};
use crate::classify::{Footprint, Shape, Span, footprint};
use crate::core::Core;
use crate::fanout::Setback;
use crate::fanout::delete::Deleted;
use crate::group::Group;
use crate::retry::Retry;
use crate::table::Table;

/// Where a request goes by one table.
enum Target {
    One(Arc<Group>),
    Many(Vec<Arc<Group>>),
}

impl Target {
    fn of(table: &Table, footprint: &Footprint) -> Self {
        let mut owners = match footprint.spans.first() {
            Some(span) => table.owners(span),
            None => vec![Arc::clone(table.home())],
        };
        match owners.len() {
            1 => Self::One(owners.remove(0)),
            _ => Self::Many(owners),
        }
    }
}

impl Call<'_> {
    pub(crate) async fn range(&self) -> Result<Response<Body>, Status> {
        self.read("/etcdserverpb.KV/Range", false).await
    }

    pub(crate) async fn range_stream(&self) -> Result<Response<Body>, Status> {
        self.read("/etcdserverpb.KV/RangeStream", true).await
    }

    async fn read(&self, path: &'static str, streams: bool) -> Result<Response<Body>, Status> {
        let found = footprint(Shape::Range, &self.message.message())?;
        self.core.look_for(found.revision).await?;
        let ask = self.ask(path);
        let mut retry = self.retry();
        loop {
            let table = self.core.table();
            let merged = match Target::of(&table, &found) {
                Target::One(group) => match self.core.send(&group, &ask).await {
                    Ok(answer) => Ok(answer.relay()),
                    Err(failure) => Err(Setback::of_read(failure)),
                },
                Target::Many(groups) if streams => {
                    self.core.merged_stream(&self.headers, &self.message, &groups, table.version()).await
                }
                Target::Many(groups) => {
                    self.core.merged_range(&self.headers, &self.message, &groups, table.version()).await
                }
            };
            match merged {
                Ok(answer) => return Ok(answer),
                Err(Setback::Refused(status)) => return Err(status),
                Err(Setback::Again) => retry.pause().await?,
            }
        }
    }

    pub(crate) async fn put(&self) -> Result<Response<Body>, Status> {
        let found = footprint(Shape::Put, &self.message.message())?;
        self.write("/etcdserverpb.KV/Put", &found).await
    }

    pub(crate) async fn delete_range(&self) -> Result<Response<Body>, Status> {
        let found = footprint(Shape::DeleteRange, &self.message.message())?;
        let mut retry = self.retry();
        let mut deleted = Deleted::default();
        loop {
            let table = self.core.table();
            match Target::of(&table, &found) {
                Target::One(_) if !deleted.is_begun() => {
                    return self.write("/etcdserverpb.KV/DeleteRange", &found).await;
                }
                target => {
                    let groups = target.groups();
                    let merged = self.core.merged_delete(
                        &self.headers,
                        &self.message,
                        &groups,
                        table.version(),
                        &mut deleted,
                    );
                    match merged.await {
                        Err(Setback::Again) => {}
                        Err(Setback::Refused(status)) => return Err(status),
                        Ok(answer) => return Ok(answer),
                    }
                }
            }
            retry.pause().await?;
        }
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
                Err(failure) => tracing::debug!(group = %group.name(), path, %failure, "tried again"),
            }
            retry.pause().await?;
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        let config = &self.core.config;
        Retry::of_request(config.retry_for, &self.headers, self.core.news())
            .counted(&config.metrics.all.retries)
    }
}

impl Target {
    fn groups(self) -> Vec<Arc<Group>> {
        match self {
            Self::One(group) => vec![group],
            Self::Many(groups) => groups,
        }
    }
}

/// The one group of all spans.
///
/// # Errors
/// `InvalidArgument` that names two groups and a key of each.
pub(crate) fn only_owner(table: &Table, spans: &[Span]) -> Result<Vec<Arc<Group>>, Status> {
    let mut first: Option<(Arc<Group>, &Span)> = None;
    for span in spans {
        for group in table.owners(span) {
            match &first {
                None => first = Some((group, span)),
                Some((owner, _)) if super::same(owner, &group) => {}
                Some((owner, other)) => {
                    return Err(Status::invalid_argument(format!(
                        "kubebrain: a transaction must stay in one group: {:?} belongs to {}, {:?} to {}",
                        other.range(),
                        owner.name(),
                        span.range(),
                        group.name(),
                    )));
                }
            }
        }
    }
    Ok(first.map(|(group, _)| group).into_iter().collect())
}
