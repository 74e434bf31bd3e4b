//! `kubebrain-bench`: load on etcd endpoints, and the comparison of kubebrain with etcd.
//!
//! ```text
//! kubebrain-bench compare                              etcd and kubebrain in turn, a table in docs/benchmarks.md
//! kubebrain-bench fanout                               large lists from one brain of a group and from several
//! kubebrain-bench flood                                updates of node leases beside a flood of events
//! kubebrain-bench load --endpoint 127.0.0.1:2379 get   one kind of work on one endpoint
//! ```
//!
//! A client here waits for its answer before it asks again. It speaks HTTP/2 frames with requests encoded by hand where
//! that is cheap: on a small machine a heavy client would measure itself.

mod client;
mod compare;
mod fanout;
mod flood;
mod machine;
mod process;
mod report;
mod request;
mod server;
mod stats;
mod usage;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use compare::Compare;
use fanout::Fanout;
use usage::Usage;
use work::{Plan, Work};

const BENCHMARK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kubernetes/bin/benchmark");

#[derive(Debug, Parser)]
#[command(version, about = "Load on etcd endpoints, and the comparison of kubebrain with etcd")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The same work on etcd and on kubebrain, in turn; server and client have a core each.
    Compare(Compare),
    /// One kind of work on one endpoint.
    Load(Load),
    /// A large list through a proxy: from one brain, and from several at once.
    Fanout(Fanout),
    /// Updates of node leases beside a flood of events: in the same group, in another one, under a limit.
    Flood(flood::Flags),
}

#[derive(Debug, clap::Args)]
struct Load {
    /// HOST:PORT of the server; of several each gets its share of the connections.
    #[arg(long, value_name = "HOST:PORT,...", default_value = "127.0.0.1:2379")]
    endpoint: String,
    /// Its process: CPU time and memory are shown too.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Other processes that take part: the CPU time of each is shown.
    #[arg(long, value_name = "NAME=PID,...", value_delimiter = ',', value_parser = usage::named)]
    also: Vec<(String, u32)>,
    /// Writes no keys before: those of an earlier run are there.
    #[arg(long)]
    keep: bool,
    /// Requests in flight. Without it: what the work is made for.
    #[arg(long)]
    clients: Option<usize>,
    /// How long, after a warm-up of a quarter of it.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// etcd's `benchmark`, for what is done by Go's client; the default is what tests/kubernetes/build makes.
    #[arg(long, value_name = "FILE", default_value = BENCHMARK)]
    benchmark: PathBuf,
    #[arg(value_enum)]
    work: Work,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kubebrain-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    // One core is the client's share when it compares; more would not make one connection's frames cheaper.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Compare(flags) => compare::run(flags).await,
            Command::Load(flags) => load(flags).await,
            Command::Fanout(flags) => fanout::run(flags).await,
            Command::Flood(flags) => flood::run(flags).await,
        }
    })
}

async fn load(flags: Load) -> Result<()> {
    let mut plan = Plan::of(flags.work);
    plan.clients = flags.clients.unwrap_or(plan.clients);
    let data = match flags.keep {
        true => work::kept(&plan),
        false => work::prepare(&plan, &flags.endpoint).await.context("the data could not be written")?,
    };
    let usage = flags.server_pid.map_or_else(Usage::of_nobody, Usage::of);
    let measured = Duration::from_secs_f64(flags.seconds);
    let others = async {
        let used = || flags.also.iter().map(|(_, pid)| Usage::of(*pid).cpu()).collect::<Vec<_>>();
        tokio::time::sleep(measured / 4).await;
        let before = used();
        tokio::time::sleep(measured).await;
        used().into_iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect::<Vec<_>>()
    };
    let (run, others) = futures_util::join!(
        work::run(&plan, &data, &flags.endpoint, measured, &usage, &flags.benchmark),
        others
    );
    let run = run?;
    let done = run.per_second * flags.seconds;
    let others = flags
        .also
        .iter()
        .zip(others)
        .map(|((name, _), cpu)| format!("  {name} {:.1} us", cpu.as_secs_f64() * 1e6 / done));
    println!("{}{}", report::line(&run), others.collect::<String>());
    Ok(())
}
