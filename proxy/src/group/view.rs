//! What a proxy knows of its groups, as a list for operators.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kubebrain_proto::peer::StandingResponse;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use tokio::time::Instant;

use super::node::Node;
use super::roster::Roster;
use super::standing::{Place, Role, Said};

/// One group.
#[derive(Clone, Debug)]
pub struct GroupView {
    /// Its name.
    pub name: GroupName,
    /// It owns the keys outside all kinds.
    pub is_home: bool,
    /// The highest term of a master that was heard of; 0 for none.
    pub epoch: u64,
    /// A revision that it is known to have committed.
    pub revision: Revision,
    /// The number of the newest placement that one of its brains goes by, by its own words; 0 where none says any.
    pub placement: u64,
    /// Its brains, in the order of the placement.
    pub nodes: Vec<NodeView>,
}

/// One of its brains.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// What stands behind the scheme in its peer URL; in this process `#` and its number.
    pub address: String,
    /// What it is taken for. A brain that claims an earlier term than the group's is no master, and one that is not heard
    /// is nothing.
    pub role: Role,
    /// Reads and watches go there.
    pub reads: bool,
    /// Nothing is heard of it, for longer than a heartbeat or because its stream has ended, or it is of another group. In
    /// a group of one it is asked nevertheless, but for the last.
    pub suspect: bool,
    /// By its own words it is of another group; why that is wrong.
    pub foreign: Option<String>,
    /// Why it cannot be connected to, as far as that was tried.
    pub unreachable: Option<Arc<str>>,
    /// Its last own words; none from brains of older versions, and inside this process.
    pub standing: Option<Arc<StandingResponse>>,
    /// Requests of this proxy there that wait for an answer to begin.
    pub in_flight: u32,
    /// Until answers to reads begin, decayed mean; none before the first, and in a group of one.
    pub latency: Option<Duration>,
    /// Watch streams of this proxy there.
    pub watch_streams: usize,
}

impl GroupView {
    /// As of now, of a group that is known to have committed `revision`.
    pub(super) fn of(roster: &Roster, revision: Revision, is_home: bool) -> Self {
        Self {
            name: roster.group().clone(),
            is_home,
            epoch: roster.epoch(),
            revision,
            placement: roster.nodes().iter().filter_map(number).max().unwrap_or(0),
            nodes: roster.nodes().iter().map(view).collect(),
        }
    }
}

impl NodeView {
    /// Why it is not asked at the moment, for people; empty where it is.
    pub fn trouble(&self) -> String {
        let claims = self.standing.as_deref().map(|standing| Said::of(standing).role);
        if let Some(foreign) = &self.foreign {
            return foreign.clone();
        }
        match (self.suspect, &self.unreachable) {
            (true, Some(reason)) => reason.to_string(),
            (true, None) => "nothing is heard of it".to_owned(),
            (false, _) if claims == Some(Role::Master) && self.role != Role::Master => {
                "it takes itself for master by an earlier term".to_owned()
            }
            (false, _) => String::new(),
        }
    }
}

fn number(node: &Node) -> Option<u64> {
    Some(node.standing.load().as_deref()?.placement_number)
}

fn view(node: &Node) -> NodeView {
    let place = node.place();
    let standing = node.standing.load_full();
    let role = match (place, &standing) {
        (Place::Master, _) => Role::Master,
        (_, None) => Role::Unknown,
        (place, _) if place.is_suspect() => Role::Unknown,
        (_, Some(_)) => Role::Slave,
    };
    NodeView {
        address: node.address.clone(),
        role,
        reads: place.serves(),
        suspect: place.is_suspect(),
        foreign: (place == Place::Foreign).then(|| node.foreign()),
        unreachable: node.trouble(),
        standing,
        in_flight: node.load.in_flight(),
        latency: node.load.latency(Instant::now()),
        watch_streams: node.streams.load(Ordering::Relaxed),
    }
}
