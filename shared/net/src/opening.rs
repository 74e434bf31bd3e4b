//! [`Opening`]: answers before the service behind it can, for as long as a store opens or its storage is waited for; and
//! lets another service take its place.
//!
//! Meanwhile probes are told what is waited for: the process lives (`/livez`), and is not ready (`/readyz`, `/health`).
//! gRPC calls wait for the service as they would in the backlog of a listener that nobody accepts from, but for
//! [`ANSWER_WITHIN`] at most: then they are `Unavailable`, surely not done.
//!
//! Once the service is there this is one look at a pointer. Connections stay when services change; what one has begun it ends.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use futures_util::future::Either;
use http::{Request, Response};
use kubebrain_proto::etcdserverpb::AlarmType;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::probe::{self, ANSWER_WITHIN, Subject};

/// See the module. Clones are of one service.
#[derive(Debug)]
pub struct Opening<S> {
    inner: Arc<Inner<S>>,
}

#[derive(Debug)]
struct Inner<S> {
    service: ArcSwapOption<S>,
    waits_for: watch::Sender<String>,
    version: &'static str,
}

impl<S> Opening<S> {
    /// Of a service that comes later. `version` is what `/version` says.
    pub fn new(version: &'static str) -> Self {
        let waits_for = watch::Sender::new("the store is being opened".to_owned());
        Self { inner: Arc::new(Inner { service: ArcSwapOption::empty(), waits_for, version }) }
    }

    /// What is waited for, as a sentence for an operator.
    pub fn waits_for(&self, what: impl Into<String>) {
        self.inner.waits_for.send_replace(what.into());
    }

    /// From here on `service` answers.
    pub fn open(&self, service: S) {
        self.inner.service.store(Some(Arc::new(service)));
        self.inner.waits_for.send_modify(|_same| {}); // wakes who waits
    }

    /// True while a service answers.
    pub fn is_open(&self) -> bool {
        self.inner.service.load().is_some()
    }

    /// From here on nobody does: what comes waits for the next one.
    pub fn close(&self, waits_for: impl Into<String>) {
        self.waits_for(waits_for);
        self.inner.service.store(None);
    }
}

impl<S> Clone for Opening<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S, B> Service<Request<B>> for Opening<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>,
    S: Clone + Send + Sync + 'static,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Answering>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match &*self.inner.service.load() {
            Some(service) => Either::Left(S::clone(service).call(request)),
            None => Either::Right(Box::pin(answer(self.inner.clone(), request))),
        }
    }
}

async fn answer<S, B>(inner: Arc<Inner<S>>, request: Request<B>) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone,
{
    if !probe::is_grpc(request.headers()) {
        let subject = Waiting(inner.waits_for.borrow().clone());
        return Ok(probe::page(&subject, inner.version, request.method(), request.uri()).await);
    }
    let mut waits = inner.waits_for.subscribe();
    let opened = timeout(ANSWER_WITHIN, async {
        loop {
            if let Some(service) = &*inner.service.load() {
                return S::clone(service);
            }
            if waits.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    });
    match opened.await {
        Ok(mut service) => service.call(request).await,
        Err(_late) => Ok(not_ready(&waits.borrow()).into_http()),
    }
}

fn not_ready(waits_for: &str) -> Status {
    Status::unavailable(format!("etcdserver: not ready: {waits_for}"))
}

/// What probes see of a service that is not there.
struct Waiting(String);

impl Subject for Waiting {
    fn works(&self) -> Result<(), String> {
        Ok(())
    }

    fn read(&self) -> impl Future<Output = Result<(), Status>> + Send {
        let answer: Ready<_> = ready(Err(not_ready(&self.0)));
        answer
    }

    fn alarms(&self) -> impl Future<Output = Vec<AlarmType>> + Send {
        ready(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use tokio::time::Instant;
    use tower::{service_fn, util::BoxCloneSyncService};

    use super::*;

    type Served = BoxCloneSyncService<Request<()>, Response<Body>, Infallible>;

    fn served() -> Served {
        BoxCloneSyncService::new(service_fn(|_: Request<()>| async {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert("from", http::HeaderValue::from_static("the service"));
            Ok::<_, Infallible>(response)
        }))
    }

    async fn get(opening: &Opening<Served>, path: &str) -> (u16, String) {
        let request = Request::builder().uri(path).body(()).expect("a request");
        let Ok(response) = opening.clone().call(request).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    fn grpc(opening: &Opening<Served>) -> impl Future<Output = Response<Body>> + use<> {
        let request =
            Request::builder().uri("/etcdserverpb.KV/Range").header("content-type", "application/grpc");
        let called = opening.clone().call(request.body(()).expect("a request"));
        async { called.await.unwrap_or_else(|never| match never {}) }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_are_told_what_is_waited_for_until_the_service_answers() {
        let opening = Opening::<Served>::new("3.7.0");
        opening.waits_for("PD at 127.0.0.1:1 does not answer");
        let (status, said) = get(&opening, "/readyz").await;
        assert_eq!(status, 503);
        assert!(said.contains("[-]linearizable_read failed"), "{said}");
        assert!(said.contains("PD at 127.0.0.1:1 does not answer"), "{said}");
        assert_eq!(get(&opening, "/livez").await.0, 200, "a restart would not help");
        let (status, said) = get(&opening, "/health").await;
        assert!(status == 503 && said.contains("does not answer"), "{status} {said}");
        assert_eq!(get(&opening, "/version").await.0, 200);
        assert_eq!(get(&opening, "/else").await.0, 404);
        opening.open(served());
        assert_eq!(get(&opening, "/readyz").await, (200, String::new()), "the service's own answer");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_the_service() {
        let opening = Opening::<Served>::new("3.7.0");
        let call = tokio::spawn(grpc(&opening));
        tokio::time::sleep(Duration::from_secs(3)).await;
        opening.waits_for("something else"); // is no end of waiting
        tokio::time::sleep(Duration::from_secs(3)).await;
        opening.open(served());
        let response = call.await.expect("an answer");
        assert_eq!(response.headers()["from"], "the service");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_takes_the_place_of_another() {
        let opening = Opening::<Served>::new("3.7.0");
        opening.open(served());
        assert_eq!(grpc(&opening).await.headers()["from"], "the service");
        opening.close("an election");
        assert_eq!(get(&opening, "/readyz").await.0, 503);
        let call = tokio::spawn(grpc(&opening));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!call.is_finished());
        opening.open(served());
        assert_eq!(call.await.expect("an answer").headers()["from"], "the service");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_waited_too_long_are_unavailable() {
        let opening = Opening::<Served>::new("3.7.0");
        opening.waits_for("PD");
        let began = Instant::now();
        let response = grpc(&opening).await;
        assert_eq!(began.elapsed(), ANSWER_WITHIN);
        let status = Status::from_header_map(response.headers()).expect("a gRPC status");
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unavailable, "etcdserver: not ready: PD")
        );
    }
}
