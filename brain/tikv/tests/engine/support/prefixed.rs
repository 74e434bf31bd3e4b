//! [`Prefixed`]: an engine whose keys all lie under a prefix in another one, as a group's do.

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use kubebrain_brain::engine::{
    Batch, Bounds, CommitError, Condition, Engine, Page, ReadError, Refusal, Snapshot, Span, Write,
};

pub(crate) struct Prefixed<E> {
    pub(crate) inner: E,
    pub(crate) prefix: Bytes,
}

struct View {
    inner: Box<dyn Snapshot>,
    prefix: Bytes,
}

fn longer(prefix: &Bytes, key: &[u8]) -> Bytes {
    let mut longer = BytesMut::with_capacity(prefix.len() + key.len());
    longer.put_slice(prefix);
    longer.put_slice(key);
    longer.freeze()
}

/// All keys under the prefix end below it with its last byte one higher.
fn wider(prefix: &Bytes, span: &Span) -> Span {
    let end = match &span.end {
        Some(end) => longer(prefix, end),
        None => {
            let mut end = prefix.to_vec();
            *end.last_mut().expect("a prefix") += 1;
            end.into()
        }
    };
    Span { start: longer(prefix, &span.start), end: Some(end) }
}

fn shorter(prefix: &Bytes, key: &Bytes) -> Bytes {
    assert!(key.starts_with(prefix), "a key of somebody else: {key:?}");
    key.slice(prefix.len()..)
}

#[async_trait]
impl<E: Engine> Engine for Prefixed<E> {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        Ok(Box::new(View { inner: self.inner.snapshot().await?, prefix: self.prefix.clone() }))
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        if batch.conditions.iter().any(|condition| condition.key().is_empty())
            || batch.writes.iter().any(|write| write.key().is_empty())
        {
            let max = self.bounds().key_bytes_max;
            return Err(CommitError::Refused(Refusal::Key { bytes: 0, max }));
        }
        let key = |key: &Bytes| longer(&self.prefix, key);
        let conditions = batch.conditions.into_iter().map(|condition| match condition {
            Condition::Absent(name) => Condition::Absent(key(&name)),
            Condition::Equals(name, value) => Condition::Equals(key(&name), value),
        });
        let writes = batch.writes.into_iter().map(|write| match write {
            Write::Put(name, value) => Write::Put(key(&name), value),
            Write::Delete(name) => Write::Delete(key(&name)),
        });
        let batch = Batch { conditions: conditions.collect(), writes: writes.collect() };
        match self.inner.commit(batch).await {
            Err(CommitError::Conflict { key }) => {
                Err(CommitError::Conflict { key: shorter(&self.prefix, &key) })
            }
            outcome => outcome,
        }
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        let cuts = self.inner.partitions(&wider(&self.prefix, range)).await?;
        Ok(cuts.iter().map(|cut| shorter(&self.prefix, cut)).collect())
    }

    fn bounds(&self) -> Bounds {
        let inner = self.inner.bounds();
        Bounds { key_bytes_max: inner.key_bytes_max - self.prefix.len(), ..inner }
    }

    fn waits_for(&self) -> Option<String> {
        self.inner.waits_for()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }
}

#[async_trait]
impl Snapshot for View {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.inner.get(&longer(&self.prefix, key)).await
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError> {
        self.inner.get_many(keys.iter().map(|key| longer(&self.prefix, key)).collect()).await
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError> {
        let page = self.inner.scan(wider(&self.prefix, &span), limit).await?;
        let rows = page.rows.into_iter().map(|(key, value)| (shorter(&self.prefix, &key), value));
        Ok(Page { rows: rows.collect(), next: page.next.map(|next| shorter(&self.prefix, &next)) })
    }
}
