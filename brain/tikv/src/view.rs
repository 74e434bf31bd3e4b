//! [`View`]: a snapshot is a timestamp. Each read of it is a client snapshot of its own at that timestamp, so reads run
//! at once, and nothing that was read is kept.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kubebrain_brain::engine::scan::successor;
use kubebrain_brain::engine::{PAGE_BYTES_MAX, Page, ReadError, Snapshot, Span};
use tikv_client::{Timestamp, TransactionClient};
use tokio::time::{Instant, timeout_at};

use crate::link::{Link, Peer, options};
use crate::orphan::{self, Keys};
use crate::outcome;
use crate::regions::Regions;

/// Keys of one point read, of a store.
const KEYS_MAX: usize = 64;
/// Point reads of one call at once.
const READS_MAX: usize = 4;
/// Rows of a page whose size nobody knows: 16 of the largest Kubernetes objects are 24 MiB, and what is more than TiKV
/// sends at once is asked for in halves.
const ROWS_FIRST: usize = 16;
/// So many times more rows are asked for than the last time, at most: sizes change along a range.
const GROWTH: usize = 8;
const ROWS_MAX: usize = 8192;

/// Between two tries of a read.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A view at a timestamp.
pub(crate) struct View {
    reader: Reader,
    timestamp: Timestamp,
    born: Instant,
    /// Rows that the last page had room for, as the next one may: 0 is not known.
    rows_hint: AtomicUsize,
}

/// What reads need.
#[derive(Clone)]
pub(crate) struct Reader {
    pub link: Arc<Link>,
    pub regions: Arc<Regions>,
}

impl View {
    pub(crate) async fn take(reader: Reader) -> Result<Self, ReadError> {
        // Before the timestamp is asked for: a view is at least as old as that.
        let born = Instant::now();
        let deadline = born + reader.link.config.read_deadline;
        let link = reader.link.clone();
        let timestamp = reader
            .retry("timestamp", None, deadline, |client| {
                let link = &link;
                async move { link.timestamp(&client).await.map_err(Failure::Noted) }
            })
            .await?;
        Ok(Self { reader, timestamp, born, rows_hint: AtomicUsize::new(0) })
    }

    /// The moment that it shows.
    pub(crate) const fn timestamp(&self) -> &Timestamp {
        &self.timestamp
    }

    fn deadline(&self) -> Result<Instant, ReadError> {
        if self.born.elapsed() > self.reader.link.config.snapshot_age_max {
            return Err(ReadError::Expired);
        }
        Ok(Instant::now() + self.reader.link.config.read_deadline)
    }
}

#[async_trait]
impl Snapshot for View {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let deadline = self.deadline()?;
        let keys = Keys::spanning(std::iter::once(&Bytes::copy_from_slice(key)));
        self.reader
            .retry("get", keys, deadline, |client| {
                let mut snapshot = client.snapshot(self.timestamp.clone(), options());
                let key = key.to_vec();
                async move { Ok(snapshot.get(key).await?.map(Bytes::from)) }
            })
            .await
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError> {
        let deadline = self.deadline()?;
        self.reader.get_many(&self.timestamp, keys, deadline).await
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError> {
        let deadline = self.deadline()?;
        if limit == 0 || span.is_empty() {
            return Ok(Page { rows: Vec::new(), next: (!span.is_empty()).then_some(span.start) });
        }
        self.reader.link.touch(&span.start);
        let mut page = Page::default();
        let mut bytes = 0;
        let mut start = span.start.clone();
        let mut wanted = match self.rows_hint.load(Ordering::Relaxed) {
            0 => ROWS_FIRST,
            hint => hint,
        };
        loop {
            // Clipped to one region: the client asks all regions of a range for the whole limit.
            let end = match self.reader.regions.end(&self.reader.link.pd, &start).await {
                Some(cut) if span.end.as_ref().is_none_or(|end| cut < *end) && cut > start => Some(cut),
                _ => span.end.clone(),
            };
            let asked = wanted.min(limit - page.rows.len()).max(1);
            let rows = match self.part(&start, end.as_ref(), asked, deadline).await {
                Ok(rows) => rows,
                Err(PartError::Oversized) if asked > 1 => {
                    wanted = asked / 2;
                    continue;
                }
                Err(PartError::Oversized) => {
                    return Err(ReadError::Failed("a row is larger than TiKV sends at once".into()));
                }
                Err(PartError::Read(error)) => return Err(error),
            };
            let got = rows.len();
            let mut part_bytes = 0;
            let mut last = None;
            for (key, value) in rows {
                part_bytes += key.len() + value.len();
                bytes += key.len() + value.len();
                let full = page.rows.len() + 1 >= limit || bytes >= PAGE_BYTES_MAX;
                if full {
                    page.next = Some(successor(&key)).filter(|next| span.contains(next));
                    page.rows.push((key, value));
                    self.remember(wanted, part_bytes, got);
                    return Ok(page);
                }
                last = Some(key.clone());
                page.rows.push((key, value));
            }
            start = match (last, end) {
                (Some(last), _) if got >= asked => successor(&last),
                (_, Some(end)) => end,
                (_, None) => return Ok(page),
            };
            if !span.contains(&start) {
                return Ok(page);
            }
            if let Some(row_bytes) = part_bytes.checked_div(got) {
                let room = (PAGE_BYTES_MAX - bytes) / row_bytes.max(1) + 1;
                wanted = room.clamp(1, asked.max(wanted) * GROWTH).min(ROWS_MAX);
                self.remember(wanted, part_bytes, got);
            }
        }
    }
}

enum PartError {
    Oversized,
    Read(ReadError),
}

impl View {
    /// The next page of this view starts with what this one has learnt.
    fn remember(&self, wanted: usize, bytes: usize, rows: usize) {
        let fit = PAGE_BYTES_MAX / (bytes / rows.max(1)).max(1) + 1;
        self.rows_hint.store(fit.min(wanted.saturating_mul(GROWTH)).clamp(1, ROWS_MAX), Ordering::Relaxed);
    }

    /// At most `limit` rows of a range.
    async fn part(
        &self,
        start: &Bytes,
        end: Option<&Bytes>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<(Bytes, Bytes)>, PartError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let keys = Some(Keys::between(start.clone(), end.cloned()));
        let found = self.reader.retry("scan", keys, deadline, |client| {
            let mut snapshot = client.snapshot(self.timestamp.clone(), options());
            let (start, end) = (start.to_vec(), end.map(|end| end.to_vec()));
            async move {
                let found = match end {
                    Some(end) => snapshot.scan(start..end, limit).await.map(collect),
                    None => snapshot.scan(start.., limit).await.map(collect),
                };
                match found {
                    Ok(rows) => Ok(Some(rows)),
                    Err(error) if outcome::is_oversized(&error) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        });
        found.await.map_err(PartError::Read)?.ok_or(PartError::Oversized)
    }
}

fn collect(pairs: impl Iterator<Item = tikv_client::KvPair>) -> Vec<(Bytes, Bytes)> {
    let rows = pairs.map(|pair| {
        let (key, value): (tikv_client::Key, Vec<u8>) = pair.into();
        (Bytes::from(Vec::from(key)), Bytes::from(value))
    });
    rows.collect()
}

/// Why a try of a read failed.
pub(crate) enum Failure {
    Tikv(tikv_client::Error),
    /// The link knows of it.
    Noted(String),
}

impl From<tikv_client::Error> for Failure {
    fn from(error: tikv_client::Error) -> Self {
        Self::Tikv(error)
    }
}

impl Reader {
    /// Finds out in which regions the first and the last of some keys are, and thereby whether that is the same one.
    pub(crate) async fn learn(&self, keys: &[&Bytes]) {
        for key in [keys.iter().min(), keys.iter().max()].into_iter().flatten() {
            self.regions.end(&self.link.pd, key).await;
        }
    }

    /// The values under keys, in their order.
    pub(crate) async fn get_many(
        &self,
        timestamp: &Timestamp,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<Vec<Option<Bytes>>, ReadError> {
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let chunks: Vec<Vec<Bytes>> = sorted.chunks(KEYS_MAX).map(<[Bytes]>::to_vec).collect();
        let found = stream::iter(chunks)
            .map(|chunk| self.get_chunk(timestamp, chunk, deadline))
            .buffer_unordered(READS_MAX)
            .try_fold(HashMap::with_capacity(sorted.len()), |mut all, found| async {
                all.extend(found);
                Ok(all)
            })
            .await?;
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    /// What is there of some keys.
    fn get_chunk<'a>(
        &'a self,
        timestamp: &'a Timestamp,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, ReadError>> {
        Box::pin(async move {
            let found = self.retry("get_many", Keys::spanning(keys.iter()), deadline, |client| {
                let mut snapshot = client.snapshot(timestamp.clone(), options());
                let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
                async move {
                    match snapshot.batch_get(keys).await {
                        Ok(pairs) => Ok(Some(collect(pairs))),
                        Err(error) if outcome::is_oversized(&error) => Ok(None),
                        Err(error) => Err(error.into()),
                    }
                }
            });
            if let Some(found) = found.await? {
                return Ok(found);
            }
            if keys.len() < 2 {
                return Err(ReadError::Failed("a row is larger than TiKV sends at once".into()));
            }
            let mut keys = keys;
            let half = keys.split_off(keys.len() / 2);
            let mut found = self.get_chunk(timestamp, keys, deadline).await?;
            found.extend(self.get_chunk(timestamp, half, deadline).await?);
            Ok(found)
        })
    }

    /// See [`orphan`].
    pub(crate) async fn remove_orphans(
        &self,
        client: &TransactionClient,
        error: &tikv_client::Error,
        keys: &Keys,
        deadline: Instant,
    ) {
        if outcome::orphan(error).is_some()
            && let Ok(now) = self.link.timestamp(client).await
        {
            let _in_time = timeout_at(deadline, orphan::remove(client, error, keys.clone(), &now)).await;
        }
    }

    /// Reads until there is an answer or the deadline. `keys` are what is read.
    pub(crate) async fn retry<T, F>(
        &self,
        name: &'static str,
        keys: Option<Keys>,
        deadline: Instant,
        read: impl Fn(TransactionClient) -> F,
    ) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let metrics = &self.link.config.metrics;
        let _timer = metrics.read_seconds.with_label_values(&[name]).start_timer();
        let mut pause = PAUSE_MIN;
        loop {
            let client = self.link.client(deadline).await.map_err(|unlinked| match unlinked {
                crate::link::Unlinked::Stopped(poison) => ReadError::Failed(poison.into()),
                waiting => ReadError::Unavailable(waiting.into_cause()),
            })?;
            let cause = match timeout_at(deadline, read(client.clone())).await {
                Ok(Ok(answer)) => {
                    if name != "timestamp" {
                        self.link.answered(Peer::Store);
                    }
                    return Ok(answer);
                }
                Ok(Err(Failure::Noted(cause))) => cause,
                Ok(Err(Failure::Tikv(error))) => {
                    if let Some(keys) = &keys {
                        self.remove_orphans(&client, &error, keys, deadline).await;
                    }
                    self.link.failed(Peer::Store, &error)
                }
                Err(_) => {
                    let cause = format!("no answer to {name} in time");
                    self.link.silent(Peer::Store, &cause);
                    cause
                }
            };
            let next = Instant::now() + jitter(pause);
            if next >= deadline {
                return Err(ReadError::Unavailable(cause.into()));
            }
            metrics.read_retries.inc();
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Something between the half and the whole.
pub(crate) fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
