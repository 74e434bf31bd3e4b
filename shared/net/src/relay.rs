//! [`Relay`]: an answer of another server on its way to a client, frame by frame as it comes.
//!
//! Invariant: it always ends in trailers. A body that fails or ends without them is ended here with `Unavailable`, so that
//! no client takes a cut for a clean end. What servers tell each other is taken out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;

/// See the module.
#[derive(Debug)]
pub struct Relay {
    first: Option<Frame<Bytes>>,
    rest: Body,
    ended: bool,
}

impl Relay {
    /// Of a body of which nothing was read.
    pub const fn new(body: Body) -> Self {
        Self { first: None, rest: body, ended: false }
    }

    /// Of a body whose first frame was read.
    pub fn after(first: Frame<Bytes>, rest: Body) -> Self {
        let ended = first.is_trailers();
        Self { first: Some(first), rest, ended }
    }
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(clean(first))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
            Some(Ok(frame)) => clean(frame),
            Some(Err(_)) | None => Frame::trailers(trailers(&Fault::Timeout.into())),
        };
        self.ended = frame.is_trailers();
        Poll::Ready(Some(Ok(frame)))
    }
}

fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            metadata::strip(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("14"));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    fn body(frames: Vec<Result<Frame<Bytes>, Status>>) -> Body {
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    async fn read(mut relay: Relay) -> (String, HeaderMap) {
        let (mut text, mut trailers) = (String::new(), None);
        while let Some(frame) = relay.frame().await {
            match frame.expect("never an error").into_data() {
                Ok(data) => text += std::str::from_utf8(&data).expect("text"),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        (text, trailers.expect("it ends in trailers"))
    }

    #[tokio::test]
    async fn a_cut_answer_ends_as_unavailable() {
        let cuts = [
            Relay::after(data("first"), body(vec![Ok(data("half"))])),
            Relay::new(body(vec![Ok(data("first")), Ok(data("half"))])),
            Relay::new(body(vec![Ok(data("firsthalf")), Err(Status::internal("a reset"))])),
        ];
        for cut in cuts {
            let (text, trailers) = read(cut).await;
            assert_eq!(text, "firsthalf");
            let status = Status::from_header_map(&trailers).expect("a status");
            assert_eq!(Fault::of(&status), Some(Fault::Timeout));
        }
    }

    #[tokio::test]
    async fn trailers_go_on_without_what_servers_tell_each_other() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("9"));
        trailers.insert(metadata::REFUSAL, metadata::NOT_OWNER);
        trailers.insert("other", HeaderValue::from_static("kept"));
        for relay in [
            Relay::after(Frame::trailers(trailers.clone()), Body::empty()),
            Relay::new(body(vec![Ok(Frame::trailers(trailers.clone()))])),
        ] {
            let (_, passed) = read(relay).await;
            assert_eq!((passed.len(), passed.get("other").is_some()), (2, true), "{passed:?}");
        }
    }
}
