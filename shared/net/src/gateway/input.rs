//! What a client sends: one JSON value, or one after the other for as long as its body goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::wire;
use prost_reflect::MessageDescriptor;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;

use super::json;
use crate::budget::{Budget, Share, UNCOUNTED_BYTES};
use crate::intake::BODY_MAX;

/// A body, and what it takes of `budget` while it is used.
///
/// # Errors
/// What a client is told: too large, too slow, too many at once.
///
/// # Cancel safety
/// A dropped call has read a part.
pub(super) async fn whole(
    body: Body,
    bytes_max: usize,
    budget: &Arc<Budget>,
) -> Result<(Bytes, Option<Arc<Share>>), Status> {
    tokio::time::timeout(BODY_MAX, read(body, bytes_max, budget)).await.map_err(|_late| Fault::Timeout)?
}

async fn read(
    mut body: Body,
    bytes_max: usize,
    budget: &Arc<Budget>,
) -> Result<(Bytes, Option<Arc<Share>>), Status> {
    let said = body.size_hint().exact();
    let mut share = match said {
        Some(bytes) if bytes <= bytes_max as u64 => budget.take(bytes).await?,
        _ => None,
    };
    let (mut text, mut bytes) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        bytes += data.len();
        if bytes > bytes_max {
            text = BytesMut::new(); // the rest is read all the same: many clients hear an answer only after it
            continue;
        }
        text.extend_from_slice(&data);
        if said.is_none() && share.is_none() && bytes as u64 > UNCOUNTED_BYTES {
            share = budget.take(bytes_max as u64).await?; // nobody says how much is to come
        }
    }
    match bytes > bytes_max {
        true => Err(too_large(bytes, bytes_max)),
        false => Ok((text.freeze(), share)),
    }
}

fn too_large(bytes: usize, bytes_max: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({bytes} vs. {bytes_max})"))
}

/// A body of JSON values as one of gRPC frames. It ends where it cannot be read, and says so aside: a call does not end by
/// the end of its requests.
pub(super) struct Frames {
    inner: Body,
    input: MessageDescriptor,
    bytes_max: usize,
    buffer: BytesMut,
    cut: Cut,
    ended: bool,
    broken: Option<oneshot::Sender<Status>>,
}

impl Frames {
    /// The second hears why a body could not be read to its end, if so.
    pub(super) fn new(
        inner: Body,
        input: MessageDescriptor,
        bytes_max: usize,
    ) -> (Self, oneshot::Receiver<Status>) {
        let (broken, hears) = oneshot::channel();
        let buffer = BytesMut::new();
        let frames =
            Self { inner, input, bytes_max, buffer, cut: Cut::default(), ended: false, broken: Some(broken) };
        (frames, hears)
    }

    /// The next message of what has come.
    fn message(&mut self) -> Result<Option<Vec<u8>>, Status> {
        let Some(end) = self.cut.end(&self.buffer) else {
            let left = self.buffer.trim_ascii_start();
            return match left.first() {
                Some(byte) if *byte != b'{' => {
                    let why = json::read(&self.input, left).err();
                    Err(why.unwrap_or_else(|| Status::invalid_argument("an object is wanted")))
                }
                Some(_) if self.ended => Err(Status::invalid_argument("unexpected EOF")),
                Some(_) if self.buffer.len() > self.bytes_max => {
                    Err(too_large(self.buffer.len(), self.bytes_max))
                }
                _ => Ok(None),
            };
        };
        let value = self.buffer.split_to(end);
        json::read(&self.input, &value).map(Some)
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if this.broken.is_none() {
                return Poll::Ready(None);
            }
            match this.message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(wire::frame(&message))))),
                Ok(None) if this.ended => return Poll::Ready(None),
                Ok(None) => {}
                Err(status) => {
                    if let Some(broken) = this.broken.take() {
                        let said = format!("Failed to decode request: {}", status.message());
                        let _gone = broken.send(Status::new(status.code(), said)); // nobody waits any more
                    }
                    return Poll::Ready(None);
                }
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => this.ended = true,
            }
        }
    }
}

/// Finds where an object ends, in bytes that come in pieces. Each is looked at once.
#[derive(Debug, Default)]
struct Cut {
    /// So many were looked at.
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Cut {
    /// The length of the first object with what stands before it; `None` while it is not there.
    fn end(&mut self, buffer: &[u8]) -> Option<usize> {
        while let Some(byte) = buffer.get(self.seen) {
            self.seen += 1;
            match (byte, self.in_string) {
                (_, true) if self.escaped => self.escaped = false,
                (b'\\', true) => self.escaped = true,
                (b'"', _) => self.in_string = !self.in_string,
                (_, true) => {}
                (b'{' | b'[', false) => self.depth += 1,
                (b'}' | b']', false) => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(std::mem::take(self).seen);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use kubebrain_proto::etcdserverpb::LeaseKeepAliveRequest;
    use prost::Message as _;

    use super::super::routes::find;
    use super::*;

    fn body(pieces: Vec<String>) -> Body {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    /// The ids that were understood, and why it has ended.
    async fn ids(pieces: Vec<String>) -> (Vec<i64>, Option<String>) {
        let input = find("/v3/lease/keepalive").expect("a route").input;
        let (mut frames, broken) = Frames::new(body(pieces), input, 1000);
        let (mut ids, mut buffer) = (Vec::new(), BytesMut::new());
        while let Some(frame) = frames.frame().await {
            buffer.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
            while let Some(message) = wire::Message::split(&mut buffer).expect("a frame") {
                ids.push(LeaseKeepAliveRequest::decode(message).expect("a message").id);
            }
        }
        drop(frames);
        (ids, broken.await.ok().map(|status| status.message().to_owned()))
    }

    #[tokio::test]
    async fn values_are_cut_wherever_pieces_end() {
        let text = " {\"ID\":\"1\"}{\"x\":\"}\\\"{\",\"y\":[{}],\"ID\":2}\n\n{ } {\"ID\":\"3\"} \n";
        let whole = ids(vec![text.to_owned()]).await;
        assert_eq!(whole, (vec![1, 2, 0, 3], None));
        assert_eq!(ids(text.chars().map(String::from).collect()).await, whole);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_said_after_what_could() {
        let long = format!("{{\"ID\":\"{}", "1".repeat(2000));
        for (text, why) in [
            ("{\"ID\":\"1\"} {\"ID\":", "unexpected EOF"),
            ("{\"ID\":\"1\"} nope", "not the JSON of a LeaseKeepAliveRequest"),
            ("{\"ID\":\"1\"}{\"ID\":{}}{\"ID\":\"2\"}", "not the JSON of a LeaseKeepAliveRequest"),
            (&format!("{{\"ID\":\"1\"}}{long}"), "larger than max"),
        ] {
            let (ids, said) = ids(vec![text.to_owned()]).await;
            assert_eq!(ids, [1], "{text}");
            assert!(said.as_ref().is_some_and(|said| said.contains(why)), "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let budget = Budget::new(1 << 20);
        let small = whole(body(vec!["ab".to_owned(), "c".to_owned()]), 3, &budget).await;
        assert_eq!(small.expect("it fits").0, "abc");
        let large = whole(body(vec!["ab".to_owned(), "cd".to_owned()]), 3, &budget).await;
        assert_eq!(large.expect_err("too large").code(), tonic::Code::ResourceExhausted);
        let counted = whole(body(vec!["x".repeat(20_000)]), 100_000, &budget).await.expect("it fits");
        assert!(budget.used() >= 100_000);
        drop(counted);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
        let body = Body::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()));
        let late = whole(body, 100, &Budget::new(1 << 20)).await.expect_err("too late");
        assert_eq!(Fault::of(&late), Some(Fault::Timeout));
    }
}
