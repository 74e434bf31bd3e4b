//! The order of `--help`: which heading a flag stands under, by its name.

use clap::{Arg, Command};

/// Headings with what names of flags begin with; the first that fits. One table, so that a flag that is added in another
/// module finds its place.
const HEADINGS: &[(&str, &[&str])] = &[
    ("Logging", &["log-", "enable-log-"]),
    ("Identity", &["name", "initial-cluster"]),
    ("Groups", &["group", "placement", "join"]),
    ("Listening", &["listen-", "advertise-", "initial-advertise-", "socket-"]),
    ("TLS between proxies and brains", &["peer-"]),
    ("TLS", &["cert-", "key-", "trusted-", "client-", "cipher-", "tls-"]),
    ("TiKV", &["pd", "tikv-"]),
    ("Memory", &["value-cache-", "block-cache-", "memtable-", "watch-window-", "answer-"]),
    ("Storage", &["engine", "data-dir", "store-", "quota-", "read-fence", "lease-"]),
    ("Requests", &["max-", "fanout-", "warning-", "watch-", "grpc-", "enable-grpc-", "cors", "host-"]),
    ("Election", &["election"]),
    ("Traces", &["enable-distributed-", "distributed-"]),
    ("Compaction", &["auto-compaction-", "compaction-"]),
];

/// The heading of a flag; `None` for the few that are no setting, such as `--help`.
fn heading(name: &str) -> Option<&'static str> {
    let fits = |begins: &&[&str]| begins.iter().any(|begin| name.starts_with(begin));
    HEADINGS.iter().find(|(_, begins)| fits(begins)).map(|(heading, _)| *heading)
}

/// The command with the flags of its programs under headings. `ctl` and the others have few, and stay as they are.
pub(crate) fn arrange(command: Command, programs: &[&'static str]) -> Command {
    programs.iter().fold(command.mut_args(place), |command, program| {
        command.mut_subcommand(program, |program| program.mut_args(place))
    })
}

fn place(arg: Arg) -> Arg {
    match arg.get_long().and_then(heading) {
        Some(heading) => arg.help_heading(heading),
        None => arg,
    }
}
