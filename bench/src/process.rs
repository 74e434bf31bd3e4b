//! [`Running`]: a process of ours with its log; and what it says over HTTP.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};

use crate::usage::Usage;

/// Nothing here takes this long to start, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(10);
/// So much of a log says why a process has ended.
const LOG_LINES: usize = 6;

/// See the module. Dropping it kills the process.
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// With a log of its name in the directory.
    pub(crate) fn start(name: &str, directory: &Path, command: &mut Command) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        command.stdin(Stdio::null()).stdout(File::create(&log)?);
        command.stderr(File::options().append(true).open(&log)?);
        let child = command.spawn().with_context(|| {
            format!("{name} cannot be started: {}", command.get_program().to_string_lossy())
        })?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Looks until it is as it should be; ends where the process ends.
    pub(crate) async fn until(&mut self, what: &str, mut look: impl AsyncFnMut(&str) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !look(&self.log()).await {
            self.must_run()?;
            ensure!(Instant::now() < end, "{}: not {what} within {PATIENCE:?}", self.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub(crate) fn must_run(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n");
        bail!("{} has ended, {status}; it said last:\n{last}", self.name)
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The page at a path of `host:port`.
pub(crate) async fn page(address: &str, path: &str) -> Result<String> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(ANSWER, exchange).await.with_context(|| format!("{address}{path} is silent"))??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.lines().next().is_some_and(|line| line.contains(" 200")) => {
            Ok(body.to_owned())
        }
        _ => bail!("{address}{path}: {}", answer.lines().next().unwrap_or("no answer")),
    }
}

/// A program on a core of its own, if there is one for it, without settings of whoever runs this.
pub(crate) fn command(program: &Path, core: Option<usize>) -> Command {
    let mut command = match core {
        None => Command::new(program),
        Some(core) => {
            let mut pinned = Command::new("taskset");
            pinned.args(["-c", &core.to_string()]).arg(program);
            pinned
        }
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("ETCD_") || name.starts_with("KUBEBRAIN_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Does `work` until it is told to end. Whatever ends it drops what was started, and with it processes and files.
pub(crate) async fn unless_ended(work: impl Future<Output = Result<()>>) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}
