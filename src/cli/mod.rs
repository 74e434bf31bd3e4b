//! The command line: its commands, what of etcd's it takes, its help and manual.

pub(crate) mod etcd;
mod headings;
pub(crate) mod manual;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::ctl::Ctl;
use crate::flags::{Brain, Proxy, Standalone};
use crate::log;

/// Kubernetes' state on a storage that scales out: etcd v3 over groups of brains.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub log: log::Flags,
    /// Print the settings that flags and environment come to, and end.
    #[arg(long, global = true)]
    pub print_config: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Proxy and all groups of a placement in one process, over one embedded store.
    Standalone(Standalone),
    /// One brain of one group.
    Brain(Box<Brain>),
    /// One etcd endpoint over the groups of a placement.
    Proxy(Proxy),
    /// What an operator does: looks at servers and groups, saves snapshots and restores them.
    Ctl(Ctl),
    /// Version, commit and compiler of this program.
    Version,
    /// The completion of command lines for a shell, to be loaded by it.
    Completion(Completion),
    /// The manual pages.
    Man(Man),
}

#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// As in `source <(kubebrain completion bash)`.
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The page of this command, as in `kubebrain man ctl restore | man -l -`. Without it: that of the program.
    pub command: Vec<String>,
    /// Write all pages into this directory instead, such as /usr/local/share/man/man1.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}
