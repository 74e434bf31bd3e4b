//! [`Endpoint`]: what one listener serves, by path.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use kubebrain_net::budget::Share;
use kubebrain_net::eager::Eager;
use kubebrain_net::intake::intake;
use kubebrain_net::metrics::Inbound;
use kubebrain_net::probe;
use kubebrain_net::reflection::{CLIENT_SERVICES, Reflection};
use kubebrain_shared::method;
use kubebrain_shared::stop::Stop;
use kubebrain_shared::unserved;
use tonic::Status;
use tonic::body::Body;
use tower::{Service, service_fn};

use super::codec::{RawCodec, TypedCodec};
use super::inner::{Audience, Inner};
use super::members::Members;
use super::{
    auth, cluster, codec, follow, health, http1, kv, lease, maintenance, peer, questions, snapshot, watch,
};
use crate::request::Limits;
use crate::store::Store;

/// What an endpoint serves with.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

/// Settings of an [`Endpoint`].
pub struct EndpointConfig {
    /// Who may ask.
    pub audience: Audience,
    /// Between two periodic progress notifications.
    pub progress_interval: Duration,
    /// This member's name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// The slaves of this group, while this brain is its master.
    pub members: Members,
}

impl Endpoint {
    /// Serves `store` until `stop`: then streams end as stopped, and so do new requests.
    pub fn new(store: Store, config: EndpointConfig, stop: Stop) -> Self {
        let inner = Inner {
            store,
            audience: config.audience,
            progress_interval: config.progress_interval,
            name: config.name,
            client_urls: config.client_urls,
            peer_urls: config.peer_urls,
            members: config.members,
            reflection: match config.audience {
                Audience::Clients => Reflection::new(CLIENT_SERVICES.iter().copied()).ok(),
                Audience::Peers => None,
            },
            stop,
        };
        Self { inner: Arc::new(inner) }
    }

    // Long: the one table of all calls, a line or a few for each.
    async fn route(self, request: Request<Body>) -> Response<Body> {
        let inner = self.inner;
        if !probe::is_grpc(request.headers()) {
            return http1::answer(&inner, request.method(), request.uri()).await;
        }
        let path = request.uri().path().to_owned();
        let limits = *inner.store.limits();
        macro_rules! unary {
            ($handler:path) => {{
                let own = inner.clone();
                let call = service_fn(move |request| $handler(own.clone(), request));
                let (request, _taken) = intake(request, inner.store.requests());
                codec::server(TypedCodec::default(), &limits).unary(call, request).await
            }};
        }
        macro_rules! raw {
            ($handler:path) => {{
                let own = inner.clone();
                let call = service_fn(move |request| $handler(own.clone(), request));
                let (request, _taken) = intake(request, inner.store.requests());
                codec::server(RawCodec::default(), &limits).unary(call, request).await
            }};
        }
        let peers = inner.audience == Audience::Peers;
        match path.as_str() {
            method::RANGE => raw!(kv::range),
            method::PUT => raw!(kv::put),
            method::DELETE_RANGE => raw!(kv::delete_range),
            method::TXN => raw!(kv::txn),
            method::COMPACT => raw!(kv::compact),
            method::RANGE_STREAM => {
                let own = inner.clone();
                let call = service_fn(move |request| kv::range_stream(own.clone(), request));
                let (request, _taken) = intake(request, inner.store.requests());
                codec::server(RawCodec::default(), &limits).server_streaming(call, request).await
            }
            method::WATCH => {
                let call = service_fn(move |request| watch::watch(inner.clone(), request));
                let request = request.map(Eager::new);
                codec::server(RawCodec::default(), &limits).streaming(call, request).await
            }
            method::LEASE_GRANT => unary!(lease::grant),
            method::LEASE_REVOKE => unary!(lease::revoke),
            method::LEASE_TIME_TO_LIVE => unary!(lease::time_to_live),
            method::LEASE_LEASES => unary!(lease::leases),
            method::LEASE_KEEP_ALIVE => {
                let call = service_fn(move |request| lease::keep_alive(inner.clone(), request));
                let request = request.map(Eager::new);
                codec::server(TypedCodec::default(), &limits).streaming(call, request).await
            }
            method::MEMBER_LIST => unary!(cluster::member_list),
            method::MEMBER_REMOVE => unary!(cluster::member_remove),
            method::MEMBER_UPDATE => unary!(cluster::member_update),
            method::MEMBER_PROMOTE => unary!(cluster::member_promote),
            method::AUTH_STATUS => unary!(auth::status),
            method::AUTHENTICATE => unary!(auth::authenticate),
            method::STATUS => unary!(maintenance::status),
            method::ALARM => unary!(maintenance::alarm),
            method::DEFRAGMENT => unary!(maintenance::defragment),
            method::MOVE_LEADER => unary!(maintenance::move_leader),
            method::HASH => unary!(snapshot::hash),
            method::HASH_KV => unary!(snapshot::hash_kv),
            method::SNAPSHOT => {
                let call = service_fn(move |request| snapshot::snapshot(inner.clone(), request));
                codec::server(TypedCodec::default(), &limits).server_streaming(call, request).await
            }
            method::HEALTH_CHECK => unary!(health::check),
            method::HEALTH_WATCH => {
                let call = service_fn(move |request| health::watch(inner.clone(), request));
                codec::server(TypedCodec::default(), &limits).server_streaming(call, request).await
            }
            path if Reflection::is_asked(path) => match &inner.reflection {
                Some(reflection) => reflection.answer(request).await,
                None => unserved::refusal(path).into_http(),
            },
            method::ADVANCE if peers => unary!(peer::advance),
            method::SHARE_LEASE if peers => unary!(peer::share_lease),
            method::ADOPT_LEASE if peers => unary!(peer::adopt_lease),
            method::RENEW_LEASE if peers => unary!(peer::renew_lease),
            method::LEASE_HOLDERS if peers => unary!(peer::lease_holders),
            method::PLACE if peers => {
                let limits = Limits { request_bytes_max: codec::PLACE_BYTES_MAX, ..limits };
                let call = service_fn(move |request| peer::place(inner.clone(), request));
                codec::server(TypedCodec::default(), &limits).unary(call, request).await
            }
            method::REPAIR if peers => {
                let limits = Limits { request_bytes_max: codec::REPAIR_BYTES_MAX, ..limits };
                let call = service_fn(move |request| peer::repair(inner.clone(), request));
                codec::server(TypedCodec::default(), &limits).unary(call, request).await
            }
            method::PLACEMENT if peers => unary!(peer::placement),
            method::CONTENT if peers => unary!(snapshot::content),
            method::FOLLOW if peers => {
                let call = service_fn(move |request| follow::follow(inner.clone(), request));
                codec::server(TypedCodec::default(), &limits).server_streaming(call, request).await
            }
            method::ASK if peers => {
                let call = service_fn(move |request| questions::answer(inner.clone(), request));
                codec::server(TypedCodec::default(), &limits).streaming(call, request).await
            }
            method::EXPORT if peers => {
                let call = service_fn(move |request| snapshot::export(inner.clone(), request));
                codec::server(TypedCodec::default(), &limits).server_streaming(call, request).await
            }
            path => unserved::refusal(path).into_http(),
        }
    }
}

/// From any body: what a listener took, and what a proxy of this process asks.
impl Service<Request<Body>> for Endpoint {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let endpoint = self.clone();
        Box::pin(async move {
            let mut response = endpoint.route(request).await;
            if let Some(share) = response.extensions_mut().remove::<Arc<Share>>() {
                response = share.hold(response);
            }
            // A request that is refused is answered by headers alone.
            Ok(match Status::from_header_map(response.headers()) {
                Some(status) if codec::is_too_large(&status) => codec::in_etcds_words(status).into_http(),
                _ => response,
            })
        })
    }
}

impl Service<Request<Inbound>> for Endpoint {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Self as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Inbound>) -> Self::Future {
        self.call(request.map(Body::new))
    }
}

/// Without anybody who counts.
impl Service<Request<Incoming>> for Endpoint {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Self as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.call(request.map(Body::new))
    }
}
