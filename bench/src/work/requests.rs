//! Requests, each after the answer to the one before it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{Data, Link, Plan, Work, links};
use crate::request::{self, Done};
use crate::stats::{Run, percentile};
use crate::usage::Usage;

/// Objects in a page of a paged list: kube-apiserver's largest.
const PAGE: i64 = 10_000;

/// The part of a run that counts.
struct Window {
    begin: Instant,
    end: Instant,
}

pub(super) async fn run(
    plan: &Plan,
    data: &Data,
    endpoint: &str,
    measured: Duration,
    server: &Usage,
) -> Result<Run> {
    let links = links(plan, endpoint).await?;
    // New keys never meet those of an earlier run.
    let fresh = AtomicU64::new(rand::random::<u64>() >> 8 << 4);
    let begun = Instant::now();
    let window = Window { begin: begun + measured / 4, end: begun + measured / 4 + measured };
    let watched = used(window.begin, window.end, server);
    let clients = (0..plan.clients).map(|number| {
        let client = Client { plan, data, link: &links[number % links.len()], fresh: &fresh };
        client.run(&window)
    });
    let (used, done) = futures_util::join!(watched, try_join_all(clients));
    let mut taken = Vec::new();
    let (mut count, mut conflicts) = (0, 0);
    for client in done? {
        taken.extend(client.taken);
        count += client.count;
        conflicts += client.conflicts;
    }
    ensure!(count > 0, "nothing was done in the time that counts: make it longer");
    Ok(Run {
        per_second: count as f64 / used.wall.as_secs_f64(),
        cpu_us: used.server.as_secs_f64() * 1e6 / count as f64,
        p50_ms: percentile(&mut taken, 50),
        p99_ms: percentile(&mut taken, 99),
        memory: server.peak_memory(),
        client_busy: used.client.as_secs_f64() / used.wall.as_secs_f64(),
        conflicts,
    })
}

pub(super) struct Used {
    pub(super) wall: Duration,
    pub(super) server: Duration,
    pub(super) client: Duration,
}

/// What server and client use between two moments.
pub(super) async fn used(begin: Instant, end: Instant, server: &Usage) -> Used {
    let client = Usage::of_this_process();
    tokio::time::sleep_until(begin).await;
    let (wall, before, before_client) = (Instant::now(), server.cpu(), client.cpu());
    tokio::time::sleep_until(end).await;
    Used {
        wall: wall.elapsed(),
        server: server.cpu().saturating_sub(before),
        client: client.cpu().saturating_sub(before_client),
    }
}

struct Client<'a> {
    plan: &'a Plan,
    data: &'a Data,
    link: &'a Link,
    fresh: &'a AtomicU64,
}

#[derive(Default)]
struct Counted {
    taken: Vec<Duration>,
    count: u64,
    conflicts: u64,
}

impl Client<'_> {
    async fn run(self, window: &Window) -> Result<Counted> {
        let mut counted = Counted::default();
        loop {
            let asked = Instant::now();
            if asked >= window.end {
                return Ok(counted);
            }
            let done = self.once().await?;
            let now = Instant::now();
            if asked < window.begin || now > window.end {
                continue;
            }
            match done {
                Some(count) => {
                    counted.count += count;
                    counted.taken.push(now - asked);
                }
                None => counted.conflicts += 1,
            }
        }
    }

    /// How many things one request, or one list, did; `None` if it lost a race.
    async fn once(&self) -> Result<Option<u64>> {
        match self.plan.work {
            Work::Update | Work::Update1 => self.update().await,
            Work::Create => self.create().await.map(Some),
            Work::Get | Work::Get1 => self.get().await,
            Work::ListStream => self.list_stream().await.map(Some),
            Work::ListPages => self.list_pages().await.map(Some),
            _ => unreachable!("these have a run of their own"),
        }
    }

    async fn txn(&self, message: &[u8]) -> Result<Done> {
        request::done(self.link.connection.unary(&self.link.txn, message).await?)
    }

    async fn create(&self) -> Result<u64> {
        let key = request::key(self.fresh.fetch_add(1, Ordering::Relaxed).reverse_bits());
        match self.txn(&request::create(&key, &self.data.value)).await? {
            Done::At(_) => Ok(1),
            Done::Instead(_) => bail!("a new key was there before"),
        }
    }

    async fn update(&self) -> Result<Option<u64>> {
        let (number, revision) = &self.data.keys[rand::random_range(0..self.data.keys.len())];
        let before = revision.get();
        let done = self.txn(&request::update(&request::key(*number), before, &self.data.value)).await?;
        let (found, counts) = match done {
            Done::At(now) => (now, Some(1)),
            Done::Instead(now) => (now, None),
        };
        revision.set(found.max(revision.get()));
        Ok(counts)
    }

    async fn get(&self) -> Result<Option<u64>> {
        let (number, _) = &self.data.keys[rand::random_range(0..self.data.keys.len())];
        let message = request::get(&request::key(*number));
        let answer = self.link.connection.unary(&self.link.range, &message).await?;
        ensure!(request::listed(&answer)?.keys == 1, "a key is missing");
        Ok(Some(1))
    }

    async fn list_stream(&self) -> Result<u64> {
        let message = request::list(None, 0, 0);
        let mut answer = self.link.connection.begin(&self.link.range_stream, &message, false).await?;
        let mut keys = 0;
        while let Some(message) = answer.next().await? {
            keys += request::listed(&request::chunk(&message)?)?.keys;
        }
        ensure!(keys == self.plan.keys, "a list of {keys} keys instead of {}", self.plan.keys);
        Ok(keys)
    }

    async fn list_pages(&self) -> Result<u64> {
        let (mut start, mut revision, mut keys) = (None, 0, 0);
        loop {
            let message = request::list(start.as_deref(), PAGE, revision);
            let page = request::listed(&self.link.connection.unary(&self.link.range, &message).await?)?;
            keys += page.keys;
            if !page.more {
                ensure!(keys == self.plan.keys, "a list of {keys} keys instead of {}", self.plan.keys);
                return Ok(keys);
            }
            if revision == 0 {
                revision = page.revision;
            }
            let mut next = page.last.to_vec();
            next.push(0);
            start = Some(next);
        }
    }
}
