//! [`Standby`]: what a brain that is not its group's master answers.
//!
//! Proxies are told who is, and ask there. Clients are served by the master through this brain: their requests go on as
//! they came, and so do its answers. Nothing is answered from here, so nothing here can be old.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::{AlarmType, RangeRequest};
use kubebrain_shared::dial::{Channel, DialError};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::metrics::Inbound;
use kubebrain_shared::probe::{self, ETCD_VERSION, Subject};
use kubebrain_shared::relay::Relay;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::Audience;

/// See the module.
#[derive(Clone)]
pub struct Standby {
    inner: Arc<Inner>,
}

struct Inner {
    audience: Audience,
    /// Its peer URLs, for proxies.
    master: Vec<String>,
    /// The way to it; `None` where it is not known.
    channel: Option<Channel>,
}

impl Standby {
    /// Of the master at `master`, reached by `channel`.
    pub fn new(audience: Audience, master: Vec<String>, channel: Option<Channel>) -> Self {
        Self { inner: Arc::new(Inner { audience, master, channel }) }
    }
}

impl Inner {
    async fn answer(self: Arc<Self>, request: Request<Inbound>) -> Response<Body> {
        if !probe::is_grpc(request.headers()) {
            return probe::page(&Probed(self), ETCD_VERSION, request.method(), request.uri()).await;
        }
        match (self.audience, &self.channel) {
            (Audience::Peers, _) => metadata::not_master(&self.master).into_http(),
            (Audience::Clients, None) => Status::from(Fault::LeaderChanged).into_http(),
            (Audience::Clients, Some(master)) => {
                let (mut head, body) = request.into_parts();
                metadata::strip(&mut head.headers);
                match forward(master, Request::from_parts(head, Body::new(body))).await {
                    Ok(response) => response,
                    Err(status) => status.into_http(),
                }
            }
        }
    }
}

/// Sends a request on, and its answer back.
async fn forward(master: &Channel, request: Request<Body>) -> Result<Response<Body>, Status> {
    let sent = master.clone().call(request).await;
    let answer = sent.map_err(|error| {
        tracing::debug!("a request did not reach the master: {error}");
        // Where it may have been carried out no client must send it again.
        Status::from(if error.surely_not_sent() { Fault::LeaderChanged } else { Fault::Timeout })
    })?;
    let (mut head, body) = answer.into_parts();
    metadata::strip(&mut head.headers);
    let over = Status::from_header_map(&head.headers).is_some();
    let body = Body::new(body);
    Ok(Response::from_parts(head, if over { body } else { Body::new(Relay::new(body)) }))
}

/// This brain, as probes see it: as ready as its master.
struct Probed(Arc<Inner>);

impl Subject for Probed {
    fn works(&self) -> Result<(), String> {
        Ok(())
    }

    async fn read(&self) -> Result<(), Status> {
        let Some(master) = &self.0.channel else {
            return Err(Status::unavailable("no master is elected"));
        };
        let read = RangeRequest { key: "health".into(), keys_only: true, limit: 1, ..Default::default() };
        let answer = KvClient::new(master.clone()).range(read).await;
        answer.map(drop).map_err(|status| match DialError::of(&status) {
            Some(error) => Status::unavailable(format!("the master is not reached: {error}")),
            None => status,
        })
    }

    async fn alarms(&self) -> Result<Vec<AlarmType>, Status> {
        Ok(Vec::new()) // the master's own probe tells of them
    }
}

impl Service<Request<Inbound>> for Standby {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Inbound>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move { Ok(inner.answer(request).await) })
    }
}

/// What a brain serves with, by its role.
#[derive(Clone)]
pub enum Role {
    /// It orders the group's writes.
    Master(super::Endpoint),
    /// Another one does.
    Standby(Standby),
}

impl Service<Request<Inbound>> for Role {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Inbound>) -> Self::Future {
        match self {
            Self::Master(endpoint) => endpoint.call(request),
            Self::Standby(standby) => standby.call(request),
        }
    }
}
