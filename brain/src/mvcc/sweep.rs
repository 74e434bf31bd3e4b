//! The sweep: takes compacted versions out of index and engine, a page at a time, beside everything else.
//!
//! Reads below the compacted revision are refused first, durably; the sweep only frees space. All rows of a key that go
//! leave in one batch: a deletion never goes before what it deleted. Rows that a running read may still want stay until
//! it ends.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::codec::{self, Record};
use super::log::{self, LogError};
use super::shared::Shared;
use super::writer::Command;
use crate::engine::{Batch, CommitError};

/// Keys looked at with the index locked.
const KEYS_MAX: usize = 1000;
/// Between two pages that deleted something: foreground commits of an engine rise three- to twelvefold beside an
/// unpaced deletion.
const PAUSE: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Sweeps whenever more is compacted than was swept. `swept` shows how far it is.
pub(super) async fn run(
    shared: Arc<Shared>,
    writer: mpsc::WeakSender<Command>,
    swept: watch::Sender<u64>,
    stop: Stop,
) {
    loop {
        tokio::select! {
            () = stop.asked() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let target = shared.sweepable();
        if target <= *swept.borrow() || shared.has_ended() {
            continue;
        }
        let began = Instant::now();
        let done = tokio::select! {
            () = stop.asked() => return,
            done = sweep(&shared, &writer, target) => done,
        };
        match done {
            Ok(()) => {
                swept.send_replace(target);
                shared.metrics.all.sweep_ms.observe(began.elapsed().as_secs_f64() * 1e3);
                shared.metrics.all.sweep_last.set(unix_seconds());
            }
            Err(error) => {
                tracing::warn!(group = %shared.group, "sweep up to r{target} failed, trying again: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a metric that shows wall time")]
fn unix_seconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs().cast_signed())
}

async fn sweep(shared: &Shared, writer: &mpsc::WeakSender<Command>, target: u64) -> Result<(), SweepError> {
    let mut after = None;
    loop {
        let (found, last) = shared.index.read().superfluous(after.as_ref(), KEYS_MAX, target);
        if !found.is_empty() {
            let began = Instant::now();
            let versions = found.iter().map(|(_, revisions)| revisions.len() as u64).sum();
            let mut batch = Batch::new();
            for (key, revisions) in &found {
                for revision in revisions {
                    batch.delete(shared.layout.data(key, Revision::new(*revision)));
                }
            }
            shared.engine.commit(batch).await?;
            let freed = shared.index.write().compact_all(found.iter().map(|(key, _)| key), target);
            shared.share.give_back(freed);
            shared.metrics.all.swept_versions.inc_by(versions);
            shared.metrics.all.sweep_page_ms.observe(began.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
        after = match last {
            Some(last) => Some(last),
            None => break,
        };
        tokio::task::yield_now().await;
    }
    trim(shared, writer, target).await
}

/// Takes log records below the batch of the compacted revision away. A takeover record stays, and so does the one
/// before it: a master that sleeps may still ask for, or write at, exactly these two numbers.
async fn trim(shared: &Shared, writer: &mpsc::WeakSender<Command>, target: u64) -> Result<(), SweepError> {
    let snapshot = shared.engine.snapshot().await.map_err(LogError::from)?;
    let first = log::small(&*snapshot, &shared.layout, codec::Small::Trimmed).await?.unwrap_or(1);
    let tail = log::tail(&*snapshot, &shared.layout).await?;
    let keep = log::batch_of(&*snapshot, &shared.layout, target).await?.min(tail);
    if keep <= first {
        return Ok(());
    }
    // The mark goes first: whoever reads the log begins there.
    let Some(writer) = writer.upgrade() else { return Ok(()) };
    let Ok(permit) = writer.reserve().await else { return Ok(()) };
    permit.send(Command::Trimmed { number: keep });
    drop(writer);
    while log::small(
        &*shared.engine.snapshot().await.map_err(LogError::from)?,
        &shared.layout,
        codec::Small::Trimmed,
    )
    .await?
    .is_none_or(|mark| mark < keep)
    {
        if shared.has_ended() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    // The last one of the sweep before this was kept for want of its successor.
    let mut span = shared.layout.log_span(first.saturating_sub(1));
    span.end = Some(shared.layout.log(keep));
    let mut before_takeover = None;
    loop {
        let page = snapshot.scan(span.clone(), KEYS_MAX).await.map_err(LogError::from)?;
        let mut batch = Batch::new();
        for (row, value) in page.rows {
            let record: Record = codec::read_message(&row, value).map_err(LogError::from)?;
            let before = before_takeover.replace(row.clone());
            if record.takeover.is_empty() {
                // Whether it may go shows only with its successor.
                before.into_iter().for_each(|before| {
                    batch.delete(before);
                });
            } else {
                before_takeover = None;
            }
        }
        if !batch.is_empty() {
            shared.engine.commit(batch).await?;
            tokio::time::sleep(PAUSE).await;
        }
        match page.next {
            Some(next) => span.start = next,
            None => return Ok(()),
        }
    }
}
