//! [`Usage`]: what a process has used, from /proc.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// A process, or nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage(Option<u32>);

impl Usage {
    pub(crate) const fn of(pid: u32) -> Self {
        Self(Some(pid))
    }

    pub(crate) const fn of_nobody() -> Self {
        Self(None)
    }

    pub(crate) fn of_this_process() -> Self {
        Self::of(std::process::id())
    }

    /// User and system time; zero for nobody. What the kernel does for its sockets outside of its own calls (soft
    /// interrupts) is not in it.
    pub(crate) fn cpu(self) -> Duration {
        let stat = self.0.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        let stat = stat.unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        // 100 ticks a second on every Linux that Rust supports; fields 14 and 15, counted from 1, after the name.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    /// User and system time of processes that this one has started and that have ended.
    pub(crate) fn children_of_this_process() -> Duration {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Duration::from_millis((ticks(13) + ticks(14)) * 10)
    }

    /// The most memory it ever had resident, bytes; since [`Usage::forget_peak`].
    pub(crate) fn peak_memory(self) -> u64 {
        self.memory_of("VmHWM:")
    }

    /// The memory it has resident, bytes.
    pub(crate) fn memory(self) -> u64 {
        self.memory_of("VmRSS:")
    }

    /// Its peak is what it has now.
    pub(crate) fn forget_peak(self) {
        if let Some(pid) = self.0 {
            // Without it the peak is older, and not lower.
            drop(fs::write(format!("/proc/{pid}/clear_refs"), "5"));
        }
    }

    fn memory_of(self, field: &str) -> u64 {
        let status = self.0.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

/// A process with a name, as `NAME=PID`.
pub(crate) fn named(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("NAME=PID is wanted")?;
    let pid = pid.parse().map_err(|error| format!("{pid}: {error}"))?;
    Ok((name.to_owned(), pid))
}

/// Bytes that a directory takes on its disk.
pub(crate) fn disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => disk(&entry.path()),
            Ok(data) => data.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
