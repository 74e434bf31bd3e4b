//! Flags of listeners, and what they come to.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use kubebrain_shared::serve::ServeConfig;
use kubebrain_shared::tls::{TlsConfig, TlsError, TlsServer, Version};

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
    /// The same; clients' URLs go on to serve them too.
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
    /// Let other processes listen on the same ports.
    #[arg(long, env = "ETCD_SOCKET_REUSE_PORT", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set, value_parser = boolean::parse)]
    pub socket_reuse_port: bool,
}

impl Serving {
    /// The certificates, if there are any.
    pub(super) fn tls(&self) -> Result<Option<TlsServer>> {
        let wants_clients = self.client_cert_auth || !self.trusted_ca_file.is_empty();
        match (self.cert_file.is_empty(), self.key_file.is_empty()) {
            (true, true) => return Ok(None),
            (false, false) => {}
            (true, false) => bail!("--key-file {}: it needs --cert-file beside it", self.key_file),
            (false, true) => bail!("--cert-file {}: it needs --key-file beside it", self.cert_file),
        }
        if wants_clients && self.trusted_ca_file.is_empty() {
            bail!("--client-cert-auth: name the authority of the clients' certificates by --trusted-ca-file");
        }
        if !wants_clients && (!self.client_crl_file.is_empty() || self.names().next().is_some()) {
            bail!(
                "--client-crl-file and --client-cert-allowed-hostname: clients' certificates are not asked for \
                 without --trusted-ca-file"
            );
        }
        let version = |flag: &str, text: &str| text.parse::<Version>().with_context(|| format!("--{flag}"));
        let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        let config = TlsConfig {
            certificate: PathBuf::from(&self.cert_file),
            key: PathBuf::from(&self.key_file),
            client_ca: file(&self.trusted_ca_file),
            revoked: file(&self.client_crl_file),
            client_names: self.names().cloned().collect(),
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
        let loaded = TlsServer::load(config);
        Ok(Some(loaded.map_err(|error| {
            let flag = flag(&error);
            anyhow::Error::new(error).context(flag)
        })?))
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.client_cert_allowed_hostname.iter().filter(|name| !name.is_empty())
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

/// Which flag an error is about.
const fn flag(error: &TlsError) -> &'static str {
    match error {
        TlsError::Unreadable { what, .. } | TlsError::Content { what, .. } => match what.as_bytes() {
            b"certificate" => "--cert-file",
            b"key" => "--key-file",
            b"client CA" => "--trusted-ca-file",
            _ => "--client-crl-file",
        },
        TlsError::Mismatch { .. } => "--cert-file and --key-file",
        TlsError::Settings(_) => {
            "--cipher-suites, --tls-min-version, --tls-max-version, --client-cert-allowed-hostname"
        }
    }
}
