//! [`Eager`]: the body of a stream of requests, read as it comes.
//!
//! h2 gives a whole connection up when too many small frames of it lie unread, some eight thousand by our windows. A client
//! that creates ten thousand watchers at once sends them in frames of their own, faster than they are carried out. So
//! whenever one is asked for, all that have come are taken from h2 and kept packed.
//!
//! Invariants: bytes pass unchanged and in order. What is kept is at most `KEPT_BYTES_MAX` and one frame; above it the
//! client's windows fill.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

/// What may be kept of one stream.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// What is handed on at once: little, since more is taken only when more is asked for.
const PART_BYTES: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Eager<B: Body> {
    inner: B,
    kept: BytesMut,
    /// How it goes on behind what is kept.
    end: Option<Option<Result<Frame<Bytes>, B::Error>>>,
}

impl<B: Body> Eager<B> {
    /// Around a body.
    pub fn new(inner: B) -> Self {
        Self { inner, kept: BytesMut::new(), end: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Eager<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        while this.end.is_none() && this.kept.len() < KEPT_BYTES_MAX {
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.kept.extend_from_slice(&data),
                    Err(trailers) => this.end = Some(Some(Ok(trailers))),
                },
                Poll::Ready(other) => this.end = Some(other),
                Poll::Pending => break,
            }
        }
        if !this.kept.is_empty() {
            let part = this.kept.split_to(this.kept.len().min(PART_BYTES)).freeze();
            if this.kept.is_empty() {
                this.kept = BytesMut::new();
            }
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        match &mut this.end {
            // After an end there is nothing, however often it is asked for.
            Some(end) => Poll::Ready(end.take()),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::Status;

    use super::*;

    #[tokio::test]
    async fn all_that_has_come_is_taken_at_once_and_handed_on_in_order() {
        let (count, bound) = (50_000_u32, KEPT_BYTES_MAX / 4);
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let frames = stream::iter((0..count).map(move |number| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(&[number.to_be_bytes(); 4].concat())))
        }));
        let mut body = Eager::new(StreamBody::new(frames));
        let mut all = BytesMut::new();
        let first = body.frame().await.expect("more").expect("no error").into_data().expect("data");
        assert!(first.len() <= PART_BYTES);
        all.extend_from_slice(&first);
        assert!(taken.load(Ordering::Relaxed) >= (count as usize).min(bound / 4), "they do not lie unread");
        assert!(taken.load(Ordering::Relaxed) * 16 <= KEPT_BYTES_MAX + 16, "and there is a bound");
        while let Some(frame) = body.frame().await {
            all.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
        }
        let want: Vec<u8> = (0..count).flat_map(|number| [number.to_be_bytes(); 4].concat()).collect();
        assert!(all == want);
        assert!(body.frame().await.is_none(), "an end is an end");
    }

    #[tokio::test]
    async fn an_error_comes_behind_what_came_before_it() {
        let frames = [Ok(Frame::data(Bytes::from_static(b"ab"))), Err(Status::aborted("cut"))];
        let mut body = Eager::new(StreamBody::new(stream::iter(frames)));
        let data = body.frame().await.expect("more").expect("no error").into_data().expect("data");
        assert_eq!(data, "ab");
        let error = body.frame().await.expect("an end").expect_err("an error");
        assert_eq!(error.message(), "cut");
        assert!(body.frame().await.is_none());
    }
}
