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
    /// A watcher's part that its group gives away goes on at what it has seen there, not at what the group says was all.
    pub resume_moved_at_own_closed: bool,
    /// Whatever document a brain tells is taken, also an older one.
    pub believe_older: bool,
    /// A document that gives the same keys to the same groups is not taken, whatever its number.
    pub compare_content: bool,
    /// Where two brains were asked for a part of a range, what both have answered counts.
    pub tells_parts_twice: bool,
    /// A watcher from now on is created without raising its groups to that moment first.
    pub create_unraised: bool,
}
