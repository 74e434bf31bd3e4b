//! [`Span`] and [`Page`]: what a scan is asked for, and what it gives at a time.

use bytes::{BufMut, Bytes, BytesMut};

/// A page ends with the row that brings its keys and values to this size: 8 MiB bounds what one read holds in memory
/// and still moves thousands of Kubernetes objects a page.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// A half-open range of stored keys. An inverted one is legal and empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first key.
    pub start: Bytes,
    /// The bound above the last key; `None`: no upper bound.
    pub end: Option<Bytes>,
}

/// Rows of a span in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, ascending by key.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Where to go on: the start of a span that holds exactly the rows that are left, of which there may be none.
    /// `None`: the span is exhausted.
    pub next: Option<Bytes>,
}

impl Span {
    /// Every key.
    pub const ALL: Self = Self { start: Bytes::new(), end: None };

    /// `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// Every key from `start` on.
    pub fn from(start: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: None }
    }

    /// True if no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// True if `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start[..] <= *key && self.end.as_ref().is_none_or(|end| *key < end[..])
    }
}

impl Page {
    /// Fills a page from rows in key order, all of them in the span. The one place where a page's bounds are read.
    ///
    /// # Errors
    /// The first error among the rows; those before it are dropped.
    pub fn fill<E>(
        span: &Span,
        limit: usize,
        rows: impl IntoIterator<Item = Result<(Bytes, Bytes), E>>,
    ) -> Result<Self, E> {
        if limit == 0 {
            return Ok(Self { rows: Vec::new(), next: (!span.is_empty()).then(|| span.start.clone()) });
        }
        let mut page = Self::default();
        let mut bytes = 0;
        for row in rows {
            let (key, value) = row?;
            bytes += key.len() + value.len();
            let full = page.rows.len() + 1 >= limit || bytes >= PAGE_BYTES_MAX;
            if full {
                page.next = Some(successor(&key)).filter(|next| span.contains(next));
            }
            page.rows.push((key, value));
            if full {
                break;
            }
        }
        Ok(page)
    }
}

/// The first key above `key`.
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
