//! Load on any etcd endpoint: how many requests a second, how fast, and what they cost the server.
//!
//! ```text
//! kubebrain-bench --endpoint 127.0.0.1:2379 --clients 64 --seconds 10 --server-pid PID create
//! ```
//!
//! Each client waits for its answer before it asks again; `--connections` share them. Compare only runs made back to
//! back on one machine, as ratios.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::request_op::Request as Op;
use kubebrain_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use kubebrain_shared::dial::{Channel, Connector, DialConfig};
use tokio::time::Instant;

#[derive(Parser)]
struct Flags {
    /// HOST:PORT of the server.
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: String,
    /// Requests in flight.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// HTTP/2 connections that they share.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// How long, after one second that does not count.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Keys that `get` reads; written first.
    #[arg(long, default_value_t = 1000)]
    keys: u64,
    /// Goes before every key.
    #[arg(long, default_value = "/registry/pods/bench/")]
    prefix: String,
    /// The server's process: its CPU time per request is shown too.
    #[arg(long)]
    server_pid: Option<u32>,
    /// What to ask.
    work: Work,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Kubernetes' create: a transaction that puts a key which must not exist. Random keys.
    Create,
    /// Linearizable reads of one key.
    Get,
}

type Client = KvClient<Channel>;

fn key(flags: &Flags, number: u64) -> Bytes {
    format!("{}{number:016x}", flags.prefix).into()
}

async fn create(client: &mut Client, key: Bytes, value: Bytes) -> Result<bool> {
    let compare = Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(0)),
        ..Compare::default()
    };
    let put = PutRequest { key, value, ..PutRequest::default() };
    let success = vec![RequestOp { request: Some(Op::RequestPut(put)) }];
    let txn = TxnRequest { compare: vec![compare], success, failure: vec![] };
    Ok(client.txn(txn).await?.into_inner().succeeded)
}

async fn get(client: &mut Client, key: Bytes) -> Result<bool> {
    let answer = client.range(RangeRequest { key, ..RangeRequest::default() }).await?;
    Ok(answer.into_inner().kvs.len() == 1)
}

/// User and system time of a process.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("no such server process")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // 100 ticks a second on every Linux that Rust supports; fields 14 and 15, counted from 1, after the name.
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Arc::new(Flags::parse());
    let channel = |_| Channel::new(Connector::Tcp(flags.endpoint.clone()), DialConfig::default());
    let channels: Vec<Channel> = (0..flags.connections.max(1)).map(channel).collect();
    let value = Bytes::from(vec![b'v'; flags.value_bytes]);
    if flags.work == Work::Get {
        let mut client = KvClient::new(channels[0].clone());
        for number in 0..flags.keys {
            create(&mut client, key(&flags, number), value.clone()).await?;
        }
    }
    let begin = Instant::now() + Duration::from_secs(1);
    let end = begin + Duration::from_secs(flags.seconds);
    let tasks = (0..flags.clients).map(|number| {
        let (flags, value) = (flags.clone(), value.clone());
        let mut client = KvClient::new(channels[number % channels.len()].clone());
        tokio::spawn(async move {
            let mut taken = Vec::new();
            loop {
                let asked = Instant::now();
                if asked >= end {
                    return Ok::<_, anyhow::Error>(taken);
                }
                let done = match flags.work {
                    Work::Create => create(&mut client, key(&flags, rand::random()), value.clone()).await?,
                    Work::Get => get(&mut client, key(&flags, rand::random_range(0..flags.keys))).await?,
                };
                if !done {
                    bail!("the server did not do what was asked");
                }
                if asked >= begin {
                    taken.push(asked.elapsed());
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    tokio::time::sleep_until(begin).await;
    let before = flags.server_pid.map(cpu).transpose()?;
    let mut taken = Vec::new();
    for task in tasks {
        taken.extend(task.await??);
    }
    let after = flags.server_pid.map(cpu).transpose()?;
    taken.sort_unstable();
    let count = taken.len().max(1);
    let at =
        |percent: usize| taken.get(count * percent / 100).copied().unwrap_or_default().as_secs_f64() * 1e3;
    print!(
        "{:.0} requests/s  p50 {:.2} ms  p99 {:.2} ms",
        count as f64 / flags.seconds as f64,
        at(50),
        at(99)
    );
    if let (Some(before), Some(after)) = (before, after) {
        print!(
            "  server CPU {:.1} us/request",
            after.saturating_sub(before).as_secs_f64() * 1e6 / count as f64
        );
    }
    println!();
    Ok(())
}
