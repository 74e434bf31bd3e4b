//! [`Observe`]: around a listener's service. It answers `/metrics`, counts every gRPC call, unary and streams, and takes
//! compressed ones ([`crate::gzip`]), whose bytes are counted as they are without.
//!
//! A call's code stands in its headers, where it was refused, or in its trailers. One whose answer is dropped before
//! that was given up by its client, and counts as canceled.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use kubebrain_shared::method::Kind;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use super::Metrics;
use super::call::{Call, Calls};
use super::frames::Frames;
use crate::gzip::{self, BodyError, Gzip, Inflate};
use crate::trace::{Within, within};
use crate::watched::{Watch, watched};

/// See the module.
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    metrics: Metrics,
    calls: Arc<Calls>,
    gzip: Gzip,
}

impl<S> Observe<S> {
    /// Counts the calls of `inner` in `calls`; `gzip` says what compressed ones may be.
    pub fn new(inner: S, metrics: Metrics, calls: Arc<Calls>, gzip: Gzip) -> Self {
        Self { inner, metrics, calls, gzip }
    }
}

/// The body of a request, counted where somebody counts.
#[derive(Debug)]
pub struct Inbound {
    inner: Came,
    frames: Frames,
    call: Option<Arc<Call>>,
}

/// How it came.
#[derive(Debug)]
enum Came {
    Plain(Incoming),
    Compressed(Box<Inflate>),
    /// This process asks itself.
    Process(Body),
}

/// Counted by nobody.
impl From<Body> for Inbound {
    fn from(body: Body) -> Self {
        Self { inner: Came::Process(body), frames: Frames::default(), call: None }
    }
}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(match &mut self.inner {
            Came::Plain(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Came::Compressed(body) => Pin::new(&mut **body).poll_frame(cx),
            Came::Process(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        });
        let this = &mut *self;
        if let (Some(call), Some(Ok(frame))) = (&this.call, &frame)
            && let Some(data) = frame.data_ref()
        {
            let passed = this.frames.pass(data);
            if passed.packed > 0 {
                let unsaid = Status::internal("grpc: compressed flag set with identity or empty encoding");
                return Poll::Ready(Some(Err(unsaid.into())));
            }
            call.received(data, passed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Came::Plain(body) => body.is_end_stream(),
            Came::Compressed(body) => body.is_end_stream(),
            Came::Process(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Came::Plain(body) => body.size_hint(),
            Came::Compressed(body) => body.size_hint(),
            Came::Process(body) => body.size_hint(),
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

/// An answer that is counted while it leaves.
struct Outbound {
    frames: Frames,
    ending: Ending,
}

impl Watch for Outbound {
    fn data(&mut self, data: &Bytes) {
        self.ending.0.sent(self.frames.pass(data));
    }

    fn ended(&mut self, code: Code) {
        self.ending.0.end(code);
    }
}

pin_project! {
    /// An answer on its way.
    #[project = AnsweringState]
    pub enum Answering<F> {
        /// Known at once: the page of numbers, a refusal.
        Page { page: Option<Response<Body>> },
        /// From the service; counted if it is a call, compressed if the call was.
        Inner { #[pin] inner: Within<F>, ending: Option<Ending>, compressed: bool },
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
            AnsweringState::Inner { inner, ending, compressed } => {
                let Ok(response) = ready!(inner.poll(cx));
                let response = match ending.take() {
                    Some(ending) => counted(response, ending),
                    None => response,
                };
                Poll::Ready(Ok(if *compressed { gzip::deflated(response) } else { response }))
            }
        }
    }
}

fn counted(response: Response<Body>, ending: Ending) -> Response<Body> {
    ending.0.answered(response.headers());
    watched(response, Outbound { frames: Frames::default(), ending })
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
        let gzip = self.gzip.clone();
        self.observe(request, |body, compressed, whole| match compressed {
            true => Came::Compressed(Box::new(gzip.inflate(body, whole))),
            false => Came::Plain(body),
        })
    }
}

/// Of this process itself, which compresses nothing.
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
        self.observe(request, |body, _, _| Came::Process(body))
    }
}

impl<S> Observe<S>
where
    S: Service<Request<Inbound>, Response = Response<Body>, Error = Infallible>,
{
    /// `came` is told whether the body of a call is compressed, and whether it has one message only.
    fn observe<B>(
        &mut self,
        mut request: Request<B>,
        came: impl FnOnce(B, bool, bool) -> Came,
    ) -> Answering<S::Future> {
        let content = request.headers().get(header::CONTENT_TYPE);
        let call = match content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc")) {
            true => Some(self.calls.begin(&mut request)),
            false if request.uri().path() == "/metrics" => {
                return Answering::Page { page: Some(self.metrics.answer(request.headers())) };
            }
            false => None,
        };
        let ending = call.clone().map(Ending);
        let compressed = match call.as_ref().map(|_| Gzip::takes(request.headers_mut())).transpose() {
            Ok(compressed) => compressed.unwrap_or(false),
            Err(status) => {
                let refusal = status.into_http();
                return Answering::Page {
                    page: Some(match ending {
                        Some(ending) => counted(refusal, ending),
                        None => refusal,
                    }),
                };
            }
        };
        let request = request.map(|body| {
            let whole = call.as_ref().is_some_and(|call| call.kind() != Kind::BidiStream);
            Inbound { inner: came(body, compressed, whole), frames: Frames::default(), call }
        });
        let span = ending.as_ref().and_then(|ending| ending.0.span());
        let inner = within(span, self.inner.call(request));
        Answering::Inner { inner, ending, compressed }
    }
}
