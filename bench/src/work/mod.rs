//! The kinds of work, and what each needs.

mod delete;
mod go;
mod requests;
mod watch;

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::future::try_join_all;

use crate::client::{Call, Connection};
use crate::request;
use crate::stats::Run;
use crate::usage::Usage;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Updates of random keys as kube-apiserver makes them (put if unchanged, else read), 300 clients.
    Update,
    /// The same, one client.
    Update1,
    /// New keys (put if absent), 300 clients.
    Create,
    /// Linearizable reads of random keys, 300 clients.
    Get,
    /// The same, one client.
    Get1,
    /// All of 100 000 keys by RangeStream, one client.
    ListStream,
    /// All of 100 000 keys in pages of 10 000, one client.
    ListPages,
    /// 500 updates a second, seen by 100 watchers of the whole kind.
    Watch,
    /// Deletions (if unchanged, else read), 300 clients.
    Delete,
    /// Puts by Go's client, one.
    GoPut1,
    /// The same, 8 clients on one connection.
    GoPut8,
    /// Linearizable reads of one key by Go's client, one.
    GoGet1,
    /// The same, 8 clients on one connection.
    GoGet8,
    /// Leases renewed once by Go's client, each on a stream of its own, 10 clients on 10 connections.
    GoKeepalive,
    /// 500 puts a second, seen by 100 watchers of Go's client on 10 streams.
    GoWatch,
}

impl Work {
    /// True where etcd's `benchmark` is the client.
    pub(crate) const fn is_by_go(self) -> bool {
        matches!(
            self,
            Self::GoPut1 | Self::GoPut8 | Self::GoGet1 | Self::GoGet8 | Self::GoKeepalive | Self::GoWatch
        )
    }
}

/// Numbers of one kind of work.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Plan {
    pub(crate) work: Work,
    /// Requests in flight; of `Watch`, watchers.
    pub(crate) clients: usize,
    /// HTTP/2 connections that they share: a kube-apiserver has one for each kind.
    pub(crate) connections: usize,
    /// Keys that are there before; of `Delete`, before each run.
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
}

impl Plan {
    pub(crate) fn of(work: Work) -> Self {
        let (clients, connections, keys) = match work {
            Work::Update | Work::Get => (300, 30, 10_000),
            Work::Update1 | Work::Get1 => (1, 1, 10_000),
            Work::Create => (300, 30, 0),
            Work::Delete => (300, 30, 30_000),
            Work::ListStream | Work::ListPages => (1, 1, 100_000),
            Work::Watch => (100, 10, 1_000),
            Work::GoPut1 | Work::GoGet1 => (1, 1, 10_000),
            Work::GoPut8 | Work::GoGet8 => (8, 1, 10_000),
            Work::GoKeepalive => (10, 10, 0),
            Work::GoWatch => (100, 1, 0),
        };
        Self { work, clients, connections, keys, value_bytes: 1024 }
    }

    /// The same work, made small: to see that it runs.
    pub(crate) fn small(mut self) -> Self {
        self.clients = self.clients.min(20);
        self.connections = self.connections.min(4);
        self.keys = self.keys.min(2_000);
        self
    }

    /// What `per_second` counts.
    pub(crate) const fn unit(&self) -> &'static str {
        match self.work {
            Work::ListStream | Work::ListPages => "objects/s",
            Work::Watch | Work::GoWatch => "events/s",
            _ => "requests/s",
        }
    }
}

/// What the keys of a server are at: number and revision.
pub(crate) struct Data {
    keys: Vec<(u64, Cell<i64>)>,
    /// Random, as certificates and encrypted secrets are: nothing is won by compression.
    value: Bytes,
}

/// Keys are written by so many at once before a run.
const WRITERS: usize = 64;

/// Writes the keys that must be there before a plan's first run.
pub(crate) async fn prepare(plan: &Plan, endpoint: &str) -> Result<Data> {
    // What is to be deleted is written for each run.
    let keys = if plan.work == Work::Delete { 0 } else { plan.keys };
    Data::write(plan, 0, keys, endpoint).await
}

/// What an earlier run has written; for reads.
pub(crate) fn kept(plan: &Plan) -> Data {
    Data { keys: (0..plan.keys).map(|number| (number, Cell::new(0))).collect(), value: Bytes::new() }
}

impl Data {
    /// Writes `count` keys from number `begin` on.
    async fn write(plan: &Plan, begin: u64, count: u64, endpoint: &str) -> Result<Self> {
        let mut value = vec![0; plan.value_bytes];
        rand::fill(&mut value[..]);
        let value = Bytes::from(value);
        let keys: Vec<(u64, Cell<i64>)> =
            (begin..begin + count).map(|number| (number, Cell::new(0))).collect();
        let connection = Connection::open(first(endpoint)).await?;
        let txn = connection.call(request::TXN)?;
        let share = keys.len().div_ceil(WRITERS).max(1);
        try_join_all(keys.chunks(share).map(|part| {
            let (connection, txn, value) = (&connection, &txn, &value);
            async move {
                for (number, revision) in part {
                    let create = request::create(&request::key(*number), value);
                    match request::done(connection.unary(txn, &create).await?)? {
                        request::Done::At(at) => revision.set(at),
                        request::Done::Instead(_) => anyhow::bail!("the server has keys of an earlier run"),
                    }
                }
                Ok(())
            }
        }))
        .await?;
        Ok(Self { keys, value })
    }
}

/// A connection and the calls on it.
#[derive(Clone)]
struct Link {
    connection: Connection,
    txn: Call,
    range: Call,
    range_stream: Call,
    watch: Call,
}

fn first(endpoints: &str) -> &str {
    endpoints.split(',').next().unwrap_or(endpoints)
}

/// Connections go to the endpoints in turn.
async fn links(plan: &Plan, endpoints: &str) -> Result<Vec<Link>> {
    ensure!(plan.clients > 0, "no clients, nothing to measure");
    let endpoints: Vec<&str> = endpoints.split(',').collect();
    let connections = plan.connections.clamp(1, plan.clients);
    try_join_all(endpoints.iter().cycle().take(connections).map(|endpoint| async {
        let connection = Connection::open(endpoint).await?;
        Ok(Link {
            txn: connection.call(request::TXN)?,
            range: connection.call(request::RANGE)?,
            range_stream: connection.call(request::RANGE_STREAM)?,
            watch: connection.call(request::WATCH)?,
            connection,
        })
    }))
    .await
}

/// Does the work for a quarter of the time, and then for all of it, which counts. `Delete` ends with its keys. `benchmark`
/// is etcd's.
pub(crate) async fn run(
    plan: &Plan,
    data: &Data,
    endpoint: &str,
    measured: Duration,
    server: &Usage,
    benchmark: &Path,
) -> Result<Run> {
    match plan.work {
        work if work.is_by_go() => go::run(plan, benchmark, endpoint, measured, server).await,
        Work::Delete => delete::run(plan, endpoint, server).await,
        Work::Watch => watch::run(plan, data, endpoint, measured, server).await,
        _ => requests::run(plan, data, endpoint, measured, server).await,
    }
}
