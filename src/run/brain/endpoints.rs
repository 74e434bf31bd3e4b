//! What clients and peers find behind this brain's sockets, by its role.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use kubebrain_brain::election::MasterRecord;
use kubebrain_brain::service::{
    Announcer, Audience, Between, Endpoint, EndpointConfig, Master, Members, Remote, Role, SlaveService,
    Standing,
};
use kubebrain_brain::store::{Following, Store, Upstream, cluster};
use kubebrain_net::dial::{Channel, DialConfig};
use kubebrain_net::opening::Opening;
use kubebrain_net::probe::ETCD_VERSION;
use kubebrain_proto::peer::{FollowRequest, StandingResponse};
use kubebrain_shared::stop::Stopper;
use tokio::sync::watch;

use crate::flags::Brain;
use crate::run::listen::{Brains, advertised, advertised_to_clients};

/// Proxies resume watches from the last progress: it must be younger than what compaction keeps.
const PEER_PROGRESS_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Endpoints {
    pub clients: Opening<Role>,
    pub peers: Opening<Role>,
    /// Where clients are told to come to.
    pub client_urls: Vec<String>,
    /// Where proxies and brains are.
    pub peer_urls: Vec<String>,
    pub announcer: Announcer,
    name: String,
    /// 0 until the store has told them.
    cluster_id: u64,
    member_id: u64,
    progress_interval: Duration,
    members: Members,
    /// The way to other brains.
    brains: Option<Arc<Brains>>,
    /// Who orders writes, as slaves' callers are told.
    master: watch::Sender<Option<Master>>,
}

impl Endpoints {
    /// Where nobody is behind them yet. Streams about what this brain is end with `accepting`.
    pub(super) fn new(
        flags: &Brain,
        client_urls: &[String],
        peer_urls: &[String],
        accepting: &Stopper,
    ) -> Self {
        let client_urls = advertised_to_clients(&flags.clients.advertise_client_urls, client_urls);
        let peer_urls = advertised(&flags.peers.initial_advertise_peer_urls, peer_urls);
        let brain = StandingResponse {
            group: flags.group.to_string(),
            name: flags.clients.name.clone(),
            client_urls: client_urls.clone(),
            peer_urls: peer_urls.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..StandingResponse::default()
        };
        Self {
            clients: Opening::new(ETCD_VERSION),
            peers: Opening::new(ETCD_VERSION),
            client_urls,
            peer_urls,
            announcer: Announcer::new(brain, accepting.handle()),
            name: flags.clients.name.clone(),
            cluster_id: 0,
            member_id: 0,
            progress_interval: flags.clients.watch_progress_notify_interval,
            members: Members::default(),
            brains: None,
            master: watch::Sender::new(None),
        }
    }

    /// This brain has these ids, as its store says. To be called before anybody is behind the endpoints.
    pub(super) fn know(&mut self, cluster_id: u64, member_id: u64) {
        (self.cluster_id, self.member_id) = (cluster_id, member_id);
        self.announcer.call(member_id);
    }

    /// Other brains are reached so, for as long as connections are accepted.
    pub(super) fn reach(&mut self, brains: Arc<Brains>, accepting: &Stopper) {
        brains.follow(accepting);
        self.brains = Some(brains);
    }

    /// What is waited for, for probes and for calls that wait.
    pub(super) fn say(&self, what: &str) {
        self.clients.waits_for(what);
        self.peers.waits_for(what);
    }

    /// A master's: calls hold a handle of `streams` while they run.
    pub(super) fn serve(&self, store: &Store, streams: &Stopper) {
        self.clients.open(Role::Master(self.endpoint(Audience::Clients, store, streams)));
        self.peers.open(Role::Master(self.endpoint(Audience::Peers, store, streams)));
        self.members.set_master(self.member_id);
        // Who has waited for a master is served here.
        self.master.send_replace(Some(Master::Here));
        self.announcer.tell(Standing {
            master: true,
            reads: true,
            epoch: store.state().identity().epoch,
            master_name: self.name.clone(),
            master_peer_urls: self.peer_urls.clone(),
            store: Some(store.clone()),
            ..Standing::default()
        });
    }

    /// A slave's, over a store that follows.
    pub(super) fn follow(&self, store: &Store, following: &watch::Receiver<Following>, streams: &Stopper) {
        let service = |audience| {
            let endpoint = self.endpoint(audience, store, streams);
            let (following, master) = (following.clone(), self.master.subscribe());
            Role::Slave(SlaveService::new(audience, endpoint, store.clone(), following, master))
        };
        self.clients.open(service(Audience::Clients));
        self.peers.open(service(Audience::Peers));
    }

    /// Of one that has left: all calls are passed on to its successor. Its store answers nothing any more.
    pub(super) fn pass_on(&self, store: &Store) {
        let (_over, following) = watch::channel(Following::default());
        self.follow(store, &following, &Stopper::default());
    }

    /// Nobody's yet: clients wait, proxies go elsewhere.
    pub(super) fn close(&self, why: &str) {
        self.clients.close(why);
        self.peers.open(Role::Between(Between::new(why)));
        self.master.send_replace(None);
        self.announcer.tell(Standing { trouble: why.to_owned(), ..Standing::default() });
    }

    /// Calls for the master go there, or wait while it is not known. Gives the way to its changes.
    pub(super) fn show_master(&self, record: Option<&MasterRecord>) -> Option<Arc<dyn Upstream>> {
        let id = |record: &MasterRecord| cluster::member(self.cluster_id, &record.name);
        self.members.set_master(record.map_or(0, id));
        let Some(record) = record else {
            self.master.send_replace(None);
            return None;
        };
        match self.channels(&record.peer_urls) {
            Ok([calls, changes, questions]) => {
                tracing::info!(
                    master = record.name,
                    "the group's master is another brain, this one follows it"
                );
                let peer_urls = record.peer_urls.clone();
                self.master.send_replace(Some(Master::At { peer_urls, channel: calls }));
                let me = FollowRequest {
                    from: 0,
                    name: self.name.clone(),
                    member_id: self.member_id,
                    client_urls: self.client_urls.clone(),
                    peer_urls: self.peer_urls.clone(),
                };
                Some(Arc::new(Remote::new(changes, questions, me)))
            }
            Err(error) => {
                tracing::error!(master = record.name, "the master cannot be reached: {error:#}");
                self.master.send_replace(None);
                None
            }
        }
    }

    /// A slave's standing.
    pub(super) fn tell(
        &self,
        store: &Store,
        following: &watch::Receiver<Following>,
        master: Option<&MasterRecord>,
    ) {
        let state = following.borrow().clone();
        self.announcer.tell(Standing {
            master: false,
            reads: state.level,
            trouble: state.trouble,
            epoch: state.epoch,
            master_name: master.map(|master| master.name.clone()).unwrap_or_default(),
            master_peer_urls: master.map(|master| master.peer_urls.clone()).unwrap_or_default(),
            store: Some(store.clone()),
            following: Some(following.clone()),
        });
    }

    fn endpoint(&self, audience: Audience, store: &Store, streams: &Stopper) -> Endpoint {
        let progress_interval = match audience {
            Audience::Clients => self.progress_interval,
            Audience::Peers => self.progress_interval.min(PEER_PROGRESS_MAX),
        };
        let config = EndpointConfig {
            audience,
            progress_interval,
            name: self.name.clone(),
            client_urls: self.client_urls.clone(),
            peer_urls: self.peer_urls.clone(),
            members: self.members.clone(),
        };
        Endpoint::new(store.clone(), config, streams.handle())
    }

    /// For calls that are passed on, for changes, and for questions.
    fn channels(&self, urls: &[String]) -> Result<[Channel; 3]> {
        let (Some(brains), Some(url)) = (&self.brains, urls.first()) else { bail!("it has no peer URL") };
        let connector = brains.connector(url)?;
        Ok([(); 3].map(|()| Channel::new(connector.clone(), DialConfig::default())))
    }
}
