//! [`View`]: reads at the published moment. What may be large runs on a blocking thread; one key does not: a get is
//! 9 to 23 us, less than the way to such a thread and back.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lsm_tree::{AbstractTree, Guard};

use crate::engine::Snapshot;
use crate::engine::embedded::exhaustion::{self, read_error};
use crate::engine::embedded::moment::Moment;
use crate::engine::embedded::store::{Store, unseal};
use crate::engine::error::ReadError;
use crate::engine::scan::{Page, Span};

/// That many keys are read on the caller's thread.
const DIRECT_KEYS_MAX: usize = 4;
/// A range is cut into at most this many parts: more than a brain has threads to scan with.
const PARTS_MAX: usize = 16;

/// A moment of a store, and the store, which it keeps open.
#[derive(Clone)]
pub(super) struct View {
    moment: Arc<Moment>,
    store: Arc<Store>,
}

impl View {
    /// The newest durable moment.
    pub(super) fn new(store: Arc<Store>) -> Self {
        let moment = store.moments().newest();
        Self { moment, store }
    }

    /// A read that fails here fails again, unless a file could not be opened now: the disk is the only other place that
    /// it could come from.
    fn get_now(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.store.get(key, self.moment.at()).map_err(read_error)
    }

    fn scan_now(&self, span: &Span, limit: usize) -> Result<Page, ReadError> {
        if span.is_empty() {
            return Ok(Page::default());
        }
        let upper = span.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.store.tree().range::<&[u8], _>(
            (Bound::Included(&span.start[..]), upper),
            self.moment.at(),
            None,
        );
        Page::fill(
            span,
            limit,
            rows.map(|row| {
                let (key, sealed) = row.into_inner().map_err(|error| read_error(error.into()))?;
                let value = unseal(&key, &sealed).map_err(ReadError::Failed)?;
                Ok((Bytes::copy_from_slice(&key), value))
            }),
        )
    }
}

#[async_trait]
impl Snapshot for View {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.get_now(key)
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError> {
        if keys.len() <= DIRECT_KEYS_MAX {
            return keys.iter().map(|key| self.get_now(key)).collect();
        }
        let view = self.clone();
        blocking(move || exhaustion::read(|| keys.iter().map(|key| view.get_now(key)).collect())).await
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError> {
        let view = self.clone();
        blocking(move || exhaustion::read(|| view.scan_now(&span, limit))).await
    }
}

/// Cuts a range at the first keys of tables, which are of similar size. What is in memory only is not cut: it is
/// read fast anyway.
pub(super) fn cuts(store: &Store, range: &Span) -> Vec<Bytes> {
    let version = store.tree().current_version();
    let keys = version.iter_tables().map(|table| table.metadata.key_range.min());
    let inside = keys.filter(|key| range.contains(key) && key[..] != range.start[..]);
    let mut keys: Vec<_> = inside.map(|key| Bytes::copy_from_slice(key)).collect();
    keys.sort_unstable();
    keys.dedup();
    let step = (keys.len() + 1).div_ceil(PARTS_MAX);
    keys.into_iter().skip(step - 1).step_by(step).collect()
}

/// Runs a read where it may block.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(done) => done,
        Err(error) => Err(ReadError::Failed(error.into())),
    }
}
