//! [`History`]: events that have left the window, from the log and the rows in the engine.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use thiserror::Error;
use tokio::time::timeout;

use crate::decide::answer::Entry;
use crate::engine::ReadError;
use crate::events::event::{Event, Prior, RevisionEvents};
use crate::rows::codec::{self, Damaged, Record, Small};
use crate::rows::entry;
use crate::rows::log::{self, LogError};
use crate::rows::version::Version;
use crate::state::group::GroupState;
use crate::state::timeout::ANSWER_TIMEOUT;
use crate::state::values::ValueError;

/// Records read at once: few where most have an event that is wanted, many where hardly any has.
const RECORDS_MIN: usize = 64;
const RECORDS_MAX: usize = 1024;
/// Events of one page end with the revision that passes this.
const EVENTS_MAX: usize = 64;

/// Why history was not read.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// It is compacted up to here.
    #[error("history is compacted up to {0}")]
    Compacted(Revision),
    /// The engine did not answer.
    #[error("engine did not give history")]
    Read(#[from] ReadError),
    /// It answered nonsense.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The log was not read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A value is missing.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// A page of history: events of a range, whole revisions, oldest first; and the revision to go on from.
#[derive(Debug)]
pub struct HistoryPage {
    /// The events.
    pub events: Vec<RevisionEvents>,
    /// Everything below it has been read.
    pub next: u64,
}

/// A cursor into the log of batches.
#[derive(Debug, Default)]
pub struct History {
    /// The batch to go on from, once it is known.
    number: Option<u64>,
    records: usize,
}

impl History {
    /// Reads on from revision `from`. The page is bounded in records and events; it may be empty and not the last.
    ///
    /// # Errors
    /// See [`HistoryError`].
    ///
    /// # Cancel safety
    /// Safe: the cursor moves when the page is whole.
    pub async fn page(
        &mut self,
        state: &GroupState,
        keys: &KeyRange,
        from: u64,
    ) -> Result<HistoryPage, HistoryError> {
        // Somebody far behind reads page after page, perhaps without ever having to wait.
        tokio::task::yield_now().await;
        let page = timeout(ANSWER_TIMEOUT, self.read(state, keys, from)).await;
        page.unwrap_or_else(|_| Err(ReadError::Unavailable("no answer in time".into()).into()))
    }

    async fn read(
        &mut self,
        state: &GroupState,
        keys: &KeyRange,
        from: u64,
    ) -> Result<HistoryPage, HistoryError> {
        let committed = state.committed();
        let snapshot = state.engine.snapshot().await?;
        let compacted = log::small(&*snapshot, &state.layout, Small::Compacted).await?;
        if let Some(compacted) = compacted.filter(|compacted| *compacted > from) {
            // Records may be missing in this very snapshot, also where another master has compacted since.
            return Err(HistoryError::Compacted(Revision::new(compacted)));
        }
        let number = match self.number {
            Some(number) => number,
            None => log::batch_of(&*snapshot, &state.layout, from).await?,
        };
        self.records = self.records.clamp(RECORDS_MIN, RECORDS_MAX);
        let page = snapshot.scan(state.layout.log_span(number), self.records).await?;
        let (mut events, mut next, mut found, mut reached) = (Vec::new(), from, 0, number);
        for (row, value) in page.rows {
            if found >= EVENTS_MAX {
                break;
            }
            let record: Record = codec::read_message(&row, value)?;
            reached = state.layout.read_log_number(&row)? + 1;
            for write in record.writes.into_iter().filter(|write| write.revision >= from) {
                if write.revision > committed.get() {
                    // Durable but not published yet: the window will have it. Everything before it was read.
                    return self
                        .finish(state, from, events, next.max(committed.get() + 1), reached - 1)
                        .await;
                }
                next = write.revision + 1;
                let changes: Vec<_> =
                    write.changes.into_iter().filter(|change| keys.contains(&change.key)).collect();
                if !changes.is_empty() {
                    found += changes.len();
                    events.push((write.revision, changes));
                }
            }
        }
        self.records = if found < EVENTS_MAX / 2 { self.records * 2 } else { self.records / 2 };
        if found < EVENTS_MAX && page.next.is_none() {
            next = next.max(committed.get() + 1);
        }
        self.finish(state, from, events, next, reached).await
    }

    async fn finish(
        &mut self,
        state: &GroupState,
        from: u64,
        found: Vec<(u64, Vec<codec::Change>)>,
        next: u64,
        reached: u64,
    ) -> Result<HistoryPage, HistoryError> {
        let mut puts: Vec<Entry> = Vec::new();
        let mut priors = Vec::new();
        {
            let index = state.index.read();
            for (revision, changes) in &found {
                for change in changes {
                    if !change.deleted {
                        let version = Version { revision: *revision, count: 1, ..Version::default() };
                        puts.push(Entry { key: change.key.clone(), version, kv: None });
                    }
                    priors.push(index.before(&change.key, *revision));
                }
            }
        }
        let filled = state.values.fill_once(&mut puts).await;
        // Records and rows may be swept while they are read, or were before; then the answer is "compacted", not a gap.
        let mut compacted = state.compacted();
        if matches!(filled, Err(ValueError::Missing { .. })) {
            // By a master that this one follows, or that has followed it, and that it has not heard of yet.
            let snapshot = state.engine.snapshot().await?;
            let stored = log::small(&*snapshot, &state.layout, Small::Compacted).await?;
            compacted = compacted.max(stored.map_or(-1, u64::cast_signed));
        }
        if from.cast_signed() < compacted {
            return Err(HistoryError::Compacted(Revision::checked_from(compacted).unwrap_or_default()));
        }
        filled?;
        let (mut puts, mut priors) = (puts.into_iter(), priors.into_iter());
        let mut events = Vec::with_capacity(found.len());
        for (revision, changes) in found {
            let all: Arc<[Event]> = changes
                .into_iter()
                .map(|change| {
                    let kv = match change.deleted {
                        true => entry::deleted(&change.key, revision),
                        false => puts.next().and_then(|entry| entry.kv).unwrap_or_else(Bytes::new),
                    };
                    let prior =
                        priors.next().flatten().map_or(Prior::None, |version| Prior::At(version.revision));
                    Event { key: change.key, deleted: change.deleted, kv, prior }
                })
                .collect();
            events.push(RevisionEvents { revision, events: all });
        }
        self.number = Some(reached);
        Ok(HistoryPage { events, next })
    }
}
