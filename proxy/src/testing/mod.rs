//! A group's stand-in for tests: one in-memory etcd of one group, with floors, parts and faults on demand.
//!
//! It keeps the whole history, trusts the placement that it is given, and is as small as the proxy's promises allow.

mod brain;
mod client;
mod service;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use kubebrain_shared::dial::Connector;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::serve::{ServeConfig, memory, serve_memory};
use kubebrain_shared::stop::Stopper;

pub(crate) use brain::{Brain, Planned};
pub(crate) use client::{Client, WatchClient, put, range, revision_of};

use crate::config::Config;
use crate::proxy::Proxy;

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

pub(crate) fn placement(text: &str) -> Arc<Placement> {
    Arc::new(Placement::parse(text).expect("a legal placement"))
}

/// Serves a service to whoever connects.
fn serve<S: kubebrain_shared::serve::Serve>(service: S, stopper: &Stopper) -> Connector {
    let (connector, listener) = memory();
    tokio::spawn(serve_memory(listener, service, ServeConfig::default(), stopper.handle()));
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
            .map(|group| (group, Arc::new(Brain::new(name(group), Arc::clone(&placement)))))
            .collect();
        let connectors = brains
            .iter()
            .map(|(group, brain)| (name(group), vec![serve(brain.service(), &stopper)]))
            .collect();
        let proxy = Proxy::new(config, placement, connectors);
        let client = Client::new(serve(proxy.service(), &stopper));
        Self { proxy, brains, client, _stopper: stopper }
    }

    pub(crate) fn brain(&self, group: &str) -> &Arc<Brain> {
        &self.brains[group]
    }

    /// Another proxy over the same brains, started.
    pub(crate) async fn another(&self) -> (Client, (Proxy, Stopper)) {
        let stopper = Stopper::default();
        let connectors = self
            .brains
            .iter()
            .map(|(group, brain)| (name(group), vec![serve(brain.service(), &stopper)]))
            .collect();
        let proxy = Proxy::new(Config::default(), placement(TABLE), connectors);
        proxy.start().await;
        let client = Client::new(serve(proxy.service(), &stopper));
        (client, (proxy, stopper))
    }

    /// All brains and the proxy get another table.
    pub(crate) fn replace_placement(&self, text: &str) {
        let placement = placement(text);
        for brain in self.brains.values() {
            brain.replace_placement(Arc::clone(&placement));
        }
        self.proxy.replace_placement(placement, HashMap::new());
    }
}
