//! [`RetryingSnapshot`] and [`Tries`]: reads of an engine that does not answer now and then.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::engine::{Engine, Page, ReadError, Snapshot, Span};

/// An engine that does not answer is asked again for so long, from the last time that it did.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often something was tried in vain.
#[derive(Default)]
pub(crate) struct Tries {
    delay: Duration,
    since: Option<Instant>,
}

impl Tries {
    pub(crate) async fn pause(&mut self) {
        self.delay = (self.delay * 2).clamp(Duration::from_millis(1), Duration::from_secs(1));
        sleep(self.delay).await;
    }

    /// What was read; `None` after a pause where it may be asked for again.
    pub(crate) async fn of<T>(&mut self, read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
        match read {
            Err(ReadError::Unavailable(_) | ReadError::Expired)
                if self.since.get_or_insert_with(Instant::now).elapsed() < PATIENCE =>
            {
                self.pause().await;
                Ok(None)
            }
            read => {
                *self = Self::default();
                read.map(Some)
            }
        }
    }
}

/// A snapshot that is replaced by a newer one where it is lost or not answered. For what does not change any more.
pub(crate) struct RetryingSnapshot<'a> {
    engine: &'a Arc<dyn Engine>,
    snapshot: Mutex<Arc<dyn Snapshot>>,
}

impl<'a> RetryingSnapshot<'a> {
    pub(crate) async fn new(engine: &'a Arc<dyn Engine>) -> Result<Self, ReadError> {
        let mut tries = Tries::default();
        loop {
            if let Some(snapshot) = tries.of(engine.snapshot().await).await? {
                return Ok(Self { engine, snapshot: Mutex::new(snapshot.into()) });
            }
        }
    }

    /// Where its snapshots come from.
    pub(crate) fn engine(&self) -> &'a Arc<dyn Engine> {
        self.engine
    }

    async fn read<T, F: Future<Output = Result<T, ReadError>>>(
        &self,
        read: impl Fn(Arc<dyn Snapshot>) -> F,
    ) -> Result<T, ReadError> {
        let mut tries = Tries::default();
        loop {
            let snapshot = self.snapshot.lock().clone();
            if let Some(found) = tries.of(read(snapshot).await).await? {
                return Ok(found);
            }
            if let Ok(snapshot) = self.engine.snapshot().await {
                *self.snapshot.lock() = snapshot.into();
            }
        }
    }
}

#[async_trait]
impl Snapshot for RetryingSnapshot<'_> {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.read(|snapshot| async move { snapshot.get(key).await }).await
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError> {
        self.read(|snapshot| {
            let keys = keys.clone();
            async move { snapshot.get_many(keys).await }
        })
        .await
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError> {
        self.read(|snapshot| {
            let span = span.clone();
            async move { snapshot.scan(span, limit).await }
        })
        .await
    }
}
