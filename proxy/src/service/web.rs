//! What probes and people ask over HTTP/1: `/health`, `/livez`, `/readyz`, `/version`.

use std::sync::Arc;

use http::{HeaderMap, Method, Response, Uri};
use kubebrain_proto::etcdserverpb::{AlarmRequest, AlarmResponse, AlarmType};
use kubebrain_shared::probe::{self, Subject};
use tonic::Status;
use tonic::body::Body;

use super::Call;
use crate::core::Core;
use crate::grpc::{self, Framed};

pub(super) async fn answer(core: &Arc<Core>, method: &Method, uri: &Uri) -> Response<Body> {
    probe::page(&Probed(core.clone()), &core.config.etcd_version, method, uri).await
}

/// Which groups cannot be reached, and why.
fn troubles(core: &Core) -> String {
    let table = core.table();
    let mut groups: Vec<_> = table.groups().collect();
    groups.sort_unstable_by_key(|group| group.name());
    let said = groups.iter().flat_map(|group| {
        let name = group.name();
        group.troubles().map(move |reason| format!("; group {name}: cannot connect to {reason}"))
    });
    said.collect()
}

/// This proxy, as probes see it: it works without its groups, and reads only if all of them answer.
struct Probed(Arc<Core>);

impl Subject for Probed {
    fn works(&self) -> Result<(), String> {
        let stopping = || "stopping".to_owned();
        self.0.stop_handle().map(drop).ok_or_else(stopping).and_then(|()| self.0.config.inside.works())
    }

    async fn read(&self) -> Result<(), Status> {
        let core = &self.0;
        let ready = *core.ready().borrow();
        let read = match ready {
            true => core.fence(core.table().groups()).await.map(drop),
            false => Err(Status::unavailable("not every group has answered yet")),
        };
        read.map_err(|status| Status::new(status.code(), status.message().to_owned() + &troubles(core)))
    }

    async fn alarms(&self) -> Result<Vec<AlarmType>, Status> {
        let (core, headers) = (&*self.0, HeaderMap::new());
        let message = Framed::of(&AlarmRequest::default());
        let response = Call { core, headers, message }.alarm().await?;
        let body = response.into_body();
        let message = grpc::one_message(body, core.config.message_bytes_max()).await?;
        let answer: AlarmResponse = grpc::decode(message.message())?;
        Ok(answer.alarms.iter().map(|member| member.alarm()).collect())
    }
}
