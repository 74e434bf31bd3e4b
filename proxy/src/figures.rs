//! What a proxy's page of metrics shows, read from the proxy.

use crate::core::Core;
use crate::group::{Group, NodeView};
use crate::metrics::{Figures, GroupFigures, NodeFigures};

impl Core {
    /// What a page shows now.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            ready: *self.ready().borrow(),
            floor: self.floor.get(),
            placement: self.table().document().number(),
            in_flight: self.config.in_flight_max - self.in_flight.available_permits(),
            refused: self.kinds.counts().into_iter().map(|(kind, counts)| (kind, counts.refused)).collect(),
            groups: self.table().groups().map(|group| of_group(group)).collect(),
        }
    }
}

fn of_group(group: &Group) -> GroupFigures {
    let nodes = group.view(false).nodes.into_iter().zip(group.connections());
    let of_node = |(node, (bulk, watch)): (NodeView, _)| NodeFigures {
        address: node.address,
        role: node.role.as_str(),
        reads: node.reads,
        suspect: node.suspect,
        in_flight: node.in_flight,
        watch_streams: node.watch_streams,
        latency: node.latency.unwrap_or_default(),
        bulk,
        watch,
    };
    GroupFigures { name: group.name().clone(), known: group.known(), nodes: nodes.map(of_node).collect() }
}
