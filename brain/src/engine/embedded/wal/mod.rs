//! [`Log`](log::Log): a write-ahead log. A record that was appended is there after every crash, whole and in its place.
//!
//! ```text
//! segment   head │ record 41 │ record 42        │ record 43 │ seal │ old sectors ...
//! sectors    ▢   │   ▢ ▢     │  ▢ ▢ ▢ ▢ ▢ ▢     │    ▢      │  ▢   │
//! ```
//!
//! The log is a row of segments: files that were written with zeros when they were made, so that a sync moves no
//! metadata. One is active; full ones are kept until [`SegmentPool::release`](pool::SegmentPool::release) says that their records are not needed, and
//! are then used again. What a file is for is said by its first sector; its name says only when it was made.
//!
//! A segment is cut into sectors of 512 bytes, which a disk writes whole or not at all. Each says for itself, under a
//! checksum, which segment, which place in it and which part of which record it is. So each is *new* (of the life
//! that the segment has now), *old* (of an earlier life, or zeros) or *damaged*, whatever its neighbours are.
//!
//! Invariants:
//! * Record numbers have no gap. A record is in one segment; one that would not fit begins the next.
//! * An append returns after a sync. After one that failed nothing is written again.
//! * What follows the last record in its segment is old: the torn remains of a record that was never acknowledged are
//!   overwritten with zeros, and that is synced, before the log is used.
//! * A segment that is full ends with a seal, which is synced before the next segment gets a record. So a missing
//!   last file is noticed.
//! * The newest head names the oldest segment that was needed when it was written. From there on every segment
//!   exists. A file below that may be used again or removed.
//!
//! [`Log::open`](log::Log::open) reads: a record of which some sectors are old, with nothing behind it, is a torn tail, and is dropped.
//! Damaged sectors, or a gap with something behind it, are damage and stop the open.

pub(super) mod error;
pub(super) mod log;
pub(super) mod pool;
mod recover;
mod sector;
mod segment;
pub(super) mod sizes;
