//! [`Restricted`]: a call that only some clients of a listener may make, by the common names of their certificates.
//!
//! It stands outermost around a listener's service, so that nothing behind it is asked before. Whoever has shown no
//! certificate has no name, and is refused.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::serve::Serve;
use crate::tls::CommonName;

/// Who may make which call.
#[derive(Clone, Debug)]
pub struct Restriction {
    /// The call, as in a request: `/service/name`.
    pub path: &'static str,
    /// Names of certificates that may make it; none: nobody may. A listener has to tell them, see
    /// [`ServeConfig::tells_names`](crate::serve::ServeConfig::tells_names).
    pub names: Arc<[String]>,
    /// What everybody else is told.
    pub refusal: &'static str,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Restricted<S> {
    inner: S,
    restriction: Restriction,
}

impl<S> Restricted<S> {
    /// Of a listener's service.
    pub const fn new(inner: S, restriction: Restriction) -> Self {
        Self { inner, restriction }
    }
}

impl<S: Serve> Service<Request<Incoming>> for Restricted<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let Restriction { path, names, refusal } = &self.restriction;
        if request.uri().path() != *path {
            return Either::Left(self.inner.call(request));
        }
        let name = request.extensions().get::<CommonName>().map(CommonName::as_str);
        if name.is_some_and(|name| names.iter().any(|allowed| allowed == name)) {
            return Either::Left(self.inner.call(request));
        }
        tracing::warn!(
            call = path,
            certificate = name.unwrap_or("none"),
            "a client may not make this call: refused"
        );
        Either::Right(ready(Ok(Status::permission_denied(*refusal).into_http())))
    }
}
