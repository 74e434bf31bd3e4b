//! Watchers of a kind while it is written to at a fixed rate: what a delivery costs, and how late it comes.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::requests::used;
use super::{Data, Link, Plan, links};
use crate::request::{self, Done};
use crate::stats::{Run, percentile};
use crate::usage::Usage;

/// Updates a second: far below what either server can do, so that the cost of a delivery shows and not a queue.
const RATE: u32 = 500;
/// Updates in flight: a slow answer must not lower the rate.
const WRITERS: u32 = 8;

pub(super) async fn run(
    plan: &Plan,
    data: &Data,
    endpoint: &str,
    measured: Duration,
    server: &Usage,
) -> Result<Run> {
    let links = links(plan, endpoint).await?;
    let epoch = Instant::now();
    let (begin, end) = (epoch + measured / 4, epoch + measured / 4 + measured);
    let taken = RefCell::new(Vec::new());
    let watchers = try_join_all((0..plan.clients).map(|number| {
        let (link, taken) = (&links[number % links.len()], &taken);
        async move {
            let watch = watch(link, epoch, begin, taken);
            // Deliveries of the last writes are waited for, and no longer.
            let _until = tokio::time::timeout_at(end + Duration::from_secs(1), watch).await;
            Ok::<_, anyhow::Error>(())
        }
    }));
    let writers = try_join_all((0..WRITERS).map(|number| write(&links[0], data, epoch, end, number)));
    let (used, watched, written) = futures_util::join!(used(begin, end, server), watchers, writers);
    watched?;
    let written: u64 = written?.into_iter().sum();
    let mut taken = taken.into_inner();
    let count = taken.len() as f64;
    let expected = written as f64 * 0.8 * plan.clients as f64;
    ensure!(count > expected * 0.95, "{count} of about {expected} events came: the watchers lost some");
    Ok(Run {
        per_second: count / used.wall.as_secs_f64(),
        cpu_us: used.server.as_secs_f64() * 1e6 / count,
        p50_ms: percentile(&mut taken, 50),
        p99_ms: percentile(&mut taken, 99),
        memory: server.peak_memory(),
        client_busy: used.client.as_secs_f64() / used.wall.as_secs_f64(),
        conflicts: 0,
    })
}

async fn watch(link: &Link, epoch: Instant, begin: Instant, taken: &RefCell<Vec<Duration>>) -> Result<()> {
    let mut stream = link.connection.begin(&link.watch, &request::watch(), true).await?;
    while let Some(message) = stream.next().await? {
        let now = Instant::now();
        for value in request::events(&message)? {
            let sent = epoch + Duration::from_nanos(stamp(&value)?);
            if sent >= begin {
                taken.borrow_mut().push(now.saturating_duration_since(sent));
            }
        }
    }
    Ok(())
}

/// Updates at its part of the rate, each value beginning with the moment at which it was sent. Counts them.
async fn write(link: &Link, data: &Data, epoch: Instant, end: Instant, number: u32) -> Result<u64> {
    let mut turns = tokio::time::interval(Duration::from_secs(1) * WRITERS / RATE);
    // Each writer has keys of its own: nobody loses a race.
    let own: Vec<_> = data.keys.iter().skip(number as usize).step_by(WRITERS as usize).collect();
    ensure!(!own.is_empty(), "too few keys for {WRITERS} writers");
    let mut written = 0;
    loop {
        turns.tick().await;
        if Instant::now() >= end {
            return Ok(written);
        }
        let (key, revision) = own[rand::random_range(0..own.len())];
        let mut value = data.value.to_vec();
        value[..8].copy_from_slice(&u64::try_from(epoch.elapsed().as_nanos())?.to_be_bytes());
        let before = revision.get();
        let update = request::update(&request::key(*key), before, &Bytes::from(value));
        match request::done(link.connection.unary(&link.txn, &update).await?)? {
            Done::At(now) => revision.set(now),
            Done::Instead(_) => anyhow::bail!("somebody else wrote this key"),
        }
        written += 1;
    }
}

fn stamp(value: &[u8]) -> Result<u64> {
    let stamp = value.first_chunk::<8>().context("an event without its value")?;
    Ok(u64::from_be_bytes(*stamp))
}
