//! `kubebrain ctl`: what an operator does.

mod restore;
mod size;
mod snapshot;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct Ctl {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Snapshots: all groups at one revision in one file.
    Snapshot(snapshot::Snapshot),
    /// Makes a data directory from a snapshot.
    Restore(restore::Restore),
}

pub(crate) async fn run(ctl: Ctl) -> Result<()> {
    match ctl.command {
        Command::Snapshot(flags) => snapshot::run(flags).await,
        Command::Restore(flags) => restore::run(flags).await,
    }
}
