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
    /// Which group owns which keys. Without it: core, pods and events.
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
    /// Which group owns which keys. Without it this group owns all.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub compaction: Compaction,
    #[command(flatten)]
    pub peers: PeerFiles,
    /// Which group owns which keys, and where its brains are.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: PathBuf,
}

pub(crate) fn group(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).ok_or_else(|| "a group's name has 1 to 63 of a-z, 0-9 and -".to_owned())
}
