//! Flags of listeners, and what they come to.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use kubebrain_net::serve::ServeConfig;
use kubebrain_net::tls::{TlsConfig, TlsError, TlsServer, Version};

use crate::{boolean, duration};

/// Of one client's connection: thousands of requests that are given up at once pass in seconds, a flood of them does not
/// take the others' share.
const CONTROL_FRAMES_PER_SECOND: Option<NonZeroU32> = NonZeroU32::new(1000);

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
    cert_file: String,
    /// Its key, PEM.
    #[arg(long, env = "ETCD_KEY_FILE", value_name = "FILE", default_value = "", hide_default_value = true)]
    key_file: String,
    /// Serve only clients whose certificate is of an authority in this file, PEM.
    #[arg(
        long,
        env = "ETCD_TRUSTED_CA_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    trusted_ca_file: String,
    /// Serve only clients with a certificate; as --trusted-ca-file alone does.
    #[arg(long, env = "ETCD_CLIENT_CERT_AUTH", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set, value_parser = boolean::parse)]
    client_cert_auth: bool,
    /// Clients' certificates that are valid no more.
    #[arg(
        long,
        env = "ETCD_CLIENT_CRL_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    client_crl_file: String,
    /// Serve only clients whose certificate is made out to one of these names.
    #[arg(long, env = "ETCD_CLIENT_CERT_ALLOWED_HOSTNAME", value_name = "NAME,...", value_delimiter = ',')]
    client_cert_allowed_hostname: Vec<String>,
    /// Cipher suites of TLS 1.2; all that are safe unless said.
    #[arg(long, env = "ETCD_CIPHER_SUITES", value_name = "SUITE,...", value_delimiter = ',')]
    cipher_suites: Vec<String>,
    /// The oldest TLS that is spoken: TLS1.2 or TLS1.3.
    #[arg(long, env = "ETCD_TLS_MIN_VERSION", value_name = "VERSION", default_value = "TLS1.2")]
    tls_min_version: String,
    /// The newest.
    #[arg(
        long,
        env = "ETCD_TLS_MAX_VERSION",
        value_name = "VERSION",
        default_value = "",
        hide_default_value = true
    )]
    tls_max_version: String,
    /// Clients that ping more often while nothing is sent to them are disconnected; 0 lets them.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_MIN_TIME", value_name = "DURATION", default_value = "5s",
          value_parser = duration::parse)]
    grpc_keepalive_min_time: Duration,
    /// A connection that is silent for so long is pinged, to find dead clients; 0: never.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "30s",
          value_parser = duration::parse)]
    grpc_keepalive_interval: Duration,
    /// And ended without an answer for so long.
    #[arg(long, env = "ETCD_GRPC_KEEPALIVE_TIMEOUT", value_name = "DURATION", default_value = "20s",
          value_parser = duration::parse)]
    grpc_keepalive_timeout: Duration,
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

impl Serving {
    /// The certificates for clients, if there are any.
    pub(super) fn tls(&self) -> Result<Option<TlsServer>> {
        self.tls_of(&Given {
            names: &CLIENTS,
            certificate: &self.cert_file,
            key: &self.key_file,
            ca: &self.trusted_ca_file,
            demanded: self.client_cert_auth,
            revoked: &self.client_crl_file,
            hosts: &self.client_cert_allowed_hostname,
        })
    }

    /// Those of one listener, if there are any; versions and cipher suites are everybody's, as in etcd.
    pub(super) fn tls_of(&self, given: &Given<'_>) -> Result<Option<TlsServer>> {
        let Names { auth, ca, revoked, hosts, .. } = *given.names;
        if !given.names.is_paired(given.certificate, given.key)? {
            return Ok(None);
        }
        if given.demanded && given.ca.is_empty() {
            bail!("--{auth}: name the authority of those certificates by --{ca}");
        }
        let allowed: Vec<_> = given.hosts.iter().filter(|name| !name.is_empty()).cloned().collect();
        if given.ca.is_empty() && (!given.revoked.is_empty() || !allowed.is_empty()) {
            bail!("--{revoked} and --{hosts}: certificates are not asked for without --{ca}");
        }
        let version = |flag: &str, text: &str| text.parse::<Version>().with_context(|| format!("--{flag}"));
        let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        let config = TlsConfig {
            certificate: PathBuf::from(given.certificate),
            key: PathBuf::from(given.key),
            client_ca: file(given.ca),
            revoked: file(given.revoked),
            client_names: allowed,
            version_min: match self.tls_min_version.as_str() {
                "" => Version::default(),
                text => version("tls-min-version", text)?,
            },
            version_max: match self.tls_max_version.as_str() {
                "" => None,
                text => Some(version("tls-max-version", text)?),
            },
            suites: self.cipher_suites.clone(),
        };
        TlsServer::load(config).map(Some).map_err(|error| given.names.blame(error))
    }

    /// As etcd: a URL says what is spoken, whatever certificates there are.
    pub(super) fn warn_of_unused_tls<'a>(&self, urls: impl Iterator<Item = &'a String>) {
        let plain: Vec<_> =
            urls.filter(|url| url.starts_with("http://") || url.starts_with("unix://")).collect();
        if !plain.is_empty() && (!self.cert_file.is_empty() || self.client_cert_auth) {
            tracing::warn!(?plain, "there are certificates, and these URLs are served without TLS");
        }
    }

    pub(super) fn config(&self, concurrent_streams_max: u32) -> ServeConfig {
        let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let default = ServeConfig::default();
        ServeConfig {
            concurrent_streams_max,
            control_frames_per_second: CONTROL_FRAMES_PER_SECOND,
            ping_interval_min: some(self.grpc_keepalive_min_time),
            keepalive_interval: some(self.grpc_keepalive_interval),
            keepalive_timeout: some(self.grpc_keepalive_timeout).unwrap_or(default.keepalive_timeout),
            ..default
        }
    }
}

/// Certificates as flags name them.
pub(super) struct Given<'a> {
    pub names: &'static Names,
    pub certificate: &'a str,
    pub key: &'a str,
    pub ca: &'a str,
    /// Those of the other side.
    pub demanded: bool,
    pub revoked: &'a str,
    pub hosts: &'a [String],
}

/// What these flags are called.
pub(super) struct Names {
    pub certificate: &'static str,
    pub key: &'static str,
    pub ca: &'static str,
    pub auth: &'static str,
    pub revoked: &'static str,
    pub hosts: &'static str,
}

const CLIENTS: Names = Names {
    certificate: "cert-file",
    key: "key-file",
    ca: "trusted-ca-file",
    auth: "client-cert-auth",
    revoked: "client-crl-file",
    hosts: "client-cert-allowed-hostname",
};

impl Names {
    /// True if there is a certificate and its key.
    ///
    /// # Errors
    /// One without the other.
    pub(super) fn is_paired(&self, certificate: &str, key: &str) -> Result<bool> {
        match (certificate, key) {
            ("", "") => Ok(false),
            ("", key) => bail!("--{} {key}: it needs --{} beside it", self.key, self.certificate),
            (certificate, "") => {
                bail!("--{} {certificate}: it needs --{} beside it", self.certificate, self.key)
            }
            _ => Ok(true),
        }
    }

    /// An error with the flag that it is about.
    pub(super) fn blame(&self, error: TlsError) -> anyhow::Error {
        let flag = match &error {
            TlsError::Unreadable { what, .. } | TlsError::Content { what, .. } => match *what {
                "certificate" => format!("--{}", self.certificate),
                "key" => format!("--{}", self.key),
                "client CA" | "CA" => format!("--{}", self.ca),
                _ => format!("--{}", self.revoked),
            },
            TlsError::Mismatch { .. } => format!("--{} and --{}", self.certificate, self.key),
            TlsError::Settings(_) => {
                format!("--cipher-suites, --tls-min-version, --tls-max-version, --{}", self.hosts)
            }
        };
        anyhow::Error::new(error).context(flag)
    }
}
