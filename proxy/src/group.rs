//! [`Group`]: one brain group as this proxy reaches it.
//!
//! For now a group is its master: the first of its addresses that answers. Election and slaves come here later; nothing
//! outside knows how many nodes there are.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use kubebrain_shared::dial::{Channel, Connector, DialError, State};
use kubebrain_shared::direct::Direct;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use tonic::body::Body;
use tower::Service as _;

use crate::config::Config;
use crate::floor::Floor;
use crate::metrics::Upstream;

/// Which connection: watch streams do not wait behind big answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    Bulk,
    Watch,
}

/// A group: its nodes, and the highest revision that it is known to have committed.
pub(crate) struct Group {
    name: GroupName,
    nodes: Vec<Node>,
    current: AtomicUsize,
    known: Floor,
    pub(crate) metrics: Upstream,
}

struct Node {
    bulk: Way,
    watch: Channel,
}

/// How requests get to a node.
enum Way {
    /// Over a connection.
    Channel(Channel),
    /// It is in this process.
    Direct(Direct),
}

impl Way {
    fn new(connector: Connector, config: &Config) -> Self {
        match connector {
            Connector::Inside(service, _) => Self::Direct(service),
            connector => Self::Channel(Channel::new(connector, config.bulk_dial())),
        }
    }

    fn state(&self) -> State {
        match self {
            Self::Channel(channel) => channel.state(),
            Self::Direct(_) => State::Open,
        }
    }

    fn trouble(&self) -> Option<Arc<str>> {
        match self {
            Self::Channel(channel) => channel.trouble(),
            Self::Direct(_) => None,
        }
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, DialError> {
        match self {
            Self::Channel(channel) => through(channel, request).await,
            Self::Direct(service) => Ok(service.call(request).await?),
        }
    }
}

async fn through(channel: &Channel, request: Request<Body>) -> Result<Response<Body>, DialError> {
    Ok(channel.clone().call(request).await?.map(Body::new))
}

impl Group {
    pub(crate) fn new(name: GroupName, connectors: Vec<Connector>, config: &Config) -> Self {
        let node = |connector: Connector| Node {
            bulk: Way::new(connector.clone(), config),
            watch: Channel::new(connector, config.watch_dial()),
        };
        let nodes = connectors.into_iter().map(node).collect();
        let metrics = config.metrics.upstream(&name);
        Self { name, nodes, current: AtomicUsize::new(0), known: Floor::default(), metrics }
    }

    /// How each node's connections stand: for requests, and for watch streams.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (State, State)> {
        self.nodes.iter().map(|node| (node.bulk.state(), node.watch.state()))
    }

    /// Why its nodes cannot be reached, as far as that was tried.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = Arc<str>> {
        self.nodes.iter().filter_map(|node| node.bulk.trouble())
    }

    pub(crate) fn name(&self) -> &GroupName {
        &self.name
    }

    /// A revision that this group's committed revision has reached. It never falls, also not over a change of master.
    pub(crate) fn known(&self) -> Revision {
        self.known.get()
    }

    /// An answer of this group showed that it has committed `revision`.
    pub(crate) fn reached(&self, revision: Revision) {
        self.known.raise(revision);
    }

    /// Sends to the current node. One that surely did not take it makes the next try go to the next node.
    ///
    /// # Errors
    /// [`DialError`]; `None` where the placement names no node for the group.
    ///
    /// # Cancel safety
    /// A dropped call resets the request's stream; a write may have been carried out.
    pub(crate) async fn send(
        &self,
        lane: Lane,
        request: Request<Body>,
    ) -> Result<Response<Body>, Option<DialError>> {
        let at = self.current.load(Ordering::Relaxed);
        let node = self.nodes.get(at).ok_or(None)?;
        let sent = match lane {
            Lane::Bulk => node.bulk.call(request).await,
            Lane::Watch => through(&node.watch, request).await,
        };
        if sent.as_ref().is_err_and(DialError::surely_not_sent) {
            let next = (at + 1) % self.nodes.len();
            let _raced = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        sent.map_err(Some)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}
