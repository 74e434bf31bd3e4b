//! [`Intake`]: the body of a request that has one message.
//!
//! It must be there within [`BODY_MAX`], however its client spreads it. A large one is let in by a [`Budget`], by the
//! length that stands before the message, and is not read before: what clients begin to send costs no memory but
//! HTTP/2's windows. It is counted until the request is answered, by whoever holds its [`Taken`].
//!
//! Invariant: a body that comes whole in its first frame, and is small, sets no timer and takes no lock.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::wire::FRAME_PREFIX_BYTES;
use parking_lot::Mutex;
use tokio::time::Sleep;
use tonic::Status;

use crate::budget::{Budget, Share, UNCOUNTED_BYTES};
use crate::held::Bound;

/// A request's message must be there within this time.
pub const BODY_MAX: Duration = Duration::from_secs(30);
/// What requests of a process may take together, unless said otherwise.
pub const DEFAULT_BYTES: u64 = 256 << 20;

/// What a request takes of the budget; dropped when it is answered.
#[derive(Clone, Debug, Default)]
pub struct Taken(Arc<Mutex<Option<Arc<Share>>>>);

impl Taken {
    /// What is counted is no longer there.
    pub(crate) fn release(&self) {
        self.0.lock().take();
    }
}

type Asking = Pin<Box<dyn Future<Output = Result<Option<Arc<Share>>, Fault>> + Send>>;

/// See the module.
pub struct Intake<B> {
    inner: B,
    budget: Arc<Budget>,
    taken: Taken,
    /// The prefix of the message, as far as it is there.
    prefix: [u8; FRAME_PREFIX_BYTES],
    have: usize,
    asking: Option<Asking>,
    /// Came, but is not let in yet.
    waits: Option<Bytes>,
    end: Option<Pin<Box<Sleep>>>,
}

/// [`Intake::new`] of a request.
pub fn intake<B>(request: Request<B>, budget: &Arc<Budget>) -> (Request<Intake<B>>, Taken) {
    let (head, body) = request.into_parts();
    let (body, taken) = Intake::new(body, budget);
    (Request::from_parts(head, body), taken)
}

impl<B> Intake<B> {
    /// Puts a body under watch.
    pub fn new(inner: B, budget: &Arc<Budget>) -> (Self, Taken) {
        let taken = Taken::default();
        let body = Self {
            inner,
            budget: Arc::clone(budget),
            taken: taken.clone(),
            prefix: [0; FRAME_PREFIX_BYTES],
            have: 0,
            asking: None,
            waits: None,
            end: None,
        };
        (body, taken)
    }

    /// Looks at the beginning of the message; true if its client has to wait until it is let in.
    fn look(&mut self, data: &Bytes) -> bool {
        if self.have == FRAME_PREFIX_BYTES {
            return false;
        }
        let more = data.len().min(FRAME_PREFIX_BYTES - self.have);
        self.prefix[self.have..self.have + more].copy_from_slice(&data[..more]);
        self.have += more;
        let [_, a, b, c, d] = self.prefix;
        let bytes = u64::from(u32::from_be_bytes([a, b, c, d]));
        let large = self.have == FRAME_PREFIX_BYTES && bytes > UNCOUNTED_BYTES;
        if large {
            let budget = Arc::clone(&self.budget);
            self.asking = Some(Box::pin(async move { budget.take(bytes).await }));
        }
        large
    }

    fn poll_asking(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(asking) = &mut self.asking else { return Poll::Ready(Ok(())) };
        let share = std::task::ready!(asking.as_mut().poll(cx))?;
        self.asking = None;
        *self.taken.0.lock() = share;
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let end = self.end.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_MAX)));
        end.as_mut().poll(cx).map(|()| {
            self.budget.held().count(Bound::RequestsSlow);
            Fault::Timeout.into()
        })
    }
}

impl<B> Body for Intake<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = loop {
            match this.poll_asking(cx) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Err(status)) => break Poll::Ready(Some(Err(status))),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(data) = this.waits.take() {
                break Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => break other.map_err(|error| Status::from_error(error.into())),
            };
            match frame.into_data() {
                Ok(data) if this.look(&data) => this.waits = Some(data),
                Ok(data) => break Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => break Poll::Ready(Some(Ok(frame))),
            }
        };
        match polled {
            Poll::Pending => this.poll_end(cx).map(|status| Some(Err(status))),
            ready => ready,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waits.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use kubebrain_shared::wire::frame;

    const MIB: u64 = 1 << 20;

    fn message(bytes: usize) -> Request<Full<Bytes>> {
        Request::new(Full::new(frame(&vec![b'x'; bytes])))
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_request_waits_until_it_is_let_in_and_counts_until_it_is_answered() {
        let budget = Budget::new(2 * MIB);
        let (first, counted) = intake(message(1 << 20), &budget);
        let all = first.into_body().collect().await.expect("let in").to_bytes();
        assert_eq!(all.len(), (1 << 20) + FRAME_PREFIX_BYTES);
        assert!(budget.used() >= MIB);
        let (second, other) = intake(message(3 << 19), &budget);
        let second =
            tokio::spawn(async move { second.into_body().collect().await.map(|all| all.to_bytes()) });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!second.is_finished(), "there is no room for it");
        let (small, nothing) = intake(message(10), &budget);
        small.into_body().collect().await.expect("small ones never wait");
        drop((counted, nothing));
        let all = second.await.expect("no panic").expect("let in");
        assert_eq!(all.len(), (3 << 19) + FRAME_PREFIX_BYTES);
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_a_byte_at_a_time_is_not_waited_for_for_ever() {
        let (bytes, inbound) = mpsc::channel(1);
        let body = StreamBody::new(ReceiverStream::new(inbound));
        let budget = Budget::new(MIB);
        let (request, _taken) = intake(Request::new(body), &budget);
        tokio::spawn(async move {
            for byte in frame(&[b'x'; 100]) {
                let frame = Frame::data(Bytes::copy_from_slice(&[byte]));
                if bytes.send(Ok::<_, Status>(frame)).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let began = tokio::time::Instant::now();
        let refused = request.into_body().collect().await.expect_err("it takes too long");
        assert_eq!(Fault::of(&refused), Some(Fault::Timeout));
        assert_eq!(began.elapsed().as_secs(), BODY_MAX.as_secs());
    }
}
