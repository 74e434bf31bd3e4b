//! `kubebrain proxy`: one etcd endpoint over the groups of the cluster's placement. What it is given are addresses.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt as _;
use kubebrain_net::trace::Own;
use kubebrain_proxy::metrics::Metrics;
use kubebrain_proxy::{Config, Contacts, Joining, Proxy, Reach};
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

/// What a proxy was given to find its cluster with.
struct Given {
    file: Option<PathBuf>,
    join: Vec<String>,
    brains: Arc<Brains>,
    /// The content of the file that was said to be another than the cluster's.
    said: Option<u64>,
    placement: Option<Arc<Placement>>,
}

impl Given {
    /// # Errors
    /// There is no address to begin with, or one that cannot be dialled.
    fn new(flags: &flags::Proxy) -> Result<Self> {
        let join: Vec<String> =
            flags.join.iter().map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
        let join: Vec<String> = join.into_iter().filter(|url| !url.is_empty()).collect();
        if flags.placement.is_none() && join.is_empty() {
            bail!(
                "--join=PEER-URL,... or --placement=FILE: where brains are that know the cluster's placement is wanted"
            );
        }
        let brains = Arc::new(Brains::new(&flags.peers)?);
        for url in &join {
            brains.connector(url).context("--join")?;
        }
        let placement = flags.placement.as_deref().map(placement::read).transpose()?;
        let given = Self { file: flags.placement.clone(), join, brains, said: None, placement };
        given.check().with_context(|| format!("placement {}", given.path()))?;
        Ok(given)
    }

    fn path(&self) -> String {
        self.file.as_deref().map(|path| path.display().to_string()).unwrap_or_default()
    }

    fn check(&self) -> Result<()> {
        let Some(placement) = &self.placement else { return Ok(()) };
        for (group, urls) in placement.groups() {
            for url in urls {
                self.brains.connector(url).with_context(|| format!("group {group}"))?;
            }
        }
        let named = placement.groups().any(|(_, urls)| !urls.is_empty());
        if let (false, true, Some((group, _))) = (named, self.join.is_empty(), placement.groups().next()) {
            bail!("group {group} has no brains: name peer URLs in the placement, or by --join");
        }
        Ok(())
    }

    fn contacts(&self) -> Contacts {
        Contacts { urls: self.join.clone(), file: self.placement.as_deref().cloned() }
    }

    fn urls(&self) -> impl Iterator<Item = &String> {
        let named = self.placement.iter().flat_map(|placement| placement.groups().flat_map(|(_, urls)| urls));
        self.join.iter().chain(named)
    }

    /// Reads the file again: brains may be elsewhere.
    fn reload(&mut self, proxy: &Proxy, watched: &placement::Watched) {
        let before = self.placement.clone();
        let Some(next) = before.as_deref().and_then(|before| watched.reload_with_addresses(before)) else {
            return;
        };
        self.placement = Some(next);
        if let Err(error) = self.check() {
            tracing::error!("the contact addresses stay as they were: {error:#}");
            self.placement = before;
            return;
        }
        tracing::info!(file = self.path(), "the contact addresses were read again");
        proxy.set_contacts(self.contacts());
        self.compare(proxy);
    }

    /// Says once that a file means something else than what counts.
    fn compare(&mut self, proxy: &Proxy) {
        let document = proxy.document();
        let Some(placement) = self.placement.as_deref().filter(|_| document.number() > 0) else { return };
        if placement.owns_alike(document.table()) {
            self.said = None;
        } else if self.said.replace(placement.version()) != Some(placement.version()) {
            let (path, number) = (self.path(), document.number());
            tracing::warn!(
                "placement {path} gives keys to other groups than the cluster's, number {number}, which is the one that \
                 counts: the file is used for its addresses alone. To make the cluster go by it: kubebrain ctl placement \
                 apply {path}"
            );
        }
    }
}

pub(crate) async fn run(flags: flags::Proxy, process: &Process) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut compaction = flags.compaction.policy()?;
    let mut watched = placement::Watched::new(flags.placement.clone());
    let mut given = Given::new(&flags)?;
    let brains = Arc::clone(&given.brains);
    brains.warn_of_unused_tls(given.urls());
    let clients = Front::bind(&flags.clients, process).await?;
    let mut starting = Some(process.starts(
        "proxy",
        Place {
            clients: clients.urls.clone(),
            probes: clients.probe_urls.clone(),
            data: flags.data_dir.iter().map(|path| path.display().to_string()).collect(),
            ..Place::default()
        },
    ));
    process.systemd.status("waiting for the cluster's placement and the groups' brains");
    let numbers = Numbers::new(&flags.clients, process);
    numbers.tracer.is(Own { group: None, role: Box::new(|| "proxy") });
    let config = Config {
        metrics: Metrics::new(&numbers.metrics),
        held: numbers.held.clone(),
        tracer: numbers.tracer.clone(),
        fanout_bytes_min: Some(flags.fanout_min_bytes).filter(|bytes| *bytes > 0),
        ..config(&flags.clients, &clients.urls)
    };
    let way = Arc::clone(&brains);
    let reach = Reach::new(move |url| way.connector(url).map_err(|error| format!("{error:#}")));
    let joining = Joining { reach, contacts: given.contacts(), directory: flags.data_dir.clone() };
    let proxy = Proxy::joining(config, joining);
    let accepting = Stopper::default();
    brains.follow(&accepting);
    clients.serve(&numbers.for_clients(proxy.service()), &numbers.held, &accepting);
    let mut documents = proxy.documents();
    given.compare(&proxy);
    let mut broken =
        std::pin::pin!(shutdown::broken(vec![accepting.broken().boxed(), proxy.broken().boxed()]));
    let outcome = loop {
        tokio::select! {
            () = proxy.start(), if starting.is_some() => {
                compaction.take().into_iter().for_each(|policy| proxy.compact_automatically(policy));
                if let Some(starting) = starting.take() {
                    process.ready(starting, &readiness(&proxy));
                }
            }
            never = process.systemd.live(|_| true) => match never {},
            error = &mut broken => break Err(error),
            heard = signals.next() => match heard {
                Heard::Stop => break Ok(()),
                Heard::Reload => given.reload(&proxy, &watched),
            },
            () = watched.changed() => given.reload(&proxy, &watched),
            Ok(()) = documents.changed() => given.compare(&proxy),
        }
    };
    process.stopping(&outcome);
    accepting.ask();
    proxy.stop().await;
    accepting.stop().await;
    outcome
}

fn readiness(proxy: &Proxy) -> String {
    let away: Vec<_> = proxy.away().iter().map(ToString::to_string).collect();
    match away.is_empty() {
        true => format!("all groups answer, at {}", proxy.floor()),
        false => format!("all groups answer but {}, at {}", away.join(", "), proxy.floor()),
    }
}
