//! The embedded engine loses its process: killed at any moment, or when its disk takes no more.
//!
//! A test starts this same program again as a child, which commits numbered batches in several lanes at once and
//! prints each number when its commit was answered. What the child said must be in the store that it leaves behind,
//! and every batch there must be whole.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use kubebrain_brain::engine::embedded::{Config, Embedded};
use kubebrain_brain::engine::{Batch, CommitError, Engine, OpenError, Refusal, Span};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Tells a child its directory, and so that it is one.
const DIRECTORY: &str = "KUBEBRAIN_TEST_CRASH_DIRECTORY";
/// The child's only test.
const CHILD: &str = "a_child_commits_and_says_so";
/// Tasks of a child that commit at the same time.
const LANES: usize = 4;
/// Rows of a batch.
const ROWS: usize = 5;

/// The number of the last batch that was answered, by lane.
type Answered = BTreeMap<usize, usize>;

/// A number of a lane, and its batch's rows: some small, some large enough to be kept apart from their keys.
fn rows(lane: usize, number: usize) -> impl Iterator<Item = (String, String)> {
    (0..ROWS).map(move |row| {
        let value = format!("{lane}.{number}.{row};").repeat(if row == 0 { 300 } else { 3 });
        (format!("{lane}/{number:06}/{row}"), value)
    })
}

fn config(directory: &Path) -> Config {
    // Small, so that tables are written and merged while the process dies.
    Config { memtable_bytes: 256 << 10, ..Config::new(directory) }
}

/// The numbers in the store, by lane.
///
/// # Panics
/// If a batch is there in part, or one is missing below another.
async fn numbers(engine: &Embedded) -> Answered {
    let snapshot = engine.snapshot().await.expect("snapshot");
    let mut last = Answered::new();
    for lane in 0..LANES {
        let mut span = Span::new(format!("{lane}/"), format!("{lane}0"));
        let mut found = Vec::new();
        loop {
            let page = snapshot.scan(span.clone(), 1_000).await.expect("scan");
            found.extend(page.rows);
            let Some(next) = page.next else { break };
            span.start = next;
        }
        let expected = (1..).flat_map(|number| rows(lane, number));
        for (row, (key, value)) in found.iter().zip(expected) {
            assert_eq!((&row.0[..], &row.1[..]), (key.as_bytes(), value.as_bytes()), "a gap");
        }
        assert_eq!(found.len() % ROWS, 0, "the last batch of lane {lane} is there in part");
        last.insert(lane, found.len() / ROWS);
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_commits_and_says_so() {
    let Ok(directory) = env::var(DIRECTORY) else { return };
    let engine = Arc::new(Embedded::open(&config(directory.as_ref())).expect("the child opens the store"));
    let mut lanes = JoinSet::new();
    for (lane, last) in numbers(&engine).await {
        let engine = Arc::clone(&engine);
        lanes.spawn(async move {
            for number in last + 1.. {
                let mut batch = Batch::new();
                for (key, value) in rows(lane, number) {
                    batch.absent(key.clone()).put(key, value);
                }
                match engine.commit(batch).await {
                    Ok(()) => println!("\nanswered {lane} {number}"),
                    Err(error) => return error,
                }
            }
            unreachable!("numbers do not end");
        });
    }
    // Only a failed disk brings a lane here. After that nothing is ever committed, and the owner is told.
    let mut outcomes = lanes.join_all().await;
    let stopped = |error: &CommitError| matches!(error, CommitError::Refused(Refusal::Stopped(_)));
    outcomes.push(engine.commit(Batch::new().put("after", "1").clone()).await.expect_err("stopped"));
    assert!(stopped(&outcomes[LANES]), "{outcomes:?}");
    assert!(
        outcomes.iter().all(|error| stopped(error) || matches!(error, CommitError::Unknown(_))),
        "{outcomes:?}"
    );
    assert!(outcomes.iter().any(|error| matches!(error, CommitError::Unknown(_))), "{outcomes:?}");
    println!("\npoisoned {}", engine.poisoned().await);
}

/// This program as a child; `limit` is put before it, if any.
fn child(directory: &Path, limit: Option<&str>) -> Child {
    let program = env::current_exe().expect("a path to this program");
    let mut command = match limit {
        None => Command::new(program),
        Some(limit) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]).arg(program);
            shell
        }
    };
    command.args(["--exact", CHILD, "--nocapture"]).env(DIRECTORY, directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// Reads what the child says to its end; sends a sign at its first answer.
fn listen(
    child: &mut Child,
    first: mpsc::SyncSender<()>,
) -> std::thread::JoinHandle<(Answered, Option<String>)> {
    let output = child.stdout.take().expect("piped");
    std::thread::spawn(move || {
        let mut answered = Answered::new();
        let mut poison = None;
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut words = line.split(' ');
            match words.next() {
                Some("answered") => {
                    let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
                    answered.insert(number(), number());
                    let _heard = first.try_send(());
                }
                Some("poisoned") => poison = Some(line),
                _ => {}
            }
        }
        (answered, poison)
    })
}

/// The store as the child left it has all that was answered. Gives its numbers.
async fn check(directory: &Path, answered: &Answered) -> Answered {
    let engine = match Embedded::open(&config(directory)) {
        Err(OpenError::InUse { .. }) => panic!("a dead process holds the lock"),
        opened => opened.expect("the parent opens the store"),
    };
    let stored = numbers(&engine).await;
    for (lane, number) in answered {
        assert!(stored[lane] >= *number, "lane {lane}: {number} was answered, {} is the last", stored[lane]);
    }
    stored
}

#[tokio::test]
async fn a_killed_process_leaves_what_it_answered_and_no_batch_in_part() {
    const ROUNDS: usize = 12;
    let directory = TempDir::new().expect("a temporary directory");
    let seed = rand::random();
    let mut random = SmallRng::seed_from_u64(seed);
    eprintln!("seed {seed}"); // of the moments of death; what the child does then is the system's choice
    let mut answers = 0;
    for round in 0..ROUNDS {
        let mut process = child(directory.path(), None);
        let (first, answered) = mpsc::sync_channel(1);
        let output = listen(&mut process, first);
        // Every third dies while it makes or opens the store, the others while they commit.
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_micros(random.random_range(0..120_000)));
        } else {
            answered.recv_timeout(Duration::from_secs(10)).expect("the child commits");
            std::thread::sleep(Duration::from_micros(random.random_range(0..300_000)));
        }
        process.kill().expect("kills");
        process.wait().expect("ends");
        let (answered, _) = output.join().expect("reads");
        answers += answered.len();
        let stored = check(directory.path(), &answered).await;
        eprintln!("round {round}: answered {answered:?}, stored {stored:?}");
    }
    assert!(answers >= ROUNDS, "children hardly committed: the test tries nothing");
}

#[tokio::test]
async fn a_disk_that_takes_no_more_ends_commits_and_loses_nothing() {
    let directory = TempDir::new().expect("a temporary directory");
    check(directory.path(), &Answered::new()).await; // made before the limit, which a new journal does not fit
    // No file above 100 blocks of 512 or 1024 bytes, and an error instead of a signal: as when the disk is full.
    let mut process = child(directory.path(), Some("trap '' XFSZ; ulimit -f 100"));
    let (first, _answered) = mpsc::sync_channel(1);
    let output = listen(&mut process, first);
    let mut errors = String::new();
    process.stderr.take().expect("piped").read_to_string(&mut errors).expect("reads");
    assert!(process.wait().expect("ends").success(), "{errors}");
    let (answered, poison) = output.join().expect("reads");
    assert!(poison.expect("the owner is told").contains("a write to the disk failed"));
    assert!(!answered.is_empty(), "it failed before it began");
    check(directory.path(), &answered).await;
}
