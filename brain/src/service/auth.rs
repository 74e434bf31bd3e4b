//! `etcdserverpb.Auth`: there is none, and clients that ask are told so.

use std::sync::Arc;

use kubebrain_proto::etcdserverpb as wire;
use kubebrain_shared::fault::Fault;
use tonic::{Request, Status};

use super::inner::Inner;

/// The number that a fresh etcd answers with.
const AUTH_REVISION: u64 = 1;

pub(super) async fn status(
    inner: Arc<Inner>,
    _request: Request<wire::AuthStatusRequest>,
) -> Result<tonic::Response<wire::AuthStatusResponse>, Status> {
    let revision = inner.store.state().committed();
    let header = inner.header(revision);
    let answer = wire::AuthStatusResponse { header, enabled: false, auth_revision: AUTH_REVISION };
    Ok(inner.answer(answer, revision))
}

/// A client with a name and a password goes on without a token, as with an etcd that has authentication off.
pub(super) async fn authenticate(
    _inner: Arc<Inner>,
    _request: Request<wire::AuthenticateRequest>,
) -> Result<tonic::Response<wire::AuthenticateResponse>, Status> {
    Err(Fault::AuthNotEnabled.into())
}
