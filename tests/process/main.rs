//! Tests of whole processes: the real binary, sockets on loopback, and a disk.
//!
//! `cargo test --test process`; with `KUBEBRAIN_FULL=1` the long tier, which moves more data. A test that fails keeps
//! its directory with data and logs, and names it.

mod addresses;
mod answers;
mod authority;
mod bad_input;
mod bytes;
mod certificates;
mod changes;
mod compared;
mod ctl_placement;
mod descriptors;
mod directories;
mod errors;
mod etcd_flags;
mod flood;
mod gateway;
mod gzip;
mod http;
mod ids;
mod kind_limits;
mod large_delete;
mod limits;
mod load;
mod locks;
mod log;
mod lost;
mod maintenance;
mod peers;
mod merged_lists;
mod pings;
mod metrics;
mod operators;
mod placement;
mod private;
mod proxies;
mod reflection;
mod repairs;
mod sequence;
mod shutdown;
mod slow_watch;
mod snapshot;
mod sockets;
mod systemd;
mod tls;
mod tracing;
mod unplaced;

/// The program that is tested.
const BINARY: kit::process::Binary = kit::process::Binary::new(env!("CARGO_BIN_EXE_kubebrain"));
