//! [`Relay`]: an answer of another server on its way to a client, frame by frame.
//!
//! Invariant: it always ends in trailers. A body that fails or ends without them is ended here with `Unavailable`, so that
//! no client takes a cut for a clean end; what servers tell each other is taken out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::fault::Fault;
use crate::metadata;

/// See the module.
#[derive(Debug)]
pub struct Relay {
    body: Body,
    ended: bool,
}

impl Relay {
    /// Of a body whose frames nobody has read.
    pub const fn new(body: Body) -> Self {
        Self { body, ended: false }
    }
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    metadata::strip(&mut trailers);
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            },
            Some(Err(_)) | None => Frame::trailers(trailers(&Fault::Timeout.into())),
        };
        self.ended = frame.is_trailers();
        Poll::Ready(Some(Ok(frame)))
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("14"));
    }
    trailers
}
