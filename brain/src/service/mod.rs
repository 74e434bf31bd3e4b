//! The wire: check, call, map the error, fill in the header. Rules live behind it, in `request`, `store` and `watch`.
//!
//! One [`Endpoint`](endpoint::Endpoint) serves one listener. The client listener speaks etcd; the peer listener adds floors, parts and the
//! peer protocol, and tells the revision of each answer in its metadata.

mod auth;
mod cluster;
mod codec;
mod endpoint;
mod fault;
mod follow;
mod health;
mod http1;
mod inner;
mod kv;
mod lease;
mod maintenance;
mod members;
mod peer;
mod questions;
mod slave;
mod snapshot;
mod standing;
mod watch;

pub use endpoint::{Endpoint, EndpointConfig};
pub use follow::Remote;
pub use inner::Audience;
pub use members::Members;
pub use slave::{Between, Master, Role, SlaveService};
pub use standing::{Announced, Announcer, Decided, Decides, Standing};
