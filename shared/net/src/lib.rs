//! How a process of KubeBrain serves and asks: sockets, connections, and what stands around a service. It knows nothing of
//! brains, groups of keys or proxies. The index, in reading order.

pub mod relay;
pub mod connections;
pub mod held;
pub mod fair;
pub mod kinds;
mod permits;
mod watched;
pub mod budget;
pub mod intake;
pub mod gzip;
pub mod trace;
pub mod metrics;
pub mod eager;
pub mod tls;
pub mod turns;
pub mod cork;
mod pings;
mod gate;
pub mod serve;
pub mod restricted;
pub mod probe;
pub mod cors;
pub mod opening;
pub mod reflection;
pub mod direct;
pub mod locks;
pub mod gateway;
pub mod dial;
