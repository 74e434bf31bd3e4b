//! [`Deadline`]: how long a request may take until its answer begins, whatever its client waits for. Without it one group
//! that does not answer would use up the places of all requests.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use pin_project_lite::pin_project;
use tokio::time::{Timeout, timeout};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::grpc::Answered;

/// Makes a [`Deadline`].
#[derive(Clone)]
pub(super) struct DeadlineLayer {
    time: Duration,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Deadline<S> {
    inner: S,
    time: Duration,
}

impl DeadlineLayer {
    pub(super) const fn new(time: Duration) -> Self {
        Self { time }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, time: self.time }
    }
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Status>,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match method::is_bounded(request.uri().path()) {
            true => Answering::Bounded { inner: timeout(self.time, self.inner.call(request)) },
            false => Answering::Unbounded { inner: self.inner.call(request) },
        }
    }
}

pin_project! {
    /// An answer on its way.
    #[project = AnsweringNow]
    pub(super) enum Answering<F> {
        Bounded { #[pin] inner: Timeout<F> },
        Unbounded { #[pin] inner: F },
    }
}

impl<F: Future<Output = Answered>> Future for Answering<F> {
    type Output = Answered;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        match self.project() {
            AnsweringNow::Bounded { inner } => {
                inner.poll(cx).map(|answered| answered.unwrap_or_else(|_late| Err(Fault::Timeout.into())))
            }
            AnsweringNow::Unbounded { inner } => inner.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};
    use tower::service_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_operators_ask_for_may_take_as_long_as_it_takes() {
        let inner = service_fn(|_: Request<()>| async {
            sleep(Duration::from_secs(60)).await;
            Ok::<_, Status>(Response::new(Body::empty()))
        });
        let mut deadline = DeadlineLayer::new(Duration::from_secs(30)).layer(inner);
        for (path, seconds) in [
            ("/etcdserverpb.KV/Range", 30),
            ("/etcdserverpb.KV/Txn", 30),
            ("/etcdserverpb.KV/Compact", 60),
            ("/etcdserverpb.Maintenance/Snapshot", 60),
        ] {
            let request = Request::post(path).body(()).expect("a request");
            let began = Instant::now();
            let answered = deadline.call(request).await;
            assert_eq!(began.elapsed().as_secs(), seconds, "{path}");
            let late = answered.err().as_ref().and_then(Fault::of);
            assert_eq!(late, (seconds == 30).then_some(Fault::Timeout), "{path}");
        }
    }
}
