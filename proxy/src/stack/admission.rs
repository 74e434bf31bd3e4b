//! [`Admission`]: how many requests are at work at once. Above that they are refused at once, and nobody queues.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::Response;
use kubebrain_net::trace::{self, Step};
use kubebrain_shared::fault::Fault;
use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::held::Held;
use crate::grpc::Answered;

/// Makes an [`Admission`].
#[derive(Clone)]
pub(super) struct AdmissionLayer {
    places: Arc<Semaphore>,
    refused: IntCounter,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Admission<S> {
    inner: S,
    places: Arc<Semaphore>,
    refused: IntCounter,
}

impl AdmissionLayer {
    /// A request takes one of `places` until its answer begins; `refused` counts those for which there was none.
    pub(super) fn new(places: &Arc<Semaphore>, refused: &IntCounter) -> Self {
        Self { places: Arc::clone(places), refused: refused.clone() }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, places: Arc::clone(&self.places), refused: self.refused.clone() }
    }
}

impl<S, R> Service<R> for Admission<S>
where
    S: Service<R, Response = Response<Body>, Error = Status>,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Either<Held<S::Future, OwnedSemaphorePermit>, Ready<Answered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                trace::passed(Step::Admission, Code::Ok);
                Either::Left(Held::new(self.inner.call(request), place))
            }
            Err(_full) => {
                trace::passed(Step::Admission, Code::ResourceExhausted);
                self.refused.inc();
                Either::Right(ready(Err(Fault::TooManyRequests.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn a_place_is_taken_until_the_answer_begins_or_the_request_is_dropped() {
        let refused = IntCounter::new("refused", "refused").expect("a counter");
        let places = Arc::new(Semaphore::new(1));
        let inner = service_fn(|answers: bool| async move {
            if answers { Ok::<_, Status>(Response::new(Body::empty())) } else { pending().await }
        });
        let mut admission = AdmissionLayer::new(&places, &refused).layer(inner);
        let stuck = admission.call(false);
        for count in 1..3 {
            let full = admission.call(true).await.expect_err("one is at work");
            assert_eq!((Fault::of(&full), refused.get()), (Some(Fault::TooManyRequests), count));
        }
        drop(stuck);
        let mut answering = Box::pin(admission.call(true));
        answering.as_mut().await.expect("there is a place");
        assert_eq!(places.available_permits(), 1, "free although the future is still there");
        assert_eq!(refused.get(), 2);
    }
}
