//! Rounds of faults. They come in chapters, each on a fresh cluster, so that judging stays cheap.

use std::time::Duration;

use rand::Rng;

use crate::arena::Shape;
use crate::chapter::Chapter;
use crate::doctored;
use crate::faults::{Mischief, Trouble};
use kit::full_tier;

/// Of a chapter. Judging takes time that grows with the square of it.
const ROUNDS: usize = 7;

/// One round; `number` counts over all chapters.
async fn round(chapter: &mut Chapter, number: usize) -> Vec<kit::judge::check::Violation> {
    let groups = chapter.arena.groups.len();
    let proxies = chapter.arena.proxies.len();
    let work = chapter.work();
    let mut mischief = Mischief::default();
    let few = chapter.random.random_range(1..=3);
    let chief_at = chapter.random.random_range(0..=few);
    for at in 0..=few {
        let pause = Duration::from_millis(chapter.random.random_range(200..1000));
        mischief.rest(&mut chapter.arena, pause).await;
        let trouble = match at == chief_at {
            true => Trouble::chief(number, &mut chapter.random, groups),
            false => Trouble::random(&mut chapter.random, groups, proxies),
        };
        chapter.says(&format!("round {number}, {trouble:?}"));
        mischief.make(&trouble, &mut chapter.arena, &chapter.stage).await;
        let pause = Duration::from_millis(chapter.random.random_range(100..1500));
        mischief.rest(&mut chapter.arena, pause).await;
        if chapter.random.random_bool(0.4) {
            chapter.says("healed");
            chapter.arena.heal().await;
        }
    }
    mischief.settle(&mut chapter.arena).await;
    chapter.arena.heal().await;
    chapter.says("all healed");
    chapter.quiet(work).await
}

/// Gives what is seen of a chapter, with everything in it right.
async fn chapter(shape: Shape, seed: u64, first: usize, rounds: usize) -> Option<Chapter> {
    let mut chapter = Chapter::begin(&format!("{shape:?}"), shape, seed).await?;
    for number in first..first + rounds {
        let wrong = round(&mut chapter, number).await;
        chapter.must_be_right(seed, &wrong);
    }
    let wrong = chapter.end().await;
    chapter.must_be_right(seed, &wrong);
    Some(chapter)
}

async fn rounds(shape: Shape, few: usize, many: usize, base: usize) {
    let (seed, all) = (crate::seed(), if full_tier() { many } else { few });
    println!("KUBEBRAIN_SEED={seed}, {all} rounds");
    for (number, begun) in (0..all).step_by(ROUNDS).enumerate() {
        let seed = seed.wrapping_add(number as u64);
        let rounds = ROUNDS.min(all - begun);
        let Some(chapter) = chapter(shape, seed, base, rounds).await else { return };
        // One history is enough, and simplest with one group.
        if number == 0 && shape == Shape::OneGroup {
            doctored::must_be_seen(&chapter.run(), seed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_group_keeps_its_promises_while_everything_fails() {
    rounds(Shape::OneGroup, 3, 77, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_groups_keep_their_promises_while_everything_fails() {
    rounds(Shape::TwoGroups, 2, 35, 3).await;
}
