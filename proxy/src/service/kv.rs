//! Range, RangeStream, Put and DeleteRange: one group's as they came, several groups' by fan-out.

use std::sync::Arc;

use http::Response;
use kubebrain_shared::method;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use super::target::Target;
use crate::call::Failure;
use crate::fanout::delete::Deleted;
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
        let ask = self.ask(path);
        let mut retry = self.retry();
        loop {
            let table = self.core.table();
            let merged = match Target::of(&table, found) {
                Target::One(group) => match self.core.send(&group, &ask).await {
                    Ok(answer) => Ok(answer.relay()),
                    Err(failure) => Err(Setback::of_read(failure)),
                },
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
