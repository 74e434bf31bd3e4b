//! What probes and people ask over HTTP/1: `/health`, `/livez`, `/readyz`, `/version`.

use std::sync::Arc;

use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Method, Response, Uri};
use kubebrain_net::probe::{self, Subject};
use kubebrain_proto::etcdserverpb::AlarmType;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use tonic::Status;
use tonic::body::Body;

use crate::config::Server;
use crate::core::Core;
use crate::group::Group;

/// By which placement a proxy goes, on pages whose lines are etcd's.
const PLACEMENT: HeaderName = HeaderName::from_static("kubebrain-placement");

pub(crate) async fn answer(core: &Arc<Core>, method: &Method, uri: &Uri) -> Response<Body> {
    let mut page = probe::page(&Probed(core.clone()), &core.config.etcd_version, method, uri).await;
    let id = core.table().id();
    if id.number > 0
        && uri.path() == "/readyz"
        && let Ok(shown) = HeaderValue::from_str(&format!("{} ({:x})", id.number, id.lineage))
    {
        page.headers_mut().insert(PLACEMENT, shown);
    }
    page
}

/// Why groups cannot be reached, as far as that is known.
fn troubles<'a>(groups: impl IntoIterator<Item = &'a Arc<Group>>) -> String {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_unstable_by_key(|group| group.name());
    let said = groups.iter().flat_map(|group| {
        let name = group.name();
        group.troubles().map(move |reason| format!("; group {name}: {reason}"))
    });
    said.collect()
}

/// This proxy, as probes see it: it works without its groups, serves once all of them have answered, and then each group
/// is a check of its own.
struct Probed(Arc<Core>);

impl Probed {
    /// A fence of one group, with the reason why it does not answer.
    async fn fence(&self, group: &Arc<Group>) -> Result<(), Status> {
        group.heard().await; // of a table that is new: a brain of another group would answer as well
        let fenced = self.0.advance(group, Revision::ZERO).await;
        fenced
            .map(drop)
            .map_err(|status| Status::new(status.code(), status.message().to_owned() + &troubles([group])))
    }
}

impl Subject for Probed {
    fn works(&self) -> Result<(), String> {
        let stopping = || "stopping".to_owned();
        self.0.stop_handle().map(drop).ok_or_else(stopping).and_then(|()| self.0.config.inside.works())
    }

    async fn read(&self) -> Result<(), Status> {
        let table = self.0.table();
        if *self.0.ready().borrow() {
            return self.fence(table.home()).await;
        }
        let mut missing: Vec<_> = table.groups().filter(|group| group.known() == Revision::ZERO).collect();
        missing.sort_unstable_by_key(|group| group.name());
        let names: Vec<_> = missing.iter().map(|group| group.name().as_str()).collect();
        let whom = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
        if !table.is_known() {
            let trouble = self.0.trouble();
            let asking = "the brains are being asked for the cluster's placement".to_owned();
            return Err(Status::unavailable(if trouble.is_empty() { asking } else { trouble }));
        }
        Err(Status::unavailable(format!(
            "not every group has answered since this proxy started, and until then it serves nothing{whom}{}",
            troubles(missing)
        )))
    }

    /// The alarms of all groups that answer soon.
    async fn alarms(&self) -> Vec<AlarmType> {
        let table = self.0.table();
        let answers = join_all(table.groups().map(|group| self.0.alarms_of(group))).await;
        answers.into_iter().flatten().collect()
    }

    /// None where they are in this process: there they answer and end together.
    fn groups(&self) -> Vec<GroupName> {
        if self.0.config.server == Server::Standalone {
            return Vec::new();
        }
        let mut names: Vec<_> = self.0.table().groups().map(|group| group.name().clone()).collect();
        names.sort_unstable();
        names
    }

    async fn reads_in(&self, group: &GroupName) -> Result<(), Status> {
        match self.0.table().group(group) {
            Some(group) => self.fence(group).await,
            None => Ok(()), // the placement has just lost it
        }
    }
}
