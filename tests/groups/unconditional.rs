//! A store that does not look at the condition that fences masters is found by the judge: whoever slept and goes on then
//! commits over what its successor has committed.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use crate::arena::Shape;
use crate::chapter::Chapter;
use crate::directed::master_sleeps;
use kit::judge::check::Violation;

/// One in a few sleeps falls into a commit.
const TRIES: usize = 12;

/// Sleeps over such a store until something is wrong.
async fn slept(seed: u64) -> Option<Vec<Violation>> {
    let mut chapter = Chapter::begin("unconditional", Shape::OneGroup, seed).await?;
    chapter.arena.cluster.overwrite().await;
    let work = chapter.work();
    master_sleeps(&mut chapter).await;
    Some(chapter.quiet(work).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_conditions_is_found() {
    let seed = crate::seed();
    for number in 0..TRIES {
        // What was overwritten may also end processes, or leave somebody waiting.
        let tried = AssertUnwindSafe(slept(seed.wrapping_add(number as u64))).catch_unwind().await;
        match tried {
            Ok(None) => return,
            Ok(Some(violations)) if !violations.is_empty() => {
                println!("found in try {number}: {}", violations[0].what);
                return;
            }
            Ok(Some(_)) => println!("try {number}: nothing wrong"),
            Err(_) => println!("try {number}: it fell down, which no judge has seen"),
        }
    }
    panic!("KUBEBRAIN_SEED={seed}: two masters at once were not found in {TRIES} tries");
}
