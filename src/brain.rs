//! `kubebrain brain`: one brain of one group, for clients and for proxies.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kubebrain_brain::compaction::Alone;
use kubebrain_brain::mvcc;
use kubebrain_brain::service::{Audience, Endpoint, EndpointConfig};
use kubebrain_shared::opening::Opening;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::probe::ETCD_VERSION;
use kubebrain_shared::stop::Stopper;

use crate::cli::Brain;
use crate::listen::{Front, Peers};
use crate::numbers::Numbers;
use crate::shutdown::{self, Heard, Signals};
use crate::{banner, opening, placement, storage};

/// Proxies resume watches from the last progress: it must be younger than what compaction keeps.
const PEER_PROGRESS_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(flags: Brain) -> Result<()> {
    let mut signals = Signals::new()?;
    let compaction = flags.compaction.policy()?;
    let clients = Front::bind(&flags.clients).await?;
    let peers = Peers::bind(&flags.peers, &flags.clients.serving).await?;
    let table = match &flags.placement {
        Some(path) => placement::read(path)?,
        None => Arc::new(Placement::single(flags.group.clone())),
    };
    if !table.groups().any(|(group, _)| *group == flags.group) {
        bail!("--group {}: the placement has no such group", flags.group);
    }
    if compaction.is_some() && table.groups().count() > 1 {
        bail!(
            "--auto-compaction-retention: this group is one of several, which must be compacted at one revision: set it \
             on the proxy instead"
        );
    }
    let numbers = Numbers::new(&flags.clients);
    let storage = storage::open(&flags.store, &flags.clients, &numbers.metrics).await?;
    let config = mvcc::Config {
        metrics: mvcc::metrics::Metrics::new(&numbers.metrics),
        ..storage.config(flags.group.clone(), &flags.store, &flags.clients)
    };
    let (accepting, streams) = (Stopper::default(), Stopper::default());
    let (urls, probe_urls, peer_urls) =
        (clients.urls.clone(), clients.probe_urls.clone(), peers.urls().to_vec());
    let (for_clients, for_peers) = (Opening::new(ETCD_VERSION), Opening::new(ETCD_VERSION));
    clients.serve(&numbers.observe(for_clients.clone()), &accepting);
    let observed = numbers.observe_peers(for_peers.clone(), &flags.clients);
    peers.serve(&observed, &accepting);
    drop(observed);

    let say = |what: String| {
        for_clients.waits_for(what.clone());
        for_peers.waits_for(what);
    };
    let opened = tokio::select! { biased;
        () = signals.stop() => {
            accepting.stop().await;
            return Ok(());
        }
        opened = opening::store(config, &storage.engine, &table, &say) => opened,
    };
    let store = opened.with_context(|| storage::unopened(&flags.group, &flags.store))?;

    let advertised = match flags.clients.advertise_client_urls.is_empty() {
        true => urls.clone(),
        false => flags.clients.advertise_client_urls.clone(),
    };
    let endpoint = |audience, progress_interval| {
        let config = EndpointConfig {
            audience,
            progress_interval,
            name: flags.clients.name.clone(),
            client_urls: advertised.clone(),
            peer_urls: peer_urls.clone(),
        };
        Endpoint::new(store.clone(), config, streams.handle())
    };
    let interval = flags.clients.watch_progress_notify_interval;
    for_clients.open(endpoint(Audience::Clients, interval));
    for_peers.open(endpoint(Audience::Peers, interval.min(PEER_PROGRESS_MAX)));
    drop((for_clients, for_peers));
    banner::print(
        &format!("kubebrain brain of group {} at {}", flags.group, store.shared().committed()),
        &[
            ("clients", urls.join(" ")),
            ("probes", probe_urls.join(" ")),
            ("peers", peer_urls.join(" ")),
            ("data", flags.store.place()),
            ("try", banner::try_it(&urls)),
        ],
    );
    if let Some(policy) = compaction {
        tokio::spawn(policy.run(Alone(store.clone()), streams.handle()));
    }

    let mut table = table;
    let mut watched = placement::Watched::new(flags.placement.clone());
    let outcome = loop {
        let reload = tokio::select! { biased; // the engine's reason is the cause of its groups'
            heard = signals.next() => match heard {
                Heard::Stop => break Ok(()),
                Heard::Reload => true,
            },
            () = watched.changed() => true,
            error = shutdown::poisoned(storage.embedded.as_deref()) => break Err(error),
            error = shutdown::ended(std::slice::from_ref(&store)) => break Err(error),
        };
        if let Some(next) = reload.then(|| watched.reload(&table)).flatten() {
            match store.prepare(next.clone()).await {
                Ok(()) => match store.commit_placement().await {
                    Ok(()) => {
                        tracing::info!(
                            version = format!("{:x}", next.version()),
                            "a new placement is in use"
                        );
                        table = next;
                    }
                    Err(error) => tracing::error!("the old placement stays: {error}"),
                },
                Err(error) => tracing::error!("the old placement stays: {error}"),
            }
        }
    };
    tracing::info!("stopping");
    streams.ask();
    accepting.stop().await;
    drop(streams);
    store.close().await;
    outcome
}
