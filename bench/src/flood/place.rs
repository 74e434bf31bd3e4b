//! [`Server`]: who is asked: one brain, a brain for each of two groups, or etcd.

use std::path::Path;

use anyhow::Result;

use crate::process::{Running, command};
use crate::server::{self, free_port};

/// Where the events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the group of the leases.
    Same,
    /// In a group of their own.
    Other,
    Etcd,
}

/// With what, and where.
pub(super) struct At<'a> {
    pub(super) kubebrain: &'a Path,
    pub(super) etcd: &'a Path,
    pub(super) home: &'a Path,
    /// The core of all servers.
    pub(super) core: Option<usize>,
}

/// See the module. Dropping it ends its processes.
pub(super) struct Server {
    place: Place,
    /// Writes of events a second.
    pub(super) limit: Option<u64>,
    processes: Vec<Running>,
    /// Who has leases, and who has events.
    pub(super) leases: String,
    pub(super) events: String,
}

impl Server {
    pub(super) async fn start(at: &At<'_>, place: Place, limit: Option<u64>) -> Result<Self> {
        let mut server =
            Self { place, limit, processes: Vec::new(), leases: String::new(), events: String::new() };
        let name = format!("{place:?}-{}", limit.is_some());
        if place == Place::Etcd {
            server.leases = server.etcd(at, &name)?;
        } else {
            let groups: &[&str] = if place == Place::Other { &["core", "events"] } else { &["core"] };
            let peers = groups.iter().map(|_| free_port()).collect::<Result<Vec<_>>>()?;
            let file = at.home.join(format!("{name}.yaml"));
            std::fs::write(&file, placement(groups, &peers, limit))?;
            for (group, peer) in groups.iter().zip(peers) {
                let address = server.brain(at, &format!("{name}-{group}"), group, peer, &file)?;
                if server.leases.is_empty() {
                    server.leases = address;
                } else {
                    server.events = address;
                }
            }
        }
        if server.events.is_empty() {
            server.events.clone_from(&server.leases);
        }
        for (key, address) in [("leases", server.leases.clone()), ("events", server.events.clone())] {
            let process = server.processes.first_mut().expect("it was started");
            process
                .until("ready", async |_| {
                    server::answers(&address, &format!("/registry/{key}/health")).await.is_ok()
                })
                .await?;
        }
        Ok(server)
    }

    fn brain(&mut self, at: &At<'_>, name: &str, group: &str, peer: u16, placement: &Path) -> Result<String> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = command(at.kubebrain, at.core);
        command.args(["brain", "--log-level=warn"]).arg(format!("--group={group}"));
        command.arg(format!("--data-dir={}", at.home.join(name).display()));
        command.arg(format!("--placement={}", placement.display()));
        command.arg(format!("--listen-client-urls=http://{address}"));
        command.arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"));
        self.processes.push(Running::start(name, at.home, &mut command)?);
        Ok(address)
    }

    fn etcd(&mut self, at: &At<'_>, name: &str) -> Result<String> {
        let (address, peer) = (format!("127.0.0.1:{}", free_port()?), free_port()?);
        let mut command = command(at.etcd, at.core);
        command.args(["--log-level=error", "--quota-backend-bytes=8589934592"]);
        command.arg(format!("--data-dir={}", at.home.join(name).display()));
        for flag in ["listen-client-urls", "advertise-client-urls"] {
            command.arg(format!("--{flag}=http://{address}"));
        }
        for flag in ["listen-peer-urls", "initial-advertise-peer-urls"] {
            command.arg(format!("--{flag}=http://127.0.0.1:{peer}"));
        }
        command.arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}"));
        self.processes.push(Running::start(name, at.home, &mut command)?);
        Ok(address)
    }

    pub(super) fn name(&self) -> String {
        match (self.place, self.limit) {
            (Place::Same, None) => "one group".to_owned(),
            (Place::Same, Some(limit)) => format!("one group, events limited to {limit}/s"),
            (Place::Other, _) => "events in another group".to_owned(),
            (Place::Etcd, _) => "etcd".to_owned(),
        }
    }

    /// Whatever has ended has said why.
    pub(super) fn must_run(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Running::must_run)
    }
}

fn placement(groups: &[&str], peers: &[u16], limit: Option<u64>) -> String {
    let brains: String = groups
        .iter()
        .zip(peers)
        .map(|(group, peer)| format!("  {group}: {{ brains: [\"http://127.0.0.1:{peer}\"] }}\n"))
        .collect();
    let kinds = if groups.contains(&"events") { "kinds: [{ kind: events, group: events }]\n" } else { "" };
    let limits = limit.map_or_else(String::new, |limit| {
        format!("limits: [{{ kind: events, writesPerSecond: {limit}, burst: {} }}]\n", limit / 10 + 1)
    });
    format!("home: core\ndefault: core\ngroups:\n{brains}{kinds}{limits}")
}
