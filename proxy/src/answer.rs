//! [`Answer`]: what came back from a group, as a head, a first frame and the rest.

use std::pin::Pin;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use kubebrain_net::relay::Relay;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::FRAME_PREFIX_BYTES;
use tonic::Status;
use tonic::body::Body;

use crate::group::{Miss, Place};
use crate::grpc;

/// A group's answer: an error, or a stream of which the first frame has arrived.
pub(crate) struct Answer {
    head: http::response::Parts,
    first: Option<Frame<Bytes>>,
    rest: Body,
    /// The error, if that is what it is.
    pub(crate) error: Option<Status>,
    /// The revision that its headers name.
    pub(crate) revision: Option<Revision>,
}

impl Answer {
    /// Waits for the first frame of a response.
    ///
    /// # Errors
    /// [`Miss::Unknown`] where it is no answer of gRPC.
    pub(crate) async fn open(response: Response<Body>) -> Result<Self, Miss> {
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
    pub(crate) fn another_may_know_better(&self, place: Place) -> bool {
        let Some(error) = self.error.as_ref().filter(|_| place == Place::Reader) else { return false };
        error.code() == tonic::Code::Unavailable || Fault::of(error) == Some(Fault::FutureRevision)
    }

    /// True if its message is not what was asked for, but how that is cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.error.is_none() && self.head.headers.contains_key(&metadata::CUT)
    }

    /// What stands before its messages.
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

/// The messages of one answer.
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
            self.make_room();
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

    /// For all of the message that has begun: one that grows is copied, and leaves the allocator with room of every size.
    fn make_room(&mut self) {
        let Some(&[_, a, b, c, d]) = self.buffer.first_chunk() else { return };
        let said = u32::from_be_bytes([a, b, c, d]) as usize;
        let whole = FRAME_PREFIX_BYTES + said.min(self.bytes_max);
        self.buffer.reserve(whole.saturating_sub(self.buffer.len()));
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
