//! `fanout`: what a large list takes through a proxy that reads it from one brain of a group, and from several at once.
//!
//! ```text
//! client ──▶ proxy ──▶ card ──▶ brain ─┐
//!                 ├──▶ card ──▶ brain ─┼─▶ store, PD      a card: so many MB/s, as a network's would
//!                 └──▶ card ──▶ brain ─┘
//! ```
//!
//! Everything is on this machine, so that what the lists cost together is seen; the cards make a brain's rate what it would be on
//! a machine of its own.

mod cluster;
mod relay;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::time::Instant;

use crate::client::Connection;
use crate::machine::Machine;
use crate::process::unless_ended;
use crate::request;
use crate::server;
use crate::usage::Usage;
use crate::work::{self, Plan, Work};
use cluster::{Cluster, Programs};
use table::{Case, Listed, Measured};

const KIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kits/tikv");
const BRAINS: usize = 3;
/// Lists that are not counted: each brain has read the values of its parts by then.
const WARM_UPS: usize = 3;
/// The proxy that asks one brain, and the one that asks all.
const OFF: usize = 0;
const ON: usize = 1;

#[derive(Debug, Args)]
pub(crate) struct Fanout {
    /// The program; the default is the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = server::beside())]
    kubebrain: PathBuf,
    /// PD and the store; the default is what tests/kits/tikv/build makes.
    #[arg(long, value_name = "DIR", default_value = KIT)]
    kit: PathBuf,
    /// Keys in the list.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Of each key.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// What a brain's card lets through, each way.
    #[arg(long, default_value_t = 50.0)]
    megabytes_per_second: f64,
    /// The proxy's --fanout-min-bytes where it asks several brains.
    #[arg(long, default_value_t = 1 << 20)]
    fanout_min_bytes: u64,
    /// How often each kind of list is read in each way, in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Lists in each of them.
    #[arg(long, default_value_t = 3)]
    lists: usize,
    /// Where everything is stored.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,
}

pub(crate) async fn run(flags: Fanout) -> Result<()> {
    ensure!(flags.rounds > 0 && flags.lists > 0, "--rounds and --lists must be above 0");
    ensure!(flags.keys > 0 && flags.value_bytes > 0, "--keys and --value-bytes must be above 0");
    ensure!(
        flags.megabytes_per_second.is_finite() && flags.megabytes_per_second > 0.0,
        "--megabytes-per-second must be above 0"
    );
    let program = &flags.kubebrain;
    ensure!(program.exists(), "--kubebrain: {} does not exist, build it first", program.display());
    unless_ended(measure(&flags)).await
}

async fn measure(flags: &Fanout) -> Result<()> {
    let programs = Programs { kubebrain: flags.kubebrain.clone(), kit: flags.kit.clone() };
    let rate = flags.megabytes_per_second * 1e6;
    let fanouts = [0, flags.fanout_min_bytes];
    let mut cluster = Cluster::start(&programs, &flags.data_dir, BRAINS, rate, &fanouts).await?;
    let plan = Plan { keys: flags.keys, value_bytes: flags.value_bytes, ..Plan::of(Work::ListStream) };
    let began = Instant::now();
    work::prepare(&plan, &cluster.proxies[ON].address).await.context("the keys could not be written")?;
    eprintln!("{} keys of {} bytes written in {:.1?}", plan.keys, plan.value_bytes, began.elapsed());
    let mut measured = Vec::new();
    let all = [Case::of(1), Case::of(BRAINS)];
    rounds(flags, &mut cluster, &all, &mut measured).await?;
    cluster.kill_slave()?;
    rounds(flags, &mut cluster, &[Case::of(BRAINS - 1)], &mut measured).await?;
    println!("{}", table::table(&Machine::here(&flags.data_dir), flags.megabytes_per_second, &measured));
    Ok(())
}

/// Lists in each way, in turn.
async fn rounds(
    flags: &Fanout,
    cluster: &mut Cluster,
    cases: &[Case],
    measured: &mut Vec<Measured>,
) -> Result<()> {
    let cases: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|streams| cases.iter().map(move |case| Case { streams, ..*case }))
        .collect();
    for case in &cases {
        lists(cluster, *case, flags.keys, WARM_UPS).await?;
    }
    let begin = measured.len();
    measured.extend(cases.iter().map(|case| Measured { case: *case, runs: Vec::new() }));
    for round in 1..=flags.rounds {
        for measured in &mut measured[begin..] {
            let run = lists(cluster, measured.case, flags.keys, flags.lists).await?;
            eprintln!("round {round}, {}", table::line(measured.case, &run));
            measured.runs.push(run);
        }
    }
    Ok(())
}

/// So many lists, one after the other.
async fn lists(cluster: &mut Cluster, case: Case, keys: u64, lists: usize) -> Result<Listed> {
    cluster.must_run()?;
    let proxy = &cluster.proxies[if case.brains == 1 { OFF } else { ON }];
    let connection = Connection::open(&proxy.address).await?;
    let (parts, again) = proxy.parts().await?;
    proxy.process.usage().forget_peak();
    let (own, cpu, began) = (Usage::of_this_process(), cluster.cpu(), Instant::now());
    let own_before = own.cpu();
    let mut bytes = 0;
    for _ in 0..lists {
        bytes += list(&connection, case.streams, keys).await.context(case)?;
    }
    let (time, cpu, own) = (began.elapsed(), cluster.cpu().since(cpu), own.cpu().saturating_sub(own_before));
    let (parts_after, again_after) = proxy.parts().await?;
    let run = Listed {
        lists,
        bytes,
        time,
        cpu,
        own,
        memory: proxy.process.usage().peak_memory().saturating_sub(proxy.idle),
        parts: parts_after - parts,
        second_tries: again_after - again,
    };
    let shared = case.brains > 1;
    ensure!(shared == (run.parts > 0) || !shared, "{case}: it was read from one brain");
    Ok(run)
}

/// Bytes of its messages.
async fn list(connection: &Connection, streams: bool, keys: u64) -> Result<usize> {
    let call = connection.call(if streams { request::RANGE_STREAM } else { request::RANGE })?;
    let mut answer = connection.begin(&call, &request::list(None, 0, 0), false).await?;
    let (mut bytes, mut found) = (0, 0);
    while let Some(message) = answer.next().await? {
        bytes += message.len();
        let rows = if streams { request::chunk(&message)? } else { message };
        found += request::listed(&rows)?.keys;
    }
    ensure!(found == keys, "a list of {found} keys instead of {keys}");
    Ok(bytes)
}
