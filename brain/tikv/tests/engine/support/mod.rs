//! Clusters to test on, and engines in them that do not see each other's keys.

mod cluster;
mod prefixed;

pub use cluster::{Cluster, own, shared};
pub use prefixed::Prefixed;
