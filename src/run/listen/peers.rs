//! What the flags of certificates between proxies and brains come to on both sides.
//!
//! Who reaches a brain's listener for peers is trusted with everything: its words move the group's revision. So it is
//! for this machine alone, or for whoever has a certificate of the peers' authority.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use kubebrain_net::dial::Connector;
use kubebrain_net::held::Held;
use kubebrain_net::serve::{Serve, ServeConfig};
use kubebrain_net::tls::{TlsClient, TlsServer};
use kubebrain_shared::stop::Stopper;

use super::serving::{Given, Names};
use super::{Listeners, Options};
use crate::flags::{PeerFiles, PeerServing, Serving};
use crate::process::Process;

const URLS: &str = "listen-peer-urls";

const PEERS: Names = Names {
    certificate: "peer-cert-file",
    key: "peer-key-file",
    ca: "peer-trusted-ca-file",
    auth: "peer-client-cert-auth",
    revoked: "peer-crl-file",
    hosts: "peer-cert-allowed-hostname",
};

impl PeerServing {
    /// The way to the other brains of the group.
    pub(crate) fn brains(&self) -> Result<Brains> {
        Brains::new(&self.files)
    }

    fn tls(&self, serving: &Serving) -> Result<Option<TlsServer>> {
        let PeerFiles { peer_cert_file, peer_key_file, peer_trusted_ca_file } = &self.files;
        let tls = serving.tls_of(&Given {
            names: &PEERS,
            certificate: peer_cert_file,
            key: peer_key_file,
            ca: peer_trusted_ca_file,
            demanded: self.peer_client_cert_auth,
            revoked: &self.peer_crl_file,
            hosts: &self.peer_cert_allowed_hostname,
        })?;
        let others = [
            (!peer_trusted_ca_file.is_empty()).then(|| format!("--{} {peer_trusted_ca_file}", PEERS.ca)),
            self.peer_client_cert_auth.then(|| format!("--{}", PEERS.auth)),
            (!self.peer_crl_file.is_empty()).then(|| format!("--{} {}", PEERS.revoked, self.peer_crl_file)),
        ];
        match (tls, others.into_iter().flatten().next()) {
            (None, Some(flag)) => {
                bail!("{flag}: it needs --{} and --{} beside it", PEERS.certificate, PEERS.key)
            }
            (tls, _) => Ok(tls),
        }
    }
}

/// A brain's listeners for peers.
pub(crate) struct Peers {
    listeners: Listeners,
    tls: Option<TlsServer>,
}

impl Peers {
    /// Reads the certificates and binds every URL.
    pub(crate) async fn bind(flags: &PeerServing, serving: &Serving) -> Result<Self> {
        let tls = flags.tls(serving)?;
        let urls = &flags.listen_peer_urls;
        if let Some(url) =
            urls.iter().find(|url| url.trim().starts_with("https://")).filter(|_| tls.is_none())
        {
            bail!(
                "--{URLS} {url}: TLS needs a certificate: give --{} and --{}",
                PEERS.certificate,
                PEERS.key
            );
        }
        if let Some(url) = urls.iter().find(|url| url.trim().starts_with("unixs://")) {
            bail!("--{URLS} {url}: proxies reach http://, https:// and unix:// URLs");
        }
        let options = Options { tls: tls.as_ref(), reuse_port: false };
        let listeners = Listeners::bind_with(URLS, urls, options).await?;
        let strangers_are_refused = !flags.files.peer_trusted_ca_file.is_empty();
        let mut open = listeners.open_to_others(|is_tls| is_tls && strangers_are_refused);
        if let Some(url) = open.next() {
            bail!(
                "--{URLS} {url}: whoever reaches it is trusted, so other machines are served over https:// only, with \
                 --{}, --{}, --{} and --{}; all else listens on loopback",
                PEERS.certificate,
                PEERS.key,
                PEERS.ca,
                PEERS.auth
            );
        }
        drop(open);
        warn_of_unused_tls(tls.is_some(), listeners.urls.iter());
        Ok(Self { listeners, tls })
    }

    /// Their URLs, with the ports that were given.
    pub(crate) fn urls(&self) -> &[String] {
        &self.listeners.urls
    }

    /// Serves on all of them.
    pub(crate) fn serve<S: Serve>(self, service: &S, process: &Process, held: &Held, stopper: &Stopper) {
        let config = ServeConfig {
            connections: process.connections.clone(),
            held: held.clone(),
            ..ServeConfig::default()
        };
        self.listeners.serve(service, &config, stopper);
        if let Some(tls) = self.tls {
            stopper.keep("the task that reads certificates again", |stop| tls.follow(stop));
        }
    }
}

/// How proxies and brains reach brains.
pub(crate) struct Brains {
    tls: Option<Arc<TlsClient>>,
}

impl Brains {
    /// Reads the certificates.
    pub(crate) fn new(files: &PeerFiles) -> Result<Self> {
        let PeerFiles { peer_cert_file, peer_key_file, peer_trusted_ca_file } = files;
        let paired = PEERS.is_paired(peer_cert_file, peer_key_file)?;
        let loaded = match (paired, peer_trusted_ca_file.as_str()) {
            (false, "") => return Ok(Self { tls: None }),
            (true, "") => bail!(
                "--{} {peer_cert_file}: it needs --{} beside it, the authority of the brains' certificates",
                PEERS.certificate,
                PEERS.ca
            ),
            (true, ca) => TlsClient::load(Path::new(ca), Path::new(peer_cert_file), Path::new(peer_key_file)),
            (false, ca) => TlsClient::trusting(Path::new(ca)),
        };
        Ok(Self { tls: Some(Arc::new(loaded.map_err(|error| PEERS.blame(error))?)) })
    }

    /// Where a brain's URL leads.
    pub(crate) fn connector(&self, url: &str) -> Result<Connector> {
        match (url.split_once("://"), &self.tls) {
            (Some(("http", authority)), _) => Ok(Connector::Tcp(authority.to_owned())),
            (Some(("https", authority)), Some(tls)) => Ok(Connector::Tls(authority.to_owned(), tls.clone())),
            (Some(("https", _)), None) => {
                bail!("{url}: name the authority of the brains' certificates by --{}", PEERS.ca)
            }
            (Some(("unix", path)), _) => Ok(Connector::Unix(path.into())),
            _ => bail!("{url}: brains have http://, https:// and unix:// URLs"),
        }
    }

    pub(crate) fn warn_of_unused_tls<'a>(&self, urls: impl Iterator<Item = &'a String>) {
        warn_of_unused_tls(self.tls.is_some(), urls);
    }

    /// Reads the certificates again whenever they change.
    pub(crate) fn follow(&self, stopper: &Stopper) {
        if let Some(tls) = &self.tls {
            let tls = tls.clone();
            stopper.keep("the task that reads certificates again", |stop| tls.follow(stop));
        }
    }
}

/// As etcd: a URL says what is spoken, whatever certificates there are.
fn warn_of_unused_tls<'a>(has_tls: bool, urls: impl Iterator<Item = &'a String>) {
    let plain: Vec<_> = urls.filter(|url| url.starts_with("http://")).collect();
    if has_tls && !plain.is_empty() {
        tracing::warn!(?plain, "there are certificates for peers, and these URLs are without TLS");
    }
}
