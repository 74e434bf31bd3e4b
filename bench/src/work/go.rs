//! The same by etcd's own `benchmark`, which is Go's client: what it sends besides requests (pings, windows, resets) a client
//! of ours does not, and kube-apiserver does.
//!
//! It takes a number of requests and no time: a first run of it, which does not count, says how many fit.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use super::{Plan, Work};
use crate::request;
use crate::stats::Run;
use crate::usage::Usage;

/// Requests of the first run, of each client.
const FIRST: u64 = 300;
/// Updates a second that its watchers see.
const WATCHED_PER_SECOND: u64 = 500;
const STREAMS: usize = 10;

pub(super) async fn run(
    plan: &Plan,
    benchmark: &Path,
    endpoint: &str,
    measured: Duration,
    server: &Usage,
) -> Result<Run> {
    let first = match plan.work {
        Work::GoWatch => WATCHED_PER_SECOND,
        _ => FIRST * plan.clients as u64,
    };
    let said = once(plan, benchmark, endpoint, first).await?;
    let total = match plan.work {
        Work::GoWatch => WATCHED_PER_SECOND as f64 * measured.as_secs_f64(),
        _ => said.per_second * measured.as_secs_f64(),
    };
    let total = (total as u64).max(first);
    let (began, before) = (Instant::now(), [server.cpu(), Usage::children_of_this_process()]);
    let said = once(plan, benchmark, endpoint, total).await?;
    let (wall, after) = (began.elapsed(), [server.cpu(), Usage::children_of_this_process()]);
    let [used, client] = [0, 1].map(|side: usize| after[side].saturating_sub(before[side]));
    let count = match plan.work {
        Work::GoWatch => total as f64 * plan.clients as f64,
        _ => total as f64,
    };
    Ok(Run {
        per_second: said.per_second,
        cpu_us: used.as_secs_f64() * 1e6 / count,
        p50_ms: said.p50_ms,
        p99_ms: said.p99_ms,
        memory: server.peak_memory(),
        client_busy: client.as_secs_f64() / wall.as_secs_f64(),
        conflicts: 0,
    })
}

/// What it says at its end.
#[derive(Debug, PartialEq)]
struct Said {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

async fn once(plan: &Plan, benchmark: &Path, endpoint: &str, total: u64) -> Result<Said> {
    let mut command = Command::new(benchmark);
    command.args(["--precise".to_owned(), format!("--endpoints={endpoint}")]);
    command.args(arguments(plan, total)?).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.with_context(|| format!("{} cannot be started", benchmark.display()))?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success() && !text.contains("Error distribution"),
        "{} has failed: {text} {}",
        benchmark.display(),
        errors.lines().last().unwrap_or_default()
    );
    said(&text).with_context(|| format!("{} says something else than it did: {text}", benchmark.display()))
}

fn arguments(plan: &Plan, total: u64) -> Result<Vec<String>> {
    let key = request::key(0);
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut arguments = match plan.work {
        Work::GoPut1 | Work::GoPut8 => {
            let mut arguments = own(&["put", "--sequential-keys"]);
            arguments.push(format!("--key-size={}", key.len()));
            arguments.push(format!("--key-space-size={}", plan.keys));
            arguments.push(format!("--val-size={}", plan.value_bytes));
            arguments
        }
        Work::GoGet1 | Work::GoGet8 => own(&["range", std::str::from_utf8(&key)?]),
        Work::GoKeepalive => own(&["lease-keepalive"]),
        _ => {
            let mut arguments = own(&["watch-latency", "--prevkv"]);
            arguments.push(format!("--put-total={total}"));
            arguments.push(format!("--put-rate={WATCHED_PER_SECOND}"));
            arguments.push(format!("--streams={}", STREAMS.min(plan.clients)));
            arguments.push(format!("--watchers-per-stream={}", plan.clients.div_ceil(STREAMS)));
            arguments.push(format!("--key-size={}", key.len()));
            arguments.push(format!("--val-size={}", plan.value_bytes));
            return Ok(arguments);
        }
    };
    arguments.push(format!("--total={total}"));
    arguments.push(format!("--clients={}", plan.clients));
    arguments.push(format!("--conns={}", plan.connections));
    Ok(arguments)
}

/// Its last summary: watches have one of their puts before.
fn said(text: &str) -> Option<Said> {
    let (_, summary) = text.rsplit_once("Summary:")?;
    let number = |line: &str| line.split_whitespace().next()?.parse::<f64>().ok();
    let after = |label: &str| number(summary.lines().find_map(|line| line.trim().strip_prefix(label))?);
    Some(Said {
        per_second: after("Requests/sec:")?,
        // A time of 0 is left out: an event may be there when its put is answered.
        p50_ms: after("50% in ").unwrap_or(0.0) * 1e3,
        p99_ms: after("99% in ")? * 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_read_from_its_last_summary() {
        let text = "Put summary:\n\nSummary:\n  Requests/sec:\t570.0\n  50% in 9 secs.\n  99% in 9 secs.\n\n\
                    Watch events summary:\n\nSummary:\n  Total:\t0.885 secs.\n  Requests/sec:\t56475.25\n\n\
                    Latency distribution:\n  50% in 0.00025 secs.\n  95% in 0.001 secs.\n  99% in 0.0025 secs.\n  \
                    99.9% in 0.0048 secs.\n";
        let expected = Said { per_second: 56475.25, p50_ms: 0.25, p99_ms: 2.5 };
        assert_eq!(said(text), Some(expected));
        let at_once = "Summary:\n  Requests/sec:\t23647.5\n  90% in 0.00007 secs.\n  99% in 0.0004 secs.\n";
        assert_eq!(said(at_once), Some(Said { per_second: 23647.5, p50_ms: 0.0, p99_ms: 0.4 }));
        assert_eq!(said("nothing"), None);
    }

    #[test]
    fn each_kind_has_a_command_with_its_numbers() {
        for (work, expected) in [
            (Work::GoPut1, "--clients=1 --conns=1"),
            (Work::GoPut8, "--clients=8 --conns=1"),
            (Work::GoGet8, "--clients=8 --conns=1"),
            (Work::GoKeepalive, "--clients=10 --conns=10"),
            (Work::GoWatch, "--streams=10 --watchers-per-stream=10"),
        ] {
            let said = arguments(&Plan::of(work), 77).expect("a command").join(" ");
            assert!(said.contains(expected) && said.contains("total=77"), "{work:?}: {said}");
        }
    }
}
