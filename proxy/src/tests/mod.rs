//! The whole proxy over stand-in brains, in one process.

mod fanout;
mod kv;
mod lease;
mod learn;
mod moving;
mod limit;
mod maintenance;
mod metrics;
mod model;
mod nodes;
mod watch;
mod web;
