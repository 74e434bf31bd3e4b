//! Every flag of etcd 3.5 to 3.7, so that a command line made for etcd starts this program.
//!
//! Flags that mean the same here are in [`crate::cli`] and work. The others are taken, from the environment too, and
//! named in one warning; what would be dangerous to ignore is refused. A flag that a program gets later needs no
//! change here: its own comes first.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};

use super::headings;
use crate::cli::Cli;
use crate::flags::boolean;

/// Programs that take etcd's flags.
const PROGRAMS: [&str; 3] = ["standalone", "brain", "proxy"];

/// Flags with a value. `--experimental-NAME` is taken for `--NAME`.
const VALUES: &[&str] = &[
    "advertise-client-urls",
    "auth-token",
    "auth-token-ttl",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "bcrypt-cost",
    "bootstrap-defrag-threshold-megabytes",
    "client-cert-file",
    "client-key-file",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "config-file",
    "corrupt-check-time",
    "cors",
    "data-dir",
    "discovery",
    "discovery-cacert",
    "discovery-cert",
    "discovery-dial-timeout",
    "discovery-endpoints",
    "discovery-fallback",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-key",
    "discovery-password",
    "discovery-proxy",
    "discovery-request-timeout",
    "discovery-srv",
    "discovery-srv-name",
    "discovery-token",
    "discovery-user",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "election-timeout",
    "enable-v2v3",
    "feature-gates",
    "heartbeat-interval",
    "host-whitelist",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "listen-peer-urls",
    "local-address",
    "logger",
    "max-learners",
    "max-snapshots",
    "max-txn-ops",
    "max-wals",
    "metrics",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
    "peer-cert-file",
    "peer-client-cert-file",
    "peer-client-key-file",
    "peer-crl-file",
    "peer-key-file",
    "peer-trusted-ca-file",
    "proxy",
    "proxy-dial-timeout",
    "proxy-failure-wait",
    "proxy-read-timeout",
    "proxy-refresh-interval",
    "proxy-write-timeout",
    "quota-backend-bytes",
    "raft-read-timeout",
    "raft-write-timeout",
    "self-signed-cert-validity",
    "snapshot-catchup-entries",
    "snapshot-count",
    "v2-deprecation",
    "wait-cluster-ready-timeout",
    "wal-dir",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

/// Flags that are true or false.
const BOOLEANS: &[&str] = &[
    "auto-tls",
    "compact-hash-check-enabled",
    "discovery-insecure-skip-tls-verify",
    "discovery-insecure-transport",
    "enable-distributed-tracing",
    "enable-grpc-gateway",
    "enable-lease-checkpoint",
    "enable-lease-checkpoint-persist",
    "enable-pprof",
    "enable-v2",
    "force-new-cluster",
    "initial-corrupt-check",
    "initial-election-tick-advance",
    "memory-mlock",
    "peer-auto-tls",
    "peer-client-cert-auth",
    "peer-skip-client-san-verification",
    "pre-vote",
    "set-member-localaddr",
    "socket-reuse-address",
    "stop-grpc-service-on-defrag",
    "strict-reconfig-check",
    "txn-mode-write-with-shared-buffer",
    "unsafe-no-fsync",
];

/// What each of [`VALUES`] and [`BOOLEANS`] is called inside clap: no field of a struct.
fn id(name: &str) -> String {
    format!("etcd:{name}")
}

fn variable(name: &str) -> String {
    format!("ETCD_{}", name.to_uppercase().replace('-', "_"))
}

fn all() -> impl Iterator<Item = &'static str> {
    VALUES.iter().chain(BOOLEANS).copied()
}

/// The command line without the flags of etcd that mean nothing here.
pub(crate) fn own() -> Command {
    headings::arrange(Cli::command(), &PROGRAMS)
}

/// The command line, with etcd's flags.
pub(crate) fn command() -> Command {
    PROGRAMS.into_iter().fold(own(), |command, program| {
        command.mut_subcommand(program, |program| {
            let own: BTreeSet<String> =
                program.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
            let others = all().filter(|name| !own.contains(*name)).map(|name| {
                let arg =
                    Arg::new(id(name)).long(name).env(variable(name)).hide(true).action(ArgAction::Append);
                match BOOLEANS.contains(&name) {
                    true => arg
                        .num_args(0..=1)
                        .require_equals(true)
                        .default_missing_value("true")
                        .value_parser(boolean::parse),
                    false => arg.num_args(1).allow_hyphen_values(true),
                }
            });
            program.args(others).args_override_self(true)
        })
    })
}

/// Arguments as clap takes them: `-name` is `--name` and `--experimental-NAME` is `--NAME`, as in etcd; from the
/// environment too, where nothing newer says otherwise.
pub(crate) fn arguments(
    command: &Command,
    given: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.collect();
    let Some(at) = arguments.iter().skip(1).position(|arg| PROGRAMS.iter().any(|program| arg == program))
    else {
        return arguments;
    };
    let known: BTreeSet<&str> = arguments
        .get(at + 1)
        .and_then(|program| program.to_str())
        .and_then(|program| command.find_subcommand(program))
        .into_iter()
        .chain([command])
        .flat_map(Command::get_arguments)
        .filter_map(Arg::get_long)
        .collect();
    for argument in arguments.iter_mut().skip(at + 2) {
        if let Some(long) = argument.to_str().and_then(|text| long(text, &known)) {
            *argument = long.into();
        }
    }
    for (name, value) in environment {
        let Some(old) = name.to_str().and_then(|name| name.strip_prefix("ETCD_EXPERIMENTAL_")) else {
            continue;
        };
        let name = old.to_lowercase().replace('_', "-");
        let begin = format!("--{name}");
        let is_given =
            arguments.iter().skip(at + 2).filter_map(|argument| argument.to_str()).any(|argument| {
                argument.strip_prefix(&begin).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            });
        if known.contains(name.as_str()) && !is_given && std::env::var_os(variable(&name)).is_none() {
            let mut argument = OsString::from(begin + "=");
            argument.push(value);
            arguments.push(argument);
        }
    }
    arguments
}

/// A flag as this program has it, if that is another than it was written as.
fn long(text: &str, known: &BTreeSet<&str>) -> Option<String> {
    let bare = text.strip_prefix('-')?;
    let bare = bare.strip_prefix('-').unwrap_or(bare);
    let (name, rest) = bare.split_at(bare.find('=').unwrap_or(bare.len()));
    let name = match name.strip_prefix("experimental-") {
        Some(newer) if known.contains(newer) => newer,
        _ => name,
    };
    // One letter is a short flag, and what nobody knows is left to clap to refuse.
    (name.len() > 1 && known.contains(name)).then(|| format!("--{name}{rest}"))
}

/// Refuses what must not be ignored, and names in one line what is.
pub(crate) fn review(command: &Command, matches: &ArgMatches) -> Result<()> {
    let Some((program, matches)) = matches.subcommand().filter(|(program, _)| PROGRAMS.contains(program))
    else {
        return Ok(());
    };
    let value = |name: &str| -> Option<String> {
        let mut values = matches.try_get_raw(&id(name)).ok().flatten()?;
        values.next_back().map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
    };
    if value("config-file").is_some() {
        bail!("--config-file: there is no file of settings here; give flags or ETCD_ variables");
    }
    if value("auto-tls").is_some_and(|value| boolean::parse(&value) == Ok(true)) {
        bail!("--auto-tls: certificates are not made here; give --cert-file and --key-file");
    }
    if program != "standalone" {
        if value("peer-auto-tls").is_some_and(|value| boolean::parse(&value) == Ok(true)) {
            bail!(
                "--peer-auto-tls: certificates are not made here; give --peer-cert-file and --peer-key-file"
            );
        }
        if value("peer-cert-allowed-cn").is_some() {
            bail!(
                "--peer-cert-allowed-cn: only the alternative names of certificates are looked at; give \
                   --peer-cert-allowed-hostname to the brains"
            );
        }
    }
    if program == "standalone" {
        let members = value("initial-cluster").map_or(1, |members| members.split(',').count());
        if members > 1 {
            bail!(
                "--initial-cluster names {members} members: standalone is a cluster of one process, and {members} of \
                 them would each have other data"
            );
        }
        for name in ["discovery", "discovery-endpoints", "discovery-srv"] {
            if value(name).is_some() {
                bail!("--{name}: standalone is a cluster of one process; it looks for no others");
            }
        }
    }
    let given = |name: &&str| {
        let source =
            matches.try_contains_id(&id(name)).is_ok().then(|| matches.value_source(&id(name))).flatten();
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) && value(name).is_some()
    };
    let ignored: Vec<String> = all().filter(given).map(|name| format!("--{name}")).collect();
    if !ignored.is_empty() {
        tracing::warn!("flags of etcd that mean nothing here and are ignored: {}", ignored.join(" "));
    }
    let known = command.find_subcommand(program).into_iter().chain([command]);
    let known: BTreeSet<&OsStr> = known.flat_map(Command::get_arguments).filter_map(Arg::get_env).collect();
    let unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("ETCD_") && !known.contains(OsStr::new(name)))
        .filter(|name| {
            let newer = name.replacen("ETCD_EXPERIMENTAL_", "ETCD_", 1);
            !known.contains(OsStr::new(&newer))
        })
        .collect();
    if !unknown.is_empty() {
        tracing::warn!("environment variables that nothing reads: {}", unknown.join(" "));
    }
    Ok(())
}

/// The effective settings of a program and where each comes from, one on a line.
pub(crate) fn settings(command: &Command, matches: &ArgMatches) -> String {
    let Some((program, matches)) = matches.subcommand() else { return String::new() };
    let mut lines = format!("program = {program}\n");
    for arg in command.find_subcommand(program).into_iter().flat_map(Command::get_arguments) {
        let (Some(name), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        let Some(values) = matches
            .try_get_raw(id)
            .ok()
            .flatten()
            .filter(|_| !id.starts_with("etcd:") && id != "print_config")
        else {
            continue;
        };
        let values: Vec<_> = values.map(OsStr::to_string_lossy).collect();
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "  # flag",
            Some(ValueSource::EnvVariable) => "  # environment",
            _ => "",
        };
        lines += &format!("{name} = {}{source}\n", values.join(","));
    }
    lines
}

#[cfg(test)]
mod tests;
