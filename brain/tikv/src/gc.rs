//! [`Collector`]: moves the point on below which TiKV forgets what was overwritten.
//!
//! TiKV keeps every version until PD's safe point is above it, and nobody moves that in a cluster without TiDB. Before
//! it moves, locks below it are resolved, which ends transactions that old.
//!
//! Of all brains of a cluster one does it, chosen by a row: whoever has it counts in it, and who sees it not change for
//! three periods takes it over. That is for efficiency alone. Several collectors at once do no harm: the safe point only
//! goes up, and each of them moves it only to a timestamp that it has itself got from PD long enough ago by its own
//! monotonic clock. A snapshot younger than its age bound has therefore a later timestamp, whatever any wall clock did.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::engine::error::chain;
use kubebrain_brain::engine::{Batch, CommitError, Snapshot as _};
use tikv_client::{Timestamp, TimestampExt as _};
use tokio::time::{Instant, timeout};

use crate::commit;
use crate::config::Gc;
use crate::plan::Plan;
use crate::view::{Reader, View};

/// Periods without a change after which a collector counts as gone.
const MISSED: u32 = 3;
/// All regions are asked for old locks.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(300);

/// One who may collect.
pub(crate) struct Collector {
    reader: Reader,
    gc: Gc,
    name: String,
    count: u64,
    /// What somebody else wrote into the row, and when it was first seen.
    other: Option<(Bytes, Instant)>,
    /// Timestamps by when they were got, oldest first.
    got: VecDeque<(Instant, Timestamp)>,
}

impl Collector {
    pub(crate) fn new(reader: Reader, mut gc: Gc) -> Self {
        gc.behind = gc.behind.max(reader.link.config.snapshot_age_max * 2);
        let name = format!("{:016x}", rand::random::<u64>());
        Self { reader, gc, name, count: 0, other: None, got: VecDeque::new() }
    }

    /// Does so until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(self.gc.period).await;
            match self.turn().await {
                Ok(None) => {}
                Ok(Some(timestamp)) => {
                    tracing::debug!("garbage before {} is free to go", timestamp.version())
                }
                Err(error) => tracing::warn!("no garbage was collected: {error}"),
            }
        }
    }

    /// The safe point, if it was moved.
    async fn turn(&mut self) -> Result<Option<Timestamp>, String> {
        let view = View::take(self.reader.clone()).await.map_err(|error| chain(&error))?;
        let now = Instant::now();
        self.got.push_back((now, view.timestamp().clone()));
        if !self.is_chosen(&view).await? {
            return Ok(None);
        }
        let Some(target) = self.target(now) else { return Ok(None) };
        let client = self.reader.link.client(now + SWEEP_TIMEOUT).await;
        let client = client.map_err(|unlinked| unlinked.into_cause().to_string())?;
        match timeout(SWEEP_TIMEOUT, client.gc(target.clone())).await {
            Ok(Ok(_)) => Ok(Some(target)),
            Ok(Err(error)) => Err(crate::outcome::describe(&error)),
            Err(_) => Err(format!("it takes longer than {SWEEP_TIMEOUT:?}")),
        }
    }

    /// The youngest timestamp that is old enough; what is older is forgotten.
    fn target(&mut self, now: Instant) -> Option<Timestamp> {
        let mut target = None;
        while let Some((at, timestamp)) = self.got.front()
            && now.duration_since(*at) >= self.gc.behind
        {
            target = Some(timestamp.clone());
            self.got.pop_front();
        }
        target
    }

    /// Keeps or takes the row.
    async fn is_chosen(&mut self, view: &View) -> Result<bool, String> {
        let row = self.gc.row.clone();
        let stored = view.get(&row).await.map_err(|error| chain(&error))?;
        let mut batch = Batch::new();
        match stored {
            None => batch.absent(row.clone()),
            Some(stored) => {
                let own = stored.starts_with(self.name.as_bytes());
                if !own && !self.is_gone(&stored) {
                    return Ok(false);
                }
                batch.equals(row.clone(), stored)
            }
        };
        self.count += 1;
        batch.put(row, format!("{} {}", self.name, self.count));
        match commit::commit(self.reader.clone(), Arc::new(Plan::new(batch))).await {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(error) => Err(chain(&error)),
        }
    }

    /// True if the other one has not counted for too long.
    fn is_gone(&mut self, stored: &Bytes) -> bool {
        match &self.other {
            Some((seen, since)) if seen == stored => since.elapsed() >= self.gc.period * MISSED,
            _ => {
                self.other = Some((stored.clone(), Instant::now()));
                false
            }
        }
    }
}
