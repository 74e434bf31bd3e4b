//! [`Slave`](slave::Slave): a store that follows its group's master, answers reads and watches by itself, and can take over warm.
//!
//! ```text
//!            attach                 all keys loaded            stream closed what was loaded
//!  detached ───────▶ subscribed ───────────────▶ catching up ───────────────────────────▶ level ──promote──▶ master
//!      ▲                 ▲                            │  ▲                                 │
//!      │   detach        └──── history compacted ─────┤  └── stream lost: again, from the ─┘
//!      └──────────────────────────────────────────────┘      revision after the last one applied
//! ```
//!
//! **Bootstrap.** First it subscribes: the master's stream begins after its committed revision `C0`. Then it reads all
//! rows of the engine, from snapshots that are all taken after that, so each row of `C0` or before is in them or
//! superfluous, and everything later comes on the stream; what is in both is told by its revision. Rows may be newer than
//! what the stream has closed, and compacted further: so nothing is shown before the stream has closed every revision
//! that was read, and has told of the compacted revision that is stored after the last row was read.
//!
//! **What it applies** is what the master made visible, in the same order: index, values, committed revision, watchers,
//! compacted revision. So a watcher hears the same of either. Versions leave its index when the master has taken their
//! rows out of the engine, not before: whoever is promoted knows all rows that are left to be swept.
//!
//! **Fresh answers.** Before it answers anything as fresh it asks its master how far it must be, after the request arrived,
//! looks into the log whether that is the master, and waits until it has applied that: see `fence`. An answer is
//! then never older than a moment between request and answer, however long this process sleeps anywhere in between: no
//! clock decides.
//!
//! **What it does not know**: leases, alarms and owners. They are read from the engine when it is promoted.
//!
//! **Values.** The master's sweep does not know what is read here. A version that was compacted may be gone from the
//! engine before this slave hears of it: then a read of "now" fences once more and begins anew at a newer revision.
//!
//! **A placement** holds here once this process has it and the stream says that it is the master's.

pub(crate) mod apply;
mod follower;
mod load;
mod promote;
pub(crate) mod slave;
#[cfg(test)]
mod tests;
