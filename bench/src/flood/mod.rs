//! `flood`: how long updates of node leases take beside a flood of events: in the same group, in another one, under a limit.
//!
//! ```text
//! 16 nodes ──updates, paced──▶ ┐
//!                              ├─▶ a server of each kind in turn, all on one core; the clients have another one
//! 64 writers ──events─────────▶ ┘
//! ```
//!
//! A flood is paced at four fifths of what the server did at full speed in the same round, or has no pace. What an update takes
//! counts from when it was due: one that its client asked late was late for its node too.

mod load;
mod place;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::machine::{self, Machine};
use crate::process::unless_ended;
use crate::server;
use load::{Flood, Ran};
use place::{Place, Server};
use table::Measured;

/// Of what a server did at full speed.
const PACED: f64 = 0.8;
/// Of that, where it is limited.
const LIMITED: f64 = 0.2;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The program; the default is the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = server::beside())]
    kubebrain: PathBuf,
    /// Real etcd, beside it in the same run; the default is what tests/kubernetes/build makes. Left out where it is not there.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kubernetes/bin/etcd"))]
    etcd: PathBuf,
    /// How often each is done, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each time, after a warm-up of a quarter of it.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Where the servers store.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,
}

pub(crate) async fn run(flags: Flags) -> Result<()> {
    ensure!(flags.rounds > 0 && flags.seconds > 0.0, "--rounds and --seconds must be above 0");
    let program = &flags.kubebrain;
    ensure!(program.exists(), "--kubebrain: {} does not exist, build it first", program.display());
    unless_ended(measure(&flags)).await
}

async fn measure(flags: &Flags) -> Result<()> {
    let machine = Machine::here(&flags.data_dir);
    let core = machine::part()?;
    if core.is_none() {
        eprintln!("one core for servers and clients: what is measured is both");
    }
    let time = Duration::from_secs_f64(flags.seconds);
    let directory = tempfile::Builder::new().prefix("kubebrain-bench-").tempdir_in(&flags.data_dir)?;
    let at = place::At { kubebrain: &flags.kubebrain, etcd: &flags.etcd, home: directory.path(), core };
    let same = Server::start(&at, Place::Same, None).await?;
    let full = load::run(&same, Flood::Full, time).await.context("at full speed")?.flood;
    let limit = (full * LIMITED) as u64;
    let mut servers = vec![
        same,
        Server::start(&at, Place::Other, None).await?,
        Server::start(&at, Place::Same, Some(limit)).await?,
    ];
    if flags.etcd.exists() {
        servers.push(Server::start(&at, Place::Etcd, None).await?);
    } else {
        eprintln!("etcd is left out: {} does not exist", flags.etcd.display());
    }
    let mut measured = Vec::new();
    for round in 1..=flags.rounds {
        for server in &mut servers {
            server.must_run()?;
            let mut runs = Vec::new();
            runs.push((Flood::None, load::run(server, Flood::None, time).await?));
            // What is limited is asked at the pace of what is not.
            let full = match server.limit {
                Some(_) => full,
                None => {
                    let ran = load::run(server, Flood::Full, time).await?;
                    let full = ran.flood;
                    runs.push((Flood::Full, ran));
                    full
                }
            };
            let paced = Flood::Paced(full * PACED);
            runs.push((paced, load::run(server, paced, time).await?));
            for (flood, ran) in runs {
                eprintln!("round {round}, {}", table::line(&server.name(), flood, &ran));
                add(&mut measured, server.name(), flood, ran);
            }
        }
    }
    println!("{}", table::table(&machine, &measured));
    Ok(())
}

fn add(measured: &mut Vec<Measured>, server: String, flood: Flood, ran: Ran) {
    let name = flood.name();
    match measured.iter_mut().find(|row| row.server == server && row.flood == name) {
        Some(row) => row.runs.push(ran),
        None => measured.push(Measured { server, flood: name, runs: vec![ran] }),
    }
}
