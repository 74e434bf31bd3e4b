//! `etcdserverpb.Cluster`: one member, this brain.

use std::sync::Arc;

use kubebrain_proto::etcdserverpb as wire;
use kubebrain_shared::revision::Revision;
use tonic::{Request, Status};

use super::Inner;

pub(super) async fn member_list(
    inner: Arc<Inner>,
    _request: Request<wire::MemberListRequest>,
) -> Result<tonic::Response<wire::MemberListResponse>, Status> {
    let member = wire::Member {
        id: inner.store.shared().identity.member,
        name: inner.name.clone(),
        peer_ur_ls: inner.peer_urls.clone(),
        client_ur_ls: inner.client_urls.clone(),
        is_learner: false,
    };
    // The cluster service answers at revision 0, as in etcd.
    let header = inner.header(Revision::ZERO);
    Ok(tonic::Response::new(wire::MemberListResponse { header, members: vec![member] }))
}
