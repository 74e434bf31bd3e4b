//! `kubebrain ctl`: what an operator does.

mod groups;
mod restore;
mod servers;
mod size;
mod snapshot;
mod status;
mod table;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct Ctl {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Servers: what they are, their revision and size, and how long a read takes.
    Status(servers::Servers),
    /// Groups: their brains, roles, epochs and revisions, and how far slaves are behind.
    Groups(servers::Servers),
    /// Snapshots: all groups at one revision in one file.
    Snapshot(snapshot::Snapshot),
    /// Makes a data directory from a snapshot.
    Restore(restore::Restore),
}

pub(crate) async fn run(ctl: Ctl) -> Result<()> {
    match ctl.command {
        Command::Status(flags) => status::run(flags).await,
        Command::Groups(flags) => groups::run(flags).await,
        Command::Snapshot(flags) => snapshot::run(flags).await,
        Command::Restore(flags) => restore::run(flags).await,
    }
}
