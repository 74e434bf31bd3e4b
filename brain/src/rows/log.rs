//! Finding one's way in a group's log: where it ends, and which batch has a revision.
//!
//! Batches are numbered without gaps from the trimmed mark to the tail, so both are binary searches of point gets.
//! Below the mark stand only single records that are kept for those who sleep (see `sweep`); nothing looks for its way
//! there. The record at the mark is always there: a trim stays below the tail of its time.

use thiserror::Error;

use super::codec::{self, Damaged, Layout, Record, Small};
use crate::engine::{ReadError, Snapshot};

/// Why the log was not read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The engine did not answer.
    #[error("engine did not give the log")]
    Read(#[from] ReadError),
    /// It answered nonsense.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// A small row, if it was ever written.
///
/// # Errors
/// See [`LogError`].
pub(crate) async fn small(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    small: Small,
) -> Result<Option<u64>, LogError> {
    let key = layout.small(small);
    let value = snapshot.get(&key).await?;
    Ok(value.map(|value| codec::read_small(&key, &value)).transpose()?)
}

/// The record of a batch.
///
/// # Errors
/// See [`LogError`].
pub(crate) async fn record(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    number: u64,
) -> Result<Option<Record>, LogError> {
    let key = layout.log(number);
    let value = snapshot.get(&key).await?;
    Ok(value.map(|value| codec::read_message(&key, value)).transpose()?)
}

/// The number of the last batch; 0 for an empty log.
///
/// # Errors
/// See [`LogError`].
pub(crate) async fn tail(snapshot: &dyn Snapshot, layout: &Layout) -> Result<u64, LogError> {
    let trimmed = small(snapshot, layout, Small::Trimmed).await?;
    let mut there = trimmed.unwrap_or(1);
    if snapshot.get(&layout.log(there)).await?.is_none() {
        return match trimmed {
            None => Ok(0),
            Some(mark) => Err(codec::damaged(&layout.log(mark), "the first record of the log").into()),
        };
    }
    let mut step = 1;
    while snapshot.get(&layout.log(there + step)).await?.is_some() {
        there += step;
        step *= 2;
    }
    let mut missing = there + step;
    while missing - there > 1 {
        let middle = there + (missing - there) / 2;
        match snapshot.get(&layout.log(middle)).await? {
            Some(_) => there = middle,
            None => missing = middle,
        }
    }
    Ok(there)
}

/// What stands under `number`, and the last batch with its number; `None` if nothing stands there. For whoever knows that
/// the log has just got there: one read where [`tail`] makes many.
///
/// # Errors
/// See [`LogError`].
pub(crate) async fn ends_from(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    number: u64,
) -> Result<Option<(Record, u64, Record)>, LogError> {
    const PAGE: usize = 64;
    let mut span = layout.log_span(number);
    let (mut first, mut last) = (None, None);
    loop {
        let mut page = snapshot.scan(span.clone(), PAGE).await?;
        if first.is_none() {
            let Some((key, value)) = page.rows.first() else { return Ok(None) };
            if layout.read_log_number(key)? != number {
                return Ok(None);
            }
            first = Some(codec::read_message::<Record>(key, value.clone())?);
        }
        last = page.rows.pop().or(last);
        match page.next {
            Some(next) => span.start = next,
            None => break,
        }
    }
    let (Some(first), Some((key, value))) = (first, last) else { return Ok(None) };
    Ok(Some((first, layout.read_log_number(&key)?, codec::read_message(&key, value)?)))
}

/// The first batch that gave out a revision at or above `revision`; one past the tail if there is none.
///
/// # Errors
/// See [`LogError`].
pub(crate) async fn batch_of(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    revision: u64,
) -> Result<u64, LogError> {
    let mut low = small(snapshot, layout, Small::Trimmed).await?.unwrap_or(1);
    let mut high = tail(snapshot, layout).await? + 1;
    while low < high {
        let middle = low + (high - low) / 2;
        match record(snapshot, layout, middle).await? {
            Some(record) if record.top < revision => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
