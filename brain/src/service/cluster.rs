//! `etcdserverpb.Cluster`: the brains of this group, of which this one is the master.

use std::sync::Arc;

use kubebrain_proto::etcdserverpb as wire;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::unserved;
use tonic::{Request, Status};

use super::inner::Inner;

pub(super) async fn member_list(
    inner: Arc<Inner>,
    _request: Request<wire::MemberListRequest>,
) -> Result<tonic::Response<wire::MemberListResponse>, Status> {
    let member = wire::Member {
        id: inner.store.state().identity().member,
        name: inner.name.clone(),
        peer_ur_ls: inner.peer_urls.clone(),
        client_ur_ls: inner.client_urls.clone(),
        is_learner: false,
    };
    let mut members = inner.members.slaves();
    members.retain(|slave| slave.id != member.id);
    members.insert(0, member);
    // The cluster service answers at revision 0, as in etcd.
    let header = inner.header(Revision::ZERO);
    Ok(tonic::Response::new(wire::MemberListResponse { header, members }))
}

pub(super) async fn member_remove(
    inner: Arc<Inner>,
    request: Request<wire::MemberRemoveRequest>,
) -> Result<tonic::Response<wire::MemberRemoveResponse>, Status> {
    inner.is_member(request.into_inner().id)?;
    Err(unserved::refusal(method::MEMBER_REMOVE))
}

pub(super) async fn member_update(
    inner: Arc<Inner>,
    request: Request<wire::MemberUpdateRequest>,
) -> Result<tonic::Response<wire::MemberUpdateResponse>, Status> {
    inner.is_member(request.into_inner().id)?;
    Err(unserved::refusal(method::MEMBER_UPDATE))
}

pub(super) async fn member_promote(
    inner: Arc<Inner>,
    request: Request<wire::MemberPromoteRequest>,
) -> Result<tonic::Response<wire::MemberPromoteResponse>, Status> {
    inner.is_member(request.into_inner().id)?;
    Err(Fault::MemberNotLearner.into())
}

impl Inner {
    fn is_member(&self, id: u64) -> Result<(), Fault> {
        match id == self.store.state().identity().member || self.members.has(id) {
            true => Ok(()),
            false => Err(Fault::MemberNotFound),
        }
    }
}
