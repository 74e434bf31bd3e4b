//! Disks that fill up or fail under load, and before a server starts: it ends with one sentence, and loses nothing.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tonic::{Code, Status};

use crate::BINARY;
use crate::history::{Counting, History};
use crate::load::{Load, reached};
use crate::power::{assert_cuts_hold, assert_nothing_missed, small};
use crate::seed;
use crate::seen;
use crate::shim::{Fault, Injection, Shim};
use crate::trace::Trace;
use kit::process::{Place, Process, Start};
use kit::{full_tier, in_time, until};

/// What a process must say about a failing disk, besides what the system said.
const WHAT_TO_DO: &str = "nothing acknowledged is lost";

/// Waits for a server that its disk has failed; what it said must be one sentence with these words.
pub(crate) async fn ends_with(server: &mut Process, before: usize, words: &[&str]) {
    let status = server.ended().await;
    let log = server.log();
    let said: Vec<_> = log[before..].lines().filter(|line| line.starts_with("kubebrain: ")).collect();
    let [sentence] = said[..] else { panic!("one sentence is wanted, {status}: {log}") };
    println!("  it ends, {status}: {sentence}");
    assert_eq!(status.code(), Some(1), "{log}");
    for word in words {
        assert!(sentence.contains(word), "{sentence:?} does not say {word:?}");
    }
}

/// Nobody was told anything but "it may have happened, or not".
pub(crate) fn assert_unavailable(errors: &[Status]) {
    for error in errors {
        let unsure = matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown);
        assert!(unsure, "a client was told {error:?}");
    }
}

/// A server under load whose disk fails, and the next one after that.
async fn fails_under_load(
    program: Program,
    counting: Counting,
    injection: Injection,
    words: &[&str],
    seed: u64,
) {
    let place = BINARY.place();
    let shim = Shim::new(&place);
    let history = Arc::new(Mutex::new(History::default()));
    let mut server = small(shim.under(program.at(&place))).run().await;
    let load = Load::start(&server, &history, shim.trace.clone(), seed);
    until("some traffic", async || reached(&server, 30).await.then_some(())).await;
    println!("{injection:?} on {counting:?}, seed {seed}");
    shim.inject(injection);
    let before = server.log().len();
    if injection.fault == Fault::ShortWrite {
        until("short writes", async || (shim.hits() > 20).then_some(())).await;
        let errors = load.stop().await;
        assert!(errors.is_empty(), "a short write is not a failure: {errors:?}");
        server.signal("TERM");
        assert!(server.ended().await.success(), "{}", server.log());
    } else {
        ends_with(&mut server, before, words).await;
        let mut errors = in_time("the clients' ends", load.ended()).await;
        assert!(!errors.is_empty(), "clients hear of it");
        // Before the log could not be written over, a new file could not be made: puts were refused for that.
        let refused = |error: &Status| error.code() == Code::ResourceExhausted;
        errors.retain(|error| injection.fault != Fault::NoSpace || !refused(error));
        assert_unavailable(&errors);
    }
    let injected = shim.hits();
    assert!(injected > 0, "something was injected");
    let again = server.start();
    drop(server); // it has ended
    shim.heal();

    let trace = Trace::read(&shim.trace);
    assert_nothing_missed(&trace, &shim, &place);
    let Ok(history) = Arc::try_unwrap(history) else { panic!("all clients have ended") };
    let history = history.into_inner();
    println!(
        "  {injected} operations failed; {} writes, {} answered",
        history.writes.len(),
        history.answered()
    );
    // Pages that a failed sync did not write are gone from the disk although a read still shows them.
    if counting == Counting::OneGroup {
        assert_cuts_hold(&trace, &history, &place, seed, trace.steps.len() - 1, 3).await;
    }
    let server = again.run().await;
    let seen = seen::of_server(&server).await.expect("the disk is well again");
    history
        .judge(u64::MAX, &seen, counting)
        .unwrap_or_else(|error| panic!("{injection:?}, seed {seed}: {error}"));
}

/// A program, before it has a directory.
#[derive(Clone, Copy)]
enum Program {
    Brain,
    Standalone,
}

impl Program {
    fn at(self, place: &Place) -> Start {
        match self {
            Self::Brain => Start::brain(place, "default"),
            Self::Standalone => Start::standalone(place),
        }
    }
}

async fn in_rounds(fault: Fault, words: &[&str]) {
    let rounds = if full_tier() { 12 } else { 2 };
    for round in 0..rounds {
        let seed = seed().wrapping_add(round);
        let mut random = SmallRng::seed_from_u64(seed ^ fault as u64);
        let (program, counting) = match round % 2 {
            0 => (Program::Brain, Counting::OneGroup),
            _ => (Program::Standalone, Counting::ByKey),
        };
        // A single file that cannot be made for want of room is made again later.
        let may_be_single = !matches!(fault, Fault::ShortWrite | Fault::NoSpace);
        let times = if may_be_single && random.random_ratio(1, 2) { 1 } else { 0 };
        let injection = Injection { fault, after: random.random_range(0..60), times };
        fails_under_load(program, counting, injection, words, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_over_ends_the_process_and_loses_nothing() {
    in_rounds(Fault::NoSpace, &["o space left", WHAT_TO_DO]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_ends_the_process_and_loses_nothing() {
    in_rounds(Fault::WriteFails, &["nput/output error", WHAT_TO_DO]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_ends_the_process_and_loses_nothing() {
    in_rounds(Fault::SyncFails, &["nput/output error", WHAT_TO_DO]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_writes_are_carried_on() {
    in_rounds(Fault::ShortWrite, &[]).await;
}

/// At each of its first operations, for a store that is made and for one that is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_does_not_start_on_a_disk_that_is_full_or_fails_and_damages_nothing() {
    let seed = seed();
    let place = BINARY.place();
    let shim = Shim::new(&place);
    let start = small(shim.under(Start::brain(&place, "default")));
    let history = Arc::new(Mutex::new(History::default()));
    let cases = [
        (Fault::NoSpace, "o space left"),
        (Fault::WriteFails, "nput/output error"),
        (Fault::SyncFails, "nput/output error"),
    ];
    let mut starts: Vec<u64> = vec![0, 1, 3, 8];
    for there in [false, true] {
        for (fault, word) in cases {
            for after in &starts {
                shim.inject(Injection { fault, after: *after, times: 0 });
                let failure = start.clone().fails().await;
                println!("{fault:?} after {after}, store there: {there}: {}", failure.message.trim());
                assert_eq!(failure.code, Some(1), "{failure:?}");
                let said = failure.message.lines().filter(|line| line.starts_with("kubebrain: ")).count();
                assert!(said == 1 && failure.message.contains(word), "{fault:?} after {after}: {failure:?}");
                let named = shim.directory.to_str().expect("UTF-8");
                assert!(failure.message.contains(named), "which directory? {failure:?}");
            }
        }
        shim.heal();
        let mut server = start.clone().run().await;
        let seen = seen::of_server(&server).await.expect("a well disk");
        let verdict = history.lock().judge(u64::MAX, &seen, Counting::OneGroup);
        verdict.unwrap_or_else(|error| panic!("store there: {there}: {error}"));
        let load = Load::start(&server, &history, shim.trace.clone(), seed ^ u64::from(there));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let errors = load.stop().await;
        assert!(errors.is_empty(), "{errors:?}");
        server.signal("TERM");
        assert!(server.ended().await.success());
        starts = vec![0]; // a store that is there is opened with few operations
    }
}
