//! [`Locks`]: etcd's `v3lockpb.Lock` and `v3electionpb.Election`, around the service of a listener.
//!
//! They are recipes over keys, watches and leases, and are carried out by the very calls that a client would make,
//! on the service behind them: whatever that is over, a brain's store or a proxy's groups, they hold. What is kept is in
//! the keys alone; who waits here waits by a watch, and another process may carry on.
//!
//! ```text
//! NAME/LEASE   lease in hexadecimal. Who has the lowest creation revision below NAME/ holds the lock, or leads; each other
//!              one waits until the one before it is gone.
//! ```
//!
//! Invariants: a client that goes away while it waits leaves no key behind, as long as this process lives; else its lease
//! ends that. Failures come with etcd's texts and with its code for them, which is `Unknown`.

mod keys;
mod queue;
mod lock;
mod election;
mod observation;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use keys::Keys;
use kubebrain_proto::v3electionpb::election_server::ElectionServer;
use kubebrain_proto::v3lockpb::lock_server::LockServer;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::unserved;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::budget::Budget;
use crate::direct::Direct;
use crate::held::Held;
use crate::intake::intake;
use crate::metrics::Inbound;
use crate::probe::is_grpc;

/// What requests that are on their way in may take together.
const REQUESTS_BYTES: u64 = 64 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub struct Locks<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    keys: Keys,
    requests: Arc<Budget>,
    /// Of one request, bytes.
    message_bytes_max: usize,
}

impl<S> Locks<S>
where
    S: Service<Request<Inbound>, Response = Response<Body>, Error = Infallible, Future: Send>,
    S: Clone + Send + Sync + 'static,
{
    /// Around what serves keys, watches and leases. A request may have `message_bytes_max` bytes; `held` counts whom a bound holds back.
    pub fn new(inner: S, message_bytes_max: usize, held: Held) -> Self {
        let keys = Keys::new(Direct::new(Own(inner.clone())));
        let shared = Shared { keys, requests: Budget::of_requests(REQUESTS_BYTES, held), message_bytes_max };
        Self { inner, shared: Arc::new(shared) }
    }
}

/// Asked by this process.
#[derive(Clone, Debug)]
struct Own<S>(S);

impl<S: Service<Request<Inbound>>> Service<Request<Body>> for Own<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        self.0.call(request.map(Inbound::from))
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Inbound>> for Locks<S>
where
    S: Service<Request<Inbound>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Answering>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Inbound>) -> Self::Future {
        let path = request.uri().path();
        let ours = path.starts_with("/v3lockpb.") || path.starts_with("/v3electionpb.");
        match ours && is_grpc(request.headers()) {
            true => Either::Right(Box::pin(answer(self.shared.clone(), request))),
            false => Either::Left(self.inner.call(request)),
        }
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Inbound>) -> Result<Response<Body>, Infallible> {
    let (request, _taken) = intake(request, &shared.requests);
    let bytes_max = shared.message_bytes_max;
    match request.uri().path() {
        method::LOCK | method::UNLOCK => {
            let server = LockServer::new(lock::Lock(shared.keys.clone()));
            server.max_decoding_message_size(bytes_max).call(request).await
        }
        method::CAMPAIGN | method::PROCLAIM | method::LEADER | method::OBSERVE | method::RESIGN => {
            let server = ElectionServer::new(election::Election(shared.keys.clone()));
            server.max_decoding_message_size(bytes_max).call(request).await
        }
        path => Ok(unserved::refusal(path).into_http()),
    }
}

/// What etcd's server says of an error of its own client, which these recipes are carried out with there: the text alone.
fn as_in_etcd(status: Status) -> Status {
    match Fault::of(&status) {
        Some(_) => Status::unknown(status.message()),
        None => status,
    }
}
