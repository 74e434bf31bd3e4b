//! A brain that is master, from its takeover until it leaves.

use std::time::Duration;

use anyhow::{Result, anyhow};
use futures_util::FutureExt as _;
use kubebrain_brain::compaction::Alone;
use kubebrain_brain::election::Mastership;
use kubebrain_brain::store::Ended;
use kubebrain_brain::store::OpenError;
use kubebrain_brain::store::{Slave, Store};
use kubebrain_shared::stop::Stopper;
use tokio::time::timeout;

use super::candidate::RunningElection;
use super::{Brain, End, Term};
use crate::run::shutdown::{self, Heard};
use crate::run::{opening, storage};

/// What is at work when a master leaves may end by itself for so long.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Who leaves for good shows clients the way to the next master, if there is one soon.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(1);

impl Brain<'_> {
    /// Takes the group over.
    pub(super) async fn promote(&mut self, slave: &mut Slave) -> Result<(), End> {
        self.endpoints.close("the group is being taken over");
        let endpoints = &self.endpoints;
        let say = |what: String| endpoints.say(&what);
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

    pub(super) async fn open(&mut self) -> Result<Term, End> {
        self.endpoints.close("the store is being opened");
        let endpoints = &self.endpoints;
        let say = |what: String| endpoints.say(&what);
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

    pub(super) fn failed(&self, error: OpenError) -> End {
        let why = storage::unopened(&self.flags.group, &self.flags.store);
        End::Failed(anyhow::Error::from(error).context(why))
    }

    /// A term as master begins.
    pub(super) fn begin(&mut self, term: &Term) {
        self.current.is(&term.store);
        if let Some(cluster) = &self.cluster {
            cluster.goes_by(&term.store);
            let (cluster, store) = (cluster.clone(), term.store.clone());
            term.streams.keep("the task that decides the placement", |stop| cluster.decide(store, stop));
        }
        self.endpoints.serve(&term.store, &term.streams);
        if let Some(policy) = &self.compaction {
            term.streams.keep("automatic compaction", |stop| policy.run(Alone(term.store.clone()), stop));
        }
        let at = term.store.state().committed();
        let epoch = term.store.state().identity().epoch;
        tracing::info!(group = %self.flags.group, epoch, "master at {at}: this brain orders the group's writes");
        self.serves(&term.store, &format!("master of group {} at {at}", self.flags.group));
    }

    /// Clients are served, as what it is now; or they will be, once a placement names the group.
    pub(super) fn serves(&mut self, store: &Store, what: &str) {
        match (store.state().unplaced(), self.starting.is_some()) {
            (Some(why), true) => self.process.systemd.status(&why),
            (_, true) => {
                self.starting.take().into_iter().for_each(|starting| self.process.ready(starting, what))
            }
            (_, false) => self.process.systemd.status(what),
        }
    }

    /// Until the term ends.
    pub(super) async fn master(&mut self, term: &Term) -> End {
        let mut placed = term.store.state().placed();
        loop {
            let reload = tokio::select! { biased; // the engine's reason is the cause of its groups'
                heard = self.signals.next() => match heard {
                    Heard::Stop => return End::Stop,
                    Heard::Reload => true,
                },
                () = self.watched.changed() => true,
                Ok(()) = placed.changed(), if self.starting.is_some() => {
                    let at = term.store.state().committed();
                    self.serves(&term.store, &format!("master of group {} at {at}", self.flags.group));
                    false
                }
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
            if reload {
                self.read_again();
            }
        }
    }

    /// Ends a term. What is at work ends by itself, what comes waits or goes elsewhere, and only then may another brain
    /// be master.
    pub(super) async fn leave(&mut self, term: Term, end: &End) {
        let Term { store, streams } = term;
        self.current.is_none();
        if self.election.is_none() {
            streams.ask();
            self.last = Some(store); // connections end first, with what is at work on them
            return;
        }
        self.endpoints.close("the group's master changes");
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
            let _upstream = self.endpoints.show_master(Some(&master));
            self.endpoints.pass_on(&store);
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
