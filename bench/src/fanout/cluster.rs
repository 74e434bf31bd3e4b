//! [`Cluster`]: PD, a store, the brains of one group behind cards of a network, and proxies before them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::relay::Cards;
use crate::process::{Running, command, page};
use crate::server::{self, free_port};

/// What is started.
pub(super) struct Programs {
    pub(super) kubebrain: PathBuf,
    /// The directory of the test kit that has PD's configuration and both programs.
    pub(super) kit: PathBuf,
}

/// See the module. Dropping it ends all of it and removes what it has written.
pub(super) struct Cluster {
    pub(super) proxies: Vec<Proxy>,
    pub(super) brains: Vec<Running>,
    /// PD and the store.
    pub(super) stores: Vec<Running>,
    _cards: Cards,
    _directory: TempDir,
}

/// A proxy.
pub(super) struct Proxy {
    pub(super) process: Running,
    pub(super) address: String,
    /// Memory before it did anything, bytes.
    pub(super) idle: u64,
}

impl Cluster {
    /// A group of so many brains, and a proxy with each of these `--fanout-min-bytes`.
    pub(super) async fn start(
        programs: &Programs,
        parent: &Path,
        brains: usize,
        bytes_per_second: f64,
        fanouts: &[u64],
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("kubebrain-bench-").tempdir_in(parent)?;
        let home = directory.path();
        let pd = format!("127.0.0.1:{}", free_port()?);
        let stores = stores(&programs.kit, home, &pd).await?;
        let socket = |number: usize| home.join(format!("{number}.sock"));
        let cards = Cards::start((0..brains).map(socket).collect(), bytes_per_second)?;
        let mut group = Vec::new();
        for number in 0..brains {
            let name = format!("brain-{number}");
            let mut command = kubebrain(&programs.kubebrain, "brain", free_port()?);
            command.args(["--engine=tikv", "--election=engine"]).arg(format!("--pd={pd}"));
            command.arg(format!("--name={name}"));
            command.arg(format!("--listen-peer-urls=unix://{}", socket(number).display()));
            group.push(Running::start(&name, home, &mut command)?);
        }
        for brain in &mut group {
            brain.until("ready", async |log| log.contains("INFO ready: ")).await?;
        }
        let urls: Vec<_> = cards.addresses.iter().map(|address| format!("\"http://{address}\"")).collect();
        let placement = home.join("placement.yaml");
        let urls = urls.join(", ");
        let table = format!("home: default\ndefault: default\ngroups:\n  default: {{ brains: [{urls}] }}\n");
        std::fs::write(&placement, table)?;
        let mut proxies = Vec::new();
        for (number, fanout) in fanouts.iter().enumerate() {
            proxies.push(Proxy::start(&programs.kubebrain, home, &placement, number, *fanout).await?);
        }
        Ok(Self { proxies, brains: group, stores, _cards: cards, _directory: directory })
    }

    /// User and system time of all processes but this one.
    pub(super) fn cpu(&self) -> Cpu {
        let of = |processes: &[Running]| processes.iter().map(|process| process.usage().cpu()).sum();
        Cpu {
            brains: of(&self.brains),
            proxies: self.proxies.iter().map(|proxy| proxy.process.usage().cpu()).sum(),
            stores: of(&self.stores),
        }
    }

    /// Kills a brain that is not the master.
    pub(super) fn kill_slave(&mut self) -> Result<()> {
        let slave = self.brains.iter_mut().find(|brain| !brain.log().contains("master at"));
        slave.context("every brain has been master")?.kill();
        Ok(())
    }

    /// Whatever has ended has said why.
    pub(super) fn must_run(&mut self) -> Result<()> {
        let proxies = self.proxies.iter_mut().map(|proxy| &mut proxy.process);
        proxies.chain(&mut self.stores).try_for_each(Running::must_run)
    }
}

/// What was used by whom.
#[derive(Clone, Copy)]
pub(super) struct Cpu {
    pub(super) brains: Duration,
    pub(super) proxies: Duration,
    pub(super) stores: Duration,
}

impl Cpu {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            brains: self.brains.saturating_sub(before.brains),
            proxies: self.proxies.saturating_sub(before.proxies),
            stores: self.stores.saturating_sub(before.stores),
        }
    }

    pub(super) fn all(self) -> Duration {
        self.brains + self.proxies + self.stores
    }
}

impl Proxy {
    async fn start(
        program: &Path,
        home: &Path,
        placement: &Path,
        number: usize,
        fanout: u64,
    ) -> Result<Self> {
        let port = free_port()?;
        let mut command = kubebrain(program, "proxy", port);
        command.arg(format!("--placement={}", placement.display()));
        command.arg(format!("--fanout-min-bytes={fanout}"));
        let mut process = Running::start(&format!("proxy-{number}"), home, &mut command)?;
        let address = format!("127.0.0.1:{port}");
        process.until("ready", async |_| server::answers(&address, "health").await.is_ok()).await?;
        let idle = process.usage().memory();
        Ok(Self { process, address, idle })
    }

    /// Parts that it has read from several brains, and those of them that were asked for twice.
    pub(super) async fn parts(&self) -> Result<(u64, u64)> {
        let page = page(&self.address, "/metrics").await?;
        let counted = |name: &str| {
            let begin = format!("kubebrain_proxy_fanout_{name}_total{{");
            let line = page.lines().find(|line| line.starts_with(&begin));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        Ok((counted("parts"), counted("second_tries")))
    }
}

fn kubebrain(program: &Path, role: &str, port: u16) -> Command {
    let mut command = command(program, None);
    command.arg(role).arg(format!("--listen-client-urls=http://127.0.0.1:{port}"));
    command
}

async fn stores(kit: &Path, home: &Path, pd: &str) -> Result<Vec<Running>> {
    let (peer, store, status) = (free_port()?, free_port()?, free_port()?);
    let (pd_program, store_program) = (kit.join("bin/pd-server"), kit.join("bin/tkstore"));
    ensure!(
        pd_program.exists() && store_program.exists(),
        "{} has no PD and no store: {0}/build makes them",
        kit.display()
    );
    let mut command = Command::new(pd_program);
    command.args(["--name=pd", "-L=warn"]).arg("--config").arg(kit.join("pd/pd.toml"));
    command.arg("--data-dir").arg(home.join("pd")).arg("--log-file").arg(home.join("pd-own.log"));
    command.arg(format!("--client-urls=http://{pd}"));
    command.arg(format!("--peer-urls=http://127.0.0.1:{peer}"));
    let mut first = Running::start("pd", home, &mut command)?;
    let says = async |path: &str, words: &str| page(pd, path).await.is_ok_and(|page| page.contains(words));
    first.until("leading", async |_| says("/pd/api/v1/leader", "member_id").await).await?;
    let mut command = Command::new(store_program);
    command.arg(format!("--pd={pd}")).arg(format!("--addr=127.0.0.1:{store}"));
    command.arg(format!("--status-addr=127.0.0.1:{status}")).arg("--data-dir").arg(home.join("store"));
    let mut second = Running::start("store", home, &mut command)?;
    second.until("serving", async |_| says("/pd/api/v1/regions", "\"leader\":{\"id\"").await).await?;
    Ok(vec![first, second])
}
