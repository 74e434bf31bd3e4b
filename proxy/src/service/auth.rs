//! Auth: there is none, and clients that ask are told so.

use http::Response;
use kubebrain_proto::etcdserverpb::AuthStatusResponse;
use tonic::body::Body;

use super::call::Call;
use crate::grpc;

/// The revision of roles and users that a fresh etcd has.
const AUTH_REVISION: u64 = 1;

impl Call<'_> {
    pub(crate) fn auth_status(&self) -> Response<Body> {
        let header = Some(self.core.identity().header(self.core.floor.get()));
        grpc::answer(&AuthStatusResponse { header, enabled: false, auth_revision: AUTH_REVISION })
    }
}
