//! Power cuts: at many moments of a server's life, everything that was acknowledged is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::BINARY;
use crate::history::{Counting, History};
use crate::image::Disk;
use crate::load::Load;
use crate::seed;
use crate::seen::{self, Seen, brain};
use crate::shim::Shim;
use crate::trace::{Change, Trace};
use kit::process::{Place, Start};
use kit::{full_tier, in_time};

/// So small that tables are written and merged, and log segments change, within a second of traffic.
pub(crate) fn small(start: Start) -> Start {
    start.flag("memtable-bytes", "1048576")
}

/// Two lives of a brain on one directory: the first is killed under load, the second is stopped.
async fn two_lives(start: Start, shim: &Shim, seed: u64, each: Duration) -> History {
    let history = Arc::new(Mutex::new(History::default()));
    let server = start.run().await;
    let load = Load::start(&server, &history, shim.trace.clone(), seed);
    tokio::time::sleep(each).await;
    let start = server.start();
    shim.kill(server).await;
    in_time("the clients' ends", load.ended()).await;

    let mut server = start.run().await;
    let load = Load::start(&server, &history, shim.trace.clone(), !seed);
    tokio::time::sleep(each).await;
    let errors = in_time("the clients' ends", load.stop()).await;
    assert!(errors.is_empty(), "{errors:?}");
    server.signal("TERM");
    assert!(server.ended().await.success());
    let Ok(history) = Arc::try_unwrap(history) else { panic!("all clients have ended") };
    history.into_inner()
}

/// What is in a directory, in order of paths; directories have no content.
pub(crate) fn content(directory: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in
            std::fs::read_dir(&next).expect("a directory").map(|entry| entry.expect("an entry").path())
        {
            let relative = entry.strip_prefix(directory).expect("below").to_owned();
            if entry.is_dir() {
                found.push((relative, None));
                left.push(entry);
            } else {
                found.push((relative, Some(std::fs::read(&entry).expect("a file"))));
            }
        }
    }
    found.sort();
    found
}

/// The trace leads to exactly what is on the disk: the shim has missed nothing.
pub(crate) fn assert_nothing_missed(trace: &Trace, shim: &Shim, place: &Place) {
    let mut disk = Disk::default();
    trace.steps.iter().for_each(|step| disk.step(trace, step));
    let again = place.join("again");
    std::fs::create_dir(&again).expect("a directory");
    disk.whole(trace, &again);
    let (ours, theirs) = (content(&again), content(&shim.directory));
    let names = |content: &[(PathBuf, Option<Vec<u8>>)]| -> Vec<PathBuf> {
        content.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&ours), names(&theirs), "the trace leads to the files that are there");
    for ((path, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let sizes = (ours.as_ref().map(Vec::len), theirs.as_ref().map(Vec::len));
        assert!(ours == theirs, "the trace leads to other content of {}, sizes {sizes:?}", path.display());
    }
    std::fs::remove_dir_all(&again).expect("a directory of ours");
}

/// Step numbers to cut after: a third near changes of names, a third while a sync is under way, a third anywhere.
fn cuts(trace: &Trace, random: &mut SmallRng, count: usize) -> Vec<usize> {
    let places = |wanted: fn(&Change) -> bool| -> Vec<usize> {
        (0..trace.steps.len()).filter(|place| wanted(&trace.steps[*place].change)).collect()
    };
    let (names, syncs) =
        (places(Change::is_of_names), places(|change| matches!(change, Change::SyncBegins { .. })));
    let last = trace.steps.len() - 1;
    let mut cuts: Vec<usize> = (0..count)
        .map(|number| match number % 3 {
            0 if !names.is_empty() => {
                let near = names[random.random_range(0..names.len())] + random.random_range(0..7_usize);
                near.saturating_sub(3).min(last)
            }
            1 if !syncs.is_empty() => syncs[random.random_range(0..syncs.len())],
            _ => random.random_range(0..=last),
        })
        .collect();
    cuts.sort_unstable();
    cuts
}

/// What one cut has shown.
struct Cut {
    description: String,
    verdict: Result<(), String>,
}

/// Cuts the power after many steps, opens what is left and judges it. Every `binary_every`-th by the real binary.
async fn cut_everywhere(
    trace: &Trace,
    history: &History,
    place: &Place,
    seed: u64,
    count: usize,
    binary_every: usize,
) -> Vec<Cut> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut disk = Disk::default();
    let mut done = 0;
    let mut outcomes = Vec::new();
    for (number, cut) in cuts(trace, &mut random, count).into_iter().enumerate() {
        trace.steps[done..=cut].iter().for_each(|step| disk.step(trace, step));
        done = cut + 1;
        let binary = number % binary_every == 0;
        outcomes.push(cut_once(&disk, trace, history, place, seed, (cut, number), binary).await);
    }
    outcomes
}

/// Cuts the power after one step a few times, each torn in another way.
///
/// # Panics
/// If the store breaks a promise afterwards.
pub(crate) async fn assert_cuts_hold(
    trace: &Trace,
    history: &History,
    place: &Place,
    seed: u64,
    cut: usize,
    count: usize,
) {
    let mut disk = Disk::default();
    trace.steps[..=cut].iter().for_each(|step| disk.step(trace, step));
    for number in 0..count {
        let outcome = cut_once(&disk, trace, history, place, seed, (cut, number), false).await;
        outcome.verdict.unwrap_or_else(|error| panic!("{}: {error}", outcome.description));
    }
}

/// `cut` is the number of the step that the disk is at, and the number of the try.
async fn cut_once(
    disk: &Disk,
    trace: &Trace,
    history: &History,
    place: &Place,
    seed: u64,
    (cut, number): (usize, usize),
    binary: bool,
) -> Cut {
    let directory = place.join(&format!("cut-{cut}-{number}"));
    std::fs::create_dir(&directory).expect("a directory");
    let mut random = SmallRng::seed_from_u64(seed ^ (cut as u64) << 20 ^ number as u64);
    let torn = disk.cut(trace, &mut random, &directory);
    let step = &trace.steps[cut];
    let found = match binary {
        true => by_binary(place, &directory).await,
        false => seen::in_process(&directory).await.map_err(|error| format!("{error:#}")),
    };
    let verdict = found.and_then(|seen| history.judge(step.end, &seen, Counting::OneGroup));
    let description = format!("seed {seed}, cut {number} after step {cut} ({:?}): {torn:?}", step.change);
    match &verdict {
        Ok(()) => std::fs::remove_dir_all(&directory).expect("a directory of ours"),
        Err(error) => println!("{description}: {error}"),
    }
    Cut { description, verdict }
}

async fn by_binary(place: &Place, directory: &Path) -> Result<Seen, String> {
    let server = brain(place, directory).starts().await.map_err(|failure| failure.message)?;
    seen::of_server(&server).await.map_err(|error| format!("{error:?}"))
}

fn cuts_wanted() -> usize {
    if full_tier() { 1000 } else { 40 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let (place, seed) = (BINARY.place(), seed());
    let shim = Shim::new(&place);
    let start = small(shim.under(Start::brain(&place, "default")));
    let each = Duration::from_millis(if full_tier() { 10_000 } else { 2_000 });
    let history = two_lives(start, &shim, seed, each).await;
    let trace = Trace::read(&shim.trace);
    println!("{}", summary(&trace, &history));
    assert_nothing_missed(&trace, &shim, &place);
    let outcomes = cut_everywhere(&trace, &history, &place, seed, cuts_wanted(), 10).await;
    let failed: Vec<_> = outcomes.iter().filter(|cut| cut.verdict.is_err()).collect();
    println!("seed {seed}: {} cuts, {} failed", outcomes.len(), failed.len());
    if let Some(first) = failed.first() {
        panic!(
            "{} of {} cuts; the first: {}: {:?}",
            failed.len(),
            outcomes.len(),
            first.description,
            first.verdict
        );
    }
}

/// The same without the protection: a test that cannot fail would pass here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_syncs_the_store_loses_acknowledged_writes_and_this_test_sees_it() {
    let (place, seed) = (BINARY.place(), seed());
    let shim = Shim::new(&place);
    let start = small(shim.without_syncs(Start::brain(&place, "default")));
    let history = two_lives(start, &shim, seed, Duration::from_millis(700)).await;
    let trace = Trace::read(&shim.trace);
    assert!(!trace.steps.iter().any(|step| step.change.is_of_sync()), "no sync is left");
    let outcomes = cut_everywhere(&trace, &history, &place, seed, 12, usize::MAX).await;
    let failed = outcomes.iter().filter(|cut| cut.verdict.is_err()).count();
    println!("without syncs, seed {seed}: {failed} of {} cuts lose something", outcomes.len());
    assert!(failed > 0, "nothing is lost without any sync: this test sees nothing");
}

/// What a trace holds, for people.
fn summary(trace: &Trace, history: &History) -> String {
    let count = |wanted: fn(&Change) -> bool| trace.steps.iter().filter(|step| wanted(&step.change)).count();
    format!(
        "{} steps, {} MiB: {} of names, {} of syncs; {} writes ({} not answered), {} compactions, {} leases",
        trace.steps.len(),
        trace.end() >> 20,
        count(Change::is_of_names),
        count(Change::is_of_sync),
        history.writes.len(),
        history.writes.iter().filter(|write| write.done.is_none()).count(),
        history.compactions.len(),
        history.grants.len(),
    )
}
