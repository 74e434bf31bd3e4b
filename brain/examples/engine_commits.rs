//! How fast the embedded engine commits, and how long it takes to open what a killed process has left.
//!
//! ```sh
//! cargo run --release -p kubebrain-brain --example engine_commits -- /var/tmp/engine
//! ```
//! For 1, 8 and 64 tasks that commit one row of 1 KiB at a time: commits a second, and the time of one. Then 100 MiB
//! are left in the log by a child that is killed, and the store is opened.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kubebrain_brain::engine::embedded::{Config, Embedded};
use kubebrain_brain::engine::{Batch, Engine};
use tokio::task::JoinSet;
use tokio::time::Instant;

const SECONDS: u64 = 5;
const ROW_BYTES: usize = 1 << 10;
const LOG_BYTES: usize = 100 << 20;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("the first argument is a directory"));
    if arguments.next().is_some() {
        return leave(&directory).await;
    }
    for tasks in [1, 8, 64] {
        let _none = std::fs::remove_dir_all(&directory);
        measure(&directory, tasks).await;
    }
    let _none = std::fs::remove_dir_all(&directory);
    let program = std::env::current_exe().expect("a path to this program");
    let child = Command::new(program).arg(&directory).arg("leave").stdout(Stdio::null()).status();
    println!("the child ended with {}", child.expect("it runs"));
    for _ in 0..3 {
        let start = Instant::now();
        let engine = open(&directory);
        println!("opened in {:?}, {} MiB on disk, {}", start.elapsed(), engine.size() >> 20, memory());
    }
    std::fs::remove_dir_all(&directory).expect("removes");
}

fn open(directory: &Path) -> Embedded {
    Embedded::open(&Config::new(directory)).expect("opens")
}

/// A row that does not compress, nor repeat.
fn row(number: u64) -> Batch {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut value = Vec::with_capacity(ROW_BYTES);
    while value.len() < ROW_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    Batch::new().put(format!("/registry/pods/default/{:016x}", state), value).clone()
}

async fn measure(directory: &Path, tasks: u64) {
    let engine = Arc::new(open(directory));
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let (engine, next) = (Arc::clone(&engine), Arc::clone(&next));
        running.spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < Duration::from_secs(SECONDS) {
                let batch = row(next.fetch_add(1, Ordering::Relaxed));
                let begin = Instant::now();
                engine.commit(batch).await.expect("no condition");
                times.push(begin.elapsed());
            }
            times
        });
    }
    let mut times: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{tasks:>3} tasks: {:>6} commits/s, p50 {:?}, p99 {:?}, max {:?}, {} MiB on disk, {}",
        times.len() as u64 / SECONDS,
        at(0.5),
        at(0.99),
        at(1.0),
        engine.size() >> 20,
        memory(),
    );
}

/// Fills the log and dies.
async fn leave(directory: &Path) {
    let engine = open(directory);
    let mut batch = Batch::new();
    for number in 0..(LOG_BYTES / ROW_BYTES) as u64 {
        batch.writes.extend(row(number).writes);
        if batch.writes.len() == 64 {
            engine.commit(std::mem::take(&mut batch)).await.expect("no condition");
        }
    }
    std::process::abort();
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("no figure");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
