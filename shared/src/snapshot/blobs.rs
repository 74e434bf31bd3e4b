//! [`Blobs`]: a snapshot cut into the messages that carry it.

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::BLOCK_BYTES;

/// As etcd sends them.
const BLOB_BYTES: usize = 32 << 10;

/// Takes the bytes of a snapshot as they come, gives blobs of one size, and at the end padding and sum.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    rest: BytesMut,
    sum: Sha256,
    bytes: u64,
}

impl Blobs {
    /// Adds bytes. Take what [`Self::next_full`] gives before adding more: it bounds what is held.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        self.rest.extend_from_slice(bytes);
    }

    /// A whole blob, if there is one.
    pub(super) fn next_full(&mut self) -> Option<Bytes> {
        (self.rest.len() >= BLOB_BYTES).then(|| self.rest.split_to(BLOB_BYTES).freeze())
    }

    /// Bytes that were added.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.rest.len()
    }

    /// The last blobs: what is left, padded, and the sum.
    pub(super) fn finish(mut self) -> [Bytes; 2] {
        let padding = self.bytes.next_multiple_of(BLOCK_BYTES) - self.bytes;
        self.push(&[0; BLOCK_BYTES as usize][..padding as usize]);
        [self.rest.freeze(), Bytes::copy_from_slice(&self.sum.finalize())]
    }
}
