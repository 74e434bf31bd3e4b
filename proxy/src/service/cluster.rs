//! Cluster: to its clients a proxy is a cluster of one member.

use http::Response;
use kubebrain_proto::etcdserverpb::{Member, MemberListResponse};
use kubebrain_shared::revision::Revision;
use tonic::body::Body;

use super::Call;
use crate::grpc;

impl Call<'_> {
    /// The one member is reached where this proxy is. Answers about the cluster have revision 0, as in etcd.
    pub(crate) fn member_list(&self) -> Response<Body> {
        let config = &self.core.config;
        let identity = self.core.identity();
        let urls = vec![config.advertised_url.clone()];
        let member = Member {
            id: identity.member_id,
            name: config.name.clone(),
            peer_ur_ls: urls.clone(),
            client_ur_ls: urls,
            is_learner: false,
        };
        let header = Some(identity.header(Revision::ZERO));
        grpc::answer(&MemberListResponse { header, members: vec![member] })
    }
}
