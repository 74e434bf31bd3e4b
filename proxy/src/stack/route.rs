//! [`Route`]: by its path a request comes to the method that answers it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use kubebrain_shared::fault::Fault;
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
        "/etcdserverpb.KV/Range" => call.range().await,
        "/etcdserverpb.KV/RangeStream" => call.range_stream().await,
        "/etcdserverpb.KV/Put" => call.put().await,
        "/etcdserverpb.KV/DeleteRange" => call.delete_range().await,
        "/etcdserverpb.KV/Txn" => call.txn().await,
        "/etcdserverpb.KV/Compact" => call.compact().await,
        "/etcdserverpb.Lease/LeaseGrant" => call.at_home("/etcdserverpb.Lease/LeaseGrant", false).await,
        "/etcdserverpb.Lease/LeaseLeases" => call.at_home("/etcdserverpb.Lease/LeaseLeases", true).await,
        "/etcdserverpb.Lease/LeaseRevoke" => call.lease_revoke().await,
        "/etcdserverpb.Lease/LeaseTimeToLive" => call.lease_time_to_live().await,
        "/etcdserverpb.Cluster/MemberList" => Ok(call.member_list()),
        "/etcdserverpb.Cluster/MemberRemove" => Err(call.member_remove(path)),
        "/etcdserverpb.Cluster/MemberUpdate" => Err(call.member_update(path)),
        "/etcdserverpb.Cluster/MemberPromote" => Err(call.member_promote()),
        "/etcdserverpb.Auth/AuthStatus" => Ok(call.auth_status()),
        "/etcdserverpb.Auth/Authenticate" => Err(Fault::AuthNotEnabled.into()),
        "/etcdserverpb.Maintenance/Status" => call.status().await,
        "/etcdserverpb.Maintenance/Alarm" => call.alarm().await,
        "/etcdserverpb.Maintenance/Defragment" => call.defragment().await,
        "/etcdserverpb.Maintenance/MoveLeader" => call.move_leader(),
        "/etcdserverpb.Maintenance/Hash" => call.hash().await,
        "/etcdserverpb.Maintenance/HashKV" => call.hash_kv().await,
        "/etcdserverpb.Maintenance/Snapshot" => call.snapshot().await,
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
