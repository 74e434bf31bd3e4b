//! gRPC over plain HTTP bodies: one message in, one message or a stream out.
//!
//! Invariant: an answer that is made here ends in trailers; one that is passed on does so by [`kubebrain_net::relay`].

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use kubebrain_shared::wire::{self, FRAME_PREFIX_BYTES, FrameError};
use tonic::Status;
use tonic::body::Body;

/// How a request ended: an answer, which may be an error of a group's, or a refusal of our own.
pub(crate) type Answered = Result<Response<Body>, Status>;

pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// One message with its frame: what arrived is what is forwarded.
#[derive(Clone, Debug)]
pub(crate) struct Framed(Bytes);

impl Framed {
    /// Frames an encoded message.
    pub(crate) fn new(message: &[u8]) -> Self {
        Self(wire::frame(message))
    }

    /// Encodes and frames.
    pub(crate) fn of<M: prost::Message>(message: &M) -> Self {
        Self::new(&message.encode_to_vec())
    }

    /// The encoded message.
    pub(crate) fn message(&self) -> Bytes {
        self.0.slice(FRAME_PREFIX_BYTES..)
    }

    /// Prefix and message.
    pub(crate) fn frame(&self) -> Bytes {
        self.0.clone()
    }

    /// The same message with more fields after it: of a field that may stand once, the last one counts.
    pub(crate) fn with_fields(&self, append: impl FnOnce(&mut BytesMut)) -> Self {
        let mut message = BytesMut::from(&self.0[FRAME_PREFIX_BYTES..]);
        append(&mut message);
        Self::new(&message)
    }
}

/// Reads the one message of a unary request.
///
/// # Errors
/// What a client is told: too large, compressed, or none.
pub(crate) struct OneMessage<B> {
    body: B,
    buffer: BytesMut,
    bytes_max: usize,
}

impl<B> OneMessage<B> {
    /// Reads from `body`; the message may have `bytes_max` bytes.
    pub(crate) fn new(body: B, bytes_max: usize) -> Self {
        Self { body, buffer: BytesMut::new(), bytes_max }
    }
}

impl<B> Future for OneMessage<B>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Unpin,
{
    type Output = Result<Framed, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { body, buffer, bytes_max } = &mut *self;
        loop {
            if let Some(bytes) = frame_bytes(buffer, *bytes_max)?.filter(|bytes| *bytes <= buffer.len()) {
                return Poll::Ready(Ok(Framed(buffer.split_to(bytes).freeze())));
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        // the common case: the whole request in its first frame, not copied
                        if buffer.is_empty() {
                            *buffer = BytesMut::from(data);
                        } else {
                            buffer.extend_from_slice(&data);
                        }
                    }
                }
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None => {
                    return Poll::Ready(Err(Status::invalid_argument("the request has no message")));
                }
            }
        }
    }
}

/// The length of the frame that begins here, once its prefix is there.
fn frame_bytes(buffer: &[u8], bytes_max: usize) -> Result<Option<usize>, Status> {
    let Some(&[flag, a, b, c, d]) = buffer.first_chunk::<FRAME_PREFIX_BYTES>() else {
        return Ok(None);
    };
    let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
    match flag {
        0 if bytes > bytes_max => Err(refuse_frame(FrameError::TooLong { bytes, bytes_max })),
        0 => Ok(Some(FRAME_PREFIX_BYTES + bytes)),
        1 => Err(refuse_frame(FrameError::Compressed)),
        other => Err(refuse_frame(FrameError::Flag(other))),
    }
}

/// The next whole message of a stream of frames.
///
/// # Errors
/// What cannot be split, in the words of gRPC's own libraries.
pub(crate) fn split(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, Status> {
    wire::Message::split_within(buffer, bytes_max).map_err(refuse_frame)
}

/// A stream whose client said that it is done inside a message.
pub(crate) fn cut_off() -> Status {
    Status::internal("grpc: the stream ended inside a message")
}

fn refuse_frame(error: FrameError) -> Status {
    match error {
        FrameError::TooLong { bytes, bytes_max } => Status::resource_exhausted(format!(
            "grpc: received message larger than max ({bytes} vs. {bytes_max})"
        )),
        FrameError::Compressed => {
            Status::internal("grpc: compressed flag set with identity or empty encoding")
        }
        FrameError::Flag(_) => Status::internal(format!("grpc: {error}")),
    }
}

/// Decodes what must be looked at whole.
pub(crate) fn decode<M: prost::Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::invalid_argument(format!("the request is not valid protobuf: {error}")))
}

/// Trailers that say how a call ended.
pub(crate) fn trailers(end: Result<(), Status>) -> HeaderMap {
    let status = end.err().unwrap_or_else(|| Status::new(tonic::Code::Ok, ""));
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
    }
    trailers
}

/// An answer of one message.
pub(crate) fn answer<M: prost::Message>(message: &M) -> Response<Body> {
    answer_framed(Framed::of(message).frame())
}

/// An answer of one message that is framed already.
pub(crate) fn answer_framed(frame: Bytes) -> Response<Body> {
    response(Body::new(Once { frame: Some(frame), ended: false }))
}

/// An answer with this body, which must end in trailers.
pub(crate) fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// One message and its trailers.
struct Once {
    frame: Option<Bytes>,
    ended: bool,
}

impl http_body::Body for Once {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.frame.take() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let last = !std::mem::replace(&mut self.ended, true);
        Poll::Ready(last.then(|| Ok(Frame::trailers(trailers(Ok(()))))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(chunks: &[&'static [u8]], bytes_max: usize) -> Result<Bytes, Status> {
        let frames: Vec<Result<Frame<Bytes>, Status>> =
            chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk)))).collect();
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        OneMessage::new(Body::new(body), bytes_max).await.map(|framed| framed.message())
    }

    #[tokio::test]
    async fn a_request_is_read_whole_or_refused_with_a_sentence() {
        assert_eq!(read(&[b"\0\0\0\0\x03abc"], 3).await.expect("fits"), "abc");
        assert_eq!(read(&[b"\0\0\0", b"\0\x03a", b"bc"], 3).await.expect("in pieces"), "abc");
        let large = read(&[b"\0\0\0\0\x04abcd"], 3).await.expect_err("too large");
        assert_eq!(large.code(), tonic::Code::ResourceExhausted);
        assert!(large.message().contains("received message larger than max"), "{large}");
        assert_eq!(read(&[b"\0\0"], 3).await.expect_err("cut").code(), tonic::Code::InvalidArgument);
    }
}
