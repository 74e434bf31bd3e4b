//! [`Observe`]: around a listener's service. It answers `/metrics` and counts every gRPC call, unary and streams.
//!
//! A call's code stands in its headers, where it was refused, or in its trailers. One whose answer is dropped before
//! that was given up by its client, and counts as canceled.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use super::Metrics;
use super::call::{Call, Calls};
use super::frames::Frames;

/// See the module.
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    metrics: Metrics,
    calls: Arc<Calls>,
}

impl<S> Observe<S> {
    /// Counts the calls of `inner` in `calls`.
    pub fn new(inner: S, metrics: Metrics, calls: Arc<Calls>) -> Self {
        Self { inner, metrics, calls }
    }
}

/// The body of a request, counted where somebody counts.
#[derive(Debug)]
pub struct Inbound {
    inner: Source,
    frames: Frames,
    call: Option<Arc<Call>>,
}

/// Where a request comes from.
#[derive(Debug)]
enum Source {
    Connection(Incoming),
    /// This process asks itself.
    Process(Body),
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self {
            Self::Connection(body) => {
                Pin::new(body).poll_frame(cx).map_err(|error| Status::from_error(error.into()))
            }
            Self::Process(body) => Pin::new(body).poll_frame(cx),
        }
    }
}

/// Counted by nobody.
impl From<Body> for Inbound {
    fn from(body: Body) -> Self {
        Self { inner: Source::Process(body), frames: Frames::default(), call: None }
    }
}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(self.inner.poll(cx));
        let this = &mut *self;
        if let (Some(call), Some(Ok(frame))) = (&this.call, &frame)
            && let Some(data) = frame.data_ref()
        {
            call.received(data, this.frames.pass(data));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Source::Connection(body) => body.is_end_stream(),
            Source::Process(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Source::Connection(body) => body.size_hint(),
            Source::Process(body) => body.size_hint(),
        }
    }
}

/// A call whose end is still to come: dropped, it was given up.
struct Ending(Arc<Call>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Code::Cancelled);
    }
}

/// The body of an answer.
struct Outbound {
    inner: Body,
    frames: Frames,
    ending: Ending,
}

impl HttpBody for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let this = &mut *self;
        let call = &this.ending.0;
        match &frame {
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => call.sent(this.frames.pass(data)),
                (None, Some(trailers)) => call.end(code(trailers).unwrap_or(Code::Unknown)),
                (None, None) => {}
            },
            // The stream is reset; a client calls that so.
            Some(Err(_)) => call.end(Code::Internal),
            None => call.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

pin_project! {
    /// An answer on its way.
    #[project = AnsweringState]
    pub enum Answering<F> {
        /// The page of numbers.
        Page { page: Option<Response<Body>> },
        /// From the service; counted if it is a call.
        Inner { #[pin] inner: F, ending: Option<Ending> },
    }
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnsweringState::Page { page } => Poll::Ready(Ok(page.take().expect("a future ends once"))),
            AnsweringState::Inner { inner, ending } => {
                let Ok(response) = ready!(inner.poll(cx));
                Poll::Ready(Ok(match ending.take() {
                    Some(ending) => counted(response, ending),
                    None => response,
                }))
            }
        }
    }
}

fn counted(response: Response<Body>, ending: Ending) -> Response<Body> {
    match code(response.headers()) {
        Some(code) => {
            ending.0.end(code);
            response
        }
        None => response.map(|inner| Body::new(Outbound { inner, frames: Frames::default(), ending })),
    }
}

impl<S> Service<Request<Incoming>> for Observe<S>
where
    S: Service<Request<Inbound>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.observe(request.map(Source::Connection))
    }
}

/// Of this process itself.
impl<S> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Inbound>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.observe(request.map(Source::Process))
    }
}

impl<S> Observe<S>
where
    S: Service<Request<Inbound>, Response = Response<Body>, Error = Infallible>,
{
    fn observe(&mut self, request: Request<Source>) -> Answering<S::Future> {
        let content = request.headers().get(header::CONTENT_TYPE);
        let call = match content {
            Some(content) if content.as_bytes().starts_with(b"application/grpc") => {
                Some(self.calls.begin(request.uri().path()))
            }
            _ if request.uri().path() == "/metrics" => {
                return Answering::Page { page: Some(self.metrics.answer(request.method())) };
            }
            _ => None,
        };
        let ending = call.clone().map(Ending);
        let request = request.map(|inner| Inbound { inner, frames: Frames::default(), call });
        Answering::Inner { inner: self.inner.call(request), ending }
    }
}
