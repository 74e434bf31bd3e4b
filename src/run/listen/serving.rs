//! What the flags of listeners come to.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kubebrain_net::restricted::Restriction;
use kubebrain_net::serve::ServeConfig;
use kubebrain_net::tls::{TlsConfig, TlsError, TlsServer, Version};
use kubebrain_shared::method::CHANGE_PLACEMENT;

use crate::flags::Serving;

/// Of one client's connection: thousands of requests that are given up at once pass in seconds, a flood of them does not
/// take the others' share.
const CONTROL_FRAMES_PER_SECOND: Option<NonZeroU32> = NonZeroU32::new(1000);

/// What a client is told that may not change the placement.
const NO_ADMIN: &str = "clients may not change the placement here: ask with a certificate whose common name is in \
     --placement-admin, or ask a brain at its --listen-peer-urls";

impl Serving {
    /// Who may change the placement through listeners for clients.
    pub(super) fn changes(&self) -> Result<Restriction> {
        let names: Vec<_> = self.placement_admin.iter().map(|name| name.trim().to_owned()).collect();
        let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
        if !names.is_empty() && self.trusted_ca_file.is_empty() {
            bail!(
                "--placement-admin {}: clients have no names without certificates, so it needs --{} beside it",
                names.join(","),
                CLIENTS.ca
            );
        }
        Ok(Restriction { path: CHANGE_PLACEMENT, names: names.into(), refusal: NO_ADMIN })
    }

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
