//! [`Route`]: by its path a request comes to the method that answers it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::unserved;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::classify::Classified;
use crate::core::Core;
use crate::grpc::Answered;
use crate::service::call::Call;

/// See the module.
#[derive(Clone)]
pub(super) struct Route {
    core: Arc<Core>,
}

impl Route {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }
}

impl Service<Request<Classified>> for Route {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Classified>) -> Self::Future {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let (head, Classified { message, footprint }) = request.into_parts();
            let call = Call { core: &core, headers: head.headers, message, footprint };
            unary(call, head.uri.path()).await
        })
    }
}

async fn unary(call: Call<'_>, path: &str) -> Answered {
    match path {
        method::RANGE => call.range().await,
        method::RANGE_STREAM => call.range_stream().await,
        method::PUT => call.put().await,
        method::DELETE_RANGE => call.delete_range().await,
        method::TXN => call.txn().await,
        method::COMPACT => call.compact().await,
        method::LEASE_GRANT => call.at_home(method::LEASE_GRANT, false).await,
        method::LEASE_LEASES => call.at_home(method::LEASE_LEASES, true).await,
        method::LEASE_REVOKE => call.lease_revoke().await,
        method::LEASE_TIME_TO_LIVE => call.lease_time_to_live().await,
        method::MEMBER_LIST => Ok(call.member_list()),
        method::MEMBER_REMOVE => Err(call.member_remove(path)),
        method::MEMBER_UPDATE => Err(call.member_update(path)),
        method::MEMBER_PROMOTE => Err(call.member_promote()),
        method::AUTH_STATUS => Ok(call.auth_status()),
        method::AUTHENTICATE => Err(Fault::AuthNotEnabled.into()),
        method::STATUS => call.status().await,
        method::ALARM => call.alarm().await,
        method::DEFRAGMENT => call.defragment().await,
        method::MOVE_LEADER => call.move_leader(),
        method::HASH => call.hash().await,
        method::HASH_KV => call.hash_kv().await,
        method::SNAPSHOT => call.snapshot().await,
        method::ADMIN_PLACEMENT => call.at_home(method::ADMIN_PLACEMENT, true).await,
        method::CHANGE_PLACEMENT => call.at_home(method::CHANGE_PLACEMENT, false).await,
        other => Err(unserved::refusal(other)),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::classify::Footprint;
    use crate::config::Config;
    use crate::grpc::Framed;
    use crate::testing::core;

    #[tokio::test]
    async fn what_nobody_serves_is_refused_by_its_name() {
        let mut route = Route::new(&core(Config::default()));
        let mut ask = |path: &str| {
            let asked = Classified { message: Framed::new(b""), footprint: Footprint::default() };
            let mut request = Request::post(path).body(asked).expect("a request");
            *request.headers_mut() = HeaderMap::new();
            route.call(request)
        };
        ask("/etcdserverpb.Cluster/MemberList").await.expect("answered here");
        for path in ["/etcdserverpb.KV/Other", "/kubebrain.peer.v1.Peer/Advance"] {
            let refused = ask(path).await.expect_err("nobody's");
            assert_eq!(refused.code(), tonic::Code::Unimplemented, "{path}");
        }
    }
}
