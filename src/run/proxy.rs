//! `kubebrain proxy`: one etcd endpoint over the groups of a placement.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt as _;
use kubebrain_net::dial::Connector;
use kubebrain_proxy::metrics::Metrics;
use kubebrain_proxy::{Config, Proxy};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::stop::Stopper;

use crate::flags::{self, Clients};
use crate::placement;
use crate::process::{Place, Process};
use crate::run::listen::{Brains, Front, advertised_to_clients};
use crate::run::numbers::Numbers;
use crate::run::shutdown;
use crate::run::shutdown::{Heard, Signals};

/// The proxy's settings from the flags that clients care for.
pub(crate) fn config(clients: &Clients, urls: &[String]) -> Config {
    Config {
        name: clients.name.clone(),
        request_bytes_max: clients.max_request_bytes,
        advertised_urls: advertised_to_clients(&clients.advertise_client_urls, urls),
        ..Config::default()
    }
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

pub(crate) async fn run(flags: flags::Proxy, process: &Process) -> Result<()> {
    let mut signals = Signals::new()?;
    let compaction = flags.compaction.policy()?;
    let mut table = placement::read(&flags.placement)?;
    let brains = Brains::new(&flags.peers)?;
    let reached = connectors(&brains, &table, None)
        .with_context(|| format!("placement {}", flags.placement.display()))?;
    brains.warn_of_unused_tls(table.groups().flat_map(|(_, urls)| urls));
    let clients = Front::bind(&flags.clients, process).await?;
    let mut starting = Some(process.starts(
        "proxy",
        Place {
            clients: clients.urls.clone(),
            probes: clients.probe_urls.clone(),
            groups: table.groups().map(|(group, _)| group.to_string()).collect(),
            ..Place::default()
        },
    ));
    process.systemd.status("waiting for the groups' brains");
    let numbers = Numbers::new(&flags.clients, process);
    let config = Config {
        metrics: Metrics::new(&numbers.metrics),
        held: numbers.held.clone(),
        ..config(&flags.clients, &clients.urls)
    };
    let proxy = Proxy::new(config, table.clone(), reached);
    let accepting = Stopper::default();
    brains.follow(&accepting);
    clients.serve(&numbers.for_clients(proxy.service()), &numbers.held, &accepting);
    let mut watched = placement::Watched::new(Some(flags.placement.clone()));
    let mut compaction = compaction;
    let mut broken =
        std::pin::pin!(shutdown::broken(vec![accepting.broken().boxed(), proxy.broken().boxed()]));
    let outcome = loop {
        tokio::select! {
            () = proxy.start(), if starting.is_some() => {
                compaction.take().into_iter().for_each(|policy| proxy.compact_automatically(policy));
                if let Some(starting) = starting.take() {
                    process.ready(starting, &format!("all groups answer, at {}", proxy.floor()));
                }
            }
            never = process.systemd.live(|_| true) => match never {},
            error = &mut broken => break Err(error),
            heard = signals.next() => match heard {
                Heard::Stop => break Ok(()),
                Heard::Reload => reload(&proxy, &brains, &watched, &mut table),
            },
            () = watched.changed() => reload(&proxy, &brains, &watched, &mut table),
        }
    };
    process.stopping(&outcome);
    accepting.ask();
    proxy.stop().await;
    accepting.stop().await;
    outcome
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
