//! [`Traced`]: around a service that no listener observes, since this process asks it directly.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use kubebrain_shared::metadata;
use kubebrain_shared::method;
use pin_project_lite::pin_project;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Service;

use super::{Name, Span, Tracer, Within, within};
use crate::watched::{Watch, watched};

/// See the module.
#[derive(Clone, Debug)]
pub struct Traced<S> {
    inner: S,
    tracer: Tracer,
}

impl<S> Traced<S> {
    /// Tells `tracer` of the requests that are traced. No trace begins here.
    pub fn new(inner: S, tracer: Tracer) -> Self {
        Self { inner, tracer }
    }
}

impl<S, B> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let span = self.tracer.is_on().then(|| {
            let path = method::find(request.uri().path()).map_or("unknown/unknown", |method| method.path);
            self.tracer.serve(request.headers_mut(), Name::of(path), false)
        });
        let span = span.flatten();
        Answering { inner: within(span.as_ref(), self.inner.call(request)), span }
    }
}

pin_project! {
    /// An answer on its way.
    pub struct Answering<F> {
        #[pin]
        inner: Within<F>,
        span: Option<Span>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Answering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.inner.poll(cx));
        Poll::Ready(Ok(match this.span.take() {
            Some(span) => told(response, span),
            None => response,
        }))
    }
}

fn told(response: Response<Body>, span: Span) -> Response<Body> {
    metadata::revision(response.headers(), &metadata::REVISION).into_iter().for_each(|at| span.reached(at));
    watched(response, span)
}

impl Watch for Span {
    fn data(&mut self, _: &Bytes) {
        self.answers();
    }

    fn ended(&mut self, code: Code) {
        self.end(code);
    }
}
