//! Ranges that are streamed: how large their chunks are, and the messages that they become.

use bytes::{Bytes, BytesMut};
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::{put_bytes_field, put_bytes_header, put_varint_field};

use super::reader::PAGE_MAX;
use crate::decide::answer::Entry;
use crate::decide::identity::{Identity, put_header};

/// etcd's first page of a streamed range.
const FIRST_CHUNK: usize = 10;

/// Sizes the chunks of a streamed range as etcd does: small at first, doubled while small, halved when too large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks {
    size: usize,
    bytes_max: usize,
}

impl Chunks {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self { size: FIRST_CHUNK, bytes_max }
    }

    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        if bytes < self.bytes_max / 2 {
            self.size = (self.size * 2).min(10 * PAGE_MAX);
        } else if bytes > self.bytes_max * 2 {
            self.size = (self.size / 2).max(1);
        }
    }
}

/// A `RangeStreamResponse`. Header, more and count stand only in the last one.
pub(crate) fn stream_message(entries: &[Entry], last: Option<(&Identity, Revision, bool, usize)>) -> Bytes {
    let mut range = BytesMut::with_capacity(
        entries.iter().map(|entry| entry.kv.as_ref().map_or(0, Bytes::len) + 6).sum(),
    );
    if let Some((identity, revision, _, _)) = last {
        put_header(&mut range, Some(identity), revision.get());
    }
    for entry in entries {
        put_bytes_field(&mut range, 2, entry.kv.as_ref().expect("values are filled in before encoding"));
    }
    if let Some((_, _, more, count)) = last {
        if more {
            put_varint_field(&mut range, 3, 1);
        }
        if count > 0 {
            put_varint_field(&mut range, 4, count as u64);
        }
    }
    let mut message = BytesMut::with_capacity(range.len() + 8);
    put_bytes_header(&mut message, 1, range.len());
    message.unsplit(range);
    message.freeze()
}
