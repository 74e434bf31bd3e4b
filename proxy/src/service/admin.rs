//! `kubebrain.admin.v1.Admin`: what this proxy knows of its groups, for people.

use std::time::Duration;

use futures_util::future::{join, join_all};
use http::Response;
use kubebrain_proto::admin;
use kubebrain_proto::peer::{StandingResponse, standing_response};
use kubebrain_shared::method;
use kubebrain_shared::revision::Revision;
use tokio::time::timeout;
use tonic::body::Body;

use crate::config::Server;
use crate::core::Core;
use crate::group::{Group, GroupView, NodeView, Role};
use crate::grpc;

/// A group of this process that does not answer by then is shown as one that does not.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) const GROUPS: &str = method::GROUPS;

/// Every group of the table, also where nothing is served yet.
pub(crate) async fn groups(core: &Core) -> Response<Body> {
    let table = core.table();
    let mut groups: Vec<_> = table.groups().collect();
    groups.sort_by(|one, next| one.name().cmp(next.name()));
    let config = &core.config;
    let groups = match config.server {
        Server::Proxy => groups.into_iter().map(|group| of_brains(&group.view(false))).collect(),
        Server::Standalone => join_all(groups.into_iter().map(|group| within(core, group))).await,
    };
    grpc::answer(&admin::GroupsResponse {
        server: config.server.name().to_owned(),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        groups,
    })
}

fn of_brains(view: &GroupView) -> admin::Group {
    admin::Group { name: view.name.to_string(), brains: view.nodes.iter().map(brain).collect() }
}

fn brain(node: &NodeView) -> admin::Brain {
    let mut standing = node.standing.as_deref().cloned();
    if let Some(standing) = &mut standing {
        // Not what it says: that may be of a term that is over, or from before it was lost.
        standing.set_role(match node.role {
            Role::Master => standing_response::Role::Master,
            Role::Slave => standing_response::Role::Slave,
            Role::Unknown => standing_response::Role::Unknown,
        });
        standing.reads &= node.reads;
    }
    let trouble = match node.trouble() {
        why if why.is_empty() && standing.is_none() => NO_WORD.to_owned(),
        why => why,
    };
    let gone = node.suspect && node.foreign.is_none();
    admin::Brain { address: node.address.clone(), standing, trouble, gone }
}

/// Brains of versions before there was such a stream.
const NO_WORD: &str = "this brain does not tell what it is: it has not answered yet, or its version is older";

/// In this process: the group itself is asked.
async fn within(core: &Core, group: &Group) -> admin::Group {
    let fenced = timeout(PATIENCE, core.advance_once(group, Revision::ZERO));
    let (status, fenced) = join(core.status_of(group), fenced).await;
    let (name, table) = (&core.config.name, core.table());
    let mut standing = StandingResponse {
        group: group.name().to_string(),
        name: name.clone(),
        revision: group.known().to_wire(),
        compacted: -1,
        placement_lineage: table.id().lineage,
        placement_number: table.id().number,
        is_home: group.is_same(table.home()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..StandingResponse::default()
    };
    let mut trouble = String::new();
    match (status, fenced) {
        (Some((status, _store)), Ok(Ok(fenced))) => {
            standing.set_role(standing_response::Role::Master);
            standing.reads = true;
            standing.master = name.clone();
            standing.epoch = status.raft_term;
            standing.revision = fenced.revision.to_wire();
            standing.compacted = fenced.compacted;
            standing.stored_bytes = u64::try_from(status.db_size).unwrap_or(0);
        }
        _ => trouble = "it does not answer".to_owned(),
    }
    let brain = admin::Brain { standing: Some(standing), trouble, ..admin::Brain::default() };
    admin::Group { name: group.name().to_string(), brains: vec![brain] }
}
