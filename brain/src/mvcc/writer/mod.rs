//! [`Writer`]: the one task of a master that orders writes.
//!
//! ```text
//! inbox ─▶ evaluate on index + pending ─▶ filling ──launch──▶ flying ──durable──▶ index, committed, hub, answers
//! ```
//!
//! * One batch flies at a time; the next one fills meanwhile, so batches grow with the load and nothing waits for a
//!   timer.
//! * A request is answered when everything it has seen is durable, also where it changed nothing.
//! * A batch whose outcome is unknown is repeated until it is known. One that another master's batch took the number
//!   of ends the writer: nothing that was given out since is ever answered as done.
//! * While a batch does not become durable no lease ends, and that time is given back to all of them afterwards.
//! * In order, for each durable batch: index, committed revision, watchers, answers. So whoever hears of a revision
//!   can read it, and a progress never runs ahead of an event.

mod alarms;
mod batch;
mod leases;
mod place;
#[cfg(test)]
mod sizes;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::alarm::Alarm;
use super::answer::Answer;
use super::codec::{Small, small_value};
use super::pending::Pending;
use super::shared::Shared;
use crate::request::Op;
use batch::{Filling, Flying};
pub use place::PlaceError;

/// A larger step wastes more numbers at a crash, a smaller one writes more often: once in a million revisions.
const CEILING_STEP: u64 = 1_000_000;
/// etcd's bound on what it calls slow to apply.
const SLOW_BATCH: Duration = Duration::from_millis(100);
/// Commands taken from the inbox at once.
const DRAIN_MAX: usize = 256;
/// The writer shows that it lives at least so often, also where the storage is waited for.
const BEAT: Duration = Duration::from_secs(1);
/// Changes that go into the index while readers wait: some milliseconds.
const INDEXED_AT_ONCE: usize = 4096;
/// What a lease is judged to take, as in etcd.
const LEASE_BYTES: u64 = 64;

/// Why a write was not done; surely not, in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// What a client is told.
    Fault(Fault),
    /// These keys belong to another group, or the placement is another one.
    NotOwner(String),
    /// The storage cannot hold what it would write; the sentence says why.
    TooLarge(String),
}

impl From<Fault> for WriteError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A write that was done.
#[derive(Debug)]
pub(in crate::mvcc) struct Written {
    /// What to answer, values still to be filled in.
    pub answer: Answer,
    /// The header's revision.
    pub revision: Revision,
}

/// How a lease of the home group comes here.
#[derive(Clone, Copy, Debug)]
pub struct Adoption {
    /// What is left of it.
    pub remaining: Duration,
    /// Home has not recorded yet that this group holds it: no key may hang on it. What home does not list it does not
    /// have renewed, and its keys would end under a client that is told that it lives.
    pub offered: bool,
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// Its id.
    pub id: i64,
    /// Seconds to live.
    pub ttl: i64,
    /// The header's revision.
    pub revision: Revision,
}

/// A lease's seconds to live, and the groups that hold it too.
pub type Renewed = (i64, Vec<String>);

type Reply<T, E = Fault> = oneshot::Sender<Result<T, E>>;

/// What the writer is asked to do. Where a floor is named, the group is at or above it when the answer is given.
pub(super) enum Command {
    Write {
        op: Op,
        floor: Revision,
        part: Option<u64>,
        reply: Reply<Written, WriteError>,
    },
    Advance {
        floor: Revision,
        reply: Reply<Revision>,
    },
    Compact {
        revision: i64,
        floor: Revision,
        reply: Reply<Revision>,
    },
    Grant {
        id: i64,
        ttl: i64,
        adoption: Option<Adoption>,
        floor: Revision,
        reply: Reply<Granted>,
    },
    Revoke {
        id: i64,
        floor: Revision,
        reply: Reply<Revision>,
    },
    Share {
        id: i64,
        group: GroupName,
        reply: Reply<(i64, Duration)>,
    },
    Renew {
        id: i64,
        reply: Reply<Option<Renewed>>,
    },
    Raise {
        alarm: Alarm,
        reply: Reply<bool>,
    },
    Disarm {
        alarm: Alarm,
        reply: Reply<bool>,
    },
    /// Answered when everything that was given out before it is durable.
    Settle {
        reply: Reply<()>,
    },
    Trimmed {
        number: u64,
    },
    Prepare {
        placement: Arc<Placement>,
        reply: Reply<(), PlaceError>,
    },
    Commit {
        reply: Reply<(), PlaceError>,
    },
    Abort,
    Close {
        reply: oneshot::Sender<()>,
    },
}

impl Command {
    /// True for what etcd would call a proposal: a change, or a request that may be one.
    pub(super) const fn proposes(&self) -> bool {
        matches!(
            self,
            Self::Write { .. }
                | Self::Compact { .. }
                | Self::Grant { .. }
                | Self::Revoke { .. }
                | Self::Share { .. }
                | Self::Renew { .. }
                | Self::Raise { .. }
                | Self::Disarm { .. }
        )
    }
}

/// See the module.
pub(super) struct Writer {
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
    /// Taken from the inbox, and too much for the batch that fills.
    backlog: VecDeque<Command>,
    pending: Pending,
    filling: Filling,
    flying: Option<Flying>,
    /// The highest revision given out.
    counter: u64,
    /// The number of the next batch.
    number: u64,
    /// The batch before it was tried more than once.
    after_repeats: bool,
    /// Persisted, or in a batch on its way.
    ceiling: u64,
    /// As `ceiling`; -1 where nothing was compacted.
    compacted: i64,
    /// Recorded owners by unit, all groups'.
    owners: HashMap<Bytes, GroupName>,
    /// A placement that is about to hold: only what is owned by both may be written.
    preparing: Option<Arc<Placement>>,
    closing: Option<oneshot::Sender<()>>,
    /// Every handle is gone: what was taken on is finished.
    alone: bool,
    /// No checkpoint of a lease before.
    checkpoints_from: Instant,
    /// Values are not asked for before: the engine has just not given one.
    blind_until: Instant,
}

/// Where the writer goes on from.
pub(super) struct Start {
    pub counter: u64,
    pub number: u64,
    pub ceiling: u64,
    pub compacted: i64,
    pub owners: HashMap<Bytes, GroupName>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, inbox: mpsc::Receiver<Command>, start: Start) -> Self {
        Self {
            filling: Filling::new(start.counter, shared.bounds),
            shared,
            inbox,
            backlog: VecDeque::new(),
            pending: Pending::default(),
            flying: None,
            counter: start.counter,
            number: start.number,
            after_repeats: false,
            ceiling: start.ceiling,
            compacted: start.compacted,
            owners: start.owners,
            preparing: None,
            closing: None,
            alone: false,
            checkpoints_from: Instant::now(),
            blind_until: Instant::now(),
        }
    }

    /// Runs until closed, until every handle is gone, or until it ends by itself; then [`Shared::ended`] says why and
    /// whoever still waits for an answer hears nothing: the outcome is unknown.
    pub(super) async fn run(self) {
        let shared = self.shared.clone();
        self.work().await;
        shared.beat_no_more();
        shared.close();
    }

    async fn work(mut self) {
        let mut commands = Vec::with_capacity(DRAIN_MAX);
        let shared = self.shared.clone();
        let mut ended = std::pin::pin!(shared.ended());
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            shared.beat();
            let due = self.leases_due();
            // Here and not only below: an inbox that never runs dry would hold leases up.
            if due <= Instant::now() && self.takes_more() {
                self.look_after_leases();
                self.launch();
            }
            tokio::select! {
                biased;
                outcome = Flying::landed(&mut self.flying) => match outcome {
                    Ok((filling, repeated)) => {
                        self.after_repeats = repeated;
                        self.land(filling);
                    }
                    #[cfg(any(test, feature = "faults"))]
                    Err(super::Ended::Failed) => self.give_up(),
                    Err(ended) => return self.shared.end(ended),
                },
                // A fence has found another master.
                _ = &mut ended => return,
                count = self.inbox.recv_many(&mut commands, DRAIN_MAX),
                    if self.takes_more() && self.backlog.is_empty() =>
                {
                    self.alone = count == 0;
                    self.backlog.extend(commands.drain(..));
                }
                () = tokio::time::sleep_until(due), if self.takes_more() => self.look_after_leases(),
                _ = beats.tick() => {}
            }
            // The batch may be full before all is taken; then the rest waits until that one flies.
            loop {
                while self.takes_more()
                    && let Some(command) = self.backlog.pop_front()
                {
                    self.take(command).await;
                }
                self.launch();
                if self.backlog.is_empty() || !self.takes_more() {
                    break;
                }
            }
            if self.alone && self.is_idle() {
                return;
            }
            if self.closing.is_some() && self.is_idle() {
                let closed = self.closing.take().map(|reply| reply.send(()));
                debug_assert!(closed.is_some());
                return;
            }
        }
    }

    fn takes_more(&self) -> bool {
        self.closing.is_none() && !self.alone && !self.filling.is_full()
    }

    /// True while nothing may be added for want of space in the engine.
    fn is_full(&self) -> bool {
        self.shared.share.is_full() || self.shared.engine.is_short()
    }

    fn is_idle(&self) -> bool {
        self.flying.is_none() && self.filling.is_empty()
    }

    async fn take(&mut self, command: Command) {
        self.filling.proposals += i64::from(command.proposes());
        match command {
            Command::Write { op, floor, part, reply } => {
                #[cfg(any(test, feature = "faults"))]
                if let Op::Put(put) = &op {
                    super::planted_at(&put.key).await;
                }
                self.write(op, floor, part, reply).await;
            }
            Command::Advance { floor, reply } => {
                let floor = floor.get();
                let flies = self.flying.as_ref().is_some_and(|flying| flying.closes() >= floor);
                let shared = self.shared.clone();
                let answer = Box::new(move || {
                    let _gone = reply.send(Ok(shared.committed()));
                });
                match self.flying.as_mut().filter(|_| flies) {
                    Some(flying) => flying.then(answer),
                    None => {
                        self.raise(floor);
                        self.filling.then(answer);
                    }
                }
            }
            Command::Compact { revision, floor, reply } => {
                self.raise(floor.get());
                match self.compact(revision) {
                    Ok(()) => self.answer(reply, Ok(Revision::new(self.counter))),
                    Err(fault) => self.answer(reply, Err(fault)),
                }
            }
            Command::Grant { reply, .. } if self.is_full() => {
                let _gone = reply.send(Err(Fault::NoSpace));
            }
            Command::Grant { id, ttl, adoption, floor, reply } => {
                self.raise(floor.get());
                let room = if adoption.is_none() { self.make_room(LEASE_BYTES) } else { Ok(()) };
                let granted = room.and_then(|()| self.grant(id, ttl, adoption));
                self.answer(reply, granted);
            }
            Command::Revoke { id, floor, reply } => {
                self.raise(floor.get());
                let exists = self.shared.leases.lock().exists(id);
                if exists {
                    self.revoke(id);
                }
                let revision = Revision::new(self.counter);
                self.answer(reply, if exists { Ok(revision) } else { Err(Fault::LeaseNotFound) });
            }
            Command::Share { id, group, reply } => {
                let shared = self.share(id, &group);
                self.answer(reply, shared);
            }
            Command::Renew { id, reply } => {
                let renewed = self.renew(id);
                self.answer(reply, Ok(renewed));
            }
            Command::Raise { alarm, reply } => {
                let raised = self.raise_alarm(alarm);
                self.answer(reply, raised);
            }
            Command::Disarm { alarm, reply } => {
                let disarmed = self.disarm(alarm);
                self.answer(reply, Ok(disarmed));
            }
            Command::Settle { reply } => self.answer(reply, Ok(())),
            Command::Trimmed { number } => {
                self.filling.put(self.shared.layout.small(Small::Trimmed), small_value(number));
            }
            Command::Prepare { placement, reply } => {
                let prepared = self.prepare(placement);
                self.answer(reply, prepared);
            }
            Command::Commit { reply } => {
                let committed = self.commit_placement().await;
                self.answer(reply, committed);
            }
            Command::Abort => self.preparing = None,
            Command::Close { reply } => {
                // Nothing will be given out any more: a successor may go on right here.
                if self.ceiling > self.counter {
                    self.ceiling = self.counter;
                    self.filling.put(self.shared.layout.small(Small::Ceiling), small_value(self.ceiling));
                }
                self.closing = Some(reply);
            }
        }
    }

    /// Answers once everything that was given out so far is durable.
    fn answer<T: Send + 'static, E: Send + 'static>(&mut self, reply: Reply<T, E>, answer: Result<T, E>) {
        self.filling.then(Box::new(move || {
            let _gone = reply.send(answer);
        }));
    }

    /// Moves the counter to `floor` without a write. The ceiling goes first where no write backs the number.
    fn raise(&mut self, floor: u64) {
        if floor <= self.counter {
            return;
        }
        self.counter = floor;
        self.filling.closes = floor;
        if floor > self.ceiling {
            self.ceiling = floor.saturating_add(CEILING_STEP);
            self.filling.put(self.shared.layout.small(Small::Ceiling), small_value(self.ceiling));
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), Fault> {
        if revision <= self.compacted {
            return Err(Fault::Compacted);
        }
        let new = u64::try_from(revision).ok().filter(|revision| *revision <= self.counter);
        let new = new.ok_or(Fault::FutureRevision)?;
        self.compacted = revision;
        self.filling.compacted = Some(new);
        self.filling.put(self.shared.layout.small(Small::Compacted), small_value(new));
        Ok(())
    }

    /// Sends what has filled, if nothing flies.
    fn launch(&mut self) {
        while self.flying.is_none() && !self.filling.is_empty() {
            let filling =
                std::mem::replace(&mut self.filling, Filling::new(self.counter, self.shared.bounds));
            if filling.needs_no_engine() {
                self.land(filling);
            } else {
                let (shared, after_repeats) = (self.shared.clone(), std::mem::take(&mut self.after_repeats));
                self.flying = Some(Flying::launch(shared, self.number, self.counter, after_repeats, filling));
                self.number += 1;
            }
        }
    }

    /// Planted: a batch that may still be committed is forgotten, and what it was given is given out again.
    #[cfg(any(test, feature = "faults"))]
    fn give_up(&mut self) {
        self.number -= 1;
        self.counter = self.shared.committed().get();
        self.pending = Pending::default();
        self.filling = Filling::new(self.counter, self.shared.bounds);
    }

    /// Makes a durable batch visible: index, committed revision, watchers, answers.
    fn land(&mut self, mut filling: Filling) {
        let metrics = &self.shared.metrics;
        metrics.all.committed.add(filling.proposals);
        let revisions = std::mem::take(&mut filling.revisions);
        if !revisions.is_empty() {
            metrics.batch_writes.observe(revisions.len() as f64);
            for revision in &revisions {
                // Nobody reads at this revision yet. So readers are let in between, if there is much of it.
                for changes in revision.changes.chunks(INDEXED_AT_ONCE) {
                    let mut index = self.shared.index.write();
                    changes.iter().for_each(|change| index.insert(&change.key, change.version));
                }
            }
        }
        for change in revisions.iter().flat_map(|revision| &revision.changes) {
            self.pending.applied(&change.key);
        }
        self.shared.show(revisions, filling.closes, filling.compacted);
        metrics.all.applied.add(filling.proposals);
        if let Some(launch) = filling.launch {
            self.shared.fence.settled(launch.number, launch.proof);
            let taken = launch.at.elapsed();
            self.forgive(taken);
            if taken > SLOW_BATCH {
                metrics.all.slow_batches.inc();
            }
        }
        filling.finish();
    }
}
