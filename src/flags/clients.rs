//! Flags of what clients see.

use std::time::Duration;

use clap::Args;

use super::{Serving, Tracing, duration};

/// What clients see.
#[derive(Debug, Args)]
pub(crate) struct Clients {
    /// This member's name.
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    pub name: String,
    /// Where clients reach this process.
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        value_name = "URL,...",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    pub listen_client_urls: Vec<String>,
    /// Where clients are told to reach it. Without it: where it listens.
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_name = "URL,...", value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,
    /// Between two progress notifications of a quiet watcher.
    #[arg(long, env = "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", value_name = "DURATION", default_value = "10m",
          value_parser = duration::parse)]
    pub watch_progress_notify_interval: Duration,
    /// Bytes of the largest request.
    #[arg(long, env = "ETCD_MAX_REQUEST_BYTES", default_value_t = 3 << 19)]
    pub max_request_bytes: usize,
    /// A unary request that takes longer is worth a line in the log.
    #[arg(long, env = "ETCD_WARNING_UNARY_REQUEST_DURATION", value_name = "DURATION", default_value = "300ms",
          value_parser = duration::parse)]
    pub warning_unary_request_duration: Duration,
    /// Streams that one connection may have open.
    #[arg(long, env = "ETCD_MAX_CONCURRENT_STREAMS", default_value_t = u32::MAX)]
    pub max_concurrent_streams: u32,
    #[command(flatten)]
    pub serving: Serving,
    #[command(flatten)]
    pub tracing: Tracing,
}
