//! Deletions: keys are written first, which does not count, and then all of them go.

use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{Data, Plan, links};
use crate::request::{self, Done};
use crate::stats::{Run, percentile};
use crate::usage::Usage;

pub(super) async fn run(plan: &Plan, endpoint: &str, server: &Usage) -> Result<Run> {
    let begin = rand::random::<u64>() >> 2;
    let data = Data::write(plan, begin, plan.keys, endpoint).await?;
    let links = links(plan, endpoint).await?;
    let client = Usage::of_this_process();
    let (begun, cpu, client_cpu) = (Instant::now(), server.cpu(), client.cpu());
    let share = data.keys.len().div_ceil(plan.clients).max(1);
    let taken = try_join_all(data.keys.chunks(share).enumerate().map(|(number, keys)| {
        let link = &links[number % links.len()];
        async move {
            let mut taken: Vec<Duration> = Vec::with_capacity(keys.len());
            for (number, revision) in keys {
                let revision = revision.get();
                let delete = request::delete(&request::key(*number), revision);
                let asked = Instant::now();
                match request::done(link.connection.unary(&link.txn, &delete).await?)? {
                    Done::At(_) => taken.push(asked.elapsed()),
                    Done::Instead(_) => bail!("somebody else wrote this key"),
                }
            }
            Ok(taken)
        }
    }));
    let mut taken = taken.await?.concat();
    let wall = begun.elapsed();
    let count = taken.len() as f64;
    Ok(Run {
        per_second: count / wall.as_secs_f64(),
        cpu_us: server.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / count,
        p50_ms: percentile(&mut taken, 50),
        p99_ms: percentile(&mut taken, 99),
        memory: server.peak_memory(),
        client_busy: client.cpu().saturating_sub(client_cpu).as_secs_f64() / wall.as_secs_f64(),
        conflicts: 0,
    })
}
