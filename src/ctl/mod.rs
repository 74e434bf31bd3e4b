//! `kubebrain ctl`: what an operator does.

mod groups;
mod placement;
mod placements;
mod progress;
mod restore;
mod servers;
mod size;
mod snapshot;
mod status;
mod table;
mod verdict;

use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use verdict::Verdict;

/// What `--help` says after the list of commands.
const MORE: &str = "\
Examples:
  kubebrain ctl status --endpoints=http://127.0.0.1:2379
  kubebrain ctl groups -o json
  kubebrain ctl placement show
  kubebrain ctl snapshot save backup.db --endpoints=https://10.0.0.1:2379 --cacert=ca.crt --cert=client.crt --key=client.key
  kubebrain ctl snapshot status backup.db
  kubebrain ctl restore backup.db --data-dir=/var/lib/kubebrain/data --bump-revision=1000000000 --mark-compacted

Exit codes:
  0  all is well
  1  the command could not be carried out
  2  the command line is wrong
  3  status, groups: requests of clients are refused: a server does not answer, a group has no master, an alarm is raised
  4  status, groups: everything is served, and a brain is gone, does not do its part, or goes by another placement
placement has its own: kubebrain ctl placement --help

Keys, watches, leases, alarms, defragmentation: with etcdctl. What etcdctl takes from its environment is taken here too:
ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY, ETCDCTL_COMMAND_TIMEOUT.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct Ctl {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Servers: what they are, version, revision, epoch, size, and how long a linearizable read takes.
    Status(servers::Servers),
    /// Groups: the role of each brain, its epoch and revisions, how far it is behind, and whether it reads.
    Groups(servers::Servers),
    /// The placement: which group owns which keys. Shows it, checks a file, changes it, and says how a change stands.
    Placement(placement::Placement),
    /// Snapshots, which are all groups at one revision in one file: save one, or check one and say what is in it.
    Snapshot(snapshot::Snapshot),
    /// Makes a data directory from a snapshot, of all groups or of some.
    Restore(restore::Restore),
}

pub(crate) async fn run(ctl: Ctl) -> Result<()> {
    match ctl.command {
        Command::Status(flags) => status::run(flags).await,
        Command::Groups(flags) => groups::run(flags).await,
        Command::Placement(flags) => placement::run(flags).await,
        Command::Snapshot(flags) => snapshot::run(flags).await,
        Command::Restore(flags) => restore::run(flags).await,
    }
}
