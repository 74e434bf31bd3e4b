//! The engine on TiKV: a brain that keeps nothing on its own disk.
//!
//! ```text
//! Engine ──▶ commit   plan of a batch ──▶ one transaction ──▶ outcome: done, conflict, surely not, unknown
//!        ──▶ view     a timestamp; each read is a fresh client snapshot at it, a scan is clipped to one region
//!        ──▶ link     the clients, and their replacement while TiKV or its placement driver (PD) does not answer
//! ```
//!
//! What TiKV gives is snapshot isolation: it refuses a transaction if a key that it writes was committed after it
//! began, and nothing else. A batch's conditions are therefore read at the transaction's own timestamp, and every key
//! that a condition is about is written or locked by the transaction. That makes them hold at the commit.
//!
//! The wall clocks of this process and of TiKV are compared nowhere: order comes from PD's timestamps, age from this
//! process's monotonic clock. A jump of the wall clock changes nothing here.
//!
//! Invariants:
//! * [`CommitError::Conflict`] and [`CommitError::Refused`] are given only where no message that is still on its way can
//!   make the batch happen; all else is [`CommitError::Unknown`].
//! * A batch is tried again inside only under that same certainty.
//! * What came from PD about regions is a hint: wrong boundaries cost round trips, never rows.
//! * One cluster: what once led to a cluster is never followed to another one.
//!
//! [`CommitError::Conflict`]: kubebrain_brain::engine::CommitError::Conflict
//! [`CommitError::Refused`]: kubebrain_brain::engine::CommitError::Refused
//! [`CommitError::Unknown`]: kubebrain_brain::engine::CommitError::Unknown

mod commit;
mod config;
mod gc;
mod key;
mod link;
mod metrics;
mod orphan;
mod outcome;
mod pd;
mod plan;
mod regions;
mod tikv;
mod view;

pub use config::{Config, Gc, OpenError, Tls};
pub use metrics::Metrics;
pub use tikv::Tikv;
