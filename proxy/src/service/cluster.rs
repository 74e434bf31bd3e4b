//! Cluster: to its clients a proxy is a cluster of one member.

use http::Response;
use kubebrain_proto::etcdserverpb::{
    Member, MemberListResponse, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::unserved;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use crate::grpc;

impl Call<'_> {
    /// The one member is reached where this proxy is. Answers about the cluster have revision 0, as in etcd.
    pub(crate) fn member_list(&self) -> Response<Body> {
        let config = &self.core.config;
        let identity = self.core.identity();
        let urls = config.advertised_urls.clone();
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

    pub(crate) fn member_remove(&self, path: &str) -> Status {
        let request = grpc::decode::<MemberRemoveRequest>(self.message.message());
        request.map_or_else(|refused| refused, |request| self.member_change(request.id, path))
    }

    pub(crate) fn member_update(&self, path: &str) -> Status {
        let request = grpc::decode::<MemberUpdateRequest>(self.message.message());
        request.map_or_else(|refused| refused, |request| self.member_change(request.id, path))
    }

    pub(crate) fn member_promote(&self) -> Status {
        match grpc::decode::<MemberPromoteRequest>(self.message.message()) {
            Ok(request) if request.id == self.core.identity().member_id => Fault::MemberNotLearner.into(),
            Ok(_) => Fault::MemberNotFound.into(),
            Err(refused) => refused,
        }
    }

    fn member_change(&self, id: u64, path: &str) -> Status {
        match id == self.core.identity().member_id {
            true => unserved::refusal(path),
            false => Fault::MemberNotFound.into(),
        }
    }
}
