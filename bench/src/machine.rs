//! Where figures come from.

use std::path::Path;
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The machine and the programs of a comparison.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Of the directory with the data.
    pub(crate) file_system: String,
    /// Of the checkout, with a mark where it has changes.
    pub(crate) commit: String,
    /// Day of the comparison, UTC.
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn here(data: &Path) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        Self {
            processor: model.unwrap_or("unknown").trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory.unwrap_or(0) >> 20,
            kernel: said("uname", &["-sr"]),
            file_system: said("stat", &["-f", "-c", "%T", &data.display().to_string()]),
            commit: said("git", &["describe", "--always", "--dirty", "--abbrev=10"]),
            date: said("date", &["-u", "+%F"]),
        }
    }
}

/// Day, machine and commit, as a table says it before its rows.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory_gib, kernel, commit, date, .. } = self;
        write!(f, "{date}, {processor}, {cores} cores, {memory_gib} GiB, {kernel}, commit {commit}")
    }
}

/// What a program prints, on one line; empty if there is no such program.
pub(crate) fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Gives one core to the servers and the others to this process. The server's number, or `None` where there is only
/// one core.
pub(crate) fn part() -> Result<Option<usize>> {
    let allowed = sched_getaffinity(None).context("which cores may be used is not known")?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (Some(servers), Some(first)) = (cores.next(), cores.next()) else { return Ok(None) };
    let mut ours = CpuSet::new();
    ours.set(first);
    cores.for_each(|core| ours.set(core));
    sched_setaffinity(None, &ours).context("this process cannot be kept off the servers' core")?;
    Ok(Some(servers))
}
