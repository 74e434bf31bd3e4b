//! What clients and peers find behind this brain's sockets, by its role.

use std::time::Duration;

use anyhow::{Result, bail};
use kubebrain_brain::election::MasterRecord;
use kubebrain_brain::mvcc::Store;
use kubebrain_brain::service::{Audience, Endpoint, EndpointConfig, Role, Standby};
use kubebrain_shared::dial::{Channel, DialConfig};
use kubebrain_shared::opening::Opening;
use kubebrain_shared::probe::ETCD_VERSION;
use kubebrain_shared::stop::Stopper;

use crate::cli::Brain;
use crate::listen::Brains;

/// Proxies resume watches from the last progress: it must be younger than what compaction keeps.
const PEER_PROGRESS_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Doors {
    pub clients: Opening<Role>,
    pub peers: Opening<Role>,
    /// Where clients are told to come to.
    pub client_urls: Vec<String>,
    /// Where proxies and brains are.
    pub peer_urls: Vec<String>,
    name: String,
    progress_interval: Duration,
    /// The way to other brains.
    brains: Option<Brains>,
    /// Whose standby this is, while it is one.
    master: Option<String>,
}

impl Doors {
    pub(super) fn new(flags: &Brain, client_urls: &[String], peer_urls: &[String]) -> Self {
        let told = |told: &[String], bound: &[String]| if told.is_empty() { bound } else { told }.to_vec();
        Self {
            clients: Opening::new(ETCD_VERSION),
            peers: Opening::new(ETCD_VERSION),
            client_urls: told(&flags.clients.advertise_client_urls, client_urls),
            peer_urls: told(&flags.peers.initial_advertise_peer_urls, peer_urls),
            name: flags.clients.name.clone(),
            progress_interval: flags.clients.watch_progress_notify_interval,
            brains: None,
            master: None,
        }
    }

    /// Other brains are reached so, for as long as connections are accepted.
    pub(super) fn reach(&mut self, brains: Brains, accepting: &Stopper) {
        brains.follow(accepting);
        self.brains = Some(brains);
    }

    /// What is waited for, for probes and for calls that wait.
    pub(super) fn say(&self, what: &str) {
        self.clients.waits_for(what);
        self.peers.waits_for(what);
    }

    /// A master's: calls hold a handle of `streams` while they run.
    pub(super) fn serve(&mut self, store: &Store, streams: &Stopper) {
        self.master = None;
        let endpoint = |audience, progress_interval| {
            let config = EndpointConfig {
                audience,
                progress_interval,
                name: self.name.clone(),
                client_urls: self.client_urls.clone(),
                peer_urls: self.peer_urls.clone(),
            };
            Role::Master(Endpoint::new(store.clone(), config, streams.handle()))
        };
        self.clients.open(endpoint(Audience::Clients, self.progress_interval));
        self.peers.open(endpoint(Audience::Peers, self.progress_interval.min(PEER_PROGRESS_MAX)));
    }

    /// Nobody's yet: clients wait, proxies go elsewhere.
    pub(super) fn close(&mut self, why: &str) {
        self.master = None;
        self.clients.close(why);
        self.peers.open(Role::Standby(Standby::new(Audience::Peers, Vec::new(), None)));
    }

    /// A standby's: of `master`, if there is one.
    pub(super) fn stand_by(&mut self, master: Option<&MasterRecord>) {
        let Some(master) = master.filter(|master| !master.is_released()) else {
            if self.master.is_some() || !self.peers.is_open() {
                self.close("no master is elected");
            }
            return;
        };
        if self.master.as_ref() == Some(&master.holder) {
            return;
        }
        match self.channel(&master.peer_urls) {
            Ok(channel) => {
                tracing::info!(master = master.name, "standing by");
                let standby = |audience| {
                    Role::Standby(Standby::new(audience, master.peer_urls.clone(), Some(channel.clone())))
                };
                self.clients.open(standby(Audience::Clients));
                self.peers.open(standby(Audience::Peers));
            }
            Err(error) => {
                tracing::error!(master = master.name, "the master cannot be reached: {error:#}");
                self.close("the master's peer URL cannot be used");
            }
        }
        self.master = Some(master.holder.clone());
    }

    fn channel(&self, urls: &[String]) -> Result<Channel> {
        let (Some(brains), Some(url)) = (&self.brains, urls.first()) else { bail!("it has no peer URL") };
        Ok(Channel::new(brains.connector(url)?, DialConfig::default()))
    }
}
