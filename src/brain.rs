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
mod doors;
#[cfg(feature = "kubernetes")]
mod lease;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures_util::FutureExt as _;
use kubebrain_brain::compaction::Alone;
use kubebrain_brain::config;
use kubebrain_brain::election::{MasterRecord, Mastership};
use kubebrain_brain::rows::Layout;
use kubebrain_brain::service::{Announced, Audience, Standing as Announcement};
use kubebrain_brain::store::{Ended, GroupState, OpenError, PlaceError, Slave, Store, cluster};
use kubebrain_shared::compaction::Policy;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::cli;
use crate::listen::{Front, Peers};
use crate::numbers::Numbers;
use crate::process::{Place, Process, Starting};
use crate::shutdown::{self, Heard, Signals};
use crate::storage::{self, Storage};
use crate::{opening, placement};
use candidate::RunningElection;
use doors::Doors;

/// What is at work when a master leaves may end by itself for so long.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Who leaves for good shows clients the way to the next master, if there is one soon.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(1);

/// One brain, whatever its role.
struct Brain<'a> {
    flags: cli::Brain,
    storage: Storage,
    config: config::Config,
    compaction: Option<Policy>,
    doors: Doors,
    table: Arc<Placement>,
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

pub(crate) async fn run(flags: cli::Brain, process: &Process) -> Result<()> {
    let signals = Signals::new()?;
    let compaction = flags.compaction.policy()?;
    let clients = Front::bind(&flags.clients, process).await?;
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
        ..storage.config(flags.group.clone(), &flags.store, &flags.clients)
    };
    let accepting = Stopper::default();
    let mut doors = Doors::new(&flags, &clients.urls, peers.urls(), &accepting);
    let election = candidate::stand(&flags, &storage, &doors).await?;
    let tenure = election.as_ref().map(|election| election.candidacy.tenure().clone());
    let config = config::Config { tenure, ..config };
    if election.is_some() {
        doors.reach(flags.peers.brains()?, &accepting);
    }
    let for_clients = Announced::new(doors.announcer.clone(), Audience::Clients, doors.clients.clone());
    clients.serve(&numbers.for_clients(for_clients), &numbers.held, &accepting);
    let for_peers = Announced::new(doors.announcer.clone(), Audience::Peers, doors.peers.clone());
    let for_peers = numbers.observe_peers(for_peers, &flags.clients);
    peers.serve(&for_peers, process, &numbers.held, &accepting);
    drop(for_peers);
    let watched = placement::Watched::new(flags.placement.clone());
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
        doors,
        table,
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
    let Brain { election, doors, last, .. } = brain;
    drop(doors);
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

    /// Reads, or makes, the ids of cluster and member.
    async fn learn_ids(&mut self) -> Result<(), End> {
        let (engine, store) = (&self.storage.engine, &self.flags.store);
        let layout = Layout::new(store.store_prefix.as_bytes(), &self.flags.group);
        // Groups of one placement may have stores of their own: their clients must not meet two ids.
        let new = match self.table.groups().count() {
            0 | 1 => storage::new_cluster(store),
            _ => storage::token(store).unwrap_or_else(cluster::unnamed),
        };
        let doors = &self.doors;
        let say = |what: String| doors.say(&what);
        let learned = tokio::select! { biased;
            () = self.signals.stop() => return Err(End::Stop),
            learned = opening::cluster(&self.flags.group, engine, &layout, new, &say) => learned,
        };
        let id = learned.map_err(|error| self.failed(error))?;
        let member = cluster::member(id, &self.config.name);
        (self.config.cluster_id, self.config.member_id) = (id, member);
        self.doors.know(id, member);
        Ok(())
    }

    /// Serves as a slave until it is elected and has taken over.
    async fn follow(&mut self) -> Result<Term, End> {
        let (config, engine) = (self.config.clone(), self.storage.engine.clone());
        let (store, mut slave) = Store::follow(config, engine, self.table.clone());
        let streams = Stopper::default();
        self.doors.follow(&store, &slave.state(), &streams);
        let (process, loaded) = (self.process, self.config.loaded.clone());
        let what = format!("group {}", self.flags.group);
        let followed = tokio::select! { biased;
            followed = self.follow_until_elected(&store, &mut slave) => followed,
            never = opening::progress(process, &what, "rows", &loaded, &drop) => match never {},
        };
        let ended = match followed {
            Ok(()) => {
                let promoted = self.promote(&mut slave).await;
                drop(slave);
                promoted
            }
            Err(end) => Err(end),
        };
        let term = Term { store, streams };
        match ended {
            Ok(()) => {
                self.begin(&term);
                Ok(term)
            }
            Err(End::Stop) if !self.leads() => {
                // Calls that still come are passed on.
                self.doors
                    .announcer
                    .tell(Announcement { trouble: "stopping".to_owned(), ..Announcement::default() });
                term.streams.ask();
                self.last = Some(term.store);
                Err(End::Stop)
            }
            Err(end) => {
                self.leave(term, &end).await;
                Err(end)
            }
        }
    }

    async fn follow_until_elected(&mut self, store: &Store, slave: &mut Slave) -> Result<(), End> {
        let mut following = slave.state();
        let mut master: Option<MasterRecord> = None;
        let (mut before, mut told, mut waited) = (following.borrow().clone(), None, None);
        loop {
            let Some(election) = &mut self.election else { return Ok(()) };
            match election.candidacy.mastership() {
                Mastership::Master { .. } => return Ok(()),
                Mastership::Slave(record) => {
                    let record = record.filter(|record| !record.is_released());
                    let holder = |record: &Option<MasterRecord>| record.as_ref().map(|r| r.holder.clone());
                    if holder(&record) != holder(&master) {
                        match self.doors.show_master(record.as_ref()) {
                            Some(upstream) => slave.attach(upstream),
                            None => {
                                slave.detach("no master is elected");
                                tracing::warn!(
                                    group = %self.flags.group,
                                    "the group has no master: writes, and reads that have to be fresh, wait until one is \
                                     elected"
                                );
                            }
                        }
                        master = record;
                    }
                }
            }
            let state = following.borrow_and_update().clone();
            // A master that leaves, or is gone, has perhaps released its lease.
            if (state.leaving && !before.leaving) || (!state.level && before.level) {
                election.candidacy.hurry();
            }
            match (before.level, state.level) {
                (true, false) => tracing::warn!(
                    group = %self.flags.group,
                    "this slave answers no reads that have to be fresh: {}", state.trouble
                ),
                (false, true) => tracing::info!(
                    group = %self.flags.group,
                    "this slave is level with its master, and answers reads"
                ),
                _ => {}
            }
            let said =
                (state.level, state.trouble.clone(), state.epoch, master.clone().map(|master| master.holder));
            if told.as_ref() != Some(&said) {
                self.doors.tell(store, &following, master.as_ref());
                told = Some(said);
            }
            if let (true, Some(master)) = (state.level, &master) {
                let what = format!("slave of group {}, its master is {}", self.flags.group, master.name);
                match self.starting.take() {
                    Some(starting) => self.process.ready(starting, &what),
                    None => self.process.systemd.status(&what),
                }
            }
            before = state;
            tokio::select! { biased;
                heard = self.signals.next() => match heard {
                    Heard::Stop => return Err(End::Stop),
                    Heard::Reload => self.reload(slave),
                },
                () = self.watched.changed() => self.reload(slave),
                ended = store.ended() => return Err(End::Failed(anyhow!("{ended}"))),
                _mastership = election.candidacy.changed() => {}
                _changed = following.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(1)), if master.is_none() => {
                    if let Some(error) = candidate::beyond_help(&*self.storage.engine).await {
                        return Err(End::Failed(error));
                    }
                    if let Some(what) = self.storage.engine.waits_for() {
                        opening::waits(&self.flags.group, &what, &mut waited);
                        self.doors.say(&what);
                    }
                }
            }
        }
    }

    fn leads(&self) -> bool {
        let mastership = self.election.as_ref().map(|election| election.candidacy.mastership());
        matches!(mastership, Some(Mastership::Master { .. }))
    }

    fn reload(&mut self, slave: &Slave) {
        if let Some(next) = self.watched.reload(&self.table) {
            self.table = next.clone();
            slave.offer(next);
        }
    }

    /// Takes the group over.
    async fn promote(&mut self, slave: &mut Slave) -> Result<(), End> {
        self.doors.close("the group is being taken over");
        let doors = &self.doors;
        let say = |what: String| doors.say(&what);
        let promoted = tokio::select! { biased;
            () = self.signals.stop() => return Err(End::Stop),
            () = lost(self.election.as_ref()) => {
                return Err(End::Lost("the election was lost while the group was taken over".to_owned()));
            }
            promoted = opening::promote(slave, &self.config.group, &self.storage.engine, &say) => promoted,
        };
        promoted.map_err(|error| match error {
            OpenError::Deposed { .. } => End::Lost(error.to_string()),
            error => self.failed(error),
        })
    }

    async fn open(&mut self) -> Result<Term, End> {
        self.doors.close("the store is being opened");
        let doors = &self.doors;
        let say = |what: String| doors.say(&what);
        let opened = tokio::select! { biased;
            () = self.signals.stop() => return Err(End::Stop),
            opened = opening::store(
                self.config.clone(), &self.storage.engine, &self.table, self.process, &say
            ) => opened,
        };
        let term = Term { store: opened.map_err(|error| self.failed(error))?, streams: Stopper::default() };
        self.begin(&term);
        Ok(term)
    }

    fn failed(&self, error: OpenError) -> End {
        let why = storage::unopened(&self.flags.group, &self.flags.store);
        End::Failed(anyhow::Error::from(error).context(why))
    }

    /// A term as master begins.
    fn begin(&mut self, term: &Term) {
        self.current.is(&term.store);
        self.doors.serve(&term.store, &term.streams);
        if let Some(policy) = &self.compaction {
            term.streams.keep("automatic compaction", |stop| policy.run(Alone(term.store.clone()), stop));
        }
        let at = term.store.state().committed();
        let epoch = term.store.state().identity().epoch;
        tracing::info!(group = %self.flags.group, epoch, "master at {at}: this brain orders the group's writes");
        self.serves(&format!("master of group {} at {at}", self.flags.group));
    }

    /// Clients are served, as what it is now.
    fn serves(&mut self, what: &str) {
        match self.starting.take() {
            Some(starting) => self.process.ready(starting, what),
            None => self.process.systemd.status(what),
        }
    }

    /// Until the term ends.
    async fn master(&mut self, term: &Term) -> End {
        loop {
            let reload = tokio::select! { biased; // the engine's reason is the cause of its groups'
                heard = self.signals.next() => match heard {
                    Heard::Stop => return End::Stop,
                    Heard::Reload => true,
                },
                () = self.watched.changed() => true,
                error = shutdown::poisoned(self.storage.embedded.as_deref()) => return End::Failed(error),
                error = shutdown::broken(vec![term.streams.broken().boxed()]) => return End::Failed(error),
                ended = term.store.ended() => return match ended {
                    Ended::Deposed { .. } if self.election.is_some() => End::Lost(ended.to_string()),
                    ended => End::Failed(anyhow!("{ended}")),
                },
                () = lost(self.election.as_ref()) => {
                    return End::Lost("the master lease could not be renewed in time".to_owned());
                }
            };
            if let Some(next) = reload.then(|| self.watched.reload(&self.table)).flatten() {
                match replace_placement(&term.store, &next).await {
                    Ok(()) => {
                        tracing::info!(
                            version = format!("{:x}", next.version()),
                            "a new placement is in use"
                        );
                        self.table = next;
                    }
                    Err(error) => tracing::error!("the old placement stays: {error}"),
                }
            }
        }
    }

    /// Ends a term. What is at work ends by itself, what comes waits or goes elsewhere, and only then may another brain
    /// be master.
    async fn leave(&mut self, term: Term, end: &End) {
        let Term { store, streams } = term;
        self.current.is_none();
        if self.election.is_none() {
            streams.ask();
            self.last = Some(store); // connections end first, with what is at work on them
            return;
        }
        self.doors.close("the group's master changes");
        store.leave(); // slaves stand for election from here on
        let _late = timeout(LEAVE_WITHIN, streams.stop()).await;
        let _stuck = timeout(LEAVE_WITHIN, store.close()).await;
        let (Some(election), End::Stop) = (&mut self.election, end) else { return };
        election.candidacy.resign();
        let successor = async {
            loop {
                match election.candidacy.changed().await {
                    Mastership::Slave(Some(master)) if !master.is_released() => return master,
                    _ => {}
                }
            }
        };
        if let Ok(master) = timeout(SUCCESSOR_WITHIN, successor).await {
            let _upstream = self.doors.show_master(Some(&master));
            self.doors.pass_on(&store);
        }
    }
}

/// Returns when the election is lost; never where there is none.
async fn lost(election: Option<&RunningElection>) {
    match election {
        Some(election) => election.candidacy.lost().await,
        None => std::future::pending().await,
    }
}

async fn replace_placement(store: &Store, next: &Arc<Placement>) -> Result<(), PlaceError> {
    store.prepare(next.clone()).await?;
    store.commit_placement().await
}
