//! `kubebrain standalone`: a proxy and every group of the placement in one process. The proxy asks the service that a
//! listener for proxies would serve, directly; its watch streams go over connections in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt as _;
use kubebrain_brain::config;
use kubebrain_brain::rows::Layout;
use kubebrain_brain::service::{Audience, Endpoint, EndpointConfig, Members};
use kubebrain_brain::store::{GroupState, Store};
use kubebrain_net::dial::Connector;
use kubebrain_net::direct::Direct;
use kubebrain_net::opening::Opening;
use kubebrain_net::probe::ETCD_VERSION;
use kubebrain_net::serve::{ServeConfig, memory, serve_memory};
use kubebrain_proxy::Proxy;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;

use crate::flags::{ReadFence, Standalone};
use crate::placement;
use crate::process::{Place, Process};
use crate::run::listen::Front;
use crate::run::numbers::Numbers;
use crate::run::shutdown::{self, Heard, Signals};
use crate::run::storage::{self, Storage};
use crate::run::{opening, proxy};

/// The groups of this process.
struct Groups<'a> {
    process: &'a Process,
    flags: Standalone,
    storage: Storage,
    metrics: config::Metrics,
    running: BTreeMap<GroupName, Running>,
    /// What clients find until all groups are open.
    opening: Opening<kubebrain_proxy::Service>,
    /// Connections from the proxy.
    accepting: Stopper,
    /// Streams that end when the process does.
    streams: Stopper,
}

struct Running {
    store: Store,
    connector: Connector,
}

impl Running {
    fn connectors(&self) -> Vec<Connector> {
        vec![self.connector.clone()]
    }
}

impl Groups<'_> {
    /// Opens a group and serves it to the proxy.
    async fn open(&self, group: &GroupName, placement: &Arc<Placement>) -> Result<Running> {
        let config = config::Config {
            metrics: self.metrics.clone(),
            ..self.storage.config(group.clone(), &self.flags.store, &self.flags.clients)
        };
        let say = |what| self.opening.waits_for(what);
        let opened = opening::store(config, &self.storage.engine, placement, self.process, &say).await;
        let store = opened.with_context(|| storage::unopened(group, &self.flags.store))?;
        let config = EndpointConfig {
            audience: Audience::Peers,
            progress_interval: self.flags.clients.watch_progress_notify_interval,
            name: self.flags.clients.name.clone(),
            client_urls: Vec::new(),
            peer_urls: Vec::new(),
            members: Members::led_by(store.state().identity().member),
        };
        let endpoint = Endpoint::new(store.clone(), config, self.streams.handle());
        let (connector, listener) = memory();
        let connector = Connector::Inside(Direct::new(endpoint.clone()), connector);
        self.accepting.keep("the task that accepts the proxy's streams", |stop| {
            serve_memory(listener, endpoint, ServeConfig::default(), stop)
        });
        Ok(Running { store, connector })
    }

    fn connectors(&self) -> HashMap<GroupName, Vec<Connector>> {
        self.running.iter().map(|(group, running)| (group.clone(), running.connectors())).collect()
    }

    fn stores(&self) -> Vec<Store> {
        self.running.values().map(|running| running.store.clone()).collect()
    }

    /// Takes a new placement into use in all groups, or in none: all prepare, new groups open, all are advanced past
    /// whatever any of them has shown, all commit. Gives the connectors of the new groups.
    async fn replace(&mut self, next: &Arc<Placement>) -> Result<HashMap<GroupName, Vec<Connector>>> {
        let names: Vec<GroupName> = next.groups().map(|(group, _)| group.clone()).collect();
        let old = self.stores();
        let prepared = self.prepare(&old, next, &names).await;
        let opened = match prepared {
            Ok(opened) => opened,
            Err(error) => {
                for store in &old {
                    store.abort_placement().await;
                }
                return Err(error);
            }
        };
        for store in &old {
            store.commit_placement().await?;
        }
        let connectors =
            opened.iter().map(|(group, running)| (group.clone(), running.connectors())).collect();
        self.running.extend(opened);
        let gone: Vec<_> = self.running.keys().filter(|group| !names.contains(group)).cloned().collect();
        for group in gone {
            if let Some(running) = self.running.remove(&group) {
                running.store.close().await;
            }
        }
        Ok(connectors)
    }

    async fn prepare(
        &self,
        old: &[Store],
        next: &Arc<Placement>,
        names: &[GroupName],
    ) -> Result<Vec<(GroupName, Running)>> {
        for store in old {
            store.prepare(next.clone()).await?;
        }
        let mut opened = Vec::new();
        for group in names.iter().filter(|group| !self.running.contains_key(group)) {
            opened.push((group.clone(), self.open(group, next).await?));
        }
        let new = opened.iter().map(|(_, running)| &running.store);
        let stores: Vec<&Store> = old.iter().chain(new).collect();
        let shown = stores.iter().map(|store| store.state().committed()).max().unwrap_or(Revision::INITIAL);
        for store in stores {
            store.advance(shown).await.map_err(|fault| anyhow::anyhow!("{}", fault.wire().1))?;
        }
        Ok(opened)
    }
}

// Long: it puts a program together, a step after the other, and what a step makes lives to the end.
pub(crate) async fn run(flags: Standalone, process: &Process) -> Result<()> {
    let mut signals = Signals::new()?;
    let compaction = flags.compaction.policy()?;
    if flags.store.read_fence == ReadFence::Lease {
        bail!("--read-fence=lease: there is no master lease without an election, and standalone has none");
    }
    let clients = Front::bind(&flags.clients, process).await?;
    let mut table = match &flags.placement {
        Some(path) => placement::read(path)?,
        None => Arc::new(Placement::builtin()),
    };
    if let Some((group, _)) = table.groups().find(|(_, brains)| !brains.is_empty()) {
        bail!("the placement names brains of group {group}: in standalone all groups run in this process");
    }
    let starting = process.starts(
        "standalone",
        Place {
            clients: clients.urls.clone(),
            probes: clients.probe_urls.clone(),
            data: flags.store.place(),
            groups: table.groups().map(|(group, _)| group.to_string()).collect(),
            ..Place::default()
        },
    );
    let numbers = Numbers::new(&flags.clients, process);
    let storage = storage::open(&flags.store, &flags.clients, &numbers, process).await?;
    let mut watched = placement::Watched::new(flags.placement.clone());
    // Of the groups that are served, for who watches over their writers.
    let stores: Arc<Mutex<Vec<Arc<GroupState>>>> = Arc::default();
    let proxy_config = kubebrain_proxy::Config {
        server: kubebrain_proxy::Server::Standalone,
        inside: kubebrain_proxy::Inside::new({
            let stores = stores.clone();
            move || stores.lock().iter().try_for_each(|shared| shared.works())
        }),
        metrics: kubebrain_proxy::metrics::Metrics::new(&numbers.metrics),
        held: numbers.held.clone(),
        ..proxy::config(&flags.clients, &clients.urls)
    };
    let mut groups = Groups {
        process,
        flags,
        storage,
        metrics: config::Metrics::new(&numbers.metrics),
        running: BTreeMap::new(),
        opening: Opening::new(ETCD_VERSION),
        accepting: Stopper::default(),
        streams: Stopper::default(),
    };
    let accepting = Stopper::default();
    clients.serve(&numbers.for_clients(groups.opening.clone()), &numbers.held, &accepting);
    let layout = Layout::new(groups.flags.store.store_prefix.as_bytes(), table.home());
    let new = storage::new_cluster(&groups.flags.store);
    let say = |what| groups.opening.waits_for(what);
    let learned = tokio::select! { biased;
        () = signals.stop() => {
            accepting.stop().await;
            return Ok(());
        }
        learned = opening::cluster(table.home(), &groups.storage.engine, &layout, new, &say) => learned,
    };
    groups.storage.cluster = learned.with_context(|| storage::unopened(table.home(), &groups.flags.store))?;
    for (group, _) in table.groups() {
        let running = tokio::select! { biased;
            () = signals.stop() => {
                accepting.stop().await;
                return Ok(());
            }
            running = groups.open(group, &table) => running?,
            never = process.systemd.live(|_| true) => match never {},
        };
        groups.running.insert(group.clone(), running);
    }
    let proxy = Proxy::new(proxy_config, table.clone(), groups.connectors());
    proxy.start().await;
    compaction.into_iter().for_each(|policy| proxy.compact_automatically(policy));
    groups.opening.open(proxy.service());
    process.ready(starting, &format!("all groups are open, at {}", proxy.floor()));
    let broken = vec![accepting.broken().boxed(), groups.accepting.broken().boxed(), proxy.broken().boxed()];
    let mut broken = std::pin::pin!(shutdown::broken(broken));
    let outcome = loop {
        let running = groups.stores();
        *stores.lock() = running.iter().map(|store| store.state().clone()).collect();
        let is_well = |within| stores.lock().iter().all(|shared| shared.is_beating(within));
        tokio::select! { biased; // the engine's reason is the cause of its groups'
            heard = signals.next() => match heard {
                Heard::Stop => break Ok(()),
                Heard::Reload => {}
            },
            () = watched.changed() => {}
            error = shutdown::poisoned(groups.storage.embedded.as_deref()) => break Err(error),
            error = shutdown::ended(&running) => break Err(error),
            error = &mut broken => break Err(error),
            never = process.systemd.live(is_well) => match never {},
        }
        if let Some(next) = watched.reload(&table) {
            match groups.replace(&next).await {
                Ok(connectors) => {
                    proxy.replace_placement(next.clone(), connectors);
                    tracing::info!(version = format!("{:x}", next.version()), "a new placement is in use");
                    table = next;
                }
                Err(error) => tracing::error!("the old placement stays: {error:#}"),
            }
        }
    };
    process.stopping(&outcome);
    accepting.ask();
    proxy.stop().await;
    accepting.stop().await;
    let Groups { running, accepting, streams, .. } = groups;
    streams.ask();
    accepting.stop().await;
    for running in running.into_values() {
        running.store.close().await;
    }
    outcome
}
