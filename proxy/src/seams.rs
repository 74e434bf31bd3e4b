//! [`Seams`]: planted faults. A product build has none, and asks for none.

/// Planted faults: each breaks one promise, so that a model test can show that it would notice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seams {
    /// Forwarded requests carry floor 0.
    pub ignore_floor: bool,
    /// A manual progress request is answered with the floor at once.
    pub progress_early: bool,
    /// A watcher over several groups sends events as they arrive.
    pub merge_without_watermark: bool,
    /// A lost upstream watch is resumed at the closed revision instead of the next one.
    pub resume_at_closed: bool,
    /// The compaction transaction is answered before the other groups are advanced.
    pub skip_sync_point: bool,
    /// Each group's part of a range is read at its own "now".
    pub read_parts_at_now: bool,
}
