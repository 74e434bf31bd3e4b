//! A seeded simulation: groups, proxies, clients and trouble in one process on one paused clock, and judges over what
//! clients were told.
//!
//! ```text
//! cargo test --test simulation                          every test, with as many seeds as fit into CI
//! KUBEBRAIN_SEED=7 cargo test --test simulation clean   one seed
//! KUBEBRAIN_SEEDS=5000 cargo test --test simulation clean
//! ```
//!
//! A seed fixes what clients ask, what fails and when. Some of the order of tasks is the process's own (hash maps,
//! `select!`): a seed that failed may need a few tries, so a single one is tried ten times.

mod client;
mod directed;
mod engine;
mod fanout;
mod gate;
mod masters;
mod placement;
mod store;
mod watching;
mod world;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use kubebrain_proxy::config::Seams;
use tokio::sync::watch;

use crate::client::Client;
use crate::world::{Plan, Planted, World};
use check::{Run, Violation};
use kit::judge::{check, model, record};

/// Lines of a run that are printed around what went wrong.
const LINES: usize = 30;

/// On the paused clock: far above all timeouts together.
const END_MAX: Duration = Duration::from_secs(120);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// One seed, from the first process to the verdict.
fn run(seed: u64, planted: Planted) -> (Run, Vec<Violation>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let run = runtime.block_on(simulate(Plan::new(seed, planted)));
    let violations = check::check(&run);
    (run, violations)
}

async fn simulate(plan: Plan) -> Run {
    let (troubled, proxies) = (plan.troubled, plan.proxies);
    let world = World::new(plan).await;
    let time = Duration::from_secs(4);
    let (settled, hears) = watch::channel(false);
    let mut watching = Vec::new();
    let mut acting = Vec::new();
    for proxy in 0..proxies {
        watching.push(tokio::spawn(watching::watch_store(
            Arc::clone(&world),
            10 + proxy,
            proxy,
            hears.clone(),
        )));
        acting.push(tokio::spawn(client::use_store(Arc::clone(&world), proxy, proxy, time)));
        acting.push(tokio::spawn(client::compact(Arc::clone(&world), 20 + proxy, proxy, time)));
    }
    acting.push(tokio::spawn(client::use_store(Arc::clone(&world), 5, 0, time)));
    if troubled {
        acting.push(tokio::spawn(client::trouble(Arc::clone(&world), time)));
    }
    for task in acting {
        finish(&world, "an actor", task).await;
    }
    world.settle().await;
    let mut last = Client::new(Arc::clone(&world), 30, 0);
    last.touch_all().await;
    settled.send_replace(true);
    for task in watching {
        finish(&world, "a watcher", task).await;
    }
    for proxy in 0..proxies {
        Client::new(Arc::clone(&world), 31 + proxy, proxy).read_all().await;
    }
    world.finish().await
}

/// Everybody gets to an end, whatever happens.
async fn finish(world: &World, who: &str, task: tokio::task::JoinHandle<()>) {
    match tokio::time::timeout(END_MAX, task).await {
        Ok(ended) => ended.expect("no panic"),
        Err(_) => world.journal.wrong(format!("{who} does not get to its end")),
    }
}

/// What to look at after a failure.
fn story(seed: u64, run: &Run, violations: &[Violation]) -> String {
    let mut story = format!("KUBEBRAIN_SEED={seed}: {} violations\n", violations.len());
    for violation in violations.iter().take(3) {
        let _ = writeln!(story, "* at {}: {}", violation.tick, violation.what);
    }
    let Some(first) = violations.first() else { return story };
    let until = if first.tick == 0 { u64::MAX } else { first.tick.saturating_add(3) };
    let before: Vec<_> = run.records.notes.iter().filter(|(tick, _)| *tick <= until).collect();
    for (tick, line) in before.iter().skip(before.len().saturating_sub(LINES)) {
        let _ = writeln!(story, "{tick:>6} {line}");
    }
    story
}

#[test]
fn clean_runs_break_no_promise() {
    let (first, count) = match (number("KUBEBRAIN_SEED"), number("KUBEBRAIN_SEEDS")) {
        (Some(seed), None) => (seed, 1),
        (seed, count) => (seed.unwrap_or(1), count.unwrap_or(40)),
    };
    let tries = if count == 1 { 10 } else { 1 };
    let mut failed = Vec::new();
    for seed in first..first + count {
        for _ in 0..tries {
            if number("KUBEBRAIN_VERBOSE").is_some() {
                eprintln!("seed {seed}");
            }
            let (run, violations) = run(seed, Planted::default());
            if !violations.is_empty() {
                eprintln!("{}", story(seed, &run, &violations));
                failed.push(seed);
                break;
            }
        }
        if failed.len() >= 5 {
            break;
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} broke promises");
}

/// A fault that is planted is found, and by the judge whose matter it is.
fn finds(name: &str, planted: Planted, judgements: &[&str]) {
    let first = number("KUBEBRAIN_SEED").unwrap_or(1);
    for seed in first..first + 200 {
        let (_, violations) = run(seed, planted);
        let fits = |violation: &&Violation| judgements.iter().any(|text| violation.what.contains(text));
        if let Some(violation) = violations.iter().find(fits) {
            let what: String = violation.what.chars().take(300).collect();
            println!("{name}: found with seed {seed}: {what}");
            return;
        }
    }
    panic!("{name}: not found with 200 seeds from {first}");
}

macro_rules! planted {
    ($($test:ident: $seam:ident, $($judgement:literal),+;)*) => {$(
        #[test]
        fn $test() {
            let seams = Seams { $seam: true, ..Seams::default() };
            finds(stringify!($seam), Planted { seams, ..Planted::default() }, &[$($judgement),+]);
        }
    )*};
}

planted! {
    a_proxy_without_floors_is_found: ignore_floor, "below what its proxy had shown";
    early_progress_is_found: progress_early, "before events of", "below its start";
    a_merge_without_watermark_is_found: merge_without_watermark, "is due", " after ";
    a_resumption_one_too_early_is_found: resume_at_closed, "event of";
    a_compaction_without_sync_point_is_found: skip_sync_point, "had shown";
    parts_read_at_their_own_now_are_found: read_parts_at_now, "wrong content";
}

#[test]
fn an_engine_that_does_not_fence_is_found() {
    let planted = Planted { ignores_absent: true, ..Planted::default() };
    finds("ignores_absent", planted, &["committed after", "differ"]);
}
