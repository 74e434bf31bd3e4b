//! [`Intake`]: reads the one message of a request, within the bounds of [`kubebrain_net::intake`]. What is counted of it
//! there is so until the answer begins.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{Request, Response};
use kubebrain_net::budget::Budget;
use kubebrain_net::intake::{Intake as Bounded, Taken};
use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::grpc::{Answered, Framed, OneMessage};

/// Makes an [`Intake`].
#[derive(Clone)]
pub(super) struct IntakeLayer {
    budget: Arc<Budget>,
    bytes_max: usize,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Intake<S> {
    inner: S,
    budget: Arc<Budget>,
    bytes_max: usize,
}

impl IntakeLayer {
    /// A message may have `bytes_max` bytes.
    pub(super) fn new(budget: &Arc<Budget>, bytes_max: usize) -> Self {
        Self { budget: Arc::clone(budget), bytes_max }
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake { inner, budget: Arc::clone(&self.budget), bytes_max: self.bytes_max }
    }
}

impl<S> Service<Request<Body>> for Intake<S>
where
    S: Service<Request<Framed>, Response = Response<Body>, Error = Status> + Clone,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Answering<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let (body, taken) = Bounded::new(body, &self.budget);
        let message = OneMessage::new(body, self.bytes_max);
        let state = State::Reading { message, next: Some((head, self.inner.clone())) };
        Answering { state, taken: Some(taken) }
    }
}

pin_project! {
    /// An answer on its way.
    pub(super) struct Answering<S, F> {
        #[pin]
        state: State<S, F>,
        // what the request takes of the budget; given back when the answer begins
        taken: Option<Taken>,
    }
}

pin_project! {
    #[project = StateNow]
    enum State<S, F> {
        Reading { message: OneMessage<Bounded<Body>>, next: Option<(Parts, S)> },
        Answering { #[pin] inner: F },
    }
}

impl<S> Future for Answering<S, S::Future>
where
    S: Service<Request<Framed>, Response = Response<Body>, Error = Status>,
{
    type Output = Answered;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let mut this = self.project();
        loop {
            let inner = match this.state.as_mut().project() {
                StateNow::Reading { message, next } => {
                    let message = ready!(Pin::new(message).poll(cx))?;
                    let (head, mut inner) = next.take().expect("a message is read once");
                    inner.call(Request::from_parts(head, message))
                }
                StateNow::Answering { inner } => {
                    let answered = ready!(inner.poll(cx));
                    this.taken.take();
                    return Poll::Ready(answered);
                }
            };
            this.state.set(State::Answering { inner });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tower::service_fn;

    use super::*;

    const BYTES_MAX: usize = 1 << 20;

    fn request(chunks: Vec<Bytes>) -> Request<Body> {
        let frames = chunks.into_iter().map(|chunk| Ok::<_, Status>(Frame::data(chunk)));
        Request::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
    }

    #[tokio::test]
    async fn the_next_layer_has_the_whole_message_which_counts_until_it_is_answered() {
        let budget = Budget::new(4 << 20);
        let used = Arc::new(AtomicU64::new(0));
        let (counted, seen) = (Arc::clone(&budget), Arc::clone(&used));
        let inner = service_fn(move |request: Request<Framed>| {
            seen.store(counted.used(), Ordering::Relaxed);
            let bytes = request.body().message().len();
            async move { Err::<Response<Body>, _>(Status::aborted(bytes.to_string())) }
        });
        let mut intake = IntakeLayer::new(&budget, BYTES_MAX).layer(inner);
        let pieces = vec![b"\0\0\0".as_slice().into(), b"\0\x03a".as_slice().into(), b"bc".as_slice().into()];
        assert_eq!(intake.call(request(pieces)).await.expect_err("asked").message(), "3");
        assert_eq!(used.load(Ordering::Relaxed), 0, "small ones are not counted");
        let large = Framed::new(&vec![b'x'; BYTES_MAX]).frame();
        let mut answering = Box::pin(intake.call(request(vec![large])));
        let answered = answering.as_mut().await.expect_err("asked");
        assert_eq!(answered.message(), BYTES_MAX.to_string());
        assert!(used.load(Ordering::Relaxed) >= BYTES_MAX as u64, "while it was at work");
        assert_eq!(budget.used(), 0, "and no longer");
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_before_the_next_layer() {
        let inner = service_fn(|_: Request<Framed>| async { panic!("nobody asks") });
        let mut intake = IntakeLayer::new(&Budget::new(1 << 20), 3).layer(inner);
        let refused: Answered = intake.call(request(vec![Framed::new(b"abcd").frame()])).await;
        assert_eq!(refused.expect_err("too large").code(), tonic::Code::ResourceExhausted);
        let refused: Answered = intake.call(request(Vec::new())).await;
        assert_eq!(refused.expect_err("no message").code(), tonic::Code::InvalidArgument);
    }
}
