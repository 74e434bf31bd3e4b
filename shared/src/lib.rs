//! Words that both programs speak. The index, in reading order.

pub mod revision;
pub mod range;
pub mod group;
pub mod fault;
pub mod unserved;
pub mod metadata;
pub mod relay;
pub mod stop;
pub mod budget;
pub mod compaction;
pub mod connections;
pub mod wire;
pub mod intake;
pub mod eager;
pub mod snapshot;
pub mod placement;
pub mod tls;
pub mod cork;
pub mod metrics;
mod pings;
mod gate;
pub mod serve;
pub mod probe;
pub mod opening;
pub mod reflection;
pub mod direct;
pub mod dial;
