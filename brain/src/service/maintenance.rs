//! `etcdserverpb.Maintenance`.

use std::sync::Arc;

use kubebrain_net::probe::ETCD_VERSION;
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use tonic::{Request, Status};

use super::inner::{Audience, Inner};
use crate::state::alarm::{Alarm, AlarmKind};

pub(super) async fn status(
    inner: Arc<Inner>,
    _request: Request<wire::StatusRequest>,
) -> Result<tonic::Response<wire::StatusResponse>, Status> {
    let shared = inner.store.state();
    let revision = shared.committed();
    let quota = shared.share.quota();
    let in_use = quota.used().cast_signed();
    let answer = wire::StatusResponse {
        header: inner.header(revision),
        version: ETCD_VERSION.to_owned(),
        db_size: match (shared.engine.size().cast_signed(), inner.audience) {
            // An engine without a disk has its rows; etcdctl divides by it.
            (0, Audience::Clients) => in_use.max(1),
            (size, _) => size,
        },
        db_size_in_use: in_use,
        db_size_quota: quota.bytes_max().unwrap_or(0).cast_signed(),
        leader: inner.members.master(),
        raft_term: shared.identity().epoch,
        raft_index: revision.get(),
        raft_applied_index: revision.get(),
        errors: inner.store.alarms().into_iter().map(sentence).collect(),
        downgrade_info: Some(wire::DowngradeInfo::default()),
        ..Default::default()
    };
    let mut response = inner.answer(answer, revision);
    if inner.audience == Audience::Peers {
        metadata::put_store(response.metadata_mut(), quota.store());
    }
    Ok(response)
}

/// The line that etcd prints of an alarm.
fn sentence(alarm: Alarm) -> String {
    format!("memberID:{} alarm:{}", alarm.member, to_wire(alarm).alarm().as_str_name())
}

pub(super) fn to_wire(alarm: Alarm) -> wire::AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => wire::AlarmType::Nospace,
        AlarmKind::Corrupt => wire::AlarmType::Corrupt,
    };
    wire::AlarmMember { member_id: alarm.member, alarm: kind.into() }
}

/// Every alarm of a kind, or of all of them for `NONE`; raised or ended by hand where the kind is named, as in etcd.
pub(super) async fn alarm(
    inner: Arc<Inner>,
    request: Request<wire::AlarmRequest>,
) -> Result<tonic::Response<wire::AlarmResponse>, Status> {
    use wire::alarm_request::AlarmAction;
    let request = request.into_inner();
    let kind = match wire::AlarmType::try_from(request.alarm) {
        Ok(wire::AlarmType::None) => None,
        Ok(wire::AlarmType::Nospace) => Some(AlarmKind::NoSpace),
        Ok(wire::AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
        Err(_) => return Err(Status::invalid_argument("kubebrain: there is no such kind of alarm")),
    };
    let named = kind.map(|kind| Alarm { member: request.member_id, kind });
    let alarms = match (AlarmAction::try_from(request.action), named) {
        (Ok(AlarmAction::Get), _) => {
            let standing = inner.store.alarms();
            inner.store.settle().await?;
            standing.into_iter().filter(|alarm| kind.is_none_or(|kind| alarm.kind == kind)).collect()
        }
        (Ok(AlarmAction::Activate | AlarmAction::Deactivate), None) => Vec::new(),
        (Ok(AlarmAction::Activate), Some(alarm)) => {
            inner.store.raise_alarm(alarm).await?;
            vec![alarm]
        }
        (Ok(AlarmAction::Deactivate), Some(alarm)) => {
            let stood = inner.store.disarm(alarm).await?;
            stood.then_some(alarm).into_iter().collect()
        }
        (Err(_), _) => return Err(Status::invalid_argument("kubebrain: there is no such action on alarms")),
    };
    let revision = inner.store.state().committed();
    let alarms = alarms.into_iter().map(to_wire).collect();
    Ok(inner.answer(wire::AlarmResponse { header: inner.header(revision), alarms }, revision))
}

/// Rewrites the store without what was deleted. Nobody waits for it but the caller.
pub(super) async fn defragment(
    inner: Arc<Inner>,
    _request: Request<wire::DefragmentRequest>,
) -> Result<tonic::Response<wire::DefragmentResponse>, Status> {
    let shared = inner.store.state();
    tracing::info!(group = %shared.group, bytes = shared.engine.size(), "defragmenting");
    shared.engine.defragment().await.map_err(|error| {
        tracing::warn!(group = %shared.group, "defragmenting failed: {error}");
        Status::internal(format!("kubebrain: the store was not defragmented: {error}"))
    })?;
    tracing::info!(group = %shared.group, bytes = shared.engine.size(), "defragmented");
    Ok(tonic::Response::new(wire::DefragmentResponse::default()))
}

/// Moving the lead to who has it is done already.
pub(super) async fn move_leader(
    inner: Arc<Inner>,
    request: Request<wire::MoveLeaderRequest>,
) -> Result<tonic::Response<wire::MoveLeaderResponse>, Status> {
    match request.into_inner().target_id == inner.store.state().identity().member {
        true => Ok(tonic::Response::new(wire::MoveLeaderResponse::default())),
        false => Err(Fault::BadLeaderTransferee.into()),
    }
}
