//! Flags of traces.

use clap::Args;

use super::boolean;

/// Which requests are traced, and who is told.
#[derive(Debug, Args)]
pub(crate) struct Tracing {
    /// Send the spans of requests to a collector, by OTLP.
    #[arg(long, env = "ETCD_ENABLE_DISTRIBUTED_TRACING", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, action = clap::ArgAction::Set, value_parser = boolean::parse)]
    pub enable_distributed_tracing: bool,
    /// Where the collector is. Without it: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT, localhost:4317 (HTTP: 4318).
    #[arg(
        long,
        env = "ETCD_DISTRIBUTED_TRACING_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "",
        hide_default_value = true
    )]
    pub distributed_tracing_address: String,
    /// What spans are said to be of. Without it: OTEL_SERVICE_NAME, else kubebrain- and the name of the program.
    #[arg(
        long,
        env = "ETCD_DISTRIBUTED_TRACING_SERVICE_NAME",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub distributed_tracing_service_name: String,
    /// Which of several processes of that name this is.
    #[arg(
        long,
        env = "ETCD_DISTRIBUTED_TRACING_INSTANCE_ID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    pub distributed_tracing_instance_id: String,
    /// Of a million requests that no client has decided about, so many are traced. Those that a client wants traced always are.
    #[arg(long, env = "ETCD_DISTRIBUTED_TRACING_SAMPLING_RATE", value_name = "PER-MILLION", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub distributed_tracing_sampling_rate: u32,
}
