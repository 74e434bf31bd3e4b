//! Range, RangeStream, Put and DeleteRange: one group's as they came, several groups' by fan-out.

use http::Response;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use super::target::Target;
use crate::fanout::Setback;
use crate::fanout::delete::Deleted;

impl Call<'_> {
    pub(crate) async fn range(&self) -> Result<Response<Body>, Status> {
        self.read("/etcdserverpb.KV/Range", false).await
    }

    pub(crate) async fn range_stream(&self) -> Result<Response<Body>, Status> {
        self.read("/etcdserverpb.KV/RangeStream", true).await
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
        self.write("/etcdserverpb.KV/Put").await
    }

    pub(crate) async fn delete_range(&self) -> Result<Response<Body>, Status> {
        let mut retry = self.retry();
        let mut deleted = Deleted::default();
        loop {
            let table = self.core.table();
            match Target::of(&table, &self.footprint) {
                Target::One(_) if !deleted.is_begun() => {
                    return self.write("/etcdserverpb.KV/DeleteRange").await;
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
}
