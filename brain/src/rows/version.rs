//! [`Version`]: what is known of one version of a key without its value.

use kubebrain_proto::mvccpb::KeyValue;

/// One version of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The revision that made it.
    pub revision: u64,
    /// The revision that created the key; 0 in a tombstone.
    pub create: u64,
    /// Puts since then, counted from 1; 0 in a tombstone.
    pub count: u64,
    /// The attached lease; 0 is none.
    pub lease: i64,
    /// What its row takes in the engine, key and value; the index knows it up to [`BYTES_MAX`].
    pub bytes: u64,
}

/// More is counted as this much, when it comes and when it goes.
pub(crate) const BYTES_MAX: u64 = (1 << BYTES_BITS) - 1;
pub(crate) const BYTES_BITS: u32 = 24;

impl Version {
    /// The deletion of a key.
    pub const fn tombstone(revision: u64) -> Self {
        Self { revision, create: 0, count: 0, lease: 0, bytes: 0 }
    }

    /// The same, with what its row takes.
    pub fn taking(self, row: &[u8], value: &[u8]) -> Self {
        self.weighing(row.len() + value.len())
    }

    /// The same, whose row takes so much.
    pub fn weighing(self, bytes: usize) -> Self {
        Self { bytes: (bytes as u64).min(BYTES_MAX), ..self }
    }

    /// Of an entry; what its row takes is not told.
    pub const fn of(kv: &KeyValue) -> Self {
        Self {
            revision: kv.mod_revision.cast_unsigned(),
            create: kv.create_revision.cast_unsigned(),
            count: kv.version.cast_unsigned(),
            lease: kv.lease,
            bytes: 0,
        }
    }

    /// True for a deletion.
    pub const fn is_tombstone(&self) -> bool {
        self.count == 0
    }
}
