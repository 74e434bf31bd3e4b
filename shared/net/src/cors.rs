//! [`Cors`]: what etcd's listener for clients says to browsers, and to `OPTIONS`, whatever the path.
//!
//! A load balancer that asks by `OPTIONS / HTTP/1.0` (HAProxy's `option httpchk`) takes 200 for health. Listeners of probes
//! alone are without it, in etcd too: there `OPTIONS` is a method like others.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::probe::{is_grpc, whole_server};
use crate::serve::Serve;

/// See the module.
#[derive(Clone, Debug)]
pub struct Cors<S> {
    inner: S,
}

impl<S> Cors<S> {
    /// Of what serves clients.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

type Answered = Result<Response<Body>, Infallible>;
type Answering = Pin<Box<dyn Future<Output = Answered> + Send>>;

impl<S: Serve> Service<Request<Incoming>> for Cors<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Either<Ready<Answered>, Answering>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if is_grpc(request.headers()) && request.method() == Method::POST {
            return Either::Left(self.inner.call(request));
        }
        if let Some(answer) = whole_server(request.method(), request.uri()) {
            let is_options = request.method() == Method::OPTIONS;
            return Either::Right(Either::Left(ready(Ok(if is_options { answer } else { allowed(answer) }))));
        }
        if request.method() == Method::OPTIONS {
            return Either::Right(Either::Left(ready(Ok(allowed(Response::new(Body::empty()))))));
        }
        let answering = self.inner.call(request);
        Either::Right(Either::Right(Box::pin(async move { answering.await.map(allowed) })))
    }
}

/// By etcd's default, whose `--cors` is everybody.
fn allowed(mut response: Response<Body>) -> Response<Body> {
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
