//! `kubebrain ctl status`: servers, one line each.

use anyhow::Result;
use futures_util::future::join_all;
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kubebrain_proto::etcdserverpb::{RangeRequest, StatusRequest, StatusResponse};
use kubebrain_shared::metadata;
use tokio::time::{Instant, timeout};

use super::servers::{Output, Reach, Servers, sentence};
use super::verdict::Verdict;
use super::{groups, placements, size, table};
use crate::print;

/// One server, as far as it answered.
struct Seen {
    endpoint: String,
    /// "proxy", "brain" or "standalone".
    server: String,
    name: String,
    version: String,
    groups: Vec<String>,
    /// By which numbers of the placement its brains go, each once.
    placements: Vec<u64>,
    status: StatusResponse,
    /// Of a linearizable read; none of a brain whose group does not own the key that is read.
    read_ms: Option<f64>,
    /// Of its groups, a brain has no files of its own, or does not say how large they are.
    is_unsized: bool,
    verdict: Verdict,
}

/// Fails where a server does not answer, or not well: see [`Verdict`].
pub(super) async fn run(servers: Servers) -> Result<()> {
    let seen = join_all(servers.reach.endpoints.iter().map(|endpoint| look(&servers.reach, endpoint))).await;
    match servers.output {
        Output::Table => table::print(&HEAD, &seen.iter().map(row).collect::<Vec<_>>())?,
        Output::Json => {
            print::line(&format!("{:#}", serde_json::Value::Array(seen.iter().map(json).collect())))?;
        }
    }
    let mut all = Verdict::default();
    seen.into_iter().for_each(|seen| all.add(seen.verdict));
    all.done()
}

async fn look(servers: &Reach, endpoint: &str) -> Seen {
    let mut seen = Seen {
        endpoint: endpoint.to_owned(),
        server: String::new(),
        name: String::new(),
        version: String::new(),
        groups: Vec::new(),
        placements: Vec::new(),
        status: StatusResponse::default(),
        read_ms: None,
        is_unsized: true,
        verdict: Verdict::default(),
    };
    match groups::ask(servers, endpoint).await {
        Ok(answer) => {
            seen.verdict = groups::judge(&answer);
            seen.placements = placements::numbers(&answer.groups);
            seen.is_unsized = !answer.groups.iter().all(groups::is_sized);
            seen.server = answer.server;
            seen.name = answer.name;
            seen.version = answer.version;
            seen.groups = answer.groups.into_iter().map(|group| group.name).collect();
        }
        Err(why) => {
            seen.verdict.refused(format!("{endpoint}: {why}"));
            return seen;
        }
    }
    let channel = match servers.certificates.channel(endpoint) {
        Ok(channel) => channel,
        Err(error) => {
            seen.verdict.refused(format!("{endpoint}: {error:#}"));
            return seen;
        }
    };
    let asked = timeout(servers.command_timeout, async {
        let status = MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await?.into_inner();
        let began = Instant::now();
        let read = RangeRequest { key: "health".into(), ..RangeRequest::default() };
        let took = match KvClient::new(channel).range(read).await {
            Ok(_) => Some(began.elapsed().as_secs_f64() * 1000.0),
            Err(refused) if metadata::is_not_owner(&refused) => None,
            Err(status) => return Err(status),
        };
        Ok::<_, tonic::Status>((status, took))
    });
    match asked.await {
        Ok(Ok((status, read_ms))) => {
            status.errors.iter().for_each(|error| seen.verdict.refused(error.clone()));
            (seen.status, seen.read_ms) = (status, read_ms);
        }
        Ok(Err(status)) => seen.verdict.refused(format!("{endpoint}: {}", sentence(&status))),
        Err(_late) => seen.verdict.refused(format!("{endpoint}: no answer in time")),
    }
    seen
}

const HEAD: [&str; 12] = [
    "ENDPOINT",
    "SERVER",
    "NAME",
    "VERSION",
    "GROUPS",
    "REVISION",
    "EPOCH",
    "SIZE",
    "IN USE",
    "READ",
    "PLACEMENT",
    "NOTE",
];

fn row(seen: &Seen) -> Vec<String> {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let status = &seen.status;
    let known = status.header.is_some();
    let number = |number: String| if known { number } else { "-".to_owned() };
    let bytes = |bytes: i64| number(size::of(u64::try_from(bytes).unwrap_or(0)));
    vec![
        seen.endpoint.clone(),
        or_dash(seen.server.clone()),
        or_dash(seen.name.clone()),
        or_dash(seen.version.clone()),
        or_dash(seen.groups.join(",")),
        number(status.header.as_ref().map_or(0, |header| header.revision).to_string()),
        number(status.raft_term.to_string()),
        if seen.is_unsized { "-".to_owned() } else { bytes(status.db_size) },
        bytes(status.db_size_in_use),
        seen.read_ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms")),
        or_dash(seen.placements.iter().map(u64::to_string).collect::<Vec<_>>().join(",")),
        seen.verdict.to_string(),
    ]
}

fn json(seen: &Seen) -> serde_json::Value {
    let status = &seen.status;
    serde_json::json!({
        "endpoint": seen.endpoint,
        "server": seen.server,
        "name": seen.name,
        "version": seen.version,
        "groups": seen.groups,
        "placementNumbers": seen.placements,
        "revision": status.header.as_ref().map_or(0, |header| header.revision),
        "epoch": status.raft_term,
        "dbSize": (!seen.is_unsized).then_some(status.db_size),
        "dbSizeInUse": status.db_size_in_use,
        "readMs": seen.read_ms,
        "trouble": seen.verdict.to_string(),
    })
}
