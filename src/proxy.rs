//! `kubebrain proxy`: one etcd endpoint over the groups of a placement.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use kubebrain_proxy::metrics::Metrics;
use kubebrain_proxy::{Config, Proxy};
use kubebrain_shared::dial::Connector;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::stop::Stopper;

use crate::cli::{self, Clients};
use crate::listen::{Brains, Front};
use crate::numbers::Numbers;
use crate::shutdown::{Heard, Signals};
use crate::{banner, placement};

/// The proxy's settings from the flags that clients care for.
pub(crate) fn config(clients: &Clients, urls: &[String]) -> Config {
    let advertised = clients.advertise_client_urls.first().or(urls.first());
    let mut config = Config {
        name: clients.name.clone(),
        request_bytes_max: clients.max_request_bytes,
        ..Config::default()
    };
    if let Some(url) = advertised {
        config.advertised_url = url.clone();
    }
    config
}

/// Connectors of the groups whose brains are others than `before`: the rest keep their connections.
fn connectors(
    brains: &Brains,
    placement: &Placement,
    before: Option<&Placement>,
) -> Result<HashMap<GroupName, Vec<Connector>>> {
    let known: HashMap<_, _> = before.into_iter().flat_map(Placement::groups).collect();
    let mut connectors = HashMap::new();
    for (group, urls) in placement.groups().filter(|(group, urls)| known.get(group) != Some(urls)) {
        if urls.is_empty() {
            bail!("group {group} has no brains: name their peer URLs in the placement");
        }
        let found: Result<_> = urls.iter().map(|url| brains.connector(url)).collect();
        connectors.insert(group.clone(), found.with_context(|| format!("group {group}"))?);
    }
    Ok(connectors)
}

pub(crate) async fn run(flags: cli::Proxy) -> Result<()> {
    let mut signals = Signals::new()?;
    let compaction = flags.compaction.policy()?;
    let mut table = placement::read(&flags.placement)?;
    let brains = Brains::new(&flags.peers)?;
    let reached = connectors(&brains, &table, None)
        .with_context(|| format!("placement {}", flags.placement.display()))?;
    brains.warn_of_unused_tls(table.groups().flat_map(|(_, urls)| urls));
    let clients = Front::bind(&flags.clients).await?;
    let numbers = Numbers::new(&flags.clients);
    let config = Config { metrics: Metrics::new(&numbers.metrics), ..config(&flags.clients, &clients.urls) };
    let proxy = Proxy::new(config, table.clone(), reached);
    banner::print(
        "kubebrain proxy",
        &[
            ("clients", clients.urls.join(" ")),
            ("probes", clients.probe_urls.join(" ")),
            ("groups", table.groups().map(|(group, _)| group.as_str()).collect::<Vec<_>>().join(" ")),
            ("try", banner::try_it(&clients.urls)),
        ],
    );
    let accepting = Stopper::default();
    brains.follow(&accepting);
    clients.serve(&numbers.for_clients(proxy.service()), &accepting);
    let mut watched = placement::Watched::new(Some(flags.placement.clone()));
    let mut started = false;
    loop {
        tokio::select! {
            () = proxy.start(), if !started => {
                started = true;
                compaction.into_iter().for_each(|policy| proxy.compact_automatically(policy));
                tracing::info!("ready");
            }
            heard = signals.next() => match heard {
                Heard::Stop => break,
                Heard::Reload => reload(&proxy, &brains, &watched, &mut table),
            },
            () = watched.changed() => reload(&proxy, &brains, &watched, &mut table),
        }
    }
    tracing::info!("stopping");
    accepting.ask();
    proxy.stop().await;
    accepting.stop().await;
    Ok(())
}

fn reload(
    proxy: &Proxy,
    brains: &Brains,
    watched: &placement::Watched,
    table: &mut std::sync::Arc<Placement>,
) {
    let Some(next) = watched.reload_with_addresses(table) else { return };
    match connectors(brains, &next, Some(&**table)) {
        Ok(reached) => {
            proxy.replace_placement(next.clone(), reached);
            tracing::info!(version = format!("{:x}", next.version()), "a new placement is in use");
            *table = next;
        }
        Err(error) => tracing::error!("the old placement stays: {error:#}"),
    }
}
