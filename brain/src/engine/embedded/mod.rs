//! [`Embedded`]: an engine on disk for one process: a write-ahead log of our own, and a log-structured merge tree
//! (`lsm-tree`, the tree inside fjall).
//!
//! ```text
//! commit ─▶ queue ─▶ committer thread: take all that wait ─▶ judge conditions in order ─▶ one record ─▶ one sync
//!                                                                                              │
//! snapshot ◀── published moment ◀── rows into the tree's memtable ◀────────────────────────────┤
//! commit   ◀── answers, conflicts too ◀────────────────────────────────────────────────────────┘
//!                    memtable is full ─▶ flush thread: tables, then the log's segments are free
//! ```
//!
//! Invariants:
//! * Only the committer thread writes rows. What it writes in one go is one record of the log: all of it survives a
//!   crash, or none of it.
//! * All rows of a record bear its stamp, and a memtable begins and ends between records. So tables hold a prefix of
//!   the log, and the stamps in them say which: the rest is applied again at the next open, with the same stamps.
//! * Readers see the *published* moment, which follows each applied record. The tree's own visible number would not
//!   do: a flush moves it past a record that is still being applied.
//! * A segment of the log is used again when its records are in tables, and the tables and the manifest that names
//!   them are synced.
//! * After the first failed write or sync nothing is written again: see [`Embedded::poisoned`]. Only want of room for a
//!   *new* file is no such failure: that file is given up, and made anew when there is room. See `room`.
//! * One process holds a data directory, by a lock on a file in it that the system drops with the process.
//!
//! On disk: `DIR/lock`; `DIR/store/format`, the number of the layout; `DIR/store/wal/`, the log;
//! `DIR/store/tree/`, the tree's; `DIR/store/reserve`, room that is kept back. A store is made under
//! another name and renamed when it is whole, so a crash while making it leaves nothing that is later taken for one.

mod blobs;
mod cause;
mod commit;
mod config;
mod defragment;
mod engine;
mod exhaustion;
mod manifest;
mod metrics;
mod moment;
mod open;
mod orphans;
mod place;
mod poison;
mod private;
mod room;
mod rows;
mod scan;
mod staged;
mod store;
mod tree;
mod upkeep;
mod wal;

pub use config::Config;
pub use engine::Embedded;
pub use metrics::Metrics;
pub use staged::{StageError, Staged};
