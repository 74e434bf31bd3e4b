//! How a [`WatchStream`]'s watchers are served: which group streams they have, and what comes of their signals.

use std::sync::Arc;
use std::task::{Context, Poll};

use kubebrain_net::metrics::One;
use kubebrain_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;

use super::answer::{self, Answer, NO_WATCHER};
use super::moving::Stand;
use super::part::PartId;
use super::progress::{Manual, Verdict, WatcherProgress, judge};
use super::signal::Signal;
use super::stream::WatchStream;
use super::watcher::{Merged, Route, Watcher};

/// Events of one merged response, about.
const BATCH_BYTES: usize = 256 * 1024;

impl WatchStream {
    /// A new watcher, which the client knows of already. It wants nothing at or below `delivered`.
    pub(super) fn admit(
        &mut self,
        id: i64,
        create: Arc<WatchCreateRequest>,
        named: Revision,
        delivered: Revision,
    ) {
        let route = Route::Direct { group: self.core.table().home().name().clone(), part: PartId::default() };
        let counted = One::of(&self.core.config.metrics.all.watchers);
        // Who begins now knows from the answer to its create how far that is.
        let told = if named == Revision::ZERO { delivered } else { Revision::ZERO };
        let document = self.core.table().document().clone();
        let watcher = Watcher { create, named, told, route, document, _counted: counted };
        self.place(id, watcher, &Stand::at(delivered));
    }

    /// Ends a watcher; false if there is none.
    pub(super) fn remove(&mut self, id: i64) -> bool {
        let Some(watcher) = self.watchers.remove(&id) else { return false };
        self.detach(&watcher.route);
        self.judge_progress();
        true
    }

    pub(super) fn detach(&mut self, route: &Route) {
        let Route::Direct { group, part } = route else { return };
        self.clients.remove(part);
        if let Some(stream) = self.shared.get_mut(group) {
            stream.remove(*part);
            if stream.is_empty() {
                self.shared.remove(group);
            }
        }
    }

    /// Everything at or below it was sent to the client, or is on its way out.
    pub(super) fn delivered(&self, watcher: &Watcher) -> Revision {
        match &watcher.route {
            Route::Direct { group, part } => {
                self.shared.get(group).and_then(|stream| stream.closed(*part)).unwrap_or_default()
            }
            Route::Merged(merged) => merged.merge.delivered(),
        }
    }

    /// One step of one group stream; true if something was done. Everybody's turn comes.
    pub(super) fn poll_group_streams(&mut self, cx: &mut Context<'_>) -> bool {
        self.turn = self.turn.wrapping_add(1);
        let shared_first = self.turn.is_multiple_of(2);
        [shared_first, !shared_first].into_iter().any(|shared| match shared {
            true => self.poll_shared(cx),
            false => self.poll_merged(cx),
        })
    }

    /// While a question for progress waits, what has answered it is held back a moment.
    fn held(&self) -> Option<Revision> {
        self.manual.as_ref().filter(|manual| manual.is_holding()).map(|manual| manual.target)
    }

    fn poll_shared(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.held();
        let count = self.shared.len();
        let first = self.turn % count.max(1);
        let mut found: Option<(GroupName, Signal)> = None;
        for step in 0..count {
            let Some((name, stream)) = self.shared.iter_mut().nth((first + step) % count) else { break };
            let read = held.is_none_or(|target| !stream.has_closed(target));
            if let Poll::Ready(signal) = stream.poll(cx, read) {
                found = Some((name.clone(), signal));
                break;
            }
        }
        let Some((_, signal)) = found else { return false };
        self.act(signal);
        self.judge_progress();
        true
    }

    fn act(&mut self, signal: Signal) {
        match signal {
            Signal::Events { part, answer, last } => self.pass_on(part, &answer, last),
            Signal::Progress { part, revision } => {
                if let Some(id) = self.clients.get(&part).copied() {
                    self.notify(id, revision);
                }
            }
            Signal::Closed => {}
            Signal::Ended { part } => {
                if let Some(id) = self.clients.get(&part).copied() {
                    self.move_on(id);
                }
            }
            Signal::Compacted { part, at } => {
                if let Some(id) = self.clients.get(&part).copied() {
                    self.compacted(id, at);
                }
            }
            Signal::Cancelled { part, reason } => {
                if let Some(id) = self.clients.get(&part).copied() {
                    self.cancelled(id, reason);
                }
            }
        }
    }

    fn pass_on(&mut self, part: PartId, answer: &Answer, last: Revision) {
        let Some(id) = self.clients.get(&part).copied() else { return };
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        watcher.told = watcher.told.max(last);
        let bytes_max = self.core.config.message_bytes_max();
        let frames = match watcher.create.fragment {
            true => answer.fragments(id, bytes_max),
            false => vec![answer.readdressed(id)],
        };
        frames.into_iter().for_each(|frame| self.push(frame));
    }

    /// Periodic progress, to who asked for it.
    fn notify(&mut self, id: i64, revision: Revision) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        if watcher.create.progress_notify && revision >= watcher.named && revision >= watcher.told {
            watcher.told = revision;
            self.say(revision, WatchResponse { watch_id: id, ..<_>::default() });
        }
    }

    /// As etcd: no reason, and no revision in the header.
    fn compacted(&mut self, id: i64, at: Revision) {
        let response =
            WatchResponse { watch_id: id, canceled: true, compact_revision: at.to_wire(), ..<_>::default() };
        self.say(Revision::ZERO, response);
        // after that: a progress which waited for this watcher alone must not overtake its end
        self.remove(id);
    }

    fn cancelled(&mut self, id: i64, cancel_reason: String) {
        let floor = self.core.floor.get();
        self.say(floor, WatchResponse { watch_id: id, canceled: true, cancel_reason, ..<_>::default() });
        self.remove(id);
    }

    fn poll_merged(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.held();
        let room = self.core.config.merge_buffer_bytes_max;
        let count = self.watchers.len();
        let first = self.turn % count.max(1);
        let mut found = None;
        for (id, watcher) in self.watchers.iter_mut().skip(first) {
            found = poll_one(cx, watcher, held, room).map(|step| (*id, step));
            if found.is_some() {
                break;
            }
        }
        if found.is_none() {
            for (id, watcher) in self.watchers.iter_mut().take(first) {
                found = poll_one(cx, watcher, held, room).map(|step| (*id, step));
                if found.is_some() {
                    break;
                }
            }
        }
        match found {
            None => return false,
            Some((id, Step::Send)) => self.send_batch(id),
            Some((id, Step::Notify(revision))) => self.notify(id, revision),
            Some((_, Step::Moved)) => {}
            Some((id, Step::Ended)) => self.move_on(id),
            Some((id, Step::Compacted(at))) => self.compacted(id, at),
            Some((id, Step::Cancelled(reason))) => self.cancelled(id, reason),
        }
        self.judge_progress();
        true
    }

    fn send_batch(&mut self, id: i64) {
        let identity = self.core.identity();
        let bytes_max = self.core.config.message_bytes_max();
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let Route::Merged(merged) = &mut watcher.route else { return };
        let Some(batch) = merged.merge.take(BATCH_BYTES) else { return };
        merged.reset_notified();
        watcher.told = watcher.told.max(batch.revision);
        let head = answer::head(identity, batch.revision);
        let frames = match watcher.create.fragment {
            true => answer::fragments(&head, id, &batch.events, bytes_max),
            false => vec![answer::events_frame(&head, id, &batch.events, false)],
        };
        frames.into_iter().for_each(|frame| self.push(frame));
    }

    /// Looks whether a question for progress can be answered now, and makes those who are behind hurry.
    pub(super) fn judge_progress(&mut self) {
        let Some(target) = self.manual.as_ref().map(|manual| manual.target) else { return };
        let progress = |watcher: &Watcher| WatcherProgress {
            named: watcher.named,
            delivered: self.delivered(watcher),
            told: watcher.told,
        };
        match judge(target, self.watchers.values().map(progress)) {
            Verdict::Wait(needed) => {
                if let Some(manual) = &mut self.manual {
                    manual.target = needed;
                }
                self.shared.values_mut().for_each(|stream| stream.ask(needed));
                self.watchers.values_mut().for_each(|watcher| watcher.ask(needed));
            }
            Verdict::Drop => self.manual = None,
            Verdict::Answer(revision) => {
                let again = self.manual.take().is_some_and(|manual| manual.again);
                for watcher in self.watchers.values_mut() {
                    watcher.told = watcher.told.max(revision);
                }
                self.say(revision, WatchResponse { watch_id: NO_WATCHER, ..<_>::default() });
                if again {
                    self.manual = Some(Manual::new(self.core.floor.get()));
                    self.judge_again();
                }
            }
        }
    }

    /// The question that came meanwhile: often answered by the same.
    fn judge_again(&mut self) {
        let floor = self.core.floor.get();
        let least = self.watchers.values().map(|watcher| self.delivered(watcher)).min();
        match least {
            Some(least) if least >= floor => self.manual = None,
            _ => self.judge_progress(),
        }
    }
}

/// What a merged watcher's step asks of the stream.
enum Step {
    Send,
    Notify(Revision),
    /// Something changed inside.
    Moved,
    /// A group does not serve its part any more.
    Ended,
    Compacted(Revision),
    Cancelled(String),
}

fn poll_one(
    cx: &mut Context<'_>,
    watcher: &mut Watcher,
    held: Option<Revision>,
    room: usize,
) -> Option<Step> {
    let Route::Merged(merged) = &mut watcher.route else { return None };
    if merged.merge.has_batch() {
        return Some(Step::Send);
    }
    merged.hurry();
    if merged.take_notified() {
        return Some(Step::Notify(merged.merge.delivered()));
    }
    let free = held.is_none_or(|target| merged.merge.delivered() < target);
    let Merged { merge, lanes, .. } = &mut **merged;
    for (index, lane) in lanes.iter_mut().enumerate() {
        let read = free && merge.has_room(index, room);
        let Poll::Ready(signal) = lane.stream.poll(cx, read) else { continue };
        let step = match signal {
            Signal::Events { answer, .. } => match answer.events() {
                Ok(events) => {
                    merge.push(index, events);
                    Step::Moved
                }
                Err(error) => Step::Cancelled(format!("kubebrain: events cannot be read: {error}")),
            },
            Signal::Progress { .. } => {
                lane.notified = true;
                Step::Moved
            }
            Signal::Closed => Step::Moved,
            Signal::Ended { .. } => Step::Ended,
            Signal::Compacted { at, .. } => Step::Compacted(at),
            Signal::Cancelled { reason, .. } => Step::Cancelled(reason),
        };
        merged.settle();
        return Some(step);
    }
    None
}
