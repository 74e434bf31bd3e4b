//! `kubebrain standalone`: a proxy and every group of the placement in one process. The proxy asks the service that a
//! listener for proxies would serve, directly; its watch streams go over connections in memory.
//!
//! The placement is the cluster's, as with brains apart: the home group's log has it, and the file is what it begins with.
//! Each other content that the file gets is applied once, to all groups or to none.

mod groups;
mod inside;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use kubebrain_brain::authority::{Applied, Authority, Seed};
use kubebrain_brain::config;
use kubebrain_brain::rows::Layout;
use kubebrain_brain::service::Announcer;
use kubebrain_brain::store::GroupState;
use kubebrain_net::opening::Opening;
use kubebrain_net::probe::ETCD_VERSION;
use kubebrain_net::trace::Own;
use kubebrain_proto::peer::StandingResponse;
use kubebrain_proxy::Proxy;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Status;

use crate::flags::{ReadFence, Standalone};
use crate::placement::{self, File};
use crate::process::{Place, Process};
use crate::run::listen::Front;
use crate::run::numbers::Numbers;
use crate::run::shutdown::{self, Heard, Signals};
use crate::run::{opening, proxy, storage};
use groups::Groups;
use inside::{Here, Inside, Wanted};

const KEPT: &str = "the old placement stays";

/// What becomes of a file.
type Applying = BoxFuture<'static, Result<Applied, Status>>;

fn reads(path: Option<&std::path::Path>) -> Result<File> {
    let file = match path {
        Some(path) => placement::read_file(path)?,
        None => File::builtin(),
    };
    check(&file)?;
    Ok(file)
}

fn check(file: &File) -> Result<()> {
    match file.table.groups().find(|(_, brains)| !brains.is_empty()) {
        Some((group, _)) => {
            bail!("the placement names brains of group {group}: in standalone all groups run in this process")
        }
        None => Ok(()),
    }
}

fn seed(file: &File) -> Seed {
    let (text, name) = (file.text.clone(), file.name.clone());
    Seed { text, file: name, lineage: rand::random(), is_watched: true }
}

fn apply(authority: &Authority, file: File) -> Applying {
    let authority = authority.clone();
    async move { authority.apply_file(&file.text).await }.boxed()
}

/// Says what became of a file; what holds now is said when it is in use.
fn told(outcome: &Result<Applied, Status>) {
    match outcome {
        Ok(Applied::Now(_)) => {}
        Ok(Applied::Already(_)) => {
            tracing::info!("the placement file was read again: nothing has changed");
        }
        Ok(Applied::Stale(document)) => tracing::warn!(
            "{KEPT}: this content of the file was applied before, and number {} after it; apply it by `kubebrain ctl \
             placement apply`, or change the file",
            document.number()
        ),
        Err(status) => tracing::error!("{KEPT}: {}", status.message()),
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
    let mut watched = placement::Watched::new(flags.placement.clone()); // from before it is read
    let file = reads(flags.placement.as_deref())?;
    let table = file.table.clone();
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
    numbers.tracer.is(Own { group: None, role: Box::new(|| "standalone") });
    let storage = storage::open(&flags.store, &flags.clients, &numbers, process).await?;
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
        tracer: numbers.tracer.clone(),
        ..proxy::config(&flags.clients, &clients.urls)
    };
    let accepting = Stopper::default();
    let (streams, (inside, mut wanted)) = (Stopper::default(), Inside::new());
    let mut groups = Groups {
        process,
        flags,
        storage,
        metrics: config::Metrics::new(&numbers.metrics),
        tracer: numbers.tracer.clone(),
        running: BTreeMap::new(),
        inside,
        announcer: Announcer::new(StandingResponse::default(), streams.handle()),
        opening: Opening::new(ETCD_VERSION),
        accepting: Stopper::default(),
        streams,
        table: table.clone(),
    };
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
    let deciding = Stopper::default();
    let begun = tokio::select! { biased;
        () = signals.stop() => None,
        begun = begin(&mut groups, &file, &deciding) => Some(begun?),
        never = process.systemd.live(|_| true) => match never {},
    };
    let first = match begun {
        Some(authority) => {
            hold_first(&mut groups, &authority, &file, &mut watched, &mut wanted, &mut signals)
                .await?
                .map(|first| (authority, first))
        }
        None => None,
    };
    let Some((authority, mut document)) = first else {
        deciding.stop().await;
        accepting.stop().await;
        return Ok(());
    };
    let proxy = Proxy::new(
        proxy_config,
        document.clone(),
        groups.connectors(document.table().groups().map(|(group, _)| group)),
    );
    proxy.start().await;
    compaction.into_iter().for_each(|policy| proxy.compact_automatically(policy));
    groups.opening.open(proxy.service());
    process.ready(starting, &format!("all groups are open, at {}", proxy.floor()));
    let broken = vec![accepting.broken().boxed(), groups.accepting.broken().boxed(), proxy.broken().boxed()];
    let mut broken = std::pin::pin!(shutdown::broken(broken));
    let mut decided = authority.changes();
    let (mut applying, mut next): (Option<Applying>, Option<Document>) = (None, None);
    let outcome = loop {
        groups.keep(&authority.needed()).await;
        if let Ok(current) = authority.current().await
            && current.id() != document.id()
        {
            next = Some(current);
        }
        let running = groups.stores();
        *stores.lock() = running.iter().map(|store| store.state().clone()).collect();
        let is_well = |within| stores.lock().iter().all(|shared| shared.is_beating(within));
        let taken_up = async {
            match &next {
                Some(next) => authority.taken_up(next).await,
                None => std::future::pending().await,
            }
        };
        let reload = tokio::select! { biased; // the engine's reason is the cause of its groups'
            heard = signals.next() => match heard {
                Heard::Stop => break Ok(()),
                Heard::Reload => true,
            },
            () = watched.changed() => true,
            error = shutdown::poisoned(groups.storage.embedded.as_deref()) => break Err(error),
            error = shutdown::ended(&running) => break Err(error),
            error = &mut broken => break Err(error),
            Some(wanted) = wanted.recv() => match groups.open_wanted(wanted, &mut signals).await {
                Some(()) => false,
                None => break Ok(()),
            },
            () = taken_up => {
                if let Some(taken) = next.take() {
                    let known = |group: &GroupName| document.names(group);
                    let new = taken.table().groups().map(|(group, _)| group).filter(|group| !known(group));
                    proxy.replace_placement(taken.clone(), groups.connectors(new));
                    tracing::info!(number = taken.number(), "a new placement is in use");
                    document = taken;
                }
                false
            }
            outcome = ended(&mut applying) => {
                told(&outcome);
                false
            }
            Ok(()) = decided.changed() => false,
            never = process.systemd.live(is_well) => match never {},
        };
        if reload && let Some(file) = watched.reload(KEPT) {
            match check(&file) {
                Ok(()) => applying = Some(apply(&authority, file)),
                Err(error) => tracing::error!("{KEPT}: {error:#}"),
            }
        }
    };
    process.stopping(&outcome);
    accepting.ask();
    proxy.stop().await;
    accepting.stop().await;
    deciding.stop().await;
    let Groups { running, accepting, streams, .. } = groups;
    streams.ask();
    accepting.stop().await;
    for running in running.into_values() {
        running.store.close().await;
    }
    outcome
}

/// The outcome of a file that is being applied, once.
async fn ended(applying: &mut Option<Applying>) -> Result<Applied, Status> {
    let Some(outcome) = applying else { return std::future::pending().await };
    let outcome = outcome.await;
    *applying = None;
    outcome
}

/// Opens the groups of the file, or of the placement that they know, and whoever decides it.
async fn begin(groups: &mut Groups<'_>, file: &File, deciding: &Stopper) -> Result<Authority> {
    for (group, _) in file.table.groups() {
        groups.open(group).await?;
    }
    // The file may be another one than the cluster's placement, which counts.
    let known = groups.newest();
    let table = known.as_ref().map_or(&*file.table, Document::table).clone();
    let home = groups.open(table.home()).await?;
    for (group, _) in table.groups() {
        groups.open(group).await?;
    }
    groups.are_named();
    let authority = Authority::new(home, Arc::new(groups.inside.clone()), Some(seed(file)));
    groups.announcer.decided_by(Arc::new(Here(authority.clone())));
    let run = authority.clone();
    deciding.keep("the task that decides the placement", |stop| async move { run.run(stop).await });
    Ok(authority)
}

/// Waits until a placement holds in all groups, and applies the file where it has another content than was applied last.
/// `None`: the process is told to end.
async fn hold_first(
    groups: &mut Groups<'_>,
    authority: &Authority,
    file: &File,
    watched: &mut placement::Watched,
    wanted: &mut mpsc::Receiver<Wanted>,
    signals: &mut Signals,
) -> Result<Option<Document>> {
    groups.opening.waits_for("the placement is not agreed on by all groups");
    let (is_given, deciding) = (groups.flags.placement.is_some(), authority.clone());
    let text = file.text.clone();
    let first = async move {
        if is_given && deciding.has_placement() {
            match deciding.apply_file(&text).await {
                Ok(Applied::Already(_)) => {}
                outcome => told(&outcome),
            }
        }
        let document = deciding.current().await.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
        deciding.taken_up(&document).await;
        deciding.current().await.map_err(|status| anyhow::anyhow!("{}", status.message()))
    };
    let mut first = std::pin::pin!(first);
    loop {
        let stores = groups.stores();
        tokio::select! { biased;
            heard = signals.next() => match heard {
                Heard::Stop => return Ok(None),
                Heard::Reload => reseed(authority, watched),
            },
            () = watched.changed() => reseed(authority, watched),
            error = shutdown::poisoned(groups.storage.embedded.as_deref()) => return Err(error),
            error = shutdown::ended(&stores) => return Err(error),
            Some(wanted) = wanted.recv() => match groups.open_wanted(wanted, signals).await {
                Some(()) => {}
                None => return Ok(None),
            },
            first = &mut first => return first.map(Some),
            never = groups.process.systemd.live(|_| true) => match never {},
        }
    }
}

fn reseed(authority: &Authority, watched: &placement::Watched) {
    if let Some(file) = watched.reload("it is not looked at") {
        match check(&file) {
            Ok(()) => authority.reseed(seed(&file)),
            Err(error) => tracing::error!("it is not looked at: {error:#}"),
        }
    }
}
