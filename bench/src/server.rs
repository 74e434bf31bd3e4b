//! Servers to compare: each a process on a core of its own, with an empty directory.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::client::Connection;
use crate::request;
use crate::usage::{self, Usage};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The one that all are measured by.
    Etcd,
    /// One brain of one group: what stands where etcd stood.
    Brain,
    /// A proxy and three groups in one process.
    Standalone,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) etcd: PathBuf,
    pub(crate) kubebrain: PathBuf,
}

/// A running server; dropping it ends it and removes what it stored.
pub(crate) struct Server {
    child: Child,
    pub(crate) endpoint: String,
    directory: TempDir,
}

impl Programs {
    fn command(&self, kind: Kind, directory: &Path, port: u16, peer_port: u16) -> Command {
        let data = directory.join("data").display().to_string();
        let url = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut command = Command::new(match kind {
            Kind::Etcd => &self.etcd,
            Kind::Brain | Kind::Standalone => &self.kubebrain,
        });
        match kind {
            // The quota is the largest that etcd's makers advise; else a run could hit the default of 2 GiB.
            Kind::Etcd => command.args([
                "--log-level=error",
                "--quota-backend-bytes=8589934592",
                &format!("--advertise-client-urls={url}"),
                &format!("--listen-peer-urls={peer}"),
                &format!("--initial-advertise-peer-urls={peer}"),
                &format!("--initial-cluster=default={peer}"),
            ]),
            Kind::Brain => command.args(["brain", "--log-level=warn", &format!("--listen-peer-urls={peer}")]),
            Kind::Standalone => command.args(["standalone", "--log-level=warn"]),
        };
        command.args([format!("--data-dir={data}"), format!("--listen-client-urls={url}")]);
        command
    }

    /// Versions, for the report.
    pub(crate) fn versions(&self) -> Vec<String> {
        let etcd = crate::machine::said(&self.etcd.display().to_string(), &["--version"]);
        let ours = crate::machine::said(&self.kubebrain.display().to_string(), &["--version"]);
        vec![etcd, ours]
    }

    /// Starts a server on `core` with data below `parent`, and waits until it answers.
    pub(crate) async fn start(&self, kind: Kind, parent: &Path, core: Option<usize>) -> Result<Server> {
        let directory = tempfile::Builder::new().prefix("kubebrain-bench-").tempdir_in(parent)?;
        let (port, peer_port) = (free_port()?, free_port()?);
        let plain = self.command(kind, directory.path(), port, peer_port);
        let mut command = match core {
            None => plain,
            Some(core) => {
                let mut pinned = Command::new("taskset");
                pinned.args(["-c", &core.to_string()]).arg(plain.get_program()).args(plain.get_args());
                pinned
            }
        };
        let log = directory.path().join("log");
        command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        let child = command.spawn().with_context(|| format!("{kind:?} cannot be started: {command:?}"))?;
        let mut server = Server { child, endpoint: format!("127.0.0.1:{port}"), directory };
        let patience = Instant::now() + Duration::from_secs(20);
        while let Err(error) = answers(&server.endpoint, "health").await {
            if let Some(status) = server.child.try_wait()? {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{kind:?} ended at its start with {status}: {}", log.trim());
            }
            if Instant::now() > patience {
                return Err(error.context(format!("{kind:?} does not answer")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }
}

impl Server {
    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }

    /// Bytes that its data takes.
    pub(crate) fn disk(&self) -> u64 {
        usage::disk(self.directory.path())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Somebody answers there for a key.
pub(crate) async fn answers(endpoint: &str, key: &str) -> Result<()> {
    let connection = Connection::open(endpoint).await?;
    let range = connection.call(request::RANGE)?;
    connection.unary(&range, &request::get(&key.to_owned().into())).await.map(drop)
}

/// `kubebrain` as it was built together with this program.
pub(crate) fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("kubebrain")
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
