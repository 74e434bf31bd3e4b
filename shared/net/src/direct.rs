//! [`Direct`]: a service of this process, asked without a connection.
//!
//! It is asked what it would be asked over one, the same request with the same headers, and gives the same headers,
//! frames and trailers. What is left out is HTTP/2 between the two. Nothing is kept on the way: an answer is made as
//! fast as its reader takes it.
//!
//! Invariants, which a connection would give its caller:
//! * A panic of the service ends one request as a broken connection would, before its answer or inside of it, and never
//!   its caller.
//! * A call or an answer that is dropped ends the service's work on it.
//! * The work begins a turn of the task after it was asked for. Servers look only between turns whether their client is
//!   still there: a flood of requests that are reset at once makes no work here.

mod ask;

use std::convert::Infallible;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

pub use ask::{Answer, Messages};

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// The service has panicked: the request may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service has panicked")]
pub struct Panicked;

/// See the module. Clones lead to the same service.
#[derive(Clone)]
pub struct Direct(Arc<dyn Fn(Request<Body>) -> Answering + Send + Sync>);

impl Direct {
    /// To a service that is always ready, such as tonic's.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Self(Arc::new(move |request| {
            let answering = service.clone().call(request);
            Box::pin(async move {
                let Ok(response) = answering.await;
                response
            })
        }))
    }

    /// Asks the service.
    ///
    /// # Errors
    /// [`Panicked`].
    ///
    /// # Cancel safety
    /// A dropped call ends the service's work on it, like a stream that is reset.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Panicked> {
        let mut turned = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut turned, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let mut answering = guard(|| (self.0)(request)).ok_or(Panicked)?;
        let answer = std::future::poll_fn(|cx| match guard(|| answering.as_mut().poll(cx)) {
            Some(polled) => polled.map(Ok),
            None => Poll::Ready(Err(Panicked)),
        });
        Ok(answer.await?.map(|body| Body::new(Guarded { body: Some(body) })))
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direct")
    }
}

/// `None` after a panic, which has been reported. What it left behind must not be used again.
fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// An answer's body that fails where its service panics.
struct Guarded {
    /// `None` after a panic.
    body: Option<Body>,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Some(polled) = guard(|| Pin::new(body).poll_frame(cx)) {
            return polled;
        }
        self.body = None;
        Poll::Ready(Some(Err(Status::unavailable(Panicked.to_string()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
