//! `kubebrain ctl placement`: looking at the placement of a cluster, and changing it.

mod apply;
mod ask;
mod file;
mod history;
mod outcome;
mod repair;
mod review;
mod settle;
mod show;

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use self::file::Source;
use super::servers::{Output, Reach, Servers};
use crate::flags::duration;

/// What `--help` says after the list of commands.
const MORE: &str = "\
Examples:
  kubebrain ctl placement show -o yaml > placement.yaml      # then edit it
  kubebrain ctl placement check placement.yaml
  kubebrain ctl placement diff placement.yaml
  kubebrain ctl placement apply placement.yaml --dry-run
  kubebrain ctl placement apply placement.yaml --wait
  kubebrain ctl placement rollback 16 --wait
  kubebrain ctl placement repair                             # which keys stand in a group that does not own them
  kubebrain ctl placement repair --kind=pods --move --dry-run

Whoever may look may not change: clients need a certificate that a server's --placement-admin names. At a brain's
--listen-peer-urls everybody may who is let in.

Exit codes:
  0  it is done, or there was nothing to do
  1  it is refused, taken back, or could not be carried out
  2  the command line is wrong
  3  it is not known in time whether it holds: a change is still under way, or an answer was lost";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct Placement {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The placement, who owns what by it, and how a change stands.
    Show(Show),
    /// Says what is wrong in a file, and what in it is probably not meant. Asks no server.
    Check(Check),
    /// What a file would change, by kind and prefix.
    Diff(Diff),
    /// Makes a file the placement of the cluster: all groups take it, or none does.
    Apply(Apply),
    /// Takes back a change that is under way.
    Abort(Servers),
    /// Which group a key belongs to, and why.
    #[command(name = "where")]
    Where(Where),
    /// The last hundred placements, when they began to hold and why.
    History(Servers),
    /// Applies one of them again, under a new number.
    Rollback(Rollback),
    /// For a group that never comes back, for one that has lost its data, and for a home that was restored.
    Recover(Recover),
    /// Keys that stand in a group that does not own them: says which, and moves or drops them when told to.
    Repair(Repair),
}

#[derive(Debug, Args)]
struct Show {
    /// One of the last hundred; the current one unless said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    number: Option<u64>,
    #[command(flatten)]
    reach: Reach,
    /// For people, for machines, or the file itself.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
struct Check {
    /// The file; - for standard input.
    file: Source,
    /// It is for `standalone`, whose groups have no brains to be reached.
    #[arg(long)]
    standalone: bool,
    /// For people or for machines.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
struct Diff {
    /// The file; - for standard input.
    file: Source,
    #[command(flatten)]
    servers: Servers,
}

#[derive(Debug, Args)]
struct Apply {
    /// The file; - for standard input.
    file: Source,
    /// Say what each group would answer, and change nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// The number that the file is a change of; 0: of whatever there is. Without it: what the file's first line says, or the
    /// one that is current now.
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    #[command(flatten)]
    change: Change,
}

/// How a change is asked for.
#[derive(Debug, Args)]
struct Change {
    /// This group is gone for good and does not have to agree. Refused while it owns something.
    #[arg(long, value_name = "GROUP")]
    without: Vec<String>,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    servers: Servers,
}

#[derive(Debug, Args)]
struct Wait {
    /// Return when the change holds or is taken back.
    #[arg(long)]
    wait: bool,
    /// And after this time at the latest.
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "wait", value_parser = duration::parse)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct Where {
    /// The key, as it is stored.
    #[arg(id = "stored-key", value_name = "KEY")] // --key is a file of a certificate
    key: String,
    /// By this file instead of the cluster's placement; - for standard input. Asks no server.
    #[arg(long)]
    file: Option<Source>,
    #[command(flatten)]
    servers: Servers,
}

#[derive(Debug, Args)]
struct Rollback {
    /// Its number, as `history` has it.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    number: u64,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
struct Recover {
    /// This group never comes back: what is under way goes on without it.
    #[arg(long, value_name = "GROUP")]
    without: Vec<String>,
    /// This group has lost its data, and begins anew with none.
    #[arg(long, value_name = "GROUP")]
    accept_loss: Option<String>,
    #[command(flatten)]
    servers: Servers,
}

/// What `repair --help` says after the flags.
const REPAIRS: &str = "\
Without --move and --drop it changes nothing, and whoever may look may ask it. A move writes each key in the group that owns
it, at a new revision and with its lease, and then deletes it where it stood; if it is interrupted, run it again. A key that
its owner has with another value is named and left, unless --keep says which of the two stays.

Examples:
  kubebrain ctl placement repair --keys
  kubebrain ctl placement repair --kind=pods --move --dry-run
  kubebrain ctl placement repair --kind=pods --move --keep=owner
  kubebrain ctl placement repair --prefix=/registry/events/ --from=core --drop
  kubebrain ctl placement repair --stored-key=/registry/pods/default/a --drop";

#[derive(Debug, Args)]
#[command(after_help = REPAIRS)]
#[command(group = clap::ArgGroup::new("which").args(["kind", "prefix", "stored-key"]))]
#[command(group = clap::ArgGroup::new("action").args(["move", "drop"]).requires("which"))]
struct Repair {
    /// Of this kind, as a placement names it: pods, or example.com/widgets.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Of the keys that begin so.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Of this key alone, as it is stored.
    #[arg(id = "stored-key", long, value_name = "KEY")] // --key is a file of a certificate
    key: Option<String>,
    /// Of what stands in this group.
    #[arg(long, value_name = "GROUP")]
    from: Option<String>,
    /// Write them in the group that owns them, and then delete them where they stand.
    #[arg(id = "move", long)]
    moves: bool,
    /// Delete them where they stand, whether their owner has them or not.
    #[arg(long)]
    drop: bool,
    /// Which one stays of a key that its owner has with another value or another lease.
    #[arg(long, value_enum, value_name = "WHICH", requires = "move", conflicts_with = "drop")]
    keep: Option<Keep>,
    /// Say what would be done, and change nothing.
    #[arg(long, requires = "action")]
    dry_run: bool,
    /// Name each key, and not only those that are left.
    #[arg(long)]
    keys: bool,
    #[command(flatten)]
    reach: Reach,
    /// For people or for machines.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Keep {
    /// What the owner has; the other one is deleted.
    Owner,
    /// What stands in the wrong group; it takes the place of the owner's.
    Stray,
}

pub(super) async fn run(placement: Placement) -> Result<()> {
    match placement.command {
        Command::Show(flags) => show::run(flags).await,
        Command::Check(flags) => review::check(&flags),
        Command::Diff(flags) => review::diff(flags).await,
        Command::Apply(flags) => apply::apply(flags).await,
        Command::Abort(servers) => apply::abort(servers).await,
        Command::Where(flags) => review::owner(flags).await,
        Command::History(servers) => history::run(servers).await,
        Command::Rollback(flags) => apply::rollback(flags).await,
        Command::Recover(flags) => apply::recover(flags).await,
        Command::Repair(flags) => repair::run(flags).await,
    }
}

#[cfg(test)]
mod tests;
