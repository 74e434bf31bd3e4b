//! [`Content`]: the hash of a store's rows at a revision.

use xxhash_rust::xxh3::xxh3_64;

/// A hash of a set of rows: the sum of the hashes of each. So it is the same in whatever order rows are read and
/// however they are spread over groups, and the hash of several groups is the sum of theirs. The empty set is 0.
///
/// It finds damage and divergence; it does not withstand somebody who looks for two stores with one hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content(u32);

impl Content {
    /// Adds a row: the `KeyValue` message of a put, or of a deletion with key and revision only.
    pub fn add(&mut self, deleted: bool, kv: &[u8]) {
        let hash = xxh3_64(kv) ^ if deleted { 0x5bd1_e995_9e37_79b9 } else { 0 };
        // A sum keeps the low bits apart from the high ones: both halves count.
        self.merge(((hash >> 32) ^ hash) as u32);
    }

    /// Adds all rows of another set, by its hash.
    pub const fn merge(&mut self, hash: u32) {
        self.0 = self.0.wrapping_add(hash);
    }

    /// The hash.
    pub const fn hash(self) -> u32 {
        self.0
    }
}
