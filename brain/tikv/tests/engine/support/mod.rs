//! Clusters to test on, and engines in them that do not see each other's keys.

mod cluster;
mod prefixed;
mod relay;

pub(crate) use cluster::{Cluster, Ports, own, own_behind, shared};
pub(crate) use prefixed::Prefixed;
pub(crate) use relay::Relay;
