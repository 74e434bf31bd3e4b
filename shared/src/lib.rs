//! What both programs mean by their words: revisions, ranges, groups, faults, the placement, the formats on wire and disk.
//! `net` below this folder is how they speak. The index, in reading order.

pub mod revision;
pub mod range;
pub mod group;
pub mod fault;
pub mod method;
pub mod unserved;
pub mod metadata;
pub mod stop;
pub mod compaction;
pub mod wire;
pub mod snapshot;
pub mod placement;
