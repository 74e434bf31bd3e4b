//! [`Link`]: one upstream watch stream, opened when wanted and opened again after a loss.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;
use kubebrain_shared::metadata;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use super::requests::Requests;
use crate::core::Core;
use crate::group::{Group, Lane};
use crate::grpc;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A brain's responses hold whole revisions; this is gRPC's own bound.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

type Opening = Pin<Box<dyn Future<Output = Result<Body, Status>> + Send>>;

pub(super) struct Link {
    state: State,
    backoff: Duration,
}

enum State {
    Idle,
    Resting(Pin<Box<Sleep>>),
    Opening(Opening, Requests),
    Open { body: Body, buffer: BytesMut, requests: Requests },
}

pub(super) enum Event {
    Message(Bytes),
    /// Everything that was asked on it must be asked again, after a pause.
    Lost,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { state: State::Idle, backoff: BACKOFF_MIN }
    }

    /// Where to put requests, while there is a stream for them.
    pub(super) fn requests(&self) -> Option<&Requests> {
        match &self.state {
            State::Opening(_, requests) | State::Open { requests, .. } => Some(requests),
            State::Idle | State::Resting(_) => None,
        }
    }

    /// Opens the stream if there is none and none is on its way.
    pub(super) fn open(&mut self, core: &Arc<Core>, group: &Arc<Group>, part: Option<u64>) {
        if matches!(self.state, State::Idle) {
            let requests = Requests::default();
            let body = Body::new(requests.body());
            let request = core.request("/etcdserverpb.Watch/Watch", &HeaderMap::new(), part, body);
            let opening = open(Arc::clone(core), Arc::clone(group), request);
            self.state = State::Opening(Box::pin(opening), requests);
        }
    }

    /// Gives the stream up; the next one follows a pause that grows until somebody answers.
    pub(super) fn lose(&mut self) {
        self.state = State::Resting(Box::pin(sleep(self.backoff)));
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// The stream does what it should.
    pub(super) fn works(&mut self) {
        self.backoff = BACKOFF_MIN;
    }

    /// The next message, or the loss. Pending also where no stream is wanted.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            match &mut self.state {
                State::Idle => return Poll::Pending,
                State::Resting(rest) => {
                    ready!(rest.as_mut().poll(cx));
                    self.state = State::Idle;
                }
                State::Opening(opening, _) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(body) => self.opened(body),
                    Err(status) => {
                        tracing::debug!(%status, "a watch stream could not be opened");
                        return Poll::Ready(Event::Lost);
                    }
                },
                State::Open { body, buffer, .. } => match grpc::split(buffer, MESSAGE_BYTES_MAX) {
                    Ok(Some(message)) => return Poll::Ready(Event::Message(message)),
                    Ok(None) => match ready!(Pin::new(body).poll_frame(cx)) {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) if buffer.is_empty() => *buffer = BytesMut::from(data),
                            Ok(data) => buffer.extend_from_slice(&data),
                            Err(_trailers) => return Poll::Ready(Event::Lost),
                        },
                        Some(Err(_)) | None => return Poll::Ready(Event::Lost),
                    },
                    Err(_) => return Poll::Ready(Event::Lost),
                },
            }
        }
    }

    /// True if a stream may be opened now.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    fn opened(&mut self, body: Body) {
        if let State::Opening(_, requests) = std::mem::replace(&mut self.state, State::Idle) {
            self.state = State::Open { body, buffer: BytesMut::new(), requests };
        }
    }
}

async fn open(core: Arc<Core>, group: Arc<Group>, request: http::Request<Body>) -> Result<Body, Status> {
    let response = group.send(Lane::Watch, request).await.map_err(|error| {
        Status::unavailable(error.map_or_else(|| "no brain is known".into(), |error| error.to_string()))
    })?;
    let (head, body) = response.into_parts();
    if let Some(revision) = metadata::revision(&head.headers, &metadata::REVISION) {
        core.floor.raise(revision);
        group.reached(revision);
    }
    match Status::from_header_map(&head.headers) {
        Some(status) => Err(status),
        None if head.status != http::StatusCode::OK => Err(Status::unavailable(head.status.to_string())),
        None => Ok(body),
    }
}
