//! Flags and environment variables. etcd's names where the meaning is the same.

pub(crate) mod boolean;
mod clients;
mod compaction;
pub(crate) mod duration;
mod election;
mod peers;
mod programs;
mod serving;
mod store;
mod tracing;

pub(crate) use clients::Clients;
pub(crate) use compaction::Compaction;
pub(crate) use election::{Ballot, Election};
pub(crate) use peers::{PeerFiles, PeerServing};
pub(crate) use programs::{Brain, Proxy, Standalone, group};
pub(crate) use serving::Serving;
pub(crate) use store::{Engine, Gc, ReadFence, Store, TikvCluster};
pub(crate) use tracing::Tracing;
