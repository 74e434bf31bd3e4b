//! [`Group`]: one brain group as this proxy reaches it.
//!
//! ```text
//! request ── routing policy ──┐
//! nodes tried already ────────┼→ roster ──→ attempt or stream slot at a node ──→ load, breaker
//!                             │    ↑
//! monitor of each node ────────────┘ role, reads, epoch; suspect
//! ```
//!
//! Invariants:
//! * A write goes to one node at a time, and to another only after the first surely did not carry it out.
//! * Who is master is believed by the highest epoch. A wrong belief costs a refusal and nothing else: brains decide.
//! * No pick waits for a lock or allocates.

mod attempt;
mod breaker;
mod load;
mod miss;
mod monitor;
mod node;
mod policy;
mod roster;
mod standing;
mod stream_slot;
mod transitions;
mod tried;
mod view;

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use kubebrain_net::dial::{Channel, Connector, State};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::again;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::body::Body;

pub(crate) use attempt::Attempt;
use attempt::Beginning;
pub(crate) use miss::Miss;
use monitor::Monitor;
use node::Node;
pub(crate) use policy::RoutingPolicy;
use roster::Roster;
use standing::Health;
pub(crate) use standing::Place;
pub use standing::Role;
pub(crate) use stream_slot::StreamSlot;
pub(crate) use tried::Tried;
pub use view::{GroupView, NodeView};

use crate::config::Config;
use crate::floor::Floor;
use crate::metrics::{GroupCounters, ReadAt};
use crate::topology::TopologyChanges;

/// What a node says of the placement that it goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacementWord {
    pub(crate) node: usize,
    pub(crate) id: DocumentId,
    /// It is of the group that is home by that placement.
    pub(crate) is_home: bool,
    /// It is its group's master.
    pub(crate) is_master: bool,
}

/// A group: its nodes, and the highest revision that it is known to have committed.
pub(crate) struct Group {
    roster: Arc<Roster>,
    known: Floor,
    /// What its monitors need; none for a brain of this process, which is its group's only one.
    heard_by: Vec<(usize, Channel)>,
    /// End with the group.
    monitors: OnceLock<JoinSet<()>>,
    pub(crate) metrics: GroupCounters,
}

impl Group {
    pub(crate) fn new(
        name: GroupName,
        connectors: Vec<Connector>,
        config: &Config,
        changes: &Arc<TopologyChanges>,
    ) -> Self {
        let alone = connectors.len() == 1;
        let is_here =
            |connector: &Connector| matches!(connector, Connector::Memory(_) | Connector::Inside(..));
        let heard_by = connectors.iter().enumerate().filter(|(_, connector)| !(alone && is_here(connector)));
        let heard_by: Vec<_> = heard_by
            .map(|(index, connector)| (index, Channel::new(connector.clone(), config.standing_dial())))
            .collect();
        let nodes = connectors.into_iter().enumerate();
        let nodes = nodes.map(|(index, connector)| Node::new(&name, index, connector, config)).collect();
        let roster = Roster::new(name, nodes, Arc::clone(changes));
        if alone && heard_by.is_empty() {
            roster.trust();
        }
        let metrics = config.metrics.of_group(roster.group());
        Self {
            roster: Arc::new(roster),
            known: Floor::default(),
            heard_by,
            monitors: OnceLock::new(),
            metrics,
        }
    }

    /// Begins to listen to what its nodes say of themselves, if it has not.
    pub(crate) fn listen(&self, config: &Config) {
        self.monitors.get_or_init(|| {
            let mut tasks = JoinSet::new();
            for (index, channel) in &self.heard_by {
                let monitor = Monitor {
                    roster: Arc::clone(&self.roster),
                    index: *index,
                    group: self.name().clone(),
                    channel: channel.clone(),
                    dial: config.dial.clone(),
                    foreign: None,
                };
                tasks.spawn(again("listening to a brain", move || monitor.clone().run()));
            }
            tasks
        });
    }

    /// What is known of it now, for operators.
    pub(crate) fn view(&self, is_home: bool) -> GroupView {
        GroupView::of(&self.roster, self.known(), is_home)
    }

    /// How each node's connections stand: for requests, and for watch streams.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (State, State)> {
        self.roster.nodes().iter().map(|node| (node.bulk_state(), node.watch_state()))
    }

    /// Why its nodes are not asked or cannot be reached, as far as that is known: a sentence each.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = String> {
        self.roster.nodes().iter().filter_map(|node| match (node.place(), node.trouble()) {
            (Place::Foreign, _) => Some(node.foreign()),
            (_, Some(reason)) => Some(format!("cannot connect to {reason}")),
            (Place::Silent, None) => Some(format!("the brain at {} says nothing", node.address)),
            _ => None,
        })
    }

    /// Returns when one of its nodes has said what it is, or is of a version that does not; at the latest when it is known
    /// of all of them that they do not, which takes no longer than [`SILENCE`](crate::config::SILENCE). Cancel safe.
    pub(crate) async fn heard(&self) {
        let nodes = self.heard_by.iter().filter_map(|(index, _)| self.roster.nodes().get(*index));
        let mut told: FuturesUnordered<_> = nodes
            .map(|node| {
                let mut health = node.health.subscribe();
                async move {
                    let told = health.wait_for(|health| *health != Health::Unheard).await;
                    told.is_ok_and(|health| *health == Health::Fine)
                }
            })
            .collect();
        while told.next().await == Some(false) {}
    }

    /// What its nodes say of the placement that they go by; nothing of those that say nothing, and are of another group.
    pub(crate) fn words(&self) -> impl Iterator<Item = PlacementWord> {
        let said = self.roster.nodes().iter().filter(|node| node.place() != Place::Foreign);
        said.filter_map(|node| {
            let standing = node.standing.load();
            let standing = standing.as_deref()?;
            Some(PlacementWord {
                node: node.index,
                id: DocumentId { lineage: standing.placement_lineage, number: standing.placement_number },
                is_home: standing.is_home,
                is_master: node.place() == Place::Master,
            })
        })
    }

    /// The nodes that may be asked what they go by.
    pub(crate) fn askable(&self) -> impl Iterator<Item = usize> {
        let nodes = self.roster.nodes().iter().filter(|node| !node.place().is_suspect());
        nodes.map(|node| node.index)
    }

    /// True if one of its nodes is not suspect, as far as is known.
    pub(crate) fn is_heard(&self) -> bool {
        self.roster.nodes().iter().any(|node| !node.place().is_suspect())
    }

    /// Asks one node, whatever it is.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) async fn ask_node(
        &self,
        node: usize,
        request: Request<Body>,
    ) -> Result<Response<Body>, String> {
        let node = self.roster.nodes().get(node).ok_or("there is no such brain")?;
        node.call(request).await.map_err(|error| error.to_string())
    }

    pub(crate) fn name(&self) -> &GroupName {
        self.roster.group()
    }

    /// True if the two are the same group, perhaps by other connections.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name() == other.name()
    }

    /// A revision that this group's committed revision has reached. It never falls, also not over a change of master.
    pub(crate) fn known(&self) -> Revision {
        self.known.get()
    }

    /// An answer of this group showed that it has committed `revision`.
    pub(crate) fn reached(&self, revision: Revision) {
        self.known.raise(revision);
    }

    pub(crate) fn changes(&self) -> &Arc<TopologyChanges> {
        &self.roster.changes
    }

    /// The next node for a request. `None` where nobody else is worth a try now, and where the placement names no node.
    pub(crate) fn attempt(
        &self,
        policy: RoutingPolicy,
        tried: &mut Tried,
        now: Instant,
    ) -> Option<Attempt<'_>> {
        let seen = self.roster.changes.count();
        let node = self.roster.pick(policy, tried, now)?;
        if policy == RoutingPolicy::Read {
            self.metrics.read_at(match node.place() {
                Place::Reader => ReadAt::Slave,
                Place::Master => ReadAt::Master,
                Place::Untold | Place::Idle | Place::Broken | Place::Silent | Place::Foreign => {
                    ReadAt::Unknown
                }
            });
        }
        let roster = &*self.roster;
        Some(Attempt::new(Beginning { roster, node, policy, seen, began: now }))
    }

    /// True if a range could be shared now.
    pub(crate) fn is_shared(&self) -> bool {
        self.roster.is_shared()
    }

    /// The nodes that may share one range, by their index; none where they are fewer than two.
    pub(crate) fn sharers(&self) -> Vec<usize> {
        self.roster.sharers(Instant::now())
    }

    /// The next node for a watch stream. `None` as of [`Group::attempt`].
    pub(crate) fn stream_slot(&self, tried: &mut Tried) -> Option<StreamSlot> {
        let node = self.roster.pick(RoutingPolicy::Watch, tried, Instant::now())?;
        Some(StreamSlot::new(&self.roster, node))
    }

    /// True if a watch stream would find a node that is well besides those that it has tried.
    pub(crate) fn has_stream_slot(&self, tried: &Tried) -> bool {
        !self.roster.is_single() && self.roster.has_place_for_watch(tried, Instant::now())
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", self.name())
            .field("nodes", &self.roster.nodes().len())
            .finish_non_exhaustive()
    }
}
