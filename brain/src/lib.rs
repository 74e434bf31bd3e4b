//! A brain: serves one group of keys in etcd's API from an engine that need not know anything of it.
//!
//! Modules are listed from the ground up: each uses those above it, never one below.

pub mod engine;
pub mod request;
pub mod tenure;
#[cfg(any(test, feature = "faults"))]
mod planted;
pub mod rows;
mod decide;
mod events;
mod state;
pub mod config;
mod fence;
mod read;
mod load;
mod lead;
mod follow;
mod copy;
pub mod store;
pub mod authority;
pub mod election;
pub mod watch;
pub mod compaction;
pub mod service;
