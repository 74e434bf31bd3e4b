//! The sweep: takes compacted versions out of index and engine, a page at a time, beside everything else.
//!
//! Reads below the compacted revision are refused first, durably; the sweep only frees space. Of each key the oldest
//! rows go first: a deletion never goes before what it deleted. Rows that a running read may still want stay until it
//! ends.
//!
//! **Its commits are not fenced**: they name no number of the log, so that of a master that was deposed may land at any
//! time, long after its sender is gone. They are safe because each of them deletes what no master will ever look at:
//! * *Data rows.* Which of them are superfluous follows from what was settled at or below a compacted revision that is
//!   durable. Neither can change: no revision at or below it is ever given out again, and the compacted revision never
//!   falls, so every later master comes to the same rows, and refuses every read that would need them. A master that
//!   loads meanwhile may see some of them and not others; it knows them as superfluous, or not at all.
//! * *Log records.* Whoever reads the log begins at the trimmed mark, which was moved first, in a batch: fenced. Below
//!   it nobody reads, but sleepers may still ask for single numbers, and each of these is kept or guarded:
//!   a deposed master looks at, and writes at, the number after its last settled batch, or the one after that where it
//!   has not heard that its batch was committed. At the second of these two a takeover stands: it and the record before
//!   it are never deleted. Whoever was about to take over holds a number that may be trimmed by now; its takeover
//!   demands that the mark is where it was (see `takeover`). And a try of a batch that another try has settled writes
//!   nothing while that record stands, so it is not deleted either: the next record says that there may be one.
//! * Whether a record may go shows with its successor, and neither changes once it is there, so a judgement that is old
//!   is still true.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::command::Command;
use crate::engine::{Batch, CommitError, ReadError};
use crate::rows::codec::{self, Record};
use crate::rows::log::{self, LogError};
use crate::state::group::GroupState;

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
pub(crate) async fn run(
    state: Arc<GroupState>,
    writer: mpsc::WeakSender<Command>,
    swept: watch::Sender<u64>,
    stop: Stop,
) {
    loop {
        tokio::select! {
            () = stop.asked() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        // A slave forgets what its master has taken out, and leaves the engine alone.
        let slave = state.is_slave();
        let target = if slave { state.sweepable().min(state.follow.swept()) } else { state.sweepable() };
        if target <= *swept.borrow() || state.has_ended() {
            continue;
        }
        let began = Instant::now();
        if slave {
            forget(&state, target).await;
            swept.send_replace(target);
            continue;
        }
        let done = tokio::select! {
            () = stop.asked() => return,
            done = sweep(&state, &writer, target) => done,
        };
        match done {
            Ok(()) => {
                swept.send_replace(target);
                state.metrics.all.sweep_ms.observe(began.elapsed().as_secs_f64() * 1e3);
                state.metrics.all.sweep_last.set(unix_seconds());
            }
            Err(error) => {
                tracing::warn!(group = %state.group, "sweep up to r{target} failed, trying again: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Takes compacted versions out of the index alone.
async fn forget(state: &GroupState, target: u64) {
    let mut after = None;
    loop {
        let (found, last) = state.index.read().superfluous(after.as_ref(), KEYS_MAX, target);
        if !found.is_empty() {
            let freed = state.index.write().compact_all(found.iter().map(|(key, _)| key), target);
            state.share.give_back(freed);
        }
        match last {
            Some(last) => after = Some(last),
            None => return,
        }
        tokio::task::yield_now().await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a metric that shows wall time")]
fn unix_seconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs().cast_signed())
}

async fn sweep(
    state: &GroupState,
    writer: &mpsc::WeakSender<Command>,
    target: u64,
) -> Result<(), SweepError> {
    let mut after = None;
    loop {
        let (found, last) = state.index.read().superfluous(after.as_ref(), KEYS_MAX, target);
        if !found.is_empty() {
            let began = Instant::now();
            let versions = found.iter().map(|(_, revisions)| revisions.len() as u64).sum();
            delete(state, &found).await?;
            let freed = state.index.write().compact_all(found.iter().map(|(key, _)| key), target);
            state.share.give_back(freed);
            state.metrics.all.swept_versions.inc_by(versions);
            state.metrics.all.sweep_page_ms.observe(began.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
        after = match last {
            Some(last) => Some(last),
            None => break,
        };
        tokio::task::yield_now().await;
    }
    trim(state, writer, target).await
}

/// Deletes versions, each key's oldest first: what a batch leaves out is newer than what it takes.
async fn delete(state: &GroupState, found: &[(Bytes, Vec<u64>)]) -> Result<(), CommitError> {
    let mut deletion = Deletion::new(state);
    for (key, revisions) in found {
        debug_assert!(revisions.is_sorted(), "oldest first");
        for revision in revisions {
            deletion.add(state.layout.data(key, Revision::new(*revision))).await?;
        }
    }
    deletion.flush().await
}

/// Deletes rows, as many at once as the engine takes well, and in order: later ones only after earlier ones are gone.
struct Deletion<'a> {
    state: &'a GroupState,
    batch: Batch,
    bytes: usize,
}

impl<'a> Deletion<'a> {
    fn new(state: &'a GroupState) -> Self {
        Self { state, batch: Batch::new(), bytes: 0 }
    }

    async fn add(&mut self, row: Bytes) -> Result<(), CommitError> {
        self.bytes += row.len();
        self.batch.delete(row);
        if self.bytes >= self.state.bounds.batch_bytes {
            self.flush().await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), CommitError> {
        self.bytes = 0;
        self.state.engine.commit(std::mem::take(&mut self.batch)).await
    }
}

/// Takes log records below the batch of the compacted revision away, but for those that sleepers may still ask for or
/// write at: see the module.
async fn trim(state: &GroupState, writer: &mpsc::WeakSender<Command>, target: u64) -> Result<(), SweepError> {
    let mut snapshot = state.engine.snapshot().await.map_err(LogError::from)?;
    let first = log::small(&*snapshot, &state.layout, codec::Small::Trimmed).await?.unwrap_or(1);
    let tail = log::tail(&*snapshot, &state.layout).await?;
    let keep = log::batch_of(&*snapshot, &state.layout, target).await?.min(tail);
    if keep <= first {
        return Ok(());
    }
    // The mark goes first: whoever reads the log begins there.
    let Some(writer) = writer.upgrade() else { return Ok(()) };
    let Ok(permit) = writer.reserve().await else { return Ok(()) };
    permit.send(Command::Trimmed { number: keep });
    drop(writer);
    while log::small(
        &*state.engine.snapshot().await.map_err(LogError::from)?,
        &state.layout,
        codec::Small::Trimmed,
    )
    .await?
    .is_none_or(|mark| mark < keep)
    {
        if state.has_ended() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    // From the start: what a trim before this left, by failing or for want of a successor, goes too, and few are kept.
    let mut span = state.layout.log_span(0);
    span.end = Some(state.layout.log(keep));
    let mut deletion = Deletion::new(state);
    let mut before: Option<(u64, Bytes)> = None;
    loop {
        let page = match snapshot.scan(span.clone(), KEYS_MAX).await {
            Err(ReadError::Expired) => {
                snapshot = state.engine.snapshot().await.map_err(LogError::from)?;
                continue;
            }
            page => page.map_err(LogError::from)?,
        };
        for (row, value) in page.rows {
            let record: Record = codec::read_message(&row, value).map_err(LogError::from)?;
            let is_takeover = !record.takeover.is_empty();
            let keeps_before = is_takeover || record.after_repeats;
            #[cfg(any(test, feature = "faults"))]
            let (is_takeover, keeps_before) = {
                let planted = &state.planted;
                let keeps = if is_takeover { !planted.trims_before_takeovers } else { keeps_before };
                (is_takeover && !planted.trims_takeovers, keeps)
            };
            let number = state.layout.read_log_number(&row).map_err(LogError::from)?;
            // Whether it may go shows only with its successor. Without one it was judged before.
            if let Some((_, before)) = before.filter(|(before, _)| !keeps_before && before + 1 == number) {
                deletion.add(before).await?;
            }
            before = (!is_takeover).then_some((number, row));
        }
        match page.next {
            Some(next) => span.start = next,
            None => break,
        }
    }
    Ok(deletion.flush().await?)
}
