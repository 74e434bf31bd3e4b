//! [`Kept`]: a group's rows as of a revision, as compaction keeps them.
//!
//! That is, of each key: every version after the compacted revision, and the newest one up to it unless that is a
//! deletion. What is still stored and no longer kept is passed over, so it does not matter how far the sweep has come,
//! which engine is below, or whether the store was restored meanwhile.
//!
//! Rows come from the engine a page at a time, each page from a view of its own: pinned rows do not change, and a
//! view that lives long keeps garbage on disk. A master that was deposed meanwhile may miss what its successor has
//! swept: whoever reads here passes a fence afterwards, before the result is shown as whole.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot::Content;
use prost::Message as _;

use crate::decide::held::Held;
use crate::engine::Span;
use crate::read::fault::read_fault;
use crate::rows::codec::LeaseRow;
use crate::rows::entry;
use crate::state::group::GroupState;
use crate::state::pins::Pin;
use crate::state::values::ValueError;

/// Rows read at once. A page is bounded in bytes by the engine.
const PAGE_ROWS: usize = 1024;

/// A hash of what a reader at a revision finds: each key's newest version up to it. Deletions and older versions do not
/// count, so a compaction, a sweep, a restore or another engine changes nothing in it. (etcd's counts the history that is
/// left, and can be compared only between members that are compacted at one revision.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentAt {
    /// The hash.
    pub content: Content,
    /// The revision that the hash is as of.
    pub revision: Revision,
    /// As if compacted here; -1 where nothing was.
    pub compacted: i64,
    /// The group's revision when it began.
    pub header: Revision,
}

/// A group's kept rows as of one revision, which is pinned while this lives.
pub(crate) struct Kept<'a> {
    state: &'a GroupState,
    /// Whose the keys are; loaded after the revision was fixed.
    held: Arc<Held>,
    at: u64,
    compacted: i64,
    header: Revision,
    _pin: Pin<'a>,
}

/// One kept version.
#[derive(Debug)]
pub(crate) struct KeptRow {
    pub key: Bytes,
    pub revision: u64,
    /// `None` is a deletion.
    pub kv: Option<Bytes>,
    /// The newest of its key.
    pub newest: bool,
}

/// How far a reading of [`Kept`] has come.
#[derive(Debug)]
pub(crate) struct Cursor {
    spans: VecDeque<Span>,
    key: Bytes,
    /// The key is this group's.
    own: bool,
    /// One of the key's versions was given.
    begun: bool,
    /// The newest one up to the compacted revision was seen.
    settled: bool,
}

impl<'a> Kept<'a> {
    /// Pins. `at` 0 is now; `compacted` counts where it is above the own compacted revision.
    ///
    /// # Errors
    /// [`Fault::Compacted`], [`Fault::FutureRevision`].
    pub(crate) fn begin(state: &'a GroupState, at: Revision, compacted: i64) -> Result<Self, Fault> {
        let (pin, own) = state.pin_history();
        let header = state.committed();
        let at = if at == Revision::ZERO { header } else { at };
        let compacted = own.max(compacted);
        if at.to_wire() < compacted {
            return Err(Fault::Compacted);
        }
        if at > header {
            return Err(Fault::FutureRevision);
        }
        let held = state.held.load_full();
        Ok(Self { state, held, at: at.get(), compacted, header, _pin: pin })
    }

    pub(crate) const fn at(&self) -> Revision {
        Revision::new(self.at)
    }

    pub(crate) const fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(crate) const fn header(&self) -> Revision {
        self.header
    }

    /// Begins to read.
    pub(crate) fn cursor(&self) -> Cursor {
        let group = &self.state.group;
        let parts = self.held.table().partition(&KeyRange::ALL);
        let parts = parts.unwrap_or_else(|| vec![(KeyRange::ALL, group.clone())]);
        let own = parts.iter().filter(|(_, owner)| owner == group);
        let spans = own.map(|(range, _)| self.state.layout.data_span(range)).collect();
        Cursor { spans, key: Bytes::new(), own: false, begun: false, settled: false }
    }

    /// The next rows, in key order, of one key newest first; possibly none. `None` at the end.
    ///
    /// # Errors
    /// [`Fault::Timeout`] where the engine does not answer, [`Fault::Corrupt`] where it answers nonsense.
    pub(crate) async fn page(&self, cursor: &mut Cursor) -> Result<Option<Vec<KeptRow>>, Fault> {
        let fault = |error: ValueError| read_fault(self.state, &error);
        let Some(span) = cursor.spans.front_mut() else { return Ok(None) };
        let snapshot = self.state.engine.snapshot().await.map_err(|error| fault(error.into()))?;
        let page = snapshot.scan(span.clone(), PAGE_ROWS).await.map_err(|error| fault(error.into()))?;
        drop(snapshot);
        match page.next {
            Some(next) => span.start = next,
            None => drop(cursor.spans.pop_front()),
        }
        let mut rows = Vec::with_capacity(page.rows.len());
        for (row, value) in page.rows {
            let data = self.state.layout.read_data(&row, &value).map_err(|error| fault(error.into()))?;
            let (revision, kv) = (data.revision.get(), data.kv);
            if let Some((key, newest)) = self.keeps(cursor, data.key, revision, kv.is_none()) {
                rows.push(KeptRow { key, revision, kv, newest });
            }
        }
        tokio::task::yield_now().await;
        Ok(Some(rows))
    }

    /// The key, and whether this is its newest version, if it is kept.
    fn keeps(&self, cursor: &mut Cursor, key: Bytes, revision: u64, deleted: bool) -> Option<(Bytes, bool)> {
        if key != cursor.key {
            cursor.own = self.held.serves(&self.state.group, &key);
            (cursor.begun, cursor.settled) = (false, false);
            cursor.key = key;
        }
        if !cursor.own || revision > self.at || cursor.settled {
            return None;
        }
        if revision.cast_signed() <= self.compacted {
            cursor.settled = true;
            if deleted {
                return None;
            }
        }
        let newest = !std::mem::replace(&mut cursor.begun, true);
        Some((cursor.key.clone(), newest))
    }

    /// The hash of what is there at the revision.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub(crate) async fn content(&self) -> Result<ContentAt, Fault> {
        let (mut content, mut cursor) = (Content::default(), self.cursor());
        while let Some(rows) = self.page(&mut cursor).await? {
            rows.iter()
                .filter(|row| row.newest)
                .flat_map(|row| &row.kv)
                .for_each(|kv| content.add(false, kv));
        }
        Ok(ContentAt { content, revision: self.at(), compacted: self.compacted, header: self.header })
    }
}

impl KeptRow {
    /// The `KeyValue` that stands for it outside.
    pub(crate) fn message(&self) -> Bytes {
        self.kv.clone().unwrap_or_else(|| entry::deleted(&self.key, self.revision))
    }
}

impl ContentAt {
    /// Leases count by what is stored of them that does not depend on the time.
    pub(crate) fn add_leases(&mut self, leases: &[(i64, LeaseRow, std::time::Duration)]) {
        for (id, row, _) in leases {
            let lasting = LeaseRow { remaining: 0, ..row.clone() };
            let mut bytes = id.to_be_bytes().to_vec();
            bytes.extend(lasting.encode_to_vec());
            self.content.add(false, &bytes);
        }
    }
}

#[cfg(test)]
mod tests;
