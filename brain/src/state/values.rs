//! [`Values`]: the `KeyValue` of any version, from a bounded cache or the engine.
//!
//! A version is immutable, so the cache is never wrong, only small. A page of misses is one read: point gets where
//! few miss, one scan where most do.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use thiserror::Error;
use tokio::time::timeout;

use super::timeout::ANSWER_TIMEOUT;
use crate::decide::answer::Entry;
use crate::engine::{Engine, ReadError, Snapshot, Span};
use crate::rows::codec::{Damaged, Layout};

type Id = (Bytes, u64);

/// Values of all groups in one engine, bounded together: whoever reads most has most of it. Clones are one cache.
#[derive(Clone)]
pub struct ValueCache(Arc<Cache<Id, Bytes, Bytesize>>);

impl ValueCache {
    /// `bytes` rise: fewer reads of the engine, more memory.
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).max(16);
        Self(Arc::new(Cache::with_weighter(items, bytes, Bytesize)))
    }
}

impl fmt::Debug for ValueCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueCache").field("bytes", &self.0.weight()).finish_non_exhaustive()
    }
}

/// How the cache does, for one group.
#[derive(Clone, Copy, Debug)]
pub struct CacheState {
    /// Bytes in it, of all groups.
    pub bytes: u64,
    /// Values found since the start.
    pub hits: u64,
    /// Values not found.
    pub misses: u64,
}

#[derive(Clone)]
struct Bytesize;

impl Weighter<Id, Bytes> for Bytesize {
    fn weight(&self, (key, _): &Id, value: &Bytes) -> u64 {
        (key.len() + value.len() + 96) as u64
    }
}

/// Why a value was not read.
#[derive(Debug, Error)]
pub enum ValueError {
    /// The engine did not answer.
    #[error("engine did not give the value")]
    Read(#[from] ReadError),
    /// It answered nonsense.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// It has no such row: compacted since it was looked up.
    #[error("version {revision} of {} is not stored", key.escape_ascii())]
    Missing {
        /// The key.
        key: Bytes,
        /// The revision.
        revision: u64,
    },
}

/// Reads the values of versions, from the cache or the engine.
pub struct Values {
    cache: ValueCache,
    hits: AtomicU64,
    misses: AtomicU64,
    engine: Arc<dyn Engine>,
    layout: Layout,
}

impl Values {
    /// Of the group whose keys are read by it. Engine and cache are those of all groups: a version has one value, whoever
    /// owns its key.
    pub fn new(engine: Arc<dyn Engine>, layout: Layout, cache: ValueCache) -> Self {
        Self { cache, hits: AtomicU64::new(0), misses: AtomicU64::new(0), engine, layout }
    }

    /// How the cache does.
    pub fn cache(&self) -> CacheState {
        let [hits, misses] = [&self.hits, &self.misses].map(|count| count.load(Ordering::Relaxed));
        CacheState { bytes: self.cache.0.weight(), hits, misses }
    }

    /// Adds one that was just written or read.
    pub fn insert(&self, key: Bytes, revision: u64, kv: Bytes) {
        self.cache.0.insert((key, revision), kv);
    }

    /// From memory only.
    pub fn cached(&self, key: &Bytes, revision: u64) -> Option<Bytes> {
        let found = self.cache.0.get(&(key.clone(), revision));
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Fills in what is missing in `entries`, which are in key order.
    ///
    /// # Errors
    /// See [`ValueError`]. [`ValueError::Missing`] where compaction was faster: the reader must look at it again.
    pub async fn fill(&self, entries: &mut [Entry]) -> Result<(), ValueError> {
        self.read(entries, true).await
    }

    /// As [`Self::fill`], for history: what is read once more and never again does not push anything out.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub async fn fill_once(&self, entries: &mut [Entry]) -> Result<(), ValueError> {
        self.read(entries, false).await
    }

    async fn read(&self, entries: &mut [Entry], keep: bool) -> Result<(), ValueError> {
        let mut missing = Vec::new();
        for (position, entry) in entries.iter_mut().enumerate().filter(|(_, entry)| entry.kv.is_none()) {
            entry.kv = self.cached(&entry.key, entry.version.revision);
            if entry.kv.is_none() {
                missing.push(position);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let found = timeout(ANSWER_TIMEOUT, self.read_missing(entries, missing, keep)).await;
        found.unwrap_or_else(|_| Err(ReadError::Unavailable("no answer in time".into()).into()))
    }

    async fn read_missing(
        &self,
        entries: &mut [Entry],
        missing: Vec<usize>,
        keep: bool,
    ) -> Result<(), ValueError> {
        let (Some(first), Some(last)) = (missing.first(), missing.last()) else { return Ok(()) };
        let snapshot = self.engine.snapshot().await?;
        // A point get costs as much as scanning a few rows; rows of other versions lie between. Two versions of one key
        // come the other way round in the store.
        if missing.len() >= 8 && missing.len() * 2 >= last - first && in_key_order(entries) {
            let (first, last) = (*first, *last);
            return self.scan(&*snapshot, &mut entries[first..=last], keep).await;
        }
        let rows = missing.iter().map(|position| {
            let entry = &entries[*position];
            self.layout.data(&entry.key, Revision::new(entry.version.revision))
        });
        let rows: Vec<_> = rows.collect();
        let values = snapshot.get_many(rows.clone()).await?;
        for ((position, row), value) in missing.into_iter().zip(rows).zip(values) {
            let entry = &mut entries[position];
            let read = value.map(|value| self.layout.read_data(&row, &value)).transpose()?;
            let kv = read.and_then(|read| read.kv);
            self.found(entry, kv, keep)?;
        }
        Ok(())
    }

    async fn scan(
        &self,
        snapshot: &dyn Snapshot,
        entries: &mut [Entry],
        keep: bool,
    ) -> Result<(), ValueError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        let keys = KeyRange::new(first.key.clone(), KeyRange::one(last.key.clone()).end().cloned());
        let mut span: Span = self.layout.data_span(&keys);
        let mut wanted = entries.iter_mut().peekable();
        loop {
            let page = snapshot.scan(span.clone(), 1024).await?;
            for (row, value) in &page.rows {
                let read = self.layout.read_data(row, value)?;
                let id = (&read.key[..], read.revision.get());
                let is = |entry: &&mut Entry| (&entry.key[..], entry.version.revision) == id;
                if let Some(entry) = wanted.next_if(is) {
                    self.found(entry, read.kv, keep)?;
                } else if let Some(entry) = wanted.next_if(|entry| entry.key < read.key) {
                    // Passed without being seen.
                    self.found(entry, None, keep)?;
                }
            }
            match page.next {
                Some(next) if wanted.peek().is_some() => span.start = next,
                _ => break,
            }
        }
        wanted.try_for_each(|entry| self.found(entry, None, keep))
    }

    fn found(&self, entry: &mut Entry, kv: Option<Bytes>, keep: bool) -> Result<(), ValueError> {
        match kv {
            Some(kv) => {
                // Rows of a page share one buffer: an entry of its own does not keep the others alive.
                let kv = Bytes::copy_from_slice(&kv);
                if keep {
                    self.insert(entry.key.clone(), entry.version.revision, kv.clone());
                }
                entry.kv = Some(kv);
            }
            None if entry.kv.is_some() => {}
            None => {
                return Err(ValueError::Missing { key: entry.key.clone(), revision: entry.version.revision });
            }
        }
        Ok(())
    }
}

fn in_key_order(entries: &[Entry]) -> bool {
    entries.is_sorted_by(|one, next| one.key < next.key)
}
