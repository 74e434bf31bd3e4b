//! [`watched`]: an answer on its way out, and somebody who looks on: at its data, and at the code that it ends with.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

/// Who looks on. Dropped before the end, the answer was given up.
pub(crate) trait Watch: Send + Unpin + 'static {
    /// This leaves.
    fn data(&mut self, data: &Bytes);
    /// It ends so: by its headers, its trailers, or without a word.
    fn ended(&mut self, code: Code);
}

/// The same answer, looked at by `watch`.
pub(crate) fn watched(response: Response<Body>, mut watch: impl Watch) -> Response<Body> {
    match code(response.headers()) {
        Some(code) => {
            watch.ended(code);
            response
        }
        None => response.map(|inner| Body::new(Watched { inner, watch })),
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

struct Watched<W> {
    inner: Body,
    watch: W,
}

impl<W: Watch> HttpBody for Watched<W> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => self.watch.data(data),
                (None, Some(trailers)) => self.watch.ended(code(trailers).unwrap_or(Code::Unknown)),
                (None, None) => {}
            },
            // The stream is reset; a client calls that so.
            Some(Err(_)) => self.watch.ended(Code::Internal),
            None => self.watch.ended(Code::Unknown),
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
