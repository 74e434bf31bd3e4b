//! [`Bounds`]: what an engine holds at once.

use crate::engine::KEY_BYTES_MAX;

/// Whoever builds batches stays within these: beyond them a batch is refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The longest stored key, in bytes.
    pub key_bytes_max: usize,
    /// The longest value, in bytes.
    pub value_bytes_max: usize,
    /// A batch that is this large, in bytes, should take nothing more: one larger request still fits, several of them
    /// cost more together than one after the other.
    pub batch_bytes: usize,
}

impl Default for Bounds {
    /// Of engines in this process: no bound of their own but the key's.
    fn default() -> Self {
        Self { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: usize::MAX, batch_bytes: 4 << 20 }
    }
}
