//! The groups of this process: opened, served to the proxy, and closed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result};
use kubebrain_brain::config;
use kubebrain_brain::service::{Announced, Announcer, Audience, Endpoint, EndpointConfig, Members};
use kubebrain_brain::store::{Held, Store};
use kubebrain_net::dial::Connector;
use kubebrain_net::direct::Direct;
use kubebrain_net::opening::Opening;
use kubebrain_net::serve::{ServeConfig, memory, serve_memory};
use kubebrain_net::trace::{Own, Traced, Tracer};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::stop::Stopper;

use super::inside::{Inside, Wanted};
use crate::flags::Standalone;
use crate::process::Process;
use crate::run::storage::{self, Storage};
use crate::run::{opening, shutdown::Signals};

/// See the module.
pub(super) struct Groups<'a> {
    pub process: &'a Process,
    pub flags: Standalone,
    pub storage: Storage,
    pub metrics: config::Metrics,
    /// Who is told of requests that are traced.
    pub tracer: Tracer,
    pub running: BTreeMap<GroupName, Running>,
    /// The same, for the one that decides the placement.
    pub inside: Inside,
    /// Answers what is asked of the placement.
    pub announcer: Announcer,
    /// What clients find until all groups are open.
    pub opening: Opening<kubebrain_proxy::Service>,
    /// Connections from the proxy.
    pub accepting: Stopper,
    /// Streams that end when the process does.
    pub streams: Stopper,
    /// Whose prefix holds until a placement is heard of.
    pub table: Arc<Placement>,
}

pub(super) struct Running {
    pub store: Store,
    connector: Connector,
    /// Some placement has named it; else it is asked about one that may come.
    is_named: bool,
}

impl Groups<'_> {
    /// Opens a group, unless it is open, and serves it to the proxy.
    pub(super) async fn open(&mut self, group: &GroupName) -> Result<Store> {
        if let Some(running) = self.running.get(group) {
            return Ok(running.store.clone());
        }
        let config = config::Config {
            metrics: self.metrics.clone(),
            awaits_placement: true,
            ..self.storage.config(group.clone(), &self.flags.store, &self.flags.clients)
        };
        let say = |what| self.opening.waits_for(what);
        let opened = opening::store(config, &self.storage.engine, &self.table, self.process, &say).await;
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
        let endpoint = Announced::new(self.announcer.clone(), Audience::Clients, endpoint);
        let own = Own { group: Some(group.clone()), role: Box::new(|| "master") };
        let endpoint = Traced::new(endpoint, self.tracer.of(own));
        let (connector, listener) = memory();
        let connector = Connector::Inside(Direct::new(endpoint.clone()), connector);
        self.accepting.keep("the task that accepts the proxy's streams", |stop| {
            serve_memory(listener, endpoint, ServeConfig::default(), stop)
        });
        self.inside.is_open(group, store.clone());
        self.running.insert(group.clone(), Running { store: store.clone(), connector, is_named: false });
        Ok(store)
    }

    /// Opens a group that somebody has asked for; `None` where the process is told to end meanwhile.
    pub(super) async fn open_wanted(&mut self, wanted: Wanted, signals: &mut Signals) -> Option<()> {
        let opened = tokio::select! { biased;
            () = signals.stop() => return None,
            opened = self.open(&wanted.group) => opened,
        };
        match opened {
            Ok(store) => drop(wanted.opened.send(store)),
            Err(error) => tracing::error!("{error:#}"),
        }
        Some(())
    }

    /// The ways to these groups.
    pub(super) fn connectors<'g>(
        &self,
        groups: impl Iterator<Item = &'g GroupName>,
    ) -> HashMap<GroupName, Vec<Connector>> {
        let connector = |group: &GroupName| {
            let running = self.running.get(group)?;
            Some((group.clone(), vec![running.connector.clone()]))
        };
        groups.filter_map(connector).collect()
    }

    pub(super) fn stores(&self) -> Vec<Store> {
        self.running.values().map(|running| running.store.clone()).collect()
    }

    /// The newest document that any of them goes by.
    pub(super) fn newest(&self) -> Option<Document> {
        let held = self.running.values().map(|running| Held::clone(&running.store.state().held.load()));
        let documents = held.map(|held| held.document().clone()).filter(|document| document.number() > 0);
        documents.max_by_key(Document::number)
    }

    /// All that are open are named by a placement.
    pub(super) fn are_named(&mut self) {
        self.running.values_mut().for_each(|running| running.is_named = true);
    }

    /// Closes those that no placement names any more.
    pub(super) async fn keep(&mut self, needed: &BTreeSet<GroupName>) {
        let mut gone = Vec::new();
        for (group, running) in &mut self.running {
            let is_needed = needed.contains(group);
            if running.is_named && !is_needed {
                gone.push(group.clone());
            }
            running.is_named |= is_needed;
        }
        for group in gone {
            self.inside.is_closed(&group);
            if let Some(running) = self.running.remove(&group) {
                tracing::info!(group = %group, "no placement names it any more: it is closed");
                running.store.close().await;
            }
        }
    }
}
