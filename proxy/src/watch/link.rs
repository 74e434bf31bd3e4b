//! [`Link`]: one watch stream to a group, opened when wanted and opened again after a loss.
//!
//! A loss is followed by another node at once, as long as there is one that is well and was not tried since the last
//! rest; so a stream that ends with each node costs a try at each and then a rest. It also moves by itself: when its
//! node is suspect or serves no watches any more, and another one does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::Body as _;
use kubebrain_shared::metadata;
use kubebrain_shared::method;
use kubebrain_shared::placement::DocumentId;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::requests::Requests;
use crate::core::Core;
use crate::group::{Group, Miss, StreamSlot, Tried};
use crate::grpc;
use crate::topology::Rest;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A brain's responses hold whole revisions; this is gRPC's own bound.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// A stream that lived for so long has not failed at once.
const LIVED: Duration = Duration::from_secs(1);

type Opening = Pin<Box<dyn Future<Output = Result<Stream, Lost>> + Send>>;

pub(super) struct Link {
    state: State,
    backoff: Duration,
    /// The nodes that were tried since the last rest.
    tried: Tried,
    opened: Instant,
}

enum State {
    Idle,
    Resting(Rest),
    Opening(Opening, Requests),
    Open { stream: Stream, buffer: BytesMut, requests: Requests },
}

/// A stream at a node.
struct Stream {
    body: Body,
    /// Resolves when it should go on elsewhere.
    left: Rest,
    _slot: StreamSlot,
}

/// Why there is none.
struct Lost {
    status: Status,
    /// The node that would take it, where one has named it.
    named: Option<usize>,
}

pub(super) enum Event {
    Message(Bytes),
    /// Everything that was asked on it must be asked again, after a pause.
    Lost,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { state: State::Idle, backoff: BACKOFF_MIN, tried: Tried::default(), opened: Instant::now() }
    }

    /// Where to put requests, while there is a stream for them.
    pub(super) fn requests(&self) -> Option<&Requests> {
        match &self.state {
            State::Opening(_, requests) | State::Open { requests, .. } => Some(requests),
            State::Idle | State::Resting(_) => None,
        }
    }

    /// Opens the stream if there is none and none is on its way.
    pub(super) fn open(&mut self, core: &Arc<Core>, group: &Arc<Group>, part: Option<DocumentId>) {
        if matches!(self.state, State::Idle) {
            let requests = Requests::default();
            let body = Body::new(requests.body());
            let mut headers = HeaderMap::with_capacity(5);
            headers.insert(metadata::PROGRESS, HeaderValue::from_static("all"));
            let request = core.request(method::WATCH, &headers, part, body);
            self.opened = Instant::now();
            // Counted from here, so that streams that are opened together are spread.
            let slot = group.stream_slot(&mut self.tried);
            let opening = open(Arc::clone(core), Arc::clone(group), slot, request);
            self.state = State::Opening(Box::pin(opening), requests);
        }
    }

    /// Gives the stream up. The next one follows at once, if there is another node for it, or else a pause that grows
    /// until somebody answers, and ends when something changes.
    pub(super) fn lose(&mut self, group: &Group) {
        if self.opened.elapsed() >= LIVED {
            self.tried = self.tried.of_last();
        }
        if group.has_stream_slot(&self.tried) {
            self.state = State::Idle;
            return;
        }
        self.tried = Tried::default();
        self.state = State::Resting(group.changes().rest(self.backoff));
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
                    Ok(stream) => self.opened(stream),
                    Err(lost) => {
                        tracing::debug!(status = %lost.status, "a watch stream could not be opened");
                        self.tried.named = lost.named;
                        return Poll::Ready(Event::Lost);
                    }
                },
                State::Open { stream, buffer, .. } => match grpc::split(buffer, MESSAGE_BYTES_MAX) {
                    Ok(Some(message)) => return Poll::Ready(Event::Message(message)),
                    Ok(None) => match Pin::new(&mut stream.body).poll_frame(cx) {
                        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                            Ok(data) if buffer.is_empty() => *buffer = BytesMut::from(data),
                            Ok(data) => buffer.extend_from_slice(&data),
                            Err(_trailers) => return Poll::Ready(Event::Lost),
                        },
                        Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Event::Lost),
                        Poll::Pending => {
                            ready!(stream.left.as_mut().poll(cx));
                            tracing::debug!("a watch stream moves to another brain");
                            return Poll::Ready(Event::Lost);
                        }
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

    fn opened(&mut self, stream: Stream) {
        if let State::Opening(_, requests) = std::mem::replace(&mut self.state, State::Idle) {
            self.state = State::Open { stream, buffer: BytesMut::new(), requests };
        }
    }
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Self { status, named: None }
    }
}

async fn open(
    core: Arc<Core>,
    group: Arc<Group>,
    slot: Option<StreamSlot>,
    request: http::Request<Body>,
) -> Result<Stream, Lost> {
    let slot = slot.ok_or_else(|| Status::unavailable("nobody serves watches"))?;
    let response = slot.open(request).await.map_err(|miss| Lost {
        status: Status::unavailable(miss.to_string()),
        named: if let Miss::NotMaster { named } = miss { named } else { None },
    })?;
    let (head, body) = response.into_parts();
    if let Some(revision) = metadata::revision(&head.headers, &metadata::REVISION) {
        core.floor.raise(revision);
        group.reached(revision);
    }
    match Status::from_header_map(&head.headers) {
        Some(status) => Err(status.into()),
        None if head.status != http::StatusCode::OK => {
            Err(Status::unavailable(head.status.to_string()).into())
        }
        None => Ok(Stream { body, left: Box::pin(slot.left()), _slot: slot }),
    }
}
