//! [`SlaveService`]: what a brain that is not its group's master answers.
//!
//! Reads and watches come from its own store, as far as that follows the master. Everything else is the master's: proxies
//! are told who that is, and ask there; clients' requests go on to it as they came, and so do its answers. While there is no
//! master that takes them they wait for one, for as long as a request may take.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use kubebrain_net::dial::Channel;
use kubebrain_net::intake::intake;
use kubebrain_net::metrics::Inbound;
use kubebrain_net::probe::{self, ANSWER_WITHIN, ETCD_VERSION, Subject};
use kubebrain_net::relay::Relay;
use kubebrain_proto::etcdserverpb::{AlarmType, RangeRequest};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::method::{self, Answers};
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::Message;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::endpoint::Endpoint;
use super::inner::Audience;
use crate::request::Range;
use crate::state::upstream::Following;
use crate::store::Store;

/// Between two tries to find a master that takes a call.
const AGAIN: Duration = Duration::from_millis(50);

/// Where a group's master is.
#[derive(Clone, Debug)]
pub enum Master {
    /// It is this brain, since a moment ago.
    Here,
    /// It is another one.
    At {
        /// Its peer URLs, for proxies.
        peer_urls: Vec<String>,
        /// The way to it.
        channel: Channel,
    },
}

/// What a brain that is not master serves.
#[derive(Clone)]
pub struct SlaveService {
    inner: Arc<Inner>,
}

struct Inner {
    audience: Audience,
    /// Over the store that follows.
    endpoint: Endpoint,
    store: Store,
    following: watch::Receiver<Following>,
    /// `None` while nobody is known to be master.
    master: watch::Receiver<Option<Master>>,
}

impl SlaveService {
    /// Over `store`, which `following` tells about; `endpoint` serves it to this audience.
    pub fn new(
        audience: Audience,
        endpoint: Endpoint,
        store: Store,
        following: watch::Receiver<Following>,
        master: watch::Receiver<Option<Master>>,
    ) -> Self {
        Self { inner: Arc::new(Inner { audience, endpoint, store, following, master }) }
    }
}

impl Inner {
    async fn answer(self: Arc<Self>, request: Request<Inbound>) -> Response<Body> {
        if !probe::is_grpc(request.headers()) {
            return probe::page(&Probed(self), ETCD_VERSION, request.method(), request.uri()).await;
        }
        let whose = method::answers(request.uri().path());
        let level = self.following.borrow().level;
        let here = matches!(&*self.master.borrow(), Some(Master::Here));
        if here || whose == Answers::Itself || (whose == Answers::Follower && level) {
            let Ok(response) = self.endpoint.clone().call(request).await;
            return response;
        }
        match self.audience {
            Audience::Peers => {
                let master = self.master.borrow();
                let urls = match &*master {
                    Some(Master::At { peer_urls, .. }) => peer_urls.as_slice(),
                    Some(Master::Here) | None => &[],
                };
                metadata::not_master(urls).into_http()
            }
            Audience::Clients => self.pass_on(request, whose).await.unwrap_or_else(Status::into_http),
        }
    }

    /// Sends a client's request to the master, as soon as there is one that takes it.
    async fn pass_on(&self, request: Request<Inbound>, whose: Answers) -> Result<Response<Body>, Status> {
        let until = Instant::now() + ANSWER_WITHIN;
        let (mut head, body) = request.into_parts();
        metadata::strip(&mut head.headers);
        let mut asked = match streams(head.uri.path()) {
            // What comes in a stream cannot be sent twice.
            true => Asked::Once(Some(Body::new(body))),
            false => {
                let (whole, _taken) = intake(Request::new(body), self.store.requests());
                Asked::Again(whole.into_body().collect().await?.to_bytes())
            }
        };
        let old_will_do = whose == Answers::Follower && asked.is_serializable();
        let (mut master, mut following) = (self.master.clone(), self.following.clone());
        loop {
            let now = master.borrow_and_update().clone();
            let state = following.borrow_and_update().clone();
            let local = match whose {
                Answers::Follower => state.level || (state.loaded && old_will_do),
                Answers::Itself | Answers::Master => false,
            };
            if local || matches!(now, Some(Master::Here)) {
                let body = asked.take().ok_or(Fault::LeaderChanged)?;
                let Ok(response) = self.endpoint.clone().call(Request::from_parts(head, body)).await;
                return Ok(response);
            }
            if let Some(Master::At { channel, .. }) = now {
                let body = asked.take().ok_or(Fault::LeaderChanged)?;
                let (parts, ()) = Request::from_parts(head.clone(), ()).into_parts();
                if let Some(response) = forward(&channel, Request::from_parts(parts, body)).await? {
                    return Ok(response);
                }
            }
            // Nobody has taken it.
            if Instant::now() >= until {
                return Err(Fault::LeaderChanged.into());
            }
            tokio::select! {
                changed = master.changed() => changed.map_err(|_over| Fault::LeaderChanged)?,
                changed = following.changed() => changed.map_err(|_over| Fault::LeaderChanged)?,
                () = sleep(AGAIN) => {}
            }
        }
    }
}

/// True of calls whose clients may send more than one message.
fn streams(path: &str) -> bool {
    matches!(path, method::WATCH | method::LEASE_KEEP_ALIVE)
}

/// What a client asks.
enum Asked {
    /// A stream, until it is sent.
    Once(Option<Body>),
    /// One message in its frame.
    Again(Bytes),
}

impl Asked {
    fn take(&mut self) -> Option<Body> {
        match self {
            Self::Once(body) => body.take(),
            Self::Again(message) => Some(Body::new(Full::new(message.clone()))),
        }
    }

    /// True of a range that may be answered from the past.
    fn is_serializable(&self) -> bool {
        let Self::Again(frame) = self else { return false };
        let message = Message::split(&mut BytesMut::from(&frame[..]));
        let range = message.ok().flatten().and_then(|message| RangeRequest::decode(message).ok());
        range.is_some_and(|range| range.serializable)
    }
}

/// Sends a request on, and its answer back; `None` where it surely was not taken.
async fn forward(master: &Channel, request: Request<Body>) -> Result<Option<Response<Body>>, Status> {
    let answer = match master.clone().call(request).await {
        Ok(answer) => answer,
        Err(error) if error.surely_not_sent() => return Ok(None),
        Err(error) => {
            tracing::debug!("whether a request has reached the master is not known: {error}");
            return Err(Fault::Timeout.into()); // it may have been carried out: no client must send it again
        }
    };
    let (mut head, body) = answer.into_parts();
    if metadata::refusing_master(&head.headers).is_some() {
        return Ok(None);
    }
    metadata::strip(&mut head.headers);
    let over = Status::from_header_map(&head.headers).is_some();
    let body = Body::new(body);
    Ok(Some(Response::from_parts(head, if over { body } else { Body::new(Relay::new(body)) })))
}

/// This brain, as probes see it: ready where it serves reads.
struct Probed(Arc<Inner>);

impl Subject for Probed {
    fn works(&self) -> Result<(), String> {
        Ok(())
    }

    async fn read(&self) -> Result<(), Status> {
        {
            let following = self.0.following.borrow();
            if !following.level {
                let waits = self.0.store.state().engine.waits_for();
                let why = waits.as_ref().unwrap_or(&following.trouble);
                return Err(Status::unavailable(format!("etcdserver: not ready: {why}")));
            }
        }
        if let Some(why) = self.0.store.state().unplaced() {
            return Err(Status::unavailable(format!("etcdserver: not ready: {why}")));
        }
        let request = RangeRequest { key: "health".into(), keys_only: true, limit: 1, ..Default::default() };
        let read = self.0.store.range(&Range::try_from(request)?, Revision::ZERO).await;
        read.map(drop).map_err(Status::from)
    }

    async fn alarms(&self) -> Vec<AlarmType> {
        Vec::new() // the master's own probe tells of them
    }
}

impl Service<Request<Inbound>> for SlaveService {
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
    Master(Endpoint),
    /// Another one does.
    Slave(SlaveService),
    /// It is between two roles: peers go elsewhere.
    Between(Between),
}

/// A brain between two roles.
#[derive(Clone, Debug)]
pub struct Between {
    why: Arc<str>,
}

impl Between {
    /// For this reason, as a sentence for an operator.
    pub fn new(why: &str) -> Self {
        Self { why: why.into() }
    }

    async fn answer(self, request: Request<Inbound>) -> Response<Body> {
        match probe::is_grpc(request.headers()) {
            true => metadata::not_master(&[]).into_http(),
            false => probe::page(&self, ETCD_VERSION, request.method(), request.uri()).await,
        }
    }
}

impl Subject for Between {
    fn works(&self) -> Result<(), String> {
        Ok(())
    }

    async fn read(&self) -> Result<(), Status> {
        Err(Status::unavailable(format!("etcdserver: not ready: {}", self.why)))
    }

    async fn alarms(&self) -> Vec<AlarmType> {
        Vec::new()
    }
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
            Self::Slave(slave) => slave.call(request),
            Self::Between(between) => {
                let between = between.clone();
                Box::pin(async move { Ok(between.answer(request).await) })
            }
        }
    }
}
