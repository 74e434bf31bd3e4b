//! [`Writer`]: what it holds, and its loop.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::fair::Fair;
use kubebrain_shared::group::GroupName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::batch::{Filling, Flying};
use crate::decide::held::Held;
use crate::decide::pending::Pending;
use crate::lead::command::{COMMANDS_MAX, Command};
use crate::load::master::Start;
use crate::rows::number::BatchNumber;
use crate::state::group::GroupState;

/// Commands taken from the inbox at once.
const DRAIN_MAX: usize = 256;
/// The writer shows that it lives at least so often, also where the storage is waited for.
const BEAT: Duration = Duration::from_secs(1);

/// The state of the one task that orders writes.
pub(crate) struct Writer {
    pub(super) state: Arc<GroupState>,
    pub(super) inbox: mpsc::Receiver<Command>,
    /// Commands that wait for the batch that fills. Kinds take turns.
    pub(super) backlog: Fair<Command>,
    /// What goes before them.
    pub(super) urgent: VecDeque<Command>,
    /// What comes behind all of them.
    pub(super) last: Option<Command>,
    pub(super) pending: Pending,
    pub(super) filling: Filling,
    pub(super) flying: Option<Flying>,
    /// The highest revision given out.
    pub(super) counter: u64,
    /// The number of the next batch.
    pub(super) number: BatchNumber,
    /// True if the batch before the next one was tried more than once.
    pub(super) after_repeats: bool,
    /// A new master starts above this revision: it is stored, or in a batch on its way.
    pub(super) ceiling: u64,
    /// The compacted revision, stored or in a batch on its way; -1 where nothing was compacted.
    pub(super) compacted: i64,
    /// Which group each unit of keys is recorded for, of all groups in the store.
    pub(super) owners: HashMap<Bytes, GroupName>,
    /// What the group goes by once what was given out is durable, where that is something else.
    pub(super) placing: Option<Held>,
    pub(super) closing: Option<oneshot::Sender<()>>,
    /// Nobody is left who could send commands: what was taken on is finished, then the task ends.
    pub(super) alone: bool,
    /// Checkpoints of leases are not written before this moment.
    pub(super) checkpoints_from: Instant,
    /// The engine is not asked for values before this moment: it has just not given one.
    pub(super) blind_until: Instant,
}

impl Writer {
    pub(crate) fn new(state: Arc<GroupState>, inbox: mpsc::Receiver<Command>, start: Start) -> Self {
        Self {
            filling: Filling::new(start.counter, state.bounds),
            state,
            inbox,
            backlog: Fair::default(),
            urgent: VecDeque::new(),
            last: None,
            pending: Pending::default(),
            flying: None,
            counter: start.counter,
            number: start.number,
            after_repeats: false,
            ceiling: start.ceiling,
            compacted: start.compacted,
            owners: start.owners,
            placing: None,
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
                    if self.hears_more() =>
                {
                    self.alone = count == 0;
                    commands.drain(..).for_each(|command| self.line_up(command));
                }
                () = tokio::time::sleep_until(due), if self.takes_more() => self.look_after_leases(),
                _ = beats.tick() => {}
            }
            // The batch may be full before all is taken; then the rest waits until that one flies.
            loop {
                while self.takes_more()
                    && let Some(command) = self.next()
                {
                    self.take(command).await;
                }
                self.launch();
                if self.waits_for_nothing() || !self.takes_more() {
                    break;
                }
            }
            if self.alone && self.is_idle() && self.waits_for_nothing() {
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
        self.closing.is_none() && !self.filling.is_full()
    }

    /// Not once it was told to close: what comes behind that is not taken on.
    fn hears_more(&self) -> bool {
        !self.alone && self.closing.is_none() && self.last.is_none() && self.backlog.len() < COMMANDS_MAX
    }

    fn line_up(&mut self, command: Command) {
        match (command.line(), &command) {
            (Some((kind, cost)), _) => self.backlog.push(kind, cost, command),
            (None, Command::Close { .. }) => self.last = Some(command),
            (None, _) => self.urgent.push_back(command),
        }
    }

    fn next(&mut self) -> Option<Command> {
        self.urgent.pop_front().or_else(|| self.backlog.pop()).or_else(|| self.last.take())
    }

    fn waits_for_nothing(&self) -> bool {
        self.urgent.is_empty() && self.backlog.is_empty() && self.last.is_none()
    }

    /// True while nothing may be added for want of space in the engine.
    pub(super) fn is_full(&self) -> bool {
        self.state.share.is_full() || self.state.engine.is_short()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_none() && self.filling.is_empty()
    }
}
