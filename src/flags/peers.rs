//! Flags of what passes between proxies and brains.

use clap::Args;

use super::boolean;

/// Certificates among proxies and brains.
#[derive(Debug, Args)]
pub(crate) struct PeerFiles {
    /// This process' certificate for https:// between proxies and brains, PEM; read again when it changes.
    #[arg(
        long,
        env = "ETCD_PEER_CERT_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub peer_cert_file: String,
    /// Its key, PEM.
    #[arg(
        long,
        env = "ETCD_PEER_KEY_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub peer_key_file: String,
    /// The authority that the other side's certificate has to be of, PEM.
    #[arg(
        long,
        env = "ETCD_PEER_TRUSTED_CA_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub peer_trusted_ca_file: String,
}

/// How a brain serves its peers.
#[derive(Debug, Args)]
pub(crate) struct PeerServing {
    #[command(flatten)]
    pub files: PeerFiles,
    /// Serve only peers with a certificate; as --peer-trusted-ca-file alone does.
    #[arg(long, env = "ETCD_PEER_CLIENT_CERT_AUTH", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set, value_parser = boolean::parse)]
    pub peer_client_cert_auth: bool,
    /// Peers' certificates that are valid no more.
    #[arg(
        long,
        env = "ETCD_PEER_CRL_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub peer_crl_file: String,
    /// Serve only peers whose certificate is made out to one of these names.
    #[arg(long, env = "ETCD_PEER_CERT_ALLOWED_HOSTNAME", value_name = "NAME,...", value_delimiter = ',')]
    pub peer_cert_allowed_hostname: Vec<String>,
    /// Where proxies reach this brain. Loopback only, but for https:// with the four flags above.
    #[arg(
        long,
        env = "ETCD_LISTEN_PEER_URLS",
        value_name = "URL,...",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2380"
    )]
    pub listen_peer_urls: Vec<String>,
    /// Where proxies and other brains are told to reach this brain. Without it: where it listens.
    #[arg(long, env = "ETCD_INITIAL_ADVERTISE_PEER_URLS", value_name = "URL,...", value_delimiter = ',')]
    pub initial_advertise_peer_urls: Vec<String>,
}
