//! Rounds of faults: clients work as kube-apiservers do while everything fails, then all is healed and judged.
//!
//! ```text
//! round   writers, readers, watchers ── trouble, trouble, ... ── healed ── one more write ── watchers hear of it
//!         ── the history is read back ── every answer and every event of the chapter is held against it
//! ```
//!
//! Rounds come in chapters. A chapter has one server under one prefix, and is judged from its beginning after each of
//! its rounds: what was acknowledged in the first must still be there after the last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kubebrain_shared::placement::Placement;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::faults::{Arena, Server, Trouble, make, one_group, three_groups};
use crate::readback;
use crate::traffic::{Client, KINDS, Stage};
use crate::watching::{Wanted, watch_until};
use kit::client::end_of;
use kit::judge::check::{Run, check};
use kit::judge::record::{Committed, Records};
use kit::process::Start;
use kit::{full_tier, in_time, until};

const WRITERS: usize = 5;
const READERS: usize = 2;
const WATCHERS: usize = 4;
/// Of a chapter. Judging takes time that grows with the square of it.
const ROUNDS: usize = 5;
/// Reads of the past after each round.
const LOOKS: usize = 15;

/// Which server is tried.
#[derive(Clone, Copy, Debug)]
enum Variant {
    /// One brain of one group.
    Brain,
    /// A proxy and three groups in one process.
    Groups,
}

/// One server's life, and what all clients have seen of it.
struct Chapter {
    arena: Arena,
    server: Server,
    stage: Arc<Stage>,
    placement: Arc<Placement>,
    prefix: String,
    random: SmallRng,
    records: Records,
    /// Of the next client or watcher.
    number: usize,
    /// Everybody has seen these.
    revisions: Vec<i64>,
}

impl Chapter {
    /// None without the kit.
    async fn begin(variant: Variant, seed: u64) -> Option<Self> {
        let arena = Arena::new(seed).await?;
        let prefix = format!("chapter-{seed:x}/");
        let pd = arena.pd.address();
        let (start, placement) = match variant {
            Variant::Brain => (Start::brain(&arena.place, "default").on_tikv(pd, &prefix), one_group()),
            Variant::Groups => {
                let (text, placement) = three_groups();
                let file = arena.place.file("placement.yaml", &text);
                (Start::standalone(&arena.place).placement(&file).on_tikv(pd, &prefix), placement)
            }
        };
        let process = start.flag("watch-progress-notify-interval", "300ms").run().await;
        let stage = Stage::new(process.address());
        let random = SmallRng::seed_from_u64(seed);
        let (server, placement) = (Server::Serves(process), Arc::new(placement));
        let records = Records::default();
        Some(Self { arena, server, stage, placement, prefix, random, records, number: 0, revisions: vec![1] })
    }

    fn client(&mut self) -> Client {
        self.number += 1;
        Client::new(&self.stage, self.number, self.random.random())
    }

    /// From some revision that everybody has seen, now and then from the first.
    fn wanted(&mut self) -> Wanted {
        self.number += 1;
        let start = match self.random.random_ratio(1, 3) {
            true => 1,
            false => *self.revisions.choose(&mut self.random).expect("not empty"),
        };
        let (key, range_end) = match self.random.random_range(0..5) {
            0 => ("\0".into(), "\0".into()),
            1 => ("/registry/".into(), end_of("/registry/").into()),
            2 => (format!("{}n1", KINDS[0]).into(), "".into()),
            other => {
                let kind = KINDS[other % KINDS.len()];
                (kind.into(), end_of(kind).into())
            }
        };
        Wanted { number: self.number, key, range_end, start }
    }

    /// One round; what was wrong in it.
    async fn round(mut self, name: &str) -> (Self, Vec<String>) {
        self.stage.stop.store(false, Ordering::SeqCst);
        let mut clients = JoinSet::new();
        for number in 0..WRITERS + READERS {
            let client = self.client();
            match number < WRITERS {
                true => clients.spawn(client.write()),
                false => clients.spawn(client.read()),
            };
        }
        let (target, hears) = watch::channel(None);
        let mut watchers = JoinSet::new();
        for _ in 0..WATCHERS {
            watchers.spawn(watch_until(self.stage.clone(), self.wanted(), hears.clone()));
        }

        let began = Instant::now();
        for _ in 0..self.random.random_range(2..=4) {
            sleep(Duration::from_millis(self.random.random_range(200..1200))).await;
            let trouble = Trouble::random(&mut self.random, self.prefix.as_bytes(), &self.placement);
            println!("{name}, {:.1} s: {trouble}", began.elapsed().as_secs_f64());
            self.server = make(&trouble, &mut self.arena, self.server, &self.stage).await;
            sleep(Duration::from_millis(self.random.random_range(100..1800))).await;
            self.server.must_run();
            if self.random.random_bool(0.6) {
                self.arena.heal().await;
            }
        }
        self.arena.heal().await;
        let healed = Instant::now();
        self.server = self.server.serving().await;
        let mut last = self.client();
        until("a write", async || last.probe("/registry/pods/probe").await).await;
        let again = healed.elapsed();
        self.stage.stop.store(true, Ordering::SeqCst);
        in_time("the clients' ends", clients.join_all()).await;
        for kind in KINDS {
            last.probe(&format!("{kind}probe")).await.expect("nothing is in trouble");
        }
        let end = last.everything(0).await.expect("nothing is in trouble");
        target.send_replace(Some(end));
        in_time("the watchers' ends", watchers.join_all()).await;
        let (committed, wrong) = readback::history(&self.stage, &self.placement, end).await;
        self.revisions = committed.iter().map(|committed| committed.revision).collect();
        for _ in 0..LOOKS {
            let past = *self.revisions.choose(&mut self.random).expect("something was written");
            last.everything(past).await.expect("nothing is compacted");
        }
        let more = self.stage.journal.take();
        let before = self.records.ops.len();
        self.records.ops.extend(more.ops);
        self.records.watches.extend(more.watches);
        self.records.wrong.extend(more.wrong);
        let unknown =
            self.records.ops[before..].iter().filter(|op| !matches!(op.outcome, Some(Ok(_)))).count();
        println!(
            "{name}: {} requests, {unknown} without an answer; {} revisions up to {end}; writes {:.1} s after healing",
            self.records.ops.len() - before,
            committed.len(),
            again.as_secs_f64()
        );
        let verdict = self.judge(committed, wrong);
        (self, verdict)
    }

    fn judge(&self, committed: Vec<Committed>, wrong: Vec<String>) -> Vec<String> {
        let run = Run {
            committed,
            wrong,
            records: self.records.clone(),
            placement: self.placement.clone(),
            troubled: true,
            leaseless: Vec::new(),
        };
        check(&run)
            .into_iter()
            .map(|violation| format!("at {}: {}", violation.tick, violation.what))
            .collect()
    }
}

/// So many rounds, or fewer if something is wrong.
async fn chapter(variant: Variant, seed: u64, rounds: usize) -> Option<()> {
    let mut chapter = Chapter::begin(variant, seed).await?;
    for round in 1..=rounds {
        let (next, wrong) = chapter.round(&format!("{variant:?} {seed:x}, round {round}")).await;
        chapter = next;
        let shown: Vec<_> = wrong.iter().take(3).collect();
        assert!(wrong.is_empty(), "KUBEBRAIN_SEED={seed}: {} broken promises: {shown:#?}", wrong.len());
    }
    Some(())
}

async fn rounds(variant: Variant, few: usize, many: usize) {
    let (seed, all) = (crate::seed(), if full_tier() { many } else { few });
    println!("KUBEBRAIN_SEED={seed}, {all} rounds");
    for (number, begun) in (0..all).step_by(ROUNDS).enumerate() {
        let seed = seed.wrapping_add(number as u64);
        if chapter(variant, seed, ROUNDS.min(all - begun)).await.is_none() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_keeps_its_promises_while_everything_fails() {
    rounds(Variant::Brain, 4, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_groups_keep_their_promises_while_everything_fails() {
    rounds(Variant::Groups, 2, 15).await;
}
