//! [`Gateway`]: etcd's JSON over HTTP, `POST /v3/kv/range` and the like, around the service of a listener.
//!
//! ```text
//! JSON ──▶ message ──▶ gRPC request ──▶ the service ──▶ messages ──▶ JSON
//! ```
//!
//! A request becomes the gRPC request that a client would have sent, and is answered by the very service that would have
//! answered that: there is no second way in, and what is counted, refused or bounded there is so here. Kind and their
//! JSON are converted by their descriptors; no call is known here but by its path.
//!
//! Invariants: a client that goes away ends its call. A body is read up to a bound in bytes and time. What large bodies and
//! answers take in memory is let in by budgets; of a stream one message at a time is converted, when its client takes it.

mod routes;
mod json;
mod input;
mod headers;
mod lines;
mod page;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use kubebrain_shared::method::Kind;
use kubebrain_shared::wire;
use routes::Route;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use crate::budget::{Budget, Share};
use crate::direct::{Answer, Direct};
use crate::kinds::KindId;
use crate::probe::{ProbesOnly, is_grpc};
use crate::serve::Serve;

/// What JSON of requests may take together.
const REQUESTS_BYTES: u64 = 64 << 20;
/// What JSON of answers may take together, besides what the answers themselves take.
const ANSWERS_BYTES: u64 = 256 << 20;
/// Above this an answer is converted where it keeps nobody from being answered.
const LARGE_BYTES: usize = 256 << 10;

/// What timers tell apart: a shorter time has passed before a call begins.
const TICK: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Clone, Debug)]
pub struct Gateway<S> {
    inner: S,
    /// `None` where there is none: its paths are anybody's.
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    service: Direct,
    requests: Arc<Budget>,
    answers: Arc<Budget>,
    /// Of a request's JSON.
    text_bytes_max: usize,
}

impl<S> Gateway<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>,
    S: Clone + Send + Sync + 'static,
{
    /// Around what answers gRPC. A message of a request may have `message_bytes_max` bytes.
    pub fn new(inner: S, message_bytes_max: usize) -> Self {
        let shared = Shared {
            service: Direct::new(inner.clone()),
            requests: Budget::new(REQUESTS_BYTES),
            answers: Budget::new(ANSWERS_BYTES),
            // base64 takes four bytes for three, and there may be spaces: what is too large is said by the service
            text_bytes_max: 2 * message_bytes_max + (64 << 10),
        };
        Self { inner, shared: Some(Arc::new(shared)) }
    }
}

impl<S> Gateway<S> {
    /// None, around a service that is as it was.
    pub const fn none(inner: S) -> Self {
        Self { inner, shared: None }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Incoming>> for Gateway<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Answering>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match &self.shared {
            Some(shared) if is_asked(&request) => {
                let shared = Arc::clone(shared);
                Either::Right(Box::pin(async move { Ok(shared.answer(request.map(Body::new)).await) }))
            }
            _ => Either::Left(self.inner.call(request)),
        }
    }
}

/// OPTIONS is a question about the server, whatever the path.
fn is_asked<B>(request: &Request<B>) -> bool {
    routes::is_below(request.uri().path())
        && request.method() != Method::OPTIONS
        && !is_grpc(request.headers())
}

/// A service of which only what is no gRPC is served: JSON, and what [`ProbesOnly`] serves.
#[derive(Clone, Debug)]
pub struct HttpOnly<S> {
    inner: S,
}

impl<S> HttpOnly<S> {
    /// Of what serves clients.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Serve> Service<Request<Incoming>> for HttpOnly<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match is_asked(&request) {
            true => Box::pin(self.inner.call(request)),
            false => ProbesOnly::new(self.inner.clone()).call(request),
        }
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        if path == routes::ROOT {
            return page::redirect();
        }
        let Some(route) = routes::find(path) else {
            return page::failure(&Status::not_found("Not Found"));
        };
        if request.method() != Method::POST {
            return page::failure(&Status::unimplemented("Method Not Allowed"));
        }
        let answered = match route.kind {
            Kind::Unary => Arc::clone(&self).unary(route, request).await,
            Kind::ServerStream | Kind::BidiStream => return self.stream(route, request).await,
        };
        answered.unwrap_or_else(|status| page::failure(&status))
    }

    /// One message for one message.
    async fn unary(self: Arc<Self>, route: Route, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let work = async {
            let headers = headers::forwarded(&head.headers);
            let frame = self.message(&route, body).await?;
            let mut answer = self.service.open(route.path, headers, frame).await?;
            let message = answer.messages.only().await?;
            let (text, share) = self.text(&route, message).await?;
            let response = page::json(StatusCode::OK, Some(&answer.headers), text);
            Ok(match share {
                Some(share) => share.hold(response),
                None => response,
            })
        };
        match headers::timeout(&head.headers)? {
            None => work.await,
            Some(limit) if limit < TICK => Err(Status::deadline_exceeded("context deadline exceeded")),
            Some(limit) => match tokio::time::timeout(limit, work).await {
                Ok(answered) => answered,
                Err(_late) => Err(Status::deadline_exceeded("context deadline exceeded")),
            },
        }
    }

    /// Kind, each a line.
    async fn stream(self: Arc<Self>, route: Route, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let headers = headers::forwarded(&head.headers);
        let (body, broken) = match route.kind {
            Kind::BidiStream => {
                let (frames, broken) = input::Frames::new(body, route.input.clone(), self.text_bytes_max);
                (Ok(Body::new(frames)), Some(broken))
            }
            Kind::Unary | Kind::ServerStream => (self.message(&route, body).await, None),
        };
        let body = match body {
            Ok(body) => body,
            Err(status) => return page::failure(&status),
        };
        match self.service.open(route.path, headers, body).await {
            Ok(Answer { headers, messages }) => {
                lines::answer(&headers, lines::Lines::new(messages, route.output, broken)).await
            }
            Err(status) => page::failure(&status),
        }
    }

    /// The one message of a request, as a body of gRPC.
    async fn message(&self, route: &Route, body: Body) -> Result<Body, Status> {
        let (text, _taken) = input::whole(body, self.text_bytes_max, &self.requests).await?;
        let message = json::read(&route.input, &text)?;
        Ok(Body::new(Full::new(wire::frame(&message))))
    }

    /// The JSON of an answer, and what it takes of the budget.
    async fn text(&self, route: &Route, message: Bytes) -> Result<(Bytes, Option<Arc<Share>>), Status> {
        let output = route.output.clone();
        if message.len() < LARGE_BYTES {
            return Ok((json::write(&output, &message)?, None));
        }
        let share = self.answers.take(json::estimate(message.len())).await?;
        let _turn = self.answers.turn(KindId::NONE).await;
        let written = tokio::task::spawn_blocking(move || json::write(&output, &message)).await;
        let text =
            written.map_err(|_panicked| Status::internal("the answer could not be converted to JSON"))??;
        Ok((text, share))
    }
}

/// What an error's HTTP status is, as etcd's gateway has it.
const fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::Unauthenticated => 401,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

#[cfg(test)]
mod tests;
