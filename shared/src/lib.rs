//! Words that both programs speak. The index, in reading order.

pub mod cork;
pub mod dial;
pub mod fault;
pub mod group;
pub mod metadata;
pub mod placement;
pub mod range;
pub mod revision;
pub mod serve;
pub mod stop;
pub mod wire;
