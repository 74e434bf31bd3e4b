//! `etcdserverpb.Maintenance`: what clients need to start.

use std::sync::Arc;

use kubebrain_proto::etcdserverpb as wire;
use tonic::{Request, Status};

use super::{ETCD_VERSION, Inner};

pub(super) async fn status(
    inner: Arc<Inner>,
    _request: Request<wire::StatusRequest>,
) -> Result<tonic::Response<wire::StatusResponse>, Status> {
    let shared = inner.store.shared();
    let revision = shared.committed();
    let size = shared.engine.size().cast_signed();
    let answer = wire::StatusResponse {
        header: inner.header(revision),
        version: ETCD_VERSION.to_owned(),
        db_size: size,
        db_size_in_use: size,
        leader: shared.identity.member,
        raft_term: shared.identity.term,
        raft_index: revision.get(),
        raft_applied_index: revision.get(),
        ..Default::default()
    };
    Ok(inner.answer(answer, revision))
}

pub(super) async fn alarm(
    inner: Arc<Inner>,
    request: Request<wire::AlarmRequest>,
) -> Result<tonic::Response<wire::AlarmResponse>, Status> {
    if request.into_inner().action != wire::alarm_request::AlarmAction::Get as i32 {
        return Err(Status::unimplemented("alarms are neither raised nor cleared by hand here yet"));
    }
    let header = inner.header(inner.store.shared().committed());
    Ok(tonic::Response::new(wire::AlarmResponse { header, alarms: Vec::new() }))
}
