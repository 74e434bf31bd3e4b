//! [`Feed`]: everything that happens in a group, for one slave. A cursor over window and history, as a watcher is one,
//! and never a queue: what a slave has not read costs its master nothing.
//!
//! * Numbers are read before the events that they go with: `compacted`, `swept` and `batch` are those of `closed` or of a
//!   moment before.
//! * What the group goes by is read after the events: whatever they came after is in it. It says at which revision it was
//!   recorded, since that may be ahead of them.
//! * A response that is behind says how far it is, and no more: neither a compaction that lies ahead of it nor a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use kubebrain_net::metrics::One;
use kubebrain_proto::peer::{FollowEvent, FollowResponse, FollowRevision};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::Pair;
use kubebrain_shared::range::KeyRange;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::history::{History, HistoryError};
use crate::events::event::RevisionEvents;
use crate::events::hub::Read;
use crate::state::group::GroupState;
use crate::store::Store;

/// Events of one response end with the revision that passes this.
const RESPONSE_BYTES: usize = 1 << 20;
/// Between two responses while nothing happens.
const QUIET_MAX: Duration = Duration::from_millis(500);

impl Store {
    /// Everything that changes from revision `from` on, in order and whole revisions, with how far that is; 0: what comes
    /// after the first response's `closed`. The first response comes at once, others whenever one of their numbers
    /// changes, and each half second. It ends when the store is closed and has said everything.
    ///
    /// # Errors
    /// As the end of the stream: [`Fault::Compacted`] where what comes next is compacted, [`Fault::LeaderChanged`] of one
    /// that is not the master, [`Fault::Timeout`] where history was not read.
    pub fn feed(
        &self,
        from: u64,
    ) -> impl Stream<Item = Result<FollowResponse, Fault>> + Send + 'static + use<> {
        Feed::new(self.state().clone(), self.swept().clone(), from).into_stream()
    }
}

/// A cursor over the events of a group, for one slave.
struct Feed {
    state: Arc<GroupState>,
    swept: watch::Receiver<u64>,
    /// The next revision that is wanted; 0 until the first response of one that begins now.
    cursor: u64,
    history: History,
    /// What history gave and is not sent.
    ready: VecDeque<RevisionEvents>,
    /// What it was told that the group goes by.
    placed: Option<(u64, Pair)>,
    /// The last response, without its events.
    told: Option<FollowResponse>,
    told_at: Instant,
    _counted: One,
}

impl Feed {
    /// From revision `from` on; 0: after the first response's `closed`.
    fn new(state: Arc<GroupState>, swept: watch::Receiver<u64>, from: u64) -> Self {
        let counted = One::of(&state.metrics.watch.followers);
        Self {
            state,
            swept,
            cursor: from,
            history: History::default(),
            ready: VecDeque::new(),
            placed: None,
            told: None,
            told_at: Instant::now(),
            _counted: counted,
        }
    }

    /// As a stream. It ends when all is told that a master will ever say.
    fn into_stream(self) -> impl Stream<Item = Result<FollowResponse, Fault>> + Send {
        futures_util::stream::unfold(Some(self), |feed| async {
            let mut feed = feed?;
            match feed.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(feed))),
                Ok(None) => None,
                Err(fault) => Some((Err(fault), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<FollowResponse>, Fault> {
        let state = self.state.clone();
        loop {
            let mut moved = std::pin::pin!(state.hub.moved());
            moved.as_mut().enable();
            if state.has_ended() || state.is_slave() {
                return Err(Fault::LeaderChanged);
            }
            // Before anything is read: then what is read is all.
            let over = state.is_closed();
            if let Some(response) = self.look().await? {
                return Ok(Some(response));
            }
            if over {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = moved => {}
                _ = state.ended() => {}
                () = sleep_until(self.told_at + QUIET_MAX) => {}
            }
        }
    }

    /// A response, if there is anything to say.
    async fn look(&mut self) -> Result<Option<FollowResponse>, Fault> {
        let state = &self.state;
        let mut response = FollowResponse {
            epoch: state.identity().epoch,
            revisions: Vec::new(),
            closed: 0,
            compacted: state.compacted(),
            placement: None,
            leaving: state.is_leaving(),
            swept: self.swept.borrow().cast_signed(),
            batch: 0,
        };
        let settled = state.fence.settled_batch();
        if self.cursor == 0 {
            self.cursor = state.hub.closed() + 1;
        }
        let (revisions, closed) = loop {
            if !self.ready.is_empty() {
                break self.take_ready();
            }
            match state.hub.since(self.cursor, RESPONSE_BYTES) {
                Read::Closed(events, closed) => {
                    response.batch = settled;
                    break (events, closed);
                }
                Read::Events(events, next) => break (events, next - 1),
                Read::Evicted => {
                    let page = self.history.page(state, &KeyRange::ALL, self.cursor).await;
                    let page = page.map_err(|error| self.fault(&error))?;
                    let moves = page.next > self.cursor;
                    self.ready.extend(page.events);
                    self.cursor = self.cursor.max(page.next);
                    if moves && self.ready.is_empty() {
                        break (Vec::new(), self.cursor - 1);
                    }
                }
            }
        };
        // After the events: what they came after is in it.
        let held = self.state.held.load_full();
        response.placement = Some(held.tell(self.placed));
        let before = self.told.as_ref();
        response.closed = closed.cast_signed().max(before.map_or(0, |told| told.closed));
        self.cursor = self.cursor.max(closed + 1);
        if response.compacted > response.closed {
            response.compacted = before.map_or(-1, |told| told.compacted);
        }
        let now = (held.document().id().lineage, held.pair());
        let still = revisions.is_empty()
            && before.is_some_and(|told| {
                let numbers = |of: &FollowResponse| (of.epoch, of.closed, of.compacted, of.leaving);
                numbers(told) == numbers(&response) && self.placed == Some(now)
            });
        if still && self.told_at.elapsed() < QUIET_MAX {
            return Ok(None);
        }
        self.placed = Some(now);
        self.told = Some(FollowResponse { placement: None, ..response.clone() });
        self.told_at = Instant::now();
        response.revisions = revisions.iter().map(revision).collect();
        Ok(Some(response))
    }

    /// As much as one response takes, and what is closed by it.
    fn take_ready(&mut self) -> (Vec<RevisionEvents>, u64) {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < RESPONSE_BYTES
            && let Some(revision) = self.ready.pop_front()
        {
            bytes += revision.events.iter().map(|event| event.kv.len()).sum::<usize>();
            taken.push(revision);
        }
        let last = taken.last().map_or(0, |last| last.revision);
        let closed = if self.ready.is_empty() { self.cursor - 1 } else { last };
        (taken, closed)
    }

    fn fault(&self, error: &HistoryError) -> Fault {
        match error {
            HistoryError::Compacted(_) => Fault::Compacted,
            error => {
                tracing::warn!(group = %self.state.group, "history for a slave was not read: {error}");
                Fault::Timeout
            }
        }
    }
}

fn revision(of: &RevisionEvents) -> FollowRevision {
    let events = of.events.iter().map(|event| FollowEvent { deleted: event.deleted, kv: event.kv.clone() });
    FollowRevision { revision: of.revision.cast_signed(), events: events.collect() }
}
