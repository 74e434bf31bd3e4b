//! How large the files of a log are.

/// The first segment of a store; each new one is twice as large, up to [`Sizes::max`]. A store that is hardly
/// written stays small.
const SEGMENT_BYTES_FIRST: u64 = 1 << 20;

/// How large segments are made, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::embedded) struct Sizes {
    /// The first one.
    pub(in crate::engine::embedded) first: u64,
    /// The largest. A record that does not fit gets a segment to measure, which is not used again.
    pub(in crate::engine::embedded) max: u64,
}

impl Sizes {
    /// Segments up to `max` bytes.
    pub(in crate::engine::embedded) fn up_to(max: u64) -> Self {
        Self { first: SEGMENT_BYTES_FIRST.min(max), max }
    }
}
