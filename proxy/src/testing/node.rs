//! One group as several nodes with roles: all of them answer from one stand-in, as if slaves were never behind.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use kubebrain_net::dial::Connector;
use kubebrain_net::serve::{ServeConfig, memory, serve_memory};
use kubebrain_proto::admin::{GroupsRequest, GroupsResponse};
use kubebrain_proto::peer::StandingResponse;
use kubebrain_proto::peer::standing_response::Role;
use kubebrain_shared::metadata;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;

use super::brain::Brain;
use super::service::BrainService;
use super::{Client, name, placement, serve};
use crate::config::Config;
use crate::group::RoutingPolicy;
use crate::grpc::{self, Framed};
use crate::proxy::Proxy;

/// A proxy over one group, `core`, of several nodes. The first is master in term 1, the others are slaves that read.
pub(crate) struct Nodes {
    pub(crate) proxy: Proxy,
    pub(crate) client: Client,
    /// What all of them answer from.
    pub(crate) brain: Arc<Brain>,
    pub(crate) all: Vec<Arc<TestNode>>,
    _stopper: Stopper,
}

pub(crate) struct TestNode {
    index: usize,
    brain: BrainService,
    standing: watch::Sender<StandingResponse>,
    how: watch::Sender<How>,
    /// Paths that arrived.
    seen: Mutex<Vec<String>>,
    accepting: Mutex<Option<Stopper>>,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// It takes everything and says nothing, like a process that was stopped.
    pub(crate) hangs: bool,
    /// It does not know the stream on which others say what they are.
    pub(crate) is_old: bool,
    /// It says nothing of itself, and does the rest.
    pub(crate) is_mute: bool,
    /// Before each answer.
    pub(crate) delay: Duration,
    /// Streams on which it says what it is, opened before this number, end.
    pub(crate) cut: u64,
}

impl Nodes {
    pub(crate) async fn new(count: usize) -> Self {
        Self::with(count, Config::default(), How::default()).await
    }

    pub(crate) async fn with(count: usize, config: Config, how: How) -> Self {
        let nodes = Self::not_started(count, config, how);
        nodes.proxy.start().await;
        sleep(Duration::from_millis(10)).await; // all have spoken
        nodes
    }

    pub(crate) fn not_started(count: usize, config: Config, how: How) -> Self {
        let stopper = Stopper::default();
        let placement = placement("{ prefix: /registry, home: core, default: core, groups: { core: {} } }");
        let brain = Arc::new(Brain::new(name("core"), placement.clone()));
        let (mut all, mut connectors) = (Vec::new(), Vec::new());
        for index in 0..count {
            let (node, connector) = TestNode::new(index, &brain, how);
            all.push(node);
            connectors.push(connector);
        }
        let nodes = HashMap::from([(name("core"), connectors)]);
        let proxy = Proxy::new(config, placement, nodes);
        let client = Client::new(Connector::Memory(serve(proxy.service(), &stopper)));
        let nodes = Self { proxy, client, brain, all, _stopper: stopper };
        nodes.elect(0, 1);
        nodes
    }

    /// Status and body of a page of the proxy.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let Ok(response) = self.proxy.service().answer(request).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// What the proxy says of its groups to `ctl`.
    pub(crate) async fn groups(&self) -> GroupsResponse {
        let asked = self.client.call("/kubebrain.admin.v1.Admin/Groups", &GroupsRequest {}).await;
        asked.expect("groups")
    }

    /// All hear that this one is master now, and say so.
    pub(crate) fn elect(&self, master: usize, epoch: u64) {
        for node in &self.all {
            node.say(|standing| {
                standing.set_role(if node.index == master { Role::Master } else { Role::Slave });
                standing.epoch = epoch;
                standing.master_peer_urls = vec![format!("memory://#{master}")];
            });
        }
    }

    /// How many requests to this path each node has seen.
    pub(crate) fn counts(&self, path: &str) -> Vec<usize> {
        self.all.iter().map(|node| node.count(path)).collect()
    }

    /// How many watch streams this proxy has at each node.
    pub(crate) fn streams(&self) -> Vec<usize> {
        self.proxy.groups().remove(0).nodes.iter().map(|node| node.watch_streams).collect()
    }
}

impl TestNode {
    fn new(index: usize, brain: &Arc<Brain>, how: How) -> (Arc<Self>, Connector) {
        let standing = StandingResponse {
            group: "core".into(),
            name: format!("n{index}"),
            reads: true,
            peer_urls: vec![format!("memory://#{index}")],
            ..Default::default()
        };
        let accepting = Stopper::default();
        let (connector, listener) = memory();
        // a killed one says goodbye to nobody
        let config = ServeConfig { drain: Duration::ZERO, ..ServeConfig::default() };
        let stop = accepting.handle();
        let node = Arc::new(Self {
            index,
            brain: brain.service(),
            standing: watch::Sender::new(standing),
            how: watch::Sender::new(how),
            seen: Mutex::default(),
            accepting: Mutex::new(Some(accepting)),
        });
        tokio::spawn(serve_memory(listener, NodeService(Arc::clone(&node)), config, stop));
        (node, Connector::Memory(connector))
    }

    /// It becomes something else, and says so.
    pub(crate) fn say(&self, change: impl FnOnce(&mut StandingResponse)) {
        self.standing.send_modify(change);
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut How)) {
        self.how.send_modify(change);
    }

    /// Its connections end, and there are no new ones.
    pub(crate) fn kill(&self) {
        if let Some(accepting) = self.accepting.lock().take() {
            accepting.ask();
        }
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.seen.lock().iter().filter(|seen| *seen == path).count()
    }

    async fn wakes(&self) {
        let mut how = self.how.subscribe();
        let _gone = how.wait_for(|how| !how.hangs).await;
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        self.seen.lock().push(path.clone());
        self.wakes().await;
        let how = *self.how.borrow();
        sleep(how.delay).await;
        if path == "/kubebrain.peer.v1.Peer/Standing" {
            return match how.is_old {
                true => Status::unimplemented("no such method").into_http(),
                false => Arc::clone(&self).speak(),
            };
        }
        let standing = self.standing.borrow().clone();
        let serves = standing.reads && RoutingPolicy::of(&path).is_harmless() && !how.is_old;
        if standing.role() != Role::Master && !serves {
            return metadata::not_master(&standing.master_peer_urls).into_http();
        }
        let Ok(response) = tower::Service::call(&mut self.brain.clone(), request).await;
        self.wakes().await;
        let node = Arc::clone(&self);
        response.map(|body| Body::new(StreamBody::new(while_awake(node, body))))
    }

    /// Says what it is: at once, on every change, and each second.
    fn speak(self: Arc<Self>) -> Response<Body> {
        let mut standing = self.standing.subscribe();
        standing.mark_changed();
        let how = self.how.subscribe();
        let cut = how.borrow().cut;
        let frames = stream::unfold(Some(standing), move |standing| {
            let node = Arc::clone(&self);
            let mut how = how.clone();
            async move {
                let mut standing = standing?;
                tokio::select! {
                    biased;
                    _cut = how.wait_for(|how| how.cut > cut) => {
                        let end = grpc::trailers(Err(Status::unavailable("cut")));
                        return Some((Ok::<_, Status>(Frame::trailers(end)), None));
                    }
                    _said = timeout(Duration::from_secs(1), standing.changed()) => {}
                }
                node.wakes().await;
                let _gone = how.wait_for(|how| !how.is_mute).await;
                let said = Framed::of(&*standing.borrow_and_update()).frame();
                Some((Ok(Frame::data(said)), Some(standing)))
            }
        });
        grpc::response(Body::new(StreamBody::new(frames)))
    }
}

fn while_awake(
    node: Arc<TestNode>,
    body: Body,
) -> impl stream::Stream<Item = Result<Frame<bytes::Bytes>, Status>> {
    stream::unfold((node, body), |(node, mut body)| async move {
        let frame = body.frame().await?;
        node.wakes().await;
        Some((frame, (node, body)))
    })
}

#[derive(Clone)]
struct NodeService(Arc<TestNode>);

impl tower::Service<Request<Incoming>> for NodeService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let node = Arc::clone(&self.0);
        Box::pin(async move { Ok(node.answer(request.map(Body::new)).await) })
    }
}
