//! [`Memory`]: an ordered map, the model that the other engines are held against.
//!
//! A snapshot is the map itself, shared; a commit copies the map only where a snapshot still holds it. Nothing is
//! kept on disk: a "restart" in a test keeps the [`Arc<Memory>`](Arc) and drops everything above it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::engine::batch::{Batch, Write};
use crate::engine::error::{CommitError, ReadError};
use crate::engine::scan::{Page, Span};
use crate::engine::{Engine, Snapshot};

/// A part of a partitioned scan has at least this many rows: small enough that tests meet partitions.
const PART_ROWS_MIN: usize = 512;
/// A scan is cut into at most this many parts.
const PARTS_MAX: usize = 8;

/// All rows, by key.
type Rows = BTreeMap<Bytes, Bytes>;

/// An engine without a disk.
#[derive(Debug, Default)]
pub struct Memory {
    rows: RwLock<Arc<Rows>>,
}

/// The rows of one moment.
struct View(Arc<Rows>);

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Engine for Memory {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        Ok(Box::new(View(Arc::clone(&self.rows.read()))))
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        batch.check(&self.bounds()).map_err(CommitError::Refused)?;
        let mut rows = self.rows.write();
        for condition in &batch.conditions {
            if !condition.holds(rows.get(condition.key()).map(|value| &value[..])) {
                return Err(CommitError::Conflict { key: condition.key().clone() });
            }
        }
        if batch.writes.is_empty() {
            return Ok(());
        }
        let rows = Arc::make_mut(&mut rows);
        for write in batch.writes {
            match write {
                Write::Put(key, value) => drop(rows.insert(key, value)),
                Write::Delete(key) => drop(rows.remove(&key)),
            }
        }
        Ok(())
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        let rows = Arc::clone(&self.rows.read());
        let count = within(&rows, range).count();
        let parts = (count / PART_ROWS_MIN).clamp(1, PARTS_MAX);
        let keys = within(&rows, range).map(|(key, _)| key.clone());
        Ok(keys.step_by(count.div_ceil(parts).max(1)).skip(1).collect())
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn size(&self) -> u64 {
        0
    }
}

#[async_trait]
impl Snapshot for View {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.0.get(key).cloned())
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError> {
        Ok(keys.iter().map(|key| self.0.get(key).cloned()).collect())
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError> {
        let rows = within(&self.0, &span).map(|(key, value)| Ok((key.clone(), value.clone())));
        let Ok(page) = Page::fill::<Infallible>(&span, limit, rows);
        Ok(page)
    }
}

/// The rows of a span; none of an inverted one, which the map itself would not take.
fn within<'a>(rows: &'a Rows, span: &'a Span) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
    let upper = span.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let bounds = (!span.is_empty()).then_some((Bound::Included(&span.start), upper));
    bounds.into_iter().flat_map(|bounds| rows.range::<Bytes, _>(bounds))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::engine::contract;

    contract::suite!({
        let stores = Mutex::new(HashMap::new());
        move |name: String| {
            std::future::ready(Arc::clone(
                stores.lock().entry(name).or_insert_with(|| Arc::new(Memory::new())),
            ))
        }
    });

    #[tokio::test]
    async fn a_large_range_has_partitions() {
        let memory = Memory::new();
        let mut batch = Batch::new();
        for number in 0..4 * PART_ROWS_MIN {
            batch.put(format!("{number:06}"), "v");
        }
        memory.commit(batch).await.expect("no condition");
        assert_eq!(memory.partitions(&Span::ALL).await.expect("memory").len(), 3);
        assert_eq!(memory.partitions(&Span::new("000000", "000100")).await.expect("memory").len(), 0);
    }
}
