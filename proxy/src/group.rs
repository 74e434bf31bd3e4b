//! [`Group`]: one brain group as this proxy reaches it.
//!
//! Everything goes to its master: the node that was named by one that is not, or else the first that answers. Nothing
//! outside knows how many nodes there are.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use kubebrain_shared::dial::{Channel, Connector, DialError, State};
use kubebrain_shared::direct::Direct;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::metadata;
use kubebrain_shared::revision::Revision;
use tonic::ConnectError;
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
    /// What stands behind the scheme in its peer URL; none inside the process.
    address: Option<String>,
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
            address: match &connector {
                Connector::Tcp(address) | Connector::Tls(address, _) => Some(address.clone()),
                Connector::Unix(path) => Some(path.display().to_string()),
                Connector::Memory(_) | Connector::Inside(..) => None,
            },
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

    /// Sends to the current node. One that surely did not take it makes the next try go to another: to the master that it
    /// has named, or to the next.
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
        let sent = match sent {
            Ok(response) => match metadata::refusing_master(response.headers()) {
                None => return Ok(response),
                Some(master) => {
                    self.leave(at, self.nodes.iter().position(|node| node.is_at(master)));
                    DialError::Refused(ConnectError("this brain is not its group's master".into()))
                }
            },
            Err(error) => error,
        };
        if sent.surely_not_sent() {
            self.leave(at, None);
        }
        Err(Some(sent))
    }

    /// The next try goes to another node, unless somebody has seen to that already.
    fn leave(&self, at: usize, to: Option<usize>) {
        let to = to.filter(|to| *to != at).unwrap_or((at + 1) % self.nodes.len());
        let _raced = self.current.compare_exchange(at, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Node {
    /// True if one of `urls`, with commas between, leads here.
    fn is_at(&self, urls: &str) -> bool {
        let address =
            |url: &str| url.split_once("://").map(|(_, rest)| rest.trim_end_matches('/').to_owned());
        self.address.is_some() && urls.split(',').any(|url| address(url) == self.address)
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
