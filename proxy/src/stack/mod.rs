//! [`Service`]: what a proxy answers, as a stack of layers. [`stack`] names them in the order in which a request meets them.
//!
//! A layer that has nothing to do with a request costs it neither an allocation nor a task: only the method itself, at the
//! bottom, is a future in a box.

mod admission;
mod audience;
mod classify;
mod deadline;
mod held;
mod intake;
mod kinds;
mod route;
mod streams;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use kubebrain_net::metrics::Inbound;
use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceBuilder;

use crate::core::Core;
use admission::{Admission, AdmissionLayer};
use audience::{Audience, AudienceLayer};
use classify::{Classify, ClassifyLayer};
use deadline::{Deadline, DeadlineLayer};
use intake::{Intake, IntakeLayer};
use kinds::{KindsLayer, KindsTurn};
use route::Route;
use streams::{Streams, StreamsLayer};

/// From the outside to the inside.
type Stack = Audience<Streams<Intake<Admission<Deadline<Classify<KindsTurn<Route>>>>>>>;

/// From the outside to the inside. Around it stands what each listener has, of `kubebrain_net`: `Cors` for browsers,
/// `Gateway` for JSON, `Observe`, which counts, `Locks`, and `Opening` while groups of this process open.
fn stack(core: &Arc<Core>) -> Stack {
    let config = &core.config;
    ServiceBuilder::new()
        // probes, tools and people are answered here, always; clients go on, while the proxy serves
        .layer(AudienceLayer::new(core))
        // watches and renewals of leases have no one message and no end: they are answered here
        .layer(StreamsLayer::new(core))
        // the body becomes a message: bounded in bytes and time, and let in by a budget if it is large
        .layer(IntakeLayer::new(&core.requests, config.message_bytes_max()))
        // so many are at work at once; counted only from here, so that whoever begins to ask keeps nobody out
        .layer(AdmissionLayer::new(&core.in_flight, &config.metrics.all.refused))
        // so long may it take until an answer begins
        .layer(DeadlineLayer::new(config.answer_timeout))
        // which keys it touches
        .layer(ClassifyLayer)
        // whether the kind of its keys may have one more at work, and one more write
        .layer(KindsLayer::new(&core.kinds, &core.in_flight, config.in_flight_max))
        // what its method does: at one group, at several, or here
        .service(Route::new(core))
}

/// What [`crate::Proxy::service`] gives: cheap to clone, one call per request.
#[derive(Clone)]
pub struct Service {
    stack: Stack,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { stack: stack(core) }
    }

    /// As [`tower::Service::call`], from any body.
    pub fn answer(&self, request: Request<Body>) -> Answering {
        Answering { inner: tower::Service::call(&mut self.stack.clone(), request) }
    }
}

pin_project! {
    /// An answer on its way. What a layer or a method refuses is an answer with a gRPC status.
    pub struct Answering {
        #[pin]
        inner: <Stack as tower::Service<Request<Body>>>::Future,
    }
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map(|answered| Ok(answered.unwrap_or_else(Status::into_http)))
    }
}

impl tower::Service<Request<Inbound>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Inbound>) -> Answering {
        Answering { inner: tower::Service::call(&mut self.stack, request.map(Body::new)) }
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

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        Answering { inner: tower::Service::call(&mut self.stack, request.map(Body::new)) }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

#[cfg(test)]
mod tests {
    use kubebrain_shared::fault::Fault;

    use super::*;
    use crate::testing::{core, grpc_request};

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let service = Service::new(&core(crate::Config::default()));
        let Ok(answer) = service.answer(grpc_request("/etcdserverpb.KV/Range", b"")).await;
        assert_eq!(answer.status(), http::StatusCode::OK);
        let status = Status::from_header_map(answer.headers()).expect("a gRPC status");
        assert_eq!(Fault::of(&status), Some(Fault::Unhealthy));
    }
}
