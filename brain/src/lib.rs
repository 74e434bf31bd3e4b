//! A brain: serves one group of keys in etcd's API from an engine that need not know anything of it.

pub mod engine;
pub mod mvcc;
pub mod request;
pub mod service;
pub mod watch;
