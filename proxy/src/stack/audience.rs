//! [`Audience`]: who asks. Probes, tools and people are answered here, whatever the groups do; clients go on, while the
//! proxy serves, without what only proxies and brains may tell each other.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{HeaderMap, Method, Request, Response, header};
use kubebrain_net::probe;
use kubebrain_net::reflection::Reflection;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::core::Core;
use crate::grpc::Answered;
use crate::service::{admin, health, web};

/// Makes an [`Audience`].
#[derive(Clone)]
pub(super) struct AudienceLayer {
    core: Arc<Core>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Audience<S> {
    inner: S,
    core: Arc<Core>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A probe, or a person with a browser: by plain HTTP.
    Probe,
    /// A tool that wants to know which services there are.
    Reflection,
    /// A probe by gRPC.
    Health,
    /// `ctl`, of the groups.
    Operator,
    Client,
}

/// An answer of the proxy itself.
type Answering = Pin<Box<dyn Future<Output = Answered> + Send>>;

impl AudienceLayer {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }
}

impl<S> Layer<S> for AudienceLayer {
    type Service = Audience<S>;

    fn layer(&self, inner: S) -> Audience<S> {
        Audience { inner, core: Arc::clone(&self.core) }
    }
}

impl Asker {
    fn of(request: &Request<Body>) -> Self {
        if request.method() != Method::POST || !probe::is_grpc(request.headers()) {
            return Self::Probe;
        }
        match request.uri().path() {
            path if Reflection::is_asked(path) => Self::Reflection,
            path if path.starts_with("/grpc.health.v1.Health/") => Self::Health,
            admin::GROUPS => Self::Operator,
            _ => Self::Client,
        }
    }
}

impl<S> Audience<S> {
    /// # Errors
    /// What clients are told where they are not served.
    fn serves_clients(&self) -> Result<(), Fault> {
        if self.core.stop_handle().is_none() {
            return Err(Fault::Stopped);
        }
        if *self.core.ready().borrow() { Ok(()) } else { Err(Fault::Unhealthy) }
    }
}

impl<S> Service<Request<Body>> for Audience<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Status>,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Either<S::Future, Either<Ready<Answered>, Answering>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let asker = Asker::of(&request);
        if asker != Asker::Client {
            return Either::Right(Either::Right(Box::pin(answer(asker, Arc::clone(&self.core), request))));
        }
        match self.serves_clients() {
            Ok(()) => {
                strip(request.headers_mut());
                Either::Left(self.inner.call(request))
            }
            Err(fault) => Either::Right(Either::Left(ready(Err(fault.into())))),
        }
    }
}

async fn answer(asker: Asker, core: Arc<Core>, request: Request<Body>) -> Answered {
    let (head, body) = request.into_parts();
    match (asker, &core.reflection) {
        (Asker::Probe, _) => Ok(web::answer(&core, &head.method, &head.uri).await),
        (Asker::Reflection, Some(reflection)) => Ok(reflection.answer(Request::from_parts(head, body)).await),
        (Asker::Health, _) => health::answer(&core, head.uri.path(), body).await,
        (Asker::Operator, _) => Ok(admin::groups(&core).await),
        (Asker::Reflection | Asker::Client, _) => Err(kubebrain_shared::unserved::refusal(head.uri.path())),
    }
}

/// Leaves the headers that a brain may see.
fn strip(headers: &mut HeaderMap) {
    metadata::strip(headers);
    for name in
        [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE]
    {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tower::service_fn;

    use super::*;
    use crate::config::Config;
    use crate::testing::{core, grpc_request};

    #[tokio::test]
    async fn only_clients_have_to_wait_until_the_proxy_serves() {
        let core = core(Config::default());
        let inner = service_fn(|_: Request<Body>| ready(Err::<Response<Body>, _>(Status::aborted("asked"))));
        let mut audience = AudienceLayer::new(&core).layer(inner);
        let probe = Request::get("/livez").body(Body::empty()).expect("a request");
        assert_eq!(audience.call(probe).await.expect("answered").status(), StatusCode::OK);
        let operator = grpc_request(admin::GROUPS, b"");
        assert_eq!(audience.call(operator).await.expect("answered").status(), StatusCode::OK);
        let client = || grpc_request("/etcdserverpb.KV/Range", b"");
        let refused = audience.call(client()).await.expect_err("no group has answered");
        assert_eq!(Fault::of(&refused), Some(Fault::Unhealthy));
        core.ready().send_replace(true);
        let answered = audience.call(client()).await.expect_err("by the next layer");
        assert_eq!(answered.message(), "asked");
        drop(core.take_stopper());
        let refused = audience.call(client()).await.expect_err("stopped");
        assert_eq!(Fault::of(&refused), Some(Fault::Stopped));
    }

    #[test]
    fn what_proxies_and_brains_tell_each_other_does_not_come_from_a_client() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("kubebrain-floor", "9"),
            ("authorization", "token"),
            ("kubebrain-floor", "10"),
            ("kubebrain-new", "1"),
            ("grpc-timeout", "5S"),
            ("kubebrain-part", "2"),
            ("host", "here"),
            ("hasmetadata", "kubebrain-floor"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        strip(&mut headers);
        let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "grpc-timeout", "hasmetadata"]);
    }
}
