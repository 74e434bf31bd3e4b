//! [`Writer`]: what it holds, and its loop.

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

use super::batch::{Filling, Flying};
use crate::decide::pending::Pending;
use crate::lead::command::{Command, Reply};
use crate::load::master::Start;
use crate::rows::codec::{Small, small_value};
use crate::state::group::GroupState;

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

/// See the module.
pub(crate) struct Writer {
    pub(super) state: Arc<GroupState>,
    pub(super) inbox: mpsc::Receiver<Command>,
    /// Taken from the inbox, and too much for the batch that fills.
    pub(super) backlog: VecDeque<Command>,
    pub(super) pending: Pending,
    pub(super) filling: Filling,
    pub(super) flying: Option<Flying>,
    /// The highest revision given out.
    pub(super) counter: u64,
    /// The number of the next batch.
    pub(super) number: u64,
    /// The batch before it was tried more than once.
    pub(super) after_repeats: bool,
    /// Persisted, or in a batch on its way.
    pub(super) ceiling: u64,
    /// As `ceiling`; -1 where nothing was compacted.
    pub(super) compacted: i64,
    /// Recorded owners by unit, all groups'.
    pub(super) owners: HashMap<Bytes, GroupName>,
    /// A placement that is about to hold: only what is owned by both may be written.
    pub(super) preparing: Option<Arc<Placement>>,
    pub(super) closing: Option<oneshot::Sender<()>>,
    /// Every handle is gone: what was taken on is finished.
    pub(super) alone: bool,
    /// No checkpoint of a lease before.
    pub(super) checkpoints_from: Instant,
    /// Values are not asked for before: the engine has just not given one.
    pub(super) blind_until: Instant,
}

impl Writer {
    pub(crate) fn new(state: Arc<GroupState>, inbox: mpsc::Receiver<Command>, start: Start) -> Self {
        Self {
            filling: Filling::new(start.counter, state.bounds),
            state,
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

    /// Runs until closed, until every handle is gone, or until it ends by itself; then [`GroupState::ended`] says why and
    /// whoever still waits for an answer hears nothing: the outcome is unknown.
    pub(crate) async fn run(self) {
        let state = self.state.clone();
        self.work().await;
        state.beat_no_more();
        state.close();
    }

    async fn work(mut self) {
        let mut commands = Vec::with_capacity(DRAIN_MAX);
        let state = self.state.clone();
        let mut ended = std::pin::pin!(state.ended());
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            state.beat();
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
                    Err(crate::state::ended::Ended::Failed) => self.give_up(),
                    Err(ended) => return self.state.end(ended),
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

    pub(super) fn takes_more(&self) -> bool {
        self.closing.is_none() && !self.alone && !self.filling.is_full()
    }

    /// True while nothing may be added for want of space in the engine.
    pub(super) fn is_full(&self) -> bool {
        self.state.share.is_full() || self.state.engine.is_short()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_none() && self.filling.is_empty()
    }

    async fn take(&mut self, command: Command) {
        self.filling.proposals += i64::from(command.proposes());
        match command {
            Command::Write { op, floor, part, reply } => {
                #[cfg(any(test, feature = "faults"))]
                if let crate::request::Op::Put(put) = &op {
                    crate::planted::planted_at(&put.key).await;
                }
                self.write(op, floor, part, reply).await;
            }
            Command::Advance { floor, reply } => {
                let floor = floor.get();
                let flies = self.flying.as_ref().is_some_and(|flying| flying.closes() >= floor);
                let state = self.state.clone();
                let answer = Box::new(move || {
                    let _gone = reply.send(Ok(state.committed()));
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
                let exists = self.state.leases.lock().exists(id);
                if exists {
                    self.revoke(id);
                }
                let revision = Revision::new(self.counter);
                self.answer(reply, if exists { Ok(revision) } else { Err(Fault::LeaseNotFound) });
            }
            Command::Share { id, group, reply } => {
                let held = self.share(id, &group);
                self.answer(reply, held);
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
                self.filling.put(self.state.layout.small(Small::Trimmed), small_value(number));
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
                    self.filling.put(self.state.layout.small(Small::Ceiling), small_value(self.ceiling));
                }
                self.closing = Some(reply);
            }
        }
    }

    /// Answers once everything that was given out so far is durable.
    pub(super) fn answer<T: Send + 'static, E: Send + 'static>(
        &mut self,
        reply: Reply<T, E>,
        answer: Result<T, E>,
    ) {
        self.filling.then(Box::new(move || {
            let _gone = reply.send(answer);
        }));
    }

    /// Moves the counter to `floor` without a write. The ceiling goes first where no write backs the number.
    pub(super) fn raise(&mut self, floor: u64) {
        if floor <= self.counter {
            return;
        }
        self.counter = floor;
        self.filling.closes = floor;
        if floor > self.ceiling {
            self.ceiling = floor.saturating_add(CEILING_STEP);
            self.filling.put(self.state.layout.small(Small::Ceiling), small_value(self.ceiling));
        }
    }

    pub(super) fn compact(&mut self, revision: i64) -> Result<(), Fault> {
        if revision <= self.compacted {
            return Err(Fault::Compacted);
        }
        let new = u64::try_from(revision).ok().filter(|revision| *revision <= self.counter);
        let new = new.ok_or(Fault::FutureRevision)?;
        self.compacted = revision;
        self.filling.compacted = Some(new);
        self.filling.put(self.state.layout.small(Small::Compacted), small_value(new));
        Ok(())
    }

    /// Sends what has filled, if nothing flies.
    pub(super) fn launch(&mut self) {
        while self.flying.is_none() && !self.filling.is_empty() {
            let filling = std::mem::replace(&mut self.filling, Filling::new(self.counter, self.state.bounds));
            if filling.needs_no_engine() {
                self.land(filling);
            } else {
                let (state, after_repeats) = (self.state.clone(), std::mem::take(&mut self.after_repeats));
                self.flying = Some(Flying::launch(state, self.number, self.counter, after_repeats, filling));
                self.number += 1;
            }
        }
    }

    /// Planted: a batch that may still be committed is forgotten, and what it was given is given out again.
    #[cfg(any(test, feature = "faults"))]
    pub(super) fn give_up(&mut self) {
        self.number -= 1;
        self.counter = self.state.committed().get();
        self.pending = Pending::default();
        self.filling = Filling::new(self.counter, self.state.bounds);
    }

    /// Makes a durable batch visible: index, committed revision, watchers, answers.
    pub(super) fn land(&mut self, mut filling: Filling) {
        let metrics = &self.state.metrics;
        metrics.all.committed.add(filling.proposals);
        let revisions = std::mem::take(&mut filling.revisions);
        if !revisions.is_empty() {
            metrics.batch_writes.observe(revisions.len() as f64);
            for revision in &revisions {
                // Nobody reads at this revision yet. So readers are let in between, if there is much of it.
                for changes in revision.changes.chunks(INDEXED_AT_ONCE) {
                    let mut index = self.state.index.write();
                    changes.iter().for_each(|change| index.insert(&change.key, change.version));
                }
            }
        }
        for change in revisions.iter().flat_map(|revision| &revision.changes) {
            self.pending.applied(&change.key);
        }
        self.state.show(revisions, filling.closes, filling.compacted);
        metrics.all.applied.add(filling.proposals);
        if let Some(launch) = filling.launch {
            self.state.fence.settled(launch.number, launch.proof);
            let taken = launch.at.elapsed();
            self.forgive(taken);
            if taken > SLOW_BATCH {
                metrics.all.slow_batches.inc();
            }
        }
        filling.finish();
    }
}
