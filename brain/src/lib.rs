//! A brain: serves one group of keys in etcd's API from an engine that need not know anything of it.

pub mod engine;
pub mod request;
pub mod tenure;
pub mod mvcc;
pub mod election;
pub mod watch;
pub mod compaction;
pub mod service;
