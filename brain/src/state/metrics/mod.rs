//! [`Metrics`]: what the groups of a process count together, under etcd's names where etcd has the thing, and each
//! for itself, under ours.
//!
//! Counters are kept where things happen. What is a matter of looking (sizes, revisions) is read when a page is made:
//! from the groups that are open then, so a group that is closed leaves the page. Helps are checked against
//! `docs/metrics.md`.

mod counters;
mod figures;
mod gauges;
mod kinds;
mod registry;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use counters::GroupMetrics;
pub(crate) use figures::{Figures, Look};
pub use registry::Metrics;
pub(crate) use watch::WatchMetrics;
