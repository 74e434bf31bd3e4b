//! [`Limit`]: so many requests at work, and no more: the next one is answered at once.
//!
//! A request counts until its answer begins; streams therefore do not count while they last.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use kubebrain_shared::fault::Fault;
use prometheus::IntCounter;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// Around a service.
#[derive(Clone, Debug)]
pub(crate) struct Limit<S> {
    inner: S,
    free: Arc<Semaphore>,
    refused: IntCounter,
}

impl<S> Limit<S> {
    pub(crate) fn new(inner: S, free: Arc<Semaphore>, refused: IntCounter) -> Self {
        Self { inner, free, refused }
    }
}

impl<S, B> Service<Request<B>> for Limit<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            self.refused.inc();
            return Box::pin(async { Ok(Status::from(Fault::TooManyRequests).into_http()) });
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(permit);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("refused", "in this test").expect("a legal name")
    }

    #[tokio::test]
    async fn above_the_limit_the_answer_is_immediate() {
        let never = tower::service_fn(|_: Request<()>| pending::<Result<Response<Body>, Infallible>>());
        let mut limit = Limit::new(never, Arc::new(Semaphore::new(1)), counter());
        let first = limit.call(Request::new(()));
        let Ok(refused) = limit.call(Request::new(())).await;
        let status = Status::from_header_map(refused.headers()).expect("a status");
        assert_eq!(Fault::of(&status), Some(Fault::TooManyRequests));
        assert_eq!(limit.refused.get(), 1);
        drop(first);
        assert_eq!(limit.free.available_permits(), 1, "a dropped request gives its place back");
        let soon = tower::service_fn(|_: Request<()>| async { Ok(Response::new(Body::empty())) });
        let mut limit = Limit::new(soon, Arc::clone(&limit.free), limit.refused.clone());
        let Ok(_answer) = limit.call(Request::new(())).await;
        assert_eq!(limit.free.available_permits(), 1, "and so does an answered one");
    }
}
