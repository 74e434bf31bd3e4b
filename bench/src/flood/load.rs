//! What nodes and writers of events do.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::place::Server;
use crate::client::{Call, Connection};
use crate::request::{self, Done};
use crate::stats::percentile;

const NODES: usize = 16;
/// Of each node: more often than a kubelet's ten seconds, since there are not 5 000 of them.
const LEASE_EVERY: Duration = Duration::from_millis(50);
const LEASE_BYTES: usize = 400;
const WRITERS: usize = 64;
const EVENT_BYTES: usize = 1000;
/// Connections of the writers.
const CONNECTIONS: usize = 8;
/// As the client sees etcd's refusal.
const REFUSED: &str = "the server answered 8: etcdserver: too many requests";

/// What the writers do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flood {
    /// Nothing.
    None,
    /// So many events a second, all together.
    Paced(f64),
    /// As fast as they are answered.
    Full,
}

impl Flood {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Paced(_) => "at 4/5",
            Self::Full => "at full speed",
        }
    }
}

/// What came of it.
pub(super) struct Ran {
    /// Milliseconds of updates of leases.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// Events written and refused, a second.
    pub(super) flood: f64,
    pub(super) refused: f64,
}

struct Link {
    connection: Connection,
    txn: Call,
}

/// What all count, while it counts.
struct Counts {
    begin: Instant,
    end: Instant,
    taken: RefCell<Vec<Duration>>,
    written: Cell<u64>,
    refused: Cell<u64>,
}

impl Counts {
    fn counts(&self) -> bool {
        (self.begin..self.end).contains(&Instant::now())
    }
}

pub(super) async fn run(server: &Server, flood: Flood, time: Duration) -> Result<Ran> {
    let nodes = link(&server.leases).await?;
    let mut writers = Vec::new();
    for _ in 0..CONNECTIONS {
        writers.push(link(&server.events).await?);
    }
    let begin = Instant::now() + time / 4;
    let counts = Counts {
        begin,
        end: begin + time,
        taken: RefCell::default(),
        written: Cell::default(),
        refused: Cell::default(),
    };
    let leases = (0..NODES).map(|number| node(&nodes, number, &counts));
    let events = (0..WRITERS).map(|number| writer(&writers[number % CONNECTIONS], number, flood, &counts));
    tokio::try_join!(try_join_all(leases), try_join_all(events))?;
    let mut taken = counts.taken.into_inner();
    ensure!(!taken.is_empty(), "no lease was updated in the time that counts: make it longer");
    Ok(Ran {
        p50: percentile(&mut taken, 50),
        p99: percentile(&mut taken, 99),
        flood: counts.written.get() as f64 / time.as_secs_f64(),
        refused: counts.refused.get() as f64 / time.as_secs_f64(),
    })
}

async fn link(address: &str) -> Result<Link> {
    let connection = Connection::open(address).await?;
    let txn = connection.call(request::TXN)?;
    Ok(Link { connection, txn })
}

/// Updates a lease at its pace.
async fn node(link: &Link, number: usize, counts: &Counts) -> Result<()> {
    let key = Bytes::from(format!("/registry/leases/kube-node-lease/node-{number}"));
    let value = Bytes::from(vec![b'l'; LEASE_BYTES]);
    let mut revision = 0;
    let mut due = Instant::now() + LEASE_EVERY * u32::try_from(number)? / u32::try_from(NODES)?;
    while due < counts.end {
        sleep_until(due).await;
        let message = request::update(&key, revision, &value);
        revision = match request::done(link.connection.unary(&link.txn, &message).await?)? {
            Done::At(now) => {
                if counts.counts() && due >= counts.begin {
                    counts.taken.borrow_mut().push(due.elapsed());
                }
                now
            }
            Done::Instead(now) => now, // of an earlier run
        };
        // Who was late goes on from now: one that takes long is counted once.
        due = (due + LEASE_EVERY).max(Instant::now());
    }
    Ok(())
}

/// Creates events.
async fn writer(link: &Link, number: usize, flood: Flood, counts: &Counts) -> Result<()> {
    let every = match flood {
        Flood::None => return Ok(()),
        Flood::Full => None,
        Flood::Paced(rate) => Some(Duration::from_secs_f64(WRITERS as f64 / rate)),
    };
    let value = Bytes::from(vec![b'e'; EVENT_BYTES]);
    let mut ticks = every.map(|every| {
        let offset = every * u32::try_from(number).unwrap_or(0) / u32::try_from(WRITERS).unwrap_or(1);
        let mut ticks = interval_at(Instant::now() + offset, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        ticks
    });
    while Instant::now() < counts.end {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let key = format!("/registry/events/default/event-{:016x}", rand::random::<u64>());
        let message = request::create(&key.into(), &value);
        let count = match link.connection.unary(&link.txn, &message).await {
            Ok(_) => &counts.written,
            Err(error) if error.to_string().contains(REFUSED) => &counts.refused,
            Err(error) => return Err(error),
        };
        if counts.counts() {
            count.set(count.get() + 1);
        }
    }
    Ok(())
}
