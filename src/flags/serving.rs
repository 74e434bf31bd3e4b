//! Flags of listeners.

use std::time::Duration;

use clap::Args;

use super::{boolean, duration};

/// How clients and probes are served.
#[derive(Debug, Args)]
pub(crate) struct Serving {
    /// Where only /health, /livez, /readyz, /version and /metrics are served.
    #[arg(long, env = "ETCD_LISTEN_METRICS_URLS", value_name = "URL,...", value_delimiter = ',')]
    pub listen_metrics_urls: Vec<String>,
    /// The same and JSON over HTTP; clients' URLs go on to serve them too.
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_HTTP_URLS",
        value_name = "URL,...",
        value_delimiter = ',',
        hide = true
    )]
    pub listen_client_http_urls: Vec<String>,
    /// The certificate for https:// and unixs:// URLs, PEM; read again when it changes.
    #[arg(long, env = "ETCD_CERT_FILE", value_name = "FILE", default_value = "", hide_default_value = true)]
    pub cert_file: String,
    /// Its key, PEM.
    #[arg(long, env = "ETCD_KEY_FILE", value_name = "FILE", default_value = "", hide_default_value = true)]
    pub key_file: String,
    /// Serve only clients whose certificate is of an authority in this file, PEM.
    #[arg(
        long,
        env = "ETCD_TRUSTED_CA_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub trusted_ca_file: String,
    /// Serve only clients with a certificate; as --trusted-ca-file alone does.
    #[arg(long, env = "ETCD_CLIENT_CERT_AUTH", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set, value_parser = boolean::parse)]
    pub client_cert_auth: bool,
    /// Clients' certificates that are valid no more.
    #[arg(
        long,
        env = "ETCD_CLIENT_CRL_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub client_crl_file: String,
    /// Serve only clients whose certificate is made out to one of these names.
    #[arg(long, env = "ETCD_CLIENT_CERT_ALLOWED_HOSTNAME", value_name = "NAME,...", value_delimiter = ',')]
    pub client_cert_allowed_hostname: Vec<String>,
    /// Clients may change the placement whose certificate has one of these common names. Without it nobody may on clients'
    /// URLs; brains' URLs for peers take changes from whoever reaches them.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT_ADMIN", value_name = "CN,...", value_delimiter = ',')]
    pub placement_admin: Vec<String>,
    /// Cipher suites of TLS 1.2; all that are safe unless said.
    #[arg(long, env = "ETCD_CIPHER_SUITES", value_name = "SUITE,...", value_delimiter = ',')]
    pub cipher_suites: Vec<String>,
    /// The oldest TLS that is spoken: TLS1.2 or TLS1.3.
    #[arg(long, env = "ETCD_TLS_MIN_VERSION", value_name = "VERSION", default_value = "TLS1.2")]
    pub tls_min_version: String,
    /// The newest.
    #[arg(
        long,
        env = "ETCD_TLS_MAX_VERSION",
        value_name = "VERSION",
        default_value = "",
        hide_default_value = true
    )]
    pub tls_max_version: String,
    /// Clients that ping more often while nothing is sent to them are disconnected; 0 lets them.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_MIN_TIME", value_name = "DURATION", default_value = "5s",
          value_parser = duration::parse)]
    pub grpc_keepalive_min_time: Duration,
    /// A connection that is silent for so long is pinged, to find dead clients; 0: never.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "30s",
          value_parser = duration::parse)]
    pub grpc_keepalive_interval: Duration,
    /// And ended without an answer for so long.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_TIMEOUT", value_name = "DURATION", default_value = "20s",
          value_parser = duration::parse)]
    pub grpc_keepalive_timeout: Duration,
    /// Serve JSON over HTTP at /v3/... too, as etcd does.
    #[arg(long, env = "ETCD_ENABLE_GRPC_GATEWAY", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set, value_parser = boolean::parse)]
    pub enable_grpc_gateway: bool,
    /// Let other processes listen on the same ports.
    #[arg(long, env = "ETCD_SOCKET_REUSE_PORT", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set, value_parser = boolean::parse)]
    pub socket_reuse_port: bool,
}
