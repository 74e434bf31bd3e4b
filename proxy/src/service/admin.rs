//! `kubebrain.admin.v1.Admin`: what this proxy knows of its groups, for people.

use http::Response;
use kubebrain_proto::admin;
use kubebrain_proto::peer::{StandingResponse, standing_response};
use tonic::body::Body;

use crate::config::Server;
use crate::core::Core;
use crate::group::{Group, GroupView, NodeView, Role};
use crate::grpc;

pub(crate) const GROUPS: &str = "/kubebrain.admin.v1.Admin/Groups";

/// Every group of the table, also where nothing is served yet.
pub(crate) fn groups(core: &Core) -> Response<Body> {
    let table = core.table();
    let mut views: Vec<GroupView> = table.groups().map(|group| Group::view(group, false)).collect();
    views.sort_by(|one, next| one.name.cmp(&next.name));
    let config = &core.config;
    let inside = config.server == Server::Standalone;
    grpc::answer(&admin::GroupsResponse {
        server: config.server.name().to_owned(),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        groups: views.iter().map(|view| group(view, inside.then_some(config.name.as_str()))).collect(),
    })
}

/// `inside` is the name of this process, where its groups are in it.
fn group(view: &GroupView, inside: Option<&str>) -> admin::Group {
    let brains = view.nodes.iter().map(|node| match inside {
        Some(name) => within(view, name),
        None => brain(node),
    });
    admin::Group { name: view.name.to_string(), brains: brains.collect() }
}

fn brain(node: &NodeView) -> admin::Brain {
    let mut standing = node.standing.as_deref().cloned();
    if let Some(standing) = standing.as_mut().filter(|_| node.role == Role::Slave) {
        standing.role = standing_response::Role::Slave.into(); // of a term that is over
    }
    let trouble = match node.trouble() {
        why if why.is_empty() && standing.is_none() => {
            "its role is not known: it is of a version that does not tell it, or has not answered yet"
                .to_owned()
        }
        why => why,
    };
    admin::Brain { address: node.address.clone(), standing, trouble }
}

/// Of this process: nobody is asked.
fn within(view: &GroupView, name: &str) -> admin::Brain {
    let standing = StandingResponse {
        group: view.name.to_string(),
        name: name.to_owned(),
        role: standing_response::Role::Master.into(),
        reads: true,
        epoch: view.epoch,
        master: name.to_owned(),
        revision: view.revision.to_wire(),
        compacted: -1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..StandingResponse::default()
    };
    admin::Brain { standing: Some(standing), ..admin::Brain::default() }
}
