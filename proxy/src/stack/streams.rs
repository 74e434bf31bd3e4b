//! [`Streams`]: the calls of which a client's side goes on as long as the answer. They meet no layer that is for requests
//! with one message and an end.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use kubebrain_net::eager::Eager;
use kubebrain_shared::method;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::core::Core;
use crate::grpc::Answered;
use crate::service::lease;
use crate::watch;

/// Makes [`Streams`].
#[derive(Clone)]
pub(super) struct StreamsLayer {
    core: Arc<Core>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Streams<S> {
    inner: S,
    core: Arc<Core>,
}

impl StreamsLayer {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }
}

impl<S> Layer<S> for StreamsLayer {
    type Service = Streams<S>;

    fn layer(&self, inner: S) -> Streams<S> {
        Streams { inner, core: Arc::clone(&self.core) }
    }
}

impl<S> Service<Request<Body>> for Streams<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Status>,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Either<S::Future, Ready<Answered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let begin = match request.uri().path() {
            method::WATCH => watch::answer,
            method::LEASE_KEEP_ALIVE => lease::keep_alive,
            _ => return Either::Left(self.inner.call(request)),
        };
        let input = Body::new(Eager::new(request.into_body()));
        Either::Right(ready(begin(Arc::clone(&self.core), input)))
    }
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;
    use crate::config::Config;
    use crate::testing::{core, grpc_request};

    #[tokio::test]
    async fn a_stream_begins_at_once_and_all_else_goes_on() {
        let inner = service_fn(|_: Request<Body>| ready(Err::<Response<Body>, _>(Status::aborted("asked"))));
        let mut streams = StreamsLayer::new(&core(Config::default())).layer(inner);
        for path in ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
            let begun = streams.call(grpc_request(path, b"")).await.expect("begun");
            assert!(Status::from_header_map(begun.headers()).is_none(), "{path}");
        }
        for path in ["/etcdserverpb.KV/RangeStream", "/etcdserverpb.Watch/Other"] {
            assert_eq!(streams.call(grpc_request(path, b"")).await.expect_err("by it").message(), "asked");
        }
    }
}
