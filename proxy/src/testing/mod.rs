//! A group's stand-in for tests: one in-memory etcd of one group, with floors, parts and faults on demand.
//!
//! It keeps the whole history, trusts the placement that it is given, and is as small as the proxy's promises allow.

mod brain;
mod client;
mod cut;
pub(crate) mod land;
mod node;
mod service;
mod standing;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use http::Request;
use kubebrain_net::dial::Connector;
use kubebrain_net::direct::Direct;
use kubebrain_net::serve::{MemoryConnector, ServeConfig, memory, serve_memory};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use kubebrain_shared::stop::Stopper;
use tonic::body::Body;

pub(crate) use brain::{Brain, Planned};
pub(crate) use client::{Client, WatchClient, put, range, revision_of};
pub(crate) use node::{How, Nodes};

use crate::config::Config;
use crate::core::Core;
use crate::grpc::{self, Framed};
use crate::proxy::Proxy;
use crate::table::Table;

/// Groups `core` (home), `events` and `pods` behind a proxy, all in this process.
pub(crate) struct Cluster {
    pub(crate) proxy: Proxy,
    pub(crate) brains: HashMap<&'static str, Arc<Brain>>,
    pub(crate) client: Client,
    _stopper: Stopper,
}

pub(crate) fn name(text: &str) -> GroupName {
    GroupName::parse(text).expect("a legal name")
}

pub(crate) const TABLE: &str = "
prefix: /registry
home: core
default: core
groups: { core: {}, pods: {}, events: {} }
kinds:
  - { kind: pods, group: pods }
  - { kind: events, group: events }
";

/// Under a number of a lineage.
pub(crate) fn document(text: &str, lineage: u64, number: u64) -> Document {
    let text = text.to_owned();
    let wire = PlacementDocument { lineage, number, compacted: -1, text, ..PlacementDocument::default() };
    Document::from_wire(&wire).expect("a legal placement")
}

/// The first one of the cluster that tests are in.
pub(crate) fn placement(text: &str) -> Document {
    document(text, LINEAGE, 1)
}

pub(crate) const LINEAGE: u64 = 7;

/// A core over groups that have no brain: nothing that is asked of them is answered.
pub(crate) fn core(config: Config) -> Arc<Core> {
    let changes = Arc::default();
    let table = Table::new(placement(TABLE), HashMap::new(), None, &config, &changes);
    Arc::new(Core::new(config, table, changes))
}

/// A request of one message, as clients send it.
pub(crate) fn grpc_request(path: &str, message: &[u8]) -> Request<Body> {
    let body = Body::new(http_body_util::Full::new(Framed::new(message).frame()));
    let request = Request::post(path).header("content-type", grpc::CONTENT_TYPE);
    request.body(body).expect("a request")
}

/// Serves a service to whoever connects.
fn serve<S: kubebrain_net::serve::Serve>(service: S, stopper: &Stopper) -> MemoryConnector {
    let (connector, listener) = memory();
    tokio::spawn(serve_memory(listener, service, ServeConfig::default(), stopper.handle()));
    connector
}

/// How a proxy gets to its brains: `events` in one way and the others in the other.
fn connectors(
    brains: &HashMap<&'static str, Arc<Brain>>,
    stopper: &Stopper,
    others: fn(&Arc<Brain>, MemoryConnector) -> Connector,
    events: fn(&Arc<Brain>, MemoryConnector) -> Connector,
) -> HashMap<GroupName, Vec<Connector>> {
    let connector = |group: &str, brain: &Arc<Brain>| {
        let way = if group == "events" { events } else { others };
        way(brain, serve(brain.service(), stopper))
    };
    brains.iter().map(|(group, brain)| (name(group), vec![connector(group, brain)])).collect()
}

fn near(brain: &Arc<Brain>, connector: MemoryConnector) -> Connector {
    Connector::Inside(Direct::new(brain.service()), connector)
}

fn far(_: &Arc<Brain>, connector: MemoryConnector) -> Connector {
    Connector::Memory(connector)
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let cluster = Self::not_started(config);
        cluster.proxy.start().await;
        cluster
    }

    pub(crate) fn not_started(config: Config) -> Self {
        let stopper = Stopper::default();
        let placement = placement(TABLE);
        let brains: HashMap<_, _> = ["core", "pods", "events"]
            .into_iter()
            .map(|group| (group, Arc::new(Brain::new(name(group), placement.clone()))))
            .collect();
        let proxy = Proxy::new(config, placement, connectors(&brains, &stopper, near, far));
        let client = Client::new(Connector::Memory(serve(proxy.service(), &stopper)));
        Self { proxy, brains, client, _stopper: stopper }
    }

    pub(crate) fn brain(&self, group: &str) -> &Arc<Brain> {
        &self.brains[group]
    }

    /// Another proxy over the same brains, which it gets to in the other way, started.
    pub(crate) async fn another(&self) -> (Client, (Proxy, Stopper)) {
        let stopper = Stopper::default();
        let connectors = connectors(&self.brains, &stopper, far, near);
        let proxy = Proxy::new(Config::default(), placement(TABLE), connectors);
        proxy.start().await;
        let client = Client::new(Connector::Memory(serve(proxy.service(), &stopper)));
        (client, (proxy, stopper))
    }

    /// The document after the proxy's.
    pub(crate) fn next_document(&self, text: &str) -> Document {
        document(text, LINEAGE, self.proxy.document().number() + 1)
    }

    /// All brains and the proxy get the next document; watches are cut.
    pub(crate) fn replace_placement(&self, text: &str) {
        let next = self.next_document(text);
        for brain in self.brains.values() {
            brain.replace_placement(next.clone());
        }
        self.proxy.replace_placement(next, HashMap::new());
    }
}
