//! Watching a group: in order, no gap, no repeat, whole revisions, from any revision that is not compacted.
//!
//! ```text
//! writer ── publish(writes, closed) ──▶ Hub { window, watchers by key } ── wakes ──▶ Stream (one per client stream)
//!                                          ▲ reads from its cursor                      │ behind the window: History
//!                                          └────────────────────────────────────────────┘
//! ```
//!
//! * A watcher is a cursor, not a queue. It never receives a copy of its backlog: what a slow client has not read stays
//!   in the window, then in the engine.
//! * The hub's lock orders everything: publishing, registering, reading the window, and the closed revision that
//!   progress shows. A watcher that is not marked has nothing to read up to the closed revision.
//! * Lock order: the hub, then a signal.

mod feed;
pub mod history;
pub mod stream;
pub mod watcher;

#[cfg(test)]
mod tests;

pub use stream::{MOVED_REASON, StreamConfig, WatchStream};
