//! What the local etcd endpoint does for each method.

pub(crate) mod admin;
mod auth;
pub(crate) mod call;
mod cluster;
pub(crate) mod compact;
pub(crate) mod health;
mod kv;
pub(crate) mod lease;
mod maintenance;
mod snapshot;
mod target;
mod txn;
pub(crate) mod web;
