//! [`Bounds`]: what an engine holds at once.

/// The longest key, in bytes: what a 16-bit length holds. A batch with a longer one is refused.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

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
    /// The largest batch, in bytes: a larger one is refused. At least twice `batch_bytes`.
    pub batch_bytes_max: usize,
}

impl Default for Bounds {
    /// Of engines in this process: no bound of their own but the key's.
    fn default() -> Self {
        Self {
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: usize::MAX,
            batch_bytes: 4 << 20,
            batch_bytes_max: usize::MAX,
        }
    }
}

impl Bounds {
    /// What one request may add to a batch that is not full yet.
    pub fn request_bytes_max(&self) -> usize {
        self.batch_bytes_max.saturating_sub(self.batch_bytes)
    }

    /// What one request may add to a value that grows with a batch, such as the batch's record: half of what fits, so
    /// that a batch that is not full in this sense either has room for one more.
    pub fn record_bytes_max(&self) -> usize {
        self.value_bytes_max / 2
    }
}
