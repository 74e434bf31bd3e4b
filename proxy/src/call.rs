//! One request to one group and what came back: the only place that sends.
//!
//! Three outcomes are kept apart, because callers do different things: *surely not applied* (try again), *not the
//! owner* (look at the newest table, try again) and *unknown* (a write is never sent again).

use std::pin::Pin;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use kubebrain_net::relay::Relay;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::revision::Revision;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use crate::core::Core;
use crate::group::{Errand, Group, Miss, Place, Tour, Turn};
use crate::grpc::{self, Framed};
use crate::metrics::Outcome;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// `/service/method`.
    pub(crate) path: &'static str,
    /// The client's headers, our own stripped.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) message: Framed,
    /// The placement version, if the group is asked for its part only.
    pub(crate) part: Option<u64>,
    /// Whether the group is raised to the floor first: everything but fences.
    pub(crate) floor: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// It did not leave, or was handed back: surely not applied.
    #[error("the request was not sent")]
    NotSent,
    /// The group does not own the keys, or has another table: surely not applied.
    #[error("the group is not the owner")]
    NotOwner,
    /// It may have been applied.
    #[error("the outcome is not known")]
    Unknown,
}

/// A group's answer: an error, or a stream of which the first frame has arrived.
pub(crate) struct Answer {
    head: http::response::Parts,
    first: Option<Frame<Bytes>>,
    rest: Body,
    /// The error, if that is what it is.
    pub(crate) error: Option<Status>,
    /// Of its header block.
    pub(crate) revision: Option<Revision>,
}

impl Core {
    /// Sends and waits for the first frame of the answer. The floor is raised before anybody sees it.
    ///
    /// # Errors
    /// [`Failure`]; an error that the group gave is an [`Answer`].
    ///
    /// # Cancel safety
    /// A dropped call resets the request; a write may have been applied.
    pub(crate) async fn send(&self, group: &Group, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let began = Instant::now();
        let outcome = self.send_around(group, ask, began).await;
        group.metrics.sent(began.elapsed(), counted(&outcome));
        outcome
    }

    /// From node to node, at once, as long as that can do no harm: what surely was not carried out, and reads always.
    async fn send_around(&self, group: &Group, ask: &Ask<'_>, began: Instant) -> Result<Answer, Failure> {
        let errand = Errand::of(ask.path);
        let mut tour = Tour::default();
        let mut last = Err(Failure::NotSent);
        loop {
            let again = tour.has_begun();
            let now = if again { Instant::now() } else { began };
            let Some(turn) = group.turn(errand, &mut tour, now) else { return last };
            if again {
                self.config.metrics.all.retries.inc();
            }
            let place = turn.place();
            let outcome = self.send_once(group, turn, ask, &mut tour).await;
            let goes_on = match &outcome {
                Ok(answer) => errand == Errand::Read && answer.another_may_know_better(place),
                Err(Failure::NotSent) => true,
                Err(Failure::NotOwner) => errand == Errand::Read && place == Place::Reader,
                Err(Failure::Unknown) => errand == Errand::Read,
            };
            if !goes_on {
                return outcome;
            }
            // an answer is better than none
            if last.is_err() {
                last = outcome;
            }
        }
    }

    async fn send_once(
        &self,
        group: &Group,
        turn: Turn<'_>,
        ask: &Ask<'_>,
        tour: &mut Tour,
    ) -> Result<Answer, Failure> {
        let frame = http_body_util::Full::new(ask.message.frame());
        let mut request = self.request(ask.path, ask.headers, ask.part, Body::new(frame));
        if !ask.floor {
            request.headers_mut().remove(metadata::FLOOR);
        }
        let answer = turn.take(request, Answer::open).await.map_err(|miss| {
            tracing::debug!(group = %group.name(), path = ask.path, %miss, "a brain has not answered");
            match miss {
                Miss::NotMaster { named } => {
                    tour.named = named;
                    Failure::NotSent
                }
                Miss::Unsent(_) => Failure::NotSent,
                Miss::Unknown => Failure::Unknown,
            }
        })?;
        if let Some(revision) = answer.revision {
            group.reached(revision);
            self.floor.raise(revision);
        }
        match &answer.error {
            Some(status) if metadata::is_not_owner(status) => Err(Failure::NotOwner),
            _ => Ok(answer),
        }
    }

    /// A request to a brain: the client's headers, and the floor.
    pub(crate) fn request(
        &self,
        path: &'static str,
        headers: &HeaderMap,
        part: Option<u64>,
        body: Body,
    ) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(metadata::FLOOR, metadata::number(self.floor_to_send()));
        if let Some(value) = part.and_then(|version| HeaderValue::from_str(&format!("{version:x}")).ok()) {
            headers.insert(metadata::PART, value);
        }
        request
    }

    /// Asks and decodes the one message of the answer.
    ///
    /// # Errors
    /// The group's own error, or `Unavailable` where it gave none.
    pub(crate) async fn ask<M>(
        &self,
        group: &Group,
        path: &'static str,
        message: &impl prost::Message,
    ) -> Result<M, Status>
    where
        M: prost::Message + Default,
    {
        let ask =
            Ask { path, headers: &HeaderMap::new(), message: Framed::of(message), part: None, floor: true };
        let answer = self.send(group, &ask).await.map_err(|_| Fault::Timeout)?;
        answer.decode(self.config.merged_bytes_max).await
    }
}

/// As what an outcome is counted.
fn counted(outcome: &Result<Answer, Failure>) -> Outcome {
    match outcome {
        Ok(answer) if answer.error.is_none() => Outcome::Answered,
        Ok(_) => Outcome::Failed,
        Err(Failure::NotSent) => Outcome::NotSent,
        Err(Failure::NotOwner) => Outcome::NotOwner,
        Err(Failure::Unknown) => Outcome::Unknown,
    }
}

impl Answer {
    async fn open(response: Response<Body>) -> Result<Self, Miss> {
        let (head, mut rest) = response.into_parts();
        let revision = metadata::revision(&head.headers, &metadata::REVISION);
        if let Some(status) = Status::from_header_map(&head.headers) {
            return match status.code() {
                tonic::Code::Ok => Err(Miss::Unknown),
                _ => Ok(Self { head, first: None, rest: Body::empty(), error: Some(status), revision }),
            };
        }
        if head.status != http::StatusCode::OK {
            return Err(Miss::Unknown);
        }
        let first = match rest.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(_)) | None => return Err(Miss::Unknown),
        };
        let ended = first.trailers_ref().and_then(Status::from_header_map);
        let error = ended.filter(|status| status.code() != tonic::Code::Ok);
        Ok(Self { head, first: Some(first), rest, error, revision })
    }

    /// True of a slave's error that need not be the group's: it has lost its master or ends, or has not come as far as
    /// the revision that was named.
    fn another_may_know_better(&self, place: Place) -> bool {
        let Some(error) = self.error.as_ref().filter(|_| place == Place::Reader) else { return false };
        error.code() == tonic::Code::Unavailable || Fault::of(error) == Some(Fault::FutureRevision)
    }

    /// Of its header block.
    pub(crate) const fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// On to the client, byte for byte; only what brains say to proxies is taken out.
    pub(crate) fn relay(self) -> Response<Body> {
        let Self { mut head, first, rest, .. } = self;
        metadata::strip(&mut head.headers);
        let body = first.map_or_else(Body::empty, |first| Body::new(Relay::after(first, rest)));
        Response::from_parts(head, body)
    }

    /// The messages of the answer, as they come.
    pub(crate) fn messages(self, bytes_max: usize) -> Result<Messages, Status> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(Messages {
                first: self.first,
                rest: self.rest,
                buffer: BytesMut::new(),
                bytes_max,
                end: None,
            }),
        }
    }

    /// The one message of the answer.
    ///
    /// # Errors
    /// The group's error; `Unavailable` for a cut; `ResourceExhausted` above `bytes_max`.
    pub(crate) async fn message(self, bytes_max: usize) -> Result<Bytes, Status> {
        let mut messages = self.messages(bytes_max)?;
        let message = messages.next().await?.ok_or_else(|| Status::from(Fault::Timeout))?;
        match messages.next().await? {
            None => Ok(message),
            Some(_) => Err(Status::internal("a unary answer has two messages")),
        }
    }

    /// [`Answer::message`], decoded.
    ///
    /// # Errors
    /// As there, and `Internal` if it is not the message that it should be.
    pub(crate) async fn decode<M: prost::Message + Default>(self, bytes_max: usize) -> Result<M, Status> {
        let message = self.message(bytes_max).await?;
        M::decode(message)
            .map_err(|error| Status::internal(format!("a brain's answer cannot be read: {error}")))
    }
}

/// Messages of one answer.
pub(crate) struct Messages {
    first: Option<Frame<Bytes>>,
    rest: Body,
    buffer: BytesMut,
    bytes_max: usize,
    end: Option<Result<(), Status>>,
}

impl Messages {
    /// The next message; `None` after a clean end.
    ///
    /// # Errors
    /// How the stream ended instead.
    ///
    /// # Cancel safety
    /// Safe: what has arrived stays.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = grpc::split(&mut self.buffer, self.bytes_max)? {
                return Ok(Some(message));
            }
            if let Some(end) = self.end.clone() {
                return end.map(|()| None);
            }
            let frame = match self.first.take() {
                Some(first) => Some(Ok(first)),
                None => Pin::new(&mut self.rest).frame().await,
            };
            match frame {
                Some(Ok(frame)) => self.take(frame),
                Some(Err(_)) | None => self.end = Some(Err(Fault::Timeout.into())),
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if !self.buffer.has_remaining() => self.buffer = BytesMut::from(data),
            Ok(data) => self.buffer.extend_from_slice(&data),
            Err(frame) => {
                let status =
                    frame.into_trailers().ok().and_then(|trailers| Status::from_header_map(&trailers));
                self.end = Some(match status {
                    Some(status) if status.code() == tonic::Code::Ok => Ok(()),
                    Some(status) => Err(status),
                    None => Err(Fault::Timeout.into()),
                });
            }
        }
    }
}
