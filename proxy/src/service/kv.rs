//! Range, RangeStream, Put and DeleteRange: one group's as they came, several groups' by fan-out.

use std::sync::Arc;

use http::Response;
use kubebrain_shared::method;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use super::target::Target;
use crate::call::{Ask, Failure, Wanted};
use crate::fanout::delete::Deleted;
use crate::fanout::spread::Large;
use crate::fanout::{Setback, Split};
use crate::group::Group;
use crate::table::Table;

impl Call<'_> {
    pub(crate) async fn range(&self) -> Result<Response<Body>, Status> {
        self.read(method::RANGE, false).await
    }

    pub(crate) async fn range_stream(&self) -> Result<Response<Body>, Status> {
        self.read(method::RANGE_STREAM, true).await
    }

    async fn read(&self, path: &'static str, streams: bool) -> Result<Response<Body>, Status> {
        let found = &self.footprint;
        self.core.look_for(found.revision).await?;
        let mut retry = self.retry();
        loop {
            let table = self.core.table();
            let merged = match Target::of(&table, found) {
                Target::One(group) => self.read_one(path, &group, streams).await,
                Target::Many(groups) => {
                    let split = self.split(&groups, &table);
                    match streams {
                        true => self.core.merged_stream(&split).await,
                        false => self.core.merged_range(&split).await,
                    }
                }
            };
            match merged {
                Ok(answer) => return Ok(answer),
                Err(Setback::Refused(status)) => return Err(status),
                Err(Setback::Again(failure)) => retry.pause_after(failure).await?,
            }
        }
    }

    /// Of one group: from one of its brains, or what is large from several at once.
    async fn read_one(
        &self,
        path: &'static str,
        group: &Arc<Group>,
        streams: bool,
    ) -> Result<Response<Body>, Setback> {
        let of_one_key = self.footprint.spans.first().is_none_or(|span| span.end.is_empty());
        let cut_from = self.core.config.fanout_bytes_min.filter(|_| !of_one_key && group.is_shared());
        if let Some(bytes) = cut_from {
            let ask = Ask { wanted: Wanted::CutFrom(bytes), ..self.ask(path) };
            let answer = self.core.send(group, &ask).await.map_err(Setback::of_read)?;
            if !answer.is_cut() {
                return Ok(answer.relay());
            }
            let large = Large { group, headers: &self.headers, message: &self.message, streams };
            if let Some(answer) = self.core.spread(&large, answer).await? {
                return Ok(answer);
            }
        }
        let answer = self.core.send(group, &self.ask(path)).await.map_err(Setback::of_read)?;
        Ok(answer.relay())
    }

    pub(crate) async fn put(&self) -> Result<Response<Body>, Status> {
        self.write(method::PUT).await
    }

    pub(crate) async fn delete_range(&self) -> Result<Response<Body>, Status> {
        let mut retry = self.retry();
        let mut deleted = Deleted::default();
        loop {
            let table = self.core.table();
            let failure = match Target::of(&table, &self.footprint) {
                Target::One(_) if !deleted.is_begun() => {
                    return self.write(method::DELETE_RANGE).await;
                }
                target => {
                    let groups = target.groups();
                    let split = self.split(&groups, &table);
                    match self.core.merged_delete(&split, &mut deleted).await {
                        // a part that is done is not undone: what the client hears must not sound as if nothing was
                        Err(Setback::Again(_)) if deleted.is_begun() => Failure::NotSent,
                        Err(Setback::Again(failure)) => failure,
                        Err(Setback::Refused(status)) => return Err(status),
                        Ok(answer) => return Ok(answer),
                    }
                }
            };
            retry.pause_after(failure).await?;
        }
    }

    /// This request over several groups of a table.
    fn split<'a>(&'a self, groups: &'a [Arc<Group>], table: &Table) -> Split<'a> {
        Split { headers: &self.headers, message: &self.message, groups, id: table.id() }
    }
}
