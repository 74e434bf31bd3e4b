//! The local etcd endpoint: one method per request, by path.

mod admin;
mod auth;
mod cluster;
pub(crate) mod compact;
mod health;
mod kv;
mod lease;
mod maintenance;
mod snapshot;
mod txn;
mod web;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use kubebrain_net::eager::Eager;
use kubebrain_net::intake::Intake;
use kubebrain_net::metrics::Inbound;
use kubebrain_net::probe;
use kubebrain_net::reflection::Reflection;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::unserved;
use tonic::Status;
use tonic::body::Body;

use crate::call::Ask;
use crate::core::Core;
use crate::group::Group;
use crate::grpc::{self, Framed};

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// What [`crate::Proxy::service`] gives: cheap to clone, one call per request.
#[derive(Clone)]
pub struct Service {
    stack: Route,
}

/// By path.
#[derive(Clone)]
struct Route {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { stack: Route { core } }
    }

    /// As [`tower::Service::call`], from any body.
    pub fn answer(&self, request: Request<Body>) -> Answering {
        tower::Service::call(&mut self.stack.clone(), request)
    }
}

impl tower::Service<Request<Inbound>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Inbound>) -> Self::Future {
        tower::Service::call(&mut self.stack, request.map(Body::new))
    }
}

/// Without anybody who counts.
impl tower::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        tower::Service::call(&mut self.stack, request.map(Body::new))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl tower::Service<Request<Body>> for Route {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            if !is_grpc(&request) {
                let (head, _body) = request.into_parts();
                return Ok(web::answer(&core, &head.method, &head.uri).await);
            }
            Ok(grpc_call(core, request).await.unwrap_or_else(Status::into_http))
        })
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    request.method() == Method::POST && probe::is_grpc(request.headers())
}

async fn grpc_call(core: Arc<Core>, request: Request<Body>) -> Result<Response<Body>, Status> {
    if let Some(reflection) = core.reflection.as_ref().filter(|_| Reflection::is_asked(request.uri().path()))
    {
        return Ok(reflection.answer(request).await);
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.starts_with("/grpc.health.v1.Health/") {
        return health::answer(&core, path, body).await;
    }
    if path == admin::GROUPS {
        return Ok(admin::groups(&core).await);
    }
    if core.stop_handle().is_none() {
        return Err(Fault::Stopped.into());
    }
    if !*core.ready().borrow() {
        return Err(Fault::Unhealthy.into());
    }
    let headers = forwarded(parts.headers);
    match path {
        "/etcdserverpb.Watch/Watch" => crate::watch::answer(core, Body::new(Eager::new(body))),
        "/etcdserverpb.Lease/LeaseKeepAlive" => lease::keep_alive(core, Body::new(Eager::new(body))),
        _ => {
            let (body, _taken) = Intake::new(body, &core.requests);
            let message = grpc::one_message(Body::new(body), core.config.message_bytes_max()).await?;
            // Counted from here, until its answer begins: what clients only begin to ask keeps nobody out.
            let _place = core.in_flight.try_acquire().map_err(|_full| {
                core.config.metrics.all.refused.inc();
                Fault::TooManyRequests
            })?;
            let call = Call { core: &core, headers, message };
            match takes_as_long_as_it_takes(path) {
                true => unary(call, path).await,
                // Else one group that does not answer would use up all places.
                false => tokio::time::timeout(core.config.answer_timeout, unary(call, path))
                    .await
                    .unwrap_or_else(|_late| Err(Fault::Timeout.into())),
            }
        }
    }
}

/// Requests whose work has no bound in time.
fn takes_as_long_as_it_takes(path: &str) -> bool {
    path.starts_with("/etcdserverpb.Maintenance/") || path == "/etcdserverpb.KV/Compact"
}

/// One unary request.
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Core,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Framed,
}

async fn unary(call: Call<'_>, path: &str) -> Result<Response<Body>, Status> {
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

impl Call<'_> {
    /// What one group is sent: the bytes that arrived.
    fn ask(&self, path: &'static str) -> Ask<'_> {
        Ask { path, headers: &self.headers, message: self.message.clone(), part: None, floor: true }
    }

    /// Passed on to the home group.
    async fn at_home(&self, path: &'static str, reads: bool) -> Result<Response<Body>, Status> {
        let home = |core: &Core| vec![Arc::clone(core.table().home())];
        let answer = self.forward(path, reads, |core, _| Ok(home(core))).await?;
        Ok(answer.relay())
    }
}

/// The client's headers that a brain may see.
fn forwarded(mut headers: HeaderMap) -> HeaderMap {
    metadata::strip(&mut headers);
    for name in
        [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE]
    {
        headers.remove(name);
    }
    headers
}

/// True if the two are the same group.
fn same(a: &Group, b: &Group) -> bool {
    a.name() == b.name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proxies_and_brains_tell_each_other_does_not_come_from_a_client() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("kubebrain-floor", "9"),
            ("authorization", "token"),
            ("kubebrain-floor", "10"),
            ("kubebrain-new", "1"),
            ("grpc-timeout", "5S"),
            ("kubebrain-part", "2"),
            ("host", "here"),
            ("hasmetadata", "kubebrain-floor"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        let left = forwarded(headers);
        let mut names: Vec<_> = left.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "grpc-timeout", "hasmetadata"]);
    }
}
