//! `kubebrain brain`: one brain of one group, for clients and for proxies.
//!
//! ```text
//!           elected, taken over
//!  slave ────────────────────────▶ master
//!    ▲                               │
//!    └───────────────────────────────┘  the election is lost, or another one took over
//! ```
//!
//! A slave's store becomes the master's as it is, with its watchers; a master that is none any more begins anew with an
//! empty one. Where no other process can share the storage there is no election: it opens, and is master until it ends.

mod candidate;
mod cluster;
mod endpoints;
mod following;
mod leading;
#[cfg(feature = "kubernetes")]
mod lease;
mod reach;
mod unplaced;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::FutureExt as _;
use kubebrain_brain::config;
use kubebrain_brain::service::{Announced, Audience};
use kubebrain_brain::store::GroupState;
use kubebrain_brain::store::Store;
use kubebrain_net::trace::Own;
use kubebrain_shared::compaction::Policy;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;

use crate::process::{Place, Process, Starting};
use crate::run::listen::{Front, Peers};
use crate::run::numbers::Numbers;
use crate::run::shutdown::{self, Signals};
use crate::run::storage::{self, Storage};
use crate::{flags, placement};
use candidate::RunningElection;
use cluster::{Cluster, Deciding};
use endpoints::Endpoints;
use reach::Network;

/// One brain, whatever its role.
struct Brain<'a> {
    flags: flags::Brain,
    storage: Storage,
    config: config::Config,
    compaction: Option<Policy>,
    endpoints: Endpoints,
    /// Whose prefix holds until a placement is heard of; of a brain that is part of no cluster, all that holds.
    table: Arc<Placement>,
    /// `None` where its group owns everything.
    cluster: Option<Arc<Cluster>>,
    watched: placement::Watched,
    signals: Signals,
    election: Option<RunningElection>,
    /// The store of the last term, where nobody waits for it to be given up.
    last: Option<Store>,
    /// Until it serves for the first time.
    starting: Option<Starting>,
    process: &'a Process,
    /// The store that is in use, for who watches over its writer.
    current: Current,
}

/// The store of this moment, if there is one.
#[derive(Clone, Default)]
struct Current(Arc<Mutex<Option<Arc<GroupState>>>>);

impl Current {
    fn is(&self, store: &Store) {
        *self.0.lock() = Some(store.state().clone());
    }

    fn is_none(&self) {
        *self.0.lock() = None;
    }

    fn is_beating(&self, within: Duration) -> bool {
        self.0.lock().as_ref().is_none_or(|shared| shared.is_beating(within))
    }
}

/// One time as master.
struct Term {
    store: Store,
    /// Every call and stream holds a handle of it.
    streams: Stopper,
}

/// Why a term, or the way to it, has ended.
enum End {
    /// The process was told to end.
    Stop,
    /// Another brain is, or may be, master.
    Lost(String),
    /// The store cannot go on.
    Failed(anyhow::Error),
}

// Long: it puts a program together, a step after the other, and what a step makes lives to the end.
pub(crate) async fn run(flags: flags::Brain, process: &Process) -> Result<()> {
    let signals = Signals::new()?;
    let compaction = flags.compaction.policy()?;
    let clients = Front::bind(&flags.clients, process).await?;
    let peers = Peers::bind(&flags.peers, &flags.clients.serving).await?;
    // From before it is read: a storage may take long to open, and the file may change meanwhile.
    let watched = placement::Watched::new(flags.placement.clone());
    let file = flags.placement.as_deref().map(placement::read_file).transpose()?;
    let join: Vec<String> =
        flags.join.iter().map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
    let join: Vec<String> = join.into_iter().filter(|url| !url.is_empty()).collect();
    let is_clustered = file.is_some() || !join.is_empty();
    let table = match &file {
        Some(file) => file.table.clone(),
        None => Arc::new(Placement::single(flags.group.clone())),
    };
    if !table.groups().any(|(group, _)| *group == flags.group) {
        tracing::warn!(
            "--group {}: the file has no such group; it serves nothing until the cluster's placement names it. To add it: name it in \
             a placement file, and `kubebrain ctl placement apply FILE`",
            flags.group
        );
    }
    if compaction.is_some() && (table.groups().count() > 1 || !join.is_empty()) {
        bail!(
            "--auto-compaction-retention: this group is one of several, which must be compacted at one revision: set it \
             on the proxy instead"
        );
    }
    let starting = process.starts(
        "brain",
        Place {
            clients: clients.urls.clone(),
            probes: clients.probe_urls.clone(),
            peers: peers.urls().to_vec(),
            data: flags.store.place(),
            groups: vec![flags.group.to_string()],
        },
    );
    let numbers = Numbers::new(&flags.clients, process);
    let storage = storage::open(&flags.store, &flags.clients, &numbers, process).await?;
    let config = config::Config {
        metrics: config::Metrics::new(&numbers.metrics),
        awaits_placement: is_clustered,
        ..storage.config(flags.group.clone(), &flags.store, &flags.clients)
    };
    let accepting = Stopper::default();
    let mut endpoints = Endpoints::new(&flags, &clients.urls, peers.urls(), &accepting);
    numbers.tracer.is({
        let leads = endpoints.announcer.leads();
        let role = move || if leads() { "master" } else { "slave" };
        Own { group: Some(flags.group.clone()), role: Box::new(role) }
    });
    let election = candidate::stand(&flags, &storage, &endpoints).await?;
    let tenure = election.as_ref().map(|election| election.candidacy.tenure().clone());
    let config = config::Config { tenure, ..config };
    let brains = Arc::new(flags.peers.brains()?);
    if election.is_some() || is_clustered {
        endpoints.reach(brains.clone(), &accepting);
    }
    let cluster = is_clustered.then(|| {
        let network = Network::new(brains, join);
        network.contacts(&table);
        Cluster::new(flags.group.clone(), endpoints.peer_urls.clone(), network, file)
    });
    if let Some(cluster) = &cluster {
        endpoints.announcer.decided_by(Arc::new(Deciding(cluster.clone())));
        accepting.keep("the task that compares placements", |stop| cluster.clone().watch(stop));
    }
    let for_clients =
        Announced::new(endpoints.announcer.clone(), Audience::Clients, endpoints.clients.clone());
    clients.serve(&numbers.for_clients(for_clients), &numbers.held, &accepting);
    let for_peers = Announced::new(endpoints.announcer.clone(), Audience::Peers, endpoints.peers.clone());
    let for_peers = numbers.observe_peers(for_peers, &flags.clients);
    peers.serve(&for_peers, process, &numbers.held, &accepting);
    drop(for_peers);
    let elects = election.as_ref().map(RunningElection::broken);
    let elected = async move {
        match elects {
            Some(broken) => broken.await,
            None => std::future::pending().await,
        }
    };
    let current = Current::default();
    let mut brain = Brain {
        flags,
        storage,
        config,
        compaction,
        endpoints,
        table,
        cluster,
        watched,
        signals,
        election,
        last: None,
        starting: Some(starting),
        process,
        current: current.clone(),
    };
    let outcome = tokio::select! { biased;
        outcome = brain.live() => outcome,
        error = shutdown::broken(vec![accepting.broken().boxed(), elected.boxed()]) => Err(error),
        never = process.systemd.live(|within| current.is_beating(within)) => match never {},
    };
    process.stopping(&outcome);
    let Brain { election, endpoints, last, .. } = brain;
    drop(endpoints);
    accepting.stop().await;
    if let Some(store) = last {
        store.close().await;
    }
    if let Some(election) = election {
        election.stop().await;
    }
    outcome
}

impl Brain<'_> {
    /// Reads the file again, for the addresses in it.
    fn read_again(&self) {
        let Some(cluster) = &self.cluster else { return };
        if let Some(file) = self.watched.reload("the contact addresses stay as they were") {
            tracing::info!(file = file.name, "the contact addresses were read again");
            cluster.read_again(file);
        }
    }

    /// Until it is told to end, or cannot go on.
    async fn live(&mut self) -> Result<()> {
        match self.learn_ids().await {
            Ok(()) => {}
            Err(End::Failed(error)) => return Err(error),
            Err(End::Stop | End::Lost(_)) => return Ok(()),
        }
        loop {
            let begun = match self.election {
                Some(_) => self.follow().await,
                None => self.open().await,
            };
            let end = match begun {
                Ok(term) => {
                    let end = self.master(&term).await;
                    self.leave(term, &end).await;
                    end
                }
                Err(end) => end,
            };
            match end {
                End::Stop => return Ok(()),
                End::Failed(error) => return Err(error),
                End::Lost(why) => tracing::warn!("no longer master: {why}"),
            }
        }
    }
}
