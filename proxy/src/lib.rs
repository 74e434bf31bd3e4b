//! The proxy: one etcd endpoint over many brain groups.
//!
//! A request is classified from its bytes, placed by the table, and forwarded as it came; an answer goes back byte for
//! byte. Only where several groups answer together, or an id must be rewritten, is anything built here.
//!
//! ```text
//! serve → stack (layer by layer) → service (by path) ─┬─ table → call → group → brain
//!              │                                      └─ fanout: one range or delete over several groups
//!              └─ watch: one client stream over many groups' streams
//! ```
//!
//! Invariants:
//! * The floor is raised before an answer can be seen; every forwarded request carries it. A revision that a client
//!   merely names never becomes one.
//! * A write is sent again only where it surely was not applied. What is not known is `Unavailable`.
//! * It goes by one document at a time, which the home group has committed; of a lineage never by an older number.
//! * Streams end with `Unavailable` when the proxy stops, never with OK.
//! * Every queue has a bound; watch streams are pulled by their client.
//!
//! The index, in reading order.

pub mod config;
pub mod metrics;
pub mod proxy;

mod seams;
mod floor;
mod kept;
mod identity;
mod grpc;
mod topology;
mod failure;
mod retry;
mod classify;
mod group;
mod table;
mod learn;
mod starting;
mod core;
mod answer;
mod call;
mod fence;
mod figures;
mod fanout;
mod watch;
mod service;
mod stack;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

#[cfg(feature = "seams")]
pub use classify::agreement::check as check_shallow_reading;
pub use config::{Config, Inside, Server};
pub use group::{GroupView, NodeView, Role};
pub use proxy::{Answering, Contacts, Joining, Proxy, Reach, Service};
