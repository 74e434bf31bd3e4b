//! `kubebrain-bench`: load on etcd endpoints, and the comparison of kubebrain with etcd.
//!
//! ```text
//! kubebrain-bench compare                              etcd and kubebrain in turn, a table in docs/benchmarks.md
//! kubebrain-bench load --endpoint 127.0.0.1:2379 get   one kind of work on one endpoint
//! ```
//!
//! A client here waits for its answer before it asks again. It speaks HTTP/2 frames with requests encoded by hand where
//! that is cheap: on a small machine a heavy client would measure itself.

mod client;
mod compare;
mod machine;
mod report;
mod request;
mod server;
mod stats;
mod usage;
mod work;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use compare::Compare;
use usage::Usage;
use work::{Plan, Work};

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
}

#[derive(Debug, clap::Args)]
struct Load {
    /// HOST:PORT of the server.
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: String,
    /// Its process: CPU time and memory are shown too.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Requests in flight. Without it: what the work is made for.
    #[arg(long)]
    clients: Option<usize>,
    /// How long, after a warm-up of a quarter of it.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(value_enum)]
    work: Work,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // One core is the client's share when it compares; more would not make one connection's frames cheaper.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Compare(flags) => compare::run(flags).await,
            Command::Load(flags) => load(flags).await,
        }
    })
}

async fn load(flags: Load) -> Result<()> {
    let mut plan = Plan::of(flags.work);
    plan.clients = flags.clients.unwrap_or(plan.clients);
    let data = work::prepare(&plan, &flags.endpoint).await.context("the data could not be written")?;
    let usage = flags.server_pid.map_or_else(Usage::of_nobody, Usage::of);
    let measured = Duration::from_secs_f64(flags.seconds);
    let run = work::run(&plan, &data, &flags.endpoint, measured, &usage).await?;
    println!("{}", report::line(&run));
    Ok(())
}
