//! `compare`: the same work on each server in turn, round after round, so that what disturbs one disturbs all.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum as _};

use crate::machine::{self, Machine};
use crate::report::{self, Comparison, Row};
use crate::server::{self, Kind, Programs};
use crate::work::{self, Plan, Work};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Real etcd; the default is what tests/kubernetes/build makes.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kubernetes/bin/etcd"))]
    etcd: PathBuf,
    /// The program to compare with it; the default is the one beside this program: of `cargo build --profile dist`, where
    /// this one was run so too.
    #[arg(long, value_name = "FILE", default_value_os_t = server::beside())]
    kubebrain: PathBuf,
    /// etcd's `benchmark`, for the rows by Go's client; the default is what tests/kubernetes/build makes.
    #[arg(long, value_name = "FILE", default_value = crate::BENCHMARK)]
    benchmark: PathBuf,
    /// Kinds of work; without it all.
    #[arg(long, value_delimiter = ',', value_enum)]
    work: Vec<Work>,
    /// Which servers.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "etcd,brain,standalone")]
    servers: Vec<Kind>,
    /// How often each server does each kind of work.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each time, after a warm-up of a quarter of it.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Where the servers store: the disk that is measured.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,
    /// Fewer clients and keys: shows that it runs, not how fast.
    #[arg(long)]
    small: bool,
    /// All figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Puts the table between the two marks of this page.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

pub(crate) async fn run(flags: Compare) -> Result<()> {
    ensure!(flags.rounds > 0 && flags.seconds > 0.0, "--rounds and --seconds must be above 0");
    let programs = Programs { etcd: flags.etcd.clone(), kubebrain: flags.kubebrain.clone() };
    for (flag, program) in [("etcd", &programs.etcd), ("kubebrain", &programs.kubebrain)] {
        ensure!(program.exists(), "--{flag}: {} does not exist, build it first", program.display());
    }
    std::env::set_current_dir(REPOSITORY).context("the repository is gone")?;
    let machine = Machine::here(&flags.data_dir);
    let core = machine::part()?;
    if core.is_none() {
        eprintln!("one core for servers and clients: what is measured is both");
    }
    let all = flags.work.is_empty();
    let wanted = if all { Work::value_variants().to_vec() } else { flags.work.clone() };
    let has_go = flags.benchmark.exists();
    if !has_go && wanted.iter().any(|work| work.is_by_go()) {
        eprintln!("the rows by Go's client are left out: {} does not exist", flags.benchmark.display());
    }
    let wanted: Vec<_> = wanted.into_iter().filter(|work| has_go || !work.is_by_go()).collect();
    let mut comparison = Comparison::new(machine, programs.versions(), flags.rounds, flags.seconds);
    for work in wanted {
        let plan = Plan::of(work);
        let plan = if flags.small { plan.small() } else { plan };
        comparison.rows.push(row(&flags, &programs, core, plan).await?);
        println!("{}", comparison.rows.last().map(report::table_row).unwrap_or_default());
        // Each kind of work may take a while: what there is is kept.
        save(&flags, &comparison)?;
    }
    Ok(())
}

async fn row(flags: &Compare, programs: &Programs, core: Option<usize>, plan: Plan) -> Result<Row> {
    let measured = Duration::from_secs_f64(flags.seconds);
    let mut servers = Vec::new();
    for kind in &flags.servers {
        let server = programs.start(*kind, &flags.data_dir, core).await?;
        let data = work::prepare(&plan, &server.endpoint).await;
        servers.push((*kind, data.with_context(|| format!("{kind:?}"))?, server, Vec::new()));
    }
    for round in 0..flags.rounds {
        let first = round % servers.len();
        servers.rotate_left(first);
        for (kind, data, server, runs) in &mut servers {
            let run =
                work::run(&plan, data, &server.endpoint, measured, &server.usage(), &flags.benchmark).await;
            let run = run.with_context(|| format!("{:?} on {kind:?}", plan.work))?;
            eprintln!("{:?} round {} {kind:?}: {}", plan.work, round + 1, report::line(&run));
            runs.push(run);
        }
        servers.rotate_right(first);
    }
    let of = |(kind, _, server, runs): (_, _, crate::server::Server, _)| report::Measured {
        server: kind,
        disk: server.disk(),
        runs,
    };
    Ok(Row { plan, measured: servers.into_iter().map(of).collect() })
}

fn save(flags: &Compare, comparison: &Comparison) -> Result<()> {
    if let Some(file) = &flags.json {
        std::fs::write(file, serde_json::to_vec_pretty(comparison)?)?;
    }
    if let Some(page) = &flags.page {
        let text = std::fs::read_to_string(page).with_context(|| format!("{}", page.display()))?;
        std::fs::write(page, report::into_page(&text, comparison)?)?;
    }
    Ok(())
}
