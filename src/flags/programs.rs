//! Flags of the three programs.

use std::path::PathBuf;

use clap::Args;
use kubebrain_shared::group::GroupName;

use super::{Clients, Compaction, Election, PeerFiles, PeerServing, Store};

#[derive(Debug, Args)]
pub(crate) struct Standalone {
    #[command(flatten)]
    pub store: Store,
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub compaction: Compaction,
    /// Which group owns which keys: what it begins with, and each other content that it gets. Without it: core, pods and
    /// events.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Brain {
    /// The group to serve.
    #[arg(long, env = "KUBEBRAIN_GROUP", default_value = "default", value_parser = group)]
    pub group: GroupName,
    #[command(flatten)]
    pub store: Store,
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub compaction: Compaction,
    #[command(flatten)]
    pub peers: PeerServing,
    #[command(flatten)]
    pub election: Election,
    /// A placement file: where the cluster's brains are, and at its home group what the cluster begins with. The cluster's
    /// placement is what counts from then on. Without it and without --join this group owns all.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: Option<PathBuf>,
    /// Brains, of whatever group, that know the cluster's placement.
    #[arg(long, env = "KUBEBRAIN_JOIN", value_name = "PEER-URL,...", value_delimiter = ',')]
    pub join: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub compaction: Compaction,
    #[command(flatten)]
    pub peers: PeerFiles,
    /// A placement file whose brains are asked for the cluster's placement, which is the one that counts; read again when it
    /// changes.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: Option<PathBuf>,
    /// Brains, of whatever group, that are asked for the cluster's placement.
    #[arg(long, env = "KUBEBRAIN_JOIN", value_name = "PEER-URL,...", value_delimiter = ',')]
    pub join: Vec<String>,
    /// Where it keeps what it needs to start while the home group is away. Without it nothing is kept.
    #[arg(long, env = "KUBEBRAIN_PROXY_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A range whose rows take so many bytes is read from several brains of its group at once; 0: never.
    #[arg(long, env = "KUBEBRAIN_FANOUT_MIN_BYTES", value_name = "BYTES", default_value_t = 1 << 20, value_parser = fanout_min_bytes)]
    pub fanout_min_bytes: u64,
}

/// Below this, parts cost more than they bring.
const FANOUT_MIN_BYTES: u64 = 64 << 10;

fn fanout_min_bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Ok(0),
        Ok(bytes) if bytes >= FANOUT_MIN_BYTES => Ok(bytes),
        _ => Err(format!("{FANOUT_MIN_BYTES} or more, as a number of bytes; or 0 for never")),
    }
}

pub(crate) fn group(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).ok_or_else(|| "a group's name has 1 to 63 of a-z, 0-9 and -".to_owned())
}
