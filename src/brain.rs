//! `kubebrain brain`: one brain of one group, for clients and for proxies.
//!
//! ```text
//!             elected            opened
//!  standby ────────────▶ opening ──────▶ master
//!     ▲                     │               │
//!     └─────────────────────┴───────────────┘  the election is lost, or another one took over
//! ```
//!
//! Where no other process can share the storage there is no election: it opens, and is master until it ends.

mod candidate;
mod doors;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use kubebrain_brain::compaction::Alone;
use kubebrain_brain::election::Standing as Election;
use kubebrain_brain::mvcc::shared::Ended;
use kubebrain_brain::mvcc::{self, OpenError, PlaceError, Store};
use kubebrain_shared::compaction::Policy;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::stop::Stopper;
use tokio::time::timeout;

use crate::cli;
use crate::listen::{Front, Peers};
use crate::numbers::Numbers;
use crate::shutdown::{self, Heard, Signals};
use crate::storage::{self, Storage};
use crate::{banner, opening, placement};
use candidate::Standing;
use doors::Doors;

/// What is at work when a master leaves may end by itself for so long.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Who leaves for good shows clients the way to the next master, if there is one soon.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(1);

/// One brain, whatever its role.
struct Brain {
    flags: cli::Brain,
    storage: Storage,
    config: mvcc::Config,
    compaction: Option<Policy>,
    doors: Doors,
    table: Arc<Placement>,
    watched: placement::Watched,
    signals: Signals,
    standing: Option<Standing>,
    /// The store of the last term, where nobody waits for it to be given up.
    last: Option<Store>,
    /// What a person reads after the start, once.
    greeting: Option<Vec<(&'static str, String)>>,
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

pub(crate) async fn run(flags: cli::Brain) -> Result<()> {
    let signals = Signals::new()?;
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
    let mut doors = Doors::new(&flags, &clients.urls, peers.urls());
    let standing = candidate::stand(&flags, &storage, &doors).await?;
    let tenure = standing.as_ref().map(|standing| standing.candidacy.tenure().clone());
    let config = mvcc::Config { tenure, ..config };
    let greeting = vec![
        ("clients", clients.urls.join(" ")),
        ("probes", clients.probe_urls.join(" ")),
        ("peers", peers.urls().join(" ")),
        ("data", flags.store.place()),
        ("try", banner::try_it(&clients.urls)),
    ];
    let accepting = Stopper::default();
    if standing.is_some() {
        doors.reach(flags.peers.brains()?, &accepting);
    }
    clients.serve(&numbers.observe(doors.clients.clone()), &accepting);
    let for_peers = numbers.observe_peers(doors.peers.clone(), &flags.clients);
    peers.serve(&for_peers, &accepting);
    drop(for_peers);
    let watched = placement::Watched::new(flags.placement.clone());
    let greeting = Some(greeting);
    let mut brain = Brain {
        flags,
        storage,
        config,
        compaction,
        doors,
        table,
        watched,
        signals,
        standing,
        last: None,
        greeting,
    };
    let outcome = brain.live().await;
    tracing::info!("stopping");
    let Brain { standing, doors, last, .. } = brain;
    drop(doors);
    accepting.stop().await;
    if let Some(store) = last {
        store.close().await;
    }
    if let Some(standing) = standing {
        standing.stop().await;
    }
    outcome
}

impl Brain {
    /// Until it is told to end, or cannot go on.
    async fn live(&mut self) -> Result<()> {
        loop {
            let end = match self.stand_by().await {
                Some(end) => end,
                None => match self.open().await {
                    Ok(term) => {
                        let end = self.master(&term).await;
                        self.leave(term, &end).await;
                        end
                    }
                    Err(end) => end,
                },
            };
            match end {
                End::Stop => return Ok(()),
                End::Failed(error) => return Err(error),
                End::Lost(why) => tracing::warn!("no longer master: {why}"),
            }
        }
    }

    /// Until it is elected, which is at once where nobody else stands.
    async fn stand_by(&mut self) -> Option<End> {
        loop {
            let candidacy = &mut self.standing.as_mut()?.candidacy;
            match candidacy.standing() {
                Election::Master { .. } => return None,
                Election::Slave(master) => {
                    self.doors.stand_by(master.as_ref());
                    if let Some(master) = master {
                        greet(
                            &mut self.greeting,
                            &format!("of group {} standing by for {}", self.flags.group, master.name),
                        );
                    } else if let Some(what) = self.storage.engine.waits_for() {
                        self.doors.say(&what);
                    }
                }
            }
            tokio::select! { biased;
                heard = self.signals.next() => match heard {
                    Heard::Stop => return Some(End::Stop),
                    Heard::Reload => self.reload(),
                },
                () = self.watched.changed() => self.reload(),
                _standing = candidacy.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => { // what is waited for may be another
                    if let Some(error) = candidate::beyond_help(&*self.storage.engine).await {
                        return Some(End::Failed(error));
                    }
                }
            }
        }
    }

    /// A standby has no keys: the table that holds when it is elected counts.
    fn reload(&mut self) {
        if let Some(next) = self.watched.reload(&self.table) {
            self.table = next;
        }
    }

    async fn open(&mut self) -> Result<Term, End> {
        self.doors.close("the store is being opened");
        let doors = &self.doors;
        let say = |what: String| doors.say(&what);
        let opened = tokio::select! { biased;
            () = self.signals.stop() => return Err(End::Stop),
            () = lost(self.standing.as_ref()) => {
                return Err(End::Lost("the election was lost while the store was opened".to_owned()));
            }
            opened = opening::store(self.config.clone(), &self.storage.engine, &self.table, &say) => opened,
        };
        let store = opened.map_err(|error| match error {
            OpenError::Deposed { .. } if self.standing.is_some() => End::Lost(error.to_string()),
            error => End::Failed(
                anyhow::Error::from(error).context(storage::unopened(&self.flags.group, &self.flags.store)),
            ),
        })?;
        let term = Term { store, streams: Stopper::default() };
        self.doors.serve(&term.store, &term.streams);
        if let Some(policy) = &self.compaction {
            tokio::spawn(policy.run(Alone(term.store.clone()), term.streams.handle()));
        }
        let at = term.store.shared().committed();
        tracing::info!(group = %self.flags.group, epoch = term.store.shared().identity().term, "master at {at}");
        greet(&mut self.greeting, &format!("of group {} at {at}", self.flags.group));
        Ok(term)
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
                ended = term.store.ended() => return match ended {
                    Ended::Deposed { .. } if self.standing.is_some() => End::Lost(ended.to_string()),
                    ended => End::Failed(anyhow!("{ended}")),
                },
                () = lost(self.standing.as_ref()) => {
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
        if self.standing.is_none() {
            streams.ask();
            self.last = Some(store); // connections end first, with what is at work on them
            return;
        }
        self.doors.close("the group's master changes");
        let _late = timeout(LEAVE_WITHIN, streams.stop()).await;
        let _stuck = timeout(LEAVE_WITHIN, store.close()).await;
        drop(store);
        let (Some(standing), End::Stop) = (&mut self.standing, end) else { return };
        standing.candidacy.resign();
        let successor = async {
            loop {
                match standing.candidacy.changed().await {
                    Election::Slave(Some(master)) if !master.is_released() => return master,
                    _ => {}
                }
            }
        };
        if let Ok(master) = timeout(SUCCESSOR_WITHIN, successor).await {
            self.doors.stand_by(Some(&master));
        }
    }
}

fn greet(greeting: &mut Option<Vec<(&'static str, String)>>, what: &str) {
    if let Some(lines) = greeting.take() {
        banner::print(&format!("kubebrain brain {what}"), &lines);
    }
}

/// Returns when the election is lost; never where there is none.
async fn lost(standing: Option<&Standing>) {
    match standing {
        Some(standing) => standing.candidacy.lost().await,
        None => std::future::pending().await,
    }
}

async fn replace_placement(store: &Store, next: &Arc<Placement>) -> Result<(), PlaceError> {
    store.prepare(next.clone()).await?;
    store.commit_placement().await
}
