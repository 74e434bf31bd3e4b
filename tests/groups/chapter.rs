//! [`Chapter`]: one arena's life, what all clients have seen of it, and the judge over that.
//!
//! ```text
//! begin ── round: clients work while something fails ── healed ── quiet ── judged ── round ... ── all killed, read again
//! ```
//!
//! It is judged from its beginning after each round: what was acknowledged in the first is there after the last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::arena::{Arena, Shape};
use crate::report;
use crate::scribe::Scribe;
use crate::stage::{KINDS, Stage};
use crate::traffic::{Client, TTL_MAX};
use crate::watching::{Wanted, watch_until};
use kit::client::end_of;
use kit::judge::bounds;
use kit::judge::check::{Run, Violation, check};
use kit::judge::record::{Ask, Records};
use kit::{in_time, until};

const WRITERS: usize = 6;
const READERS: usize = 4;
const WATCHERS: usize = 6;
const HOLDERS: usize = 2;
/// Reads of the past after each round, through any door.
const LOOKS: usize = 12;
/// A lease may end so much later than it should, on a machine that is busy.
const EXPIRY_LATE_MAX: Duration = Duration::from_secs(3);

/// See the module.
pub(crate) struct Chapter {
    pub(crate) name: String,
    pub(crate) arena: Arena,
    pub(crate) stage: Arc<Stage>,
    pub(crate) random: SmallRng,
    scribe: Scribe,
    records: Records,
    leaseless: Vec<i64>,
    troubles: Vec<String>,
    began: Instant,
    /// Of the next client or watcher.
    number: usize,
}

/// Everybody at work.
pub(crate) struct Work {
    clients: JoinSet<()>,
    watchers: JoinSet<()>,
    target: watch::Sender<Option<i64>>,
}

impl Chapter {
    /// None without the kit.
    pub(crate) async fn begin(name: &str, shape: Shape, seed: u64) -> Option<Self> {
        let arena = Arena::start(shape, seed).await?;
        let stage = Stage::new(arena.doors());
        let mut random = SmallRng::seed_from_u64(seed);
        let scribe = Scribe::begin(&stage, &arena.placement, SmallRng::seed_from_u64(random.random()));
        Some(Self {
            name: format!("{name}-{seed}"),
            arena,
            stage,
            random,
            scribe,
            records: Records::default(),
            leaseless: Vec::new(),
            troubles: Vec::new(),
            began: Instant::now(),
            number: 0,
        })
    }

    /// Something that happens, for people.
    pub(crate) fn says(&mut self, what: &str) {
        let what = format!("{} {:>6.1} s: {what}", self.name, self.began.elapsed().as_secs_f64());
        println!("{what}");
        self.stage.journal.note(what.clone());
        self.troubles.push(what);
    }

    pub(crate) fn number(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    pub(crate) fn client(&mut self, door: usize) -> Client {
        let number = self.number();
        Client::new(&self.stage, number, door, self.random.random())
    }

    /// Through a proxy.
    pub(crate) fn proxied(&mut self) -> Client {
        let door = self.stage.door(&mut self.random, false);
        self.client(door)
    }

    /// From now, from the last that was compacted, or from something lately shown.
    fn wanted(&mut self, at_brains: bool) -> Wanted {
        let door = self.stage.door(&mut self.random, at_brains);
        let start = match self.random.random_range(0..3) {
            0 => 0,
            1 => self.stage.read.load(Ordering::SeqCst),
            _ => self.stage.past(door, &mut self.random).unwrap_or(0),
        };
        let of = &self.stage.doors[door];
        let kind = of.kinds[self.random.random_range(0..of.kinds.len())];
        let (key, range_end) = match self.random.random_range(0..6) {
            0 if of.is_proxy => ("\0".into(), "\0".into()),
            1 if of.is_proxy => ("/registry/".into(), end_of("/registry/").into()),
            2 => (format!("{kind}n1").into(), "".into()),
            3 => (format!("{kind}leased-1").into(), end_of(kind).into()),
            _ => (kind.into(), end_of(kind).into()),
        };
        let filters = match self.random.random_ratio(1, 8) {
            true => vec![self.random.random_range(0..2)],
            false => Vec::new(),
        };
        let fragment = self.random.random_ratio(1, 4);
        Wanted { number: self.number(), door, key, range_end, start, filters, fragment }
    }

    /// Clients and watchers begin, at proxies and at brains.
    pub(crate) fn work(&mut self) -> Work {
        self.begins(true)
    }

    /// The same, at proxies alone.
    pub(crate) fn work_at_proxies(&mut self) -> Work {
        self.begins(false)
    }

    fn begins(&mut self, at_brains: bool) -> Work {
        self.stage.stop.store(false, Ordering::SeqCst);
        let mut clients = JoinSet::new();
        for number in 0..WRITERS + READERS + HOLDERS {
            // Leases are the home group's, whoever else holds some: of several groups proxies alone know that.
            let holds = number >= WRITERS + READERS && self.arena.groups.len() > 1;
            let door = self.stage.door(&mut self.random, at_brains && number % 2 == 1 && !holds);
            let client = self.client(door);
            match number {
                0..WRITERS => clients.spawn(client.write()),
                _ if number < WRITERS + READERS => clients.spawn(client.read()),
                _ => clients.spawn(client.lease()),
            };
        }
        clients.spawn(self.proxied().compact());
        let (target, hears) = watch::channel(None);
        let mut watchers = JoinSet::new();
        for _ in 0..WATCHERS {
            watchers.spawn(watch_until(self.stage.clone(), self.wanted(at_brains), hears.clone()));
        }
        Work { clients, watchers, target }
    }

    /// Nothing is in trouble any more: clients end, leases run out, watchers hear of everything, and all of it is read
    /// once more through every door. What is wrong with the chapter so far.
    pub(crate) async fn quiet(&mut self, work: Work) -> Vec<Violation> {
        let Work { mut clients, mut watchers, target } = work;
        let healed = Instant::now();
        self.arena.ready().await;
        let mut last = self.proxied();
        for kind in KINDS {
            until("a write", async || last.probe(&format!("{kind}probe")).await).await;
        }
        let again = healed.elapsed();
        self.stage.stop.store(true, Ordering::SeqCst);
        in_time("the clients' ends", async { while clients.join_next().await.is_some() {} }).await;
        sleep(Duration::from_secs(TTL_MAX.unsigned_abs()) + EXPIRY_LATE_MAX).await;
        for kind in KINDS {
            until("a write", async || last.probe(&format!("{kind}probe")).await).await;
        }
        let end = until("a list", async || last.everything(0).await).await;
        self.leaseless.push(end);
        target.send_replace(Some(end));
        in_time("the watchers' ends", async { while watchers.join_next().await.is_some() {} }).await;
        until("the scribe", async || (self.stage.read.load(Ordering::SeqCst) >= end).then_some(())).await;
        self.look().await;
        let before = self.records.ops.len();
        self.collect();
        let new = &self.records.ops[before..];
        let unknown = new.iter().filter(|op| !matches!(op.outcome, Some(Ok(_)))).count();
        let (requests, watches) = (new.len(), self.records.watches.len());
        self.says(&format!(
            "{requests} requests, {unknown} without an answer, {watches} watches so far; revision {end}; writes \
             {:.1} s after healing",
            again.as_secs_f64()
        ));
        self.judge()
    }

    /// Through every door what is there now, and through some what was there.
    async fn look(&mut self) {
        for door in 0..self.stage.doors.len() {
            let mut client = self.client(door);
            until("a list", async || client.everything(0).await).await;
        }
        for _ in 0..LOOKS {
            let door = self.stage.door(&mut self.random, true);
            let Some(past) = self.stage.past(door, &mut self.random) else { continue };
            // It may be compacted: then that is the answer.
            self.client(door).everything(past).await;
        }
    }

    fn collect(&mut self) {
        let more = self.stage.journal.take();
        self.records.ops.extend(more.ops);
        self.records.watches.extend(more.watches);
        self.records.wrong.extend(more.wrong);
        self.records.notes.extend(more.notes);
    }

    /// All processes at once are killed, and what was acknowledged is there.
    pub(crate) async fn end(&mut self) -> Vec<Violation> {
        for node in self.arena.brains.iter_mut().map(|brain| &mut brain.node).chain(&mut self.arena.proxies) {
            node.kill().await;
            self.stage.doors[self.stage.door_of(&node.name)].renew();
        }
        self.arena.ready().await;
        let mut client = self.proxied();
        let end = until("a list", async || client.everything(0).await).await;
        // All that is left of the history, from the storage.
        let start = self.compacted().max(1);
        let door = self.stage.door(&mut self.random, false);
        let wanted = Wanted::everything(self.number(), door, start);
        let (_target, hears) = watch::channel(Some(end));
        in_time("the history", watch_until(self.stage.clone(), wanted, hears)).await;
        until("the scribe", async || (self.stage.read.load(Ordering::SeqCst) >= end).then_some(())).await;
        self.look().await;
        self.collect();
        self.says(&format!("all killed, and read again from {start} to {end}"));
        self.judge()
    }

    /// The highest revision that was, or may have been, compacted.
    fn compacted(&self) -> i64 {
        let asked = self.records.ops.iter().filter_map(|op| match &op.ask {
            Ask::Compact(ask) => Some(ask.revision),
            _ => None,
        });
        asked.max().unwrap_or(0)
    }

    /// Everything so far.
    pub(crate) fn run(&self) -> Run {
        let history = self.scribe.history.lock();
        let (mut committed, wrong) = (history.committed.clone(), history.wrong.clone());
        bounds::settle(&mut committed, &self.records, &self.arena.placement);
        Run {
            committed,
            wrong,
            records: self.records.clone(),
            placement: self.arena.placement.clone(),
            troubled: true,
            leaseless: self.leaseless.clone(),
        }
    }

    fn judge(&mut self) -> Vec<Violation> {
        let run = self.run();
        let began = Instant::now();
        let violations = check(&run);
        let (revisions, ops) = (run.committed.len(), run.records.ops.len());
        let took = began.elapsed().as_secs_f64();
        self.says(&format!("{ops} requests and {revisions} revisions judged in {took:.1} s"));
        violations
    }

    /// Ends the test if something is wrong, and keeps what happened.
    pub(crate) fn must_be_right(&self, seed: u64, violations: &[Violation]) {
        if violations.is_empty() {
            return;
        }
        let report = report::keep(&self.name, violations, &self.records.notes, &self.troubles, &self.arena);
        panic!("KUBEBRAIN_SEED={seed}: {report}");
    }
}
