//! [`GroupStream`]: one watch stream to one group, and the parts of watchers that it serves.
//!
//! A loss is not seen outside: each part is created again at its own closed + 1. Before a part is created its group is
//! raised to what the client has seen, so that nothing can appear there below the part's start any more.
//!
//! A part whose keys the group gives away ends alone, in band: where the group says up to where all was sent, that is
//! closed. It rests, and is asked for here again now and then until its owner takes it to whoever has the keys.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kubebrain_net::metrics::One;
use kubebrain_proto::etcdserverpb::WatchCreateRequest;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use tokio::time::{Sleep, sleep, timeout};
use tonic::Status;

use super::answer::{Answer, Kind, NO_WATCHER};
use super::link::{Event, Link};
use super::part::PartId;
use super::signal::Signal;
use crate::core::Core;
use crate::group::Group;
use crate::topology::Rest;

/// How soon a question for progress is asked again, of a brain that does not answer or a slave that has not come so far;
/// doubled up to a second.
const ASK_AGAIN: Duration = Duration::from_millis(10);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);
const ADVANCE_PAUSE: Duration = Duration::from_millis(100);
/// Until a part that was refused is asked for again, unless something changes before; doubled while it is refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
const REFUSED_PAUSE_MAX: Duration = Duration::from_millis(250);
/// How a brain's reason begins that ends a watcher whose keys go to another group.
const MOVED: &str = "kubebrain: moved";

type Advancing = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// See the module.
pub(super) struct GroupStream {
    core: Arc<Core>,
    group: Arc<Group>,
    /// The document by which this group is asked for its part only.
    part: Option<DocumentId>,
    link: Link,
    parts: BTreeMap<PartId, Part>,
    unsent: VecDeque<PartId>,
    unanswered: VecDeque<PartId>,
    /// Until parts that the group does not serve are asked for again.
    rest: Option<Rest>,
    refused_pause: Duration,
    advancing: Option<Advancing>,
    pause: Option<Rest>,
    asking: Option<Asking>,
    _counted: One,
}

/// What one watcher wants of the group.
struct Part {
    create: Arc<WatchCreateRequest>,
    closed: Revision,
    acknowledged: bool,
    /// Acknowledged before the last question for progress was sent.
    covered: bool,
    resumed: bool,
    /// The group does not serve it, by its own words: it rests.
    ended: bool,
}

/// A wish that every part closes `target`.
struct Asking {
    target: Revision,
    again: Option<Pin<Box<Sleep>>>,
    delay: Duration,
}

impl GroupStream {
    pub(super) fn new(core: Arc<Core>, group: Arc<Group>, part: Option<DocumentId>) -> Self {
        let counted = One::of(&core.config.metrics.all.upstream_watches);
        Self {
            _counted: counted,
            core,
            group,
            part,
            link: Link::new(),
            parts: BTreeMap::new(),
            unsent: VecDeque::new(),
            unanswered: VecDeque::new(),
            rest: None,
            refused_pause: REFUSED_PAUSE,
            advancing: None,
            pause: None,
            asking: None,
        }
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Adds a part that wants everything above `closed`. Its id is never used again on this group stream.
    pub(super) fn add(&mut self, id: PartId, create: Arc<WatchCreateRequest>, closed: Revision) {
        let part = Part { create, closed, acknowledged: false, covered: false, resumed: false, ended: false };
        self.parts.insert(id, part);
        self.unsent.push_back(id);
    }

    pub(super) fn remove(&mut self, id: PartId) {
        let removed = self.parts.remove(&id);
        if removed.is_some_and(|part| part.ended) {
            return; // the group has forgotten it already
        }
        let was_sent = !self.unsent.contains(&id);
        self.unsent.retain(|unsent| *unsent != id);
        let answered = was_sent && self.link.requests().is_some_and(|requests| requests.cancel(id));
        if !answered {
            self.unanswered.retain(|unanswered| *unanswered != id);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// What a part has closed, in-band.
    pub(super) fn closed(&self, id: PartId) -> Option<Revision> {
        self.parts.get(&id).map(|part| part.closed)
    }

    /// True of a part that the group does not serve any more, by its own words, and of one that is not here.
    pub(super) fn has_ended(&self, id: PartId) -> bool {
        self.parts.get(&id).is_none_or(|part| part.ended)
    }

    fn wants_link(&self) -> bool {
        self.parts.values().any(|part| !part.ended)
    }

    pub(super) fn has_closed(&self, target: Revision) -> bool {
        self.parts.values().all(|part| part.closed >= target)
    }

    /// Asks until every part has closed `target`. A wish that is under way is not raised: on a busy group it would
    /// never come true.
    pub(super) fn ask(&mut self, target: Revision) {
        if self.asking.is_none() && !self.has_closed(target) {
            self.asking = Some(Asking { target, again: None, delay: ASK_AGAIN });
        }
    }

    /// The next signal. Where the owner has no room, `read` is false and nothing is taken from the stream.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Signal> {
        loop {
            self.poll_rest(cx);
            if self.wants_link() && self.link.is_idle() {
                self.link.open(&self.core, &self.group, self.part);
            }
            self.poll_advance(cx);
            self.send_creates();
            self.poll_asking(cx);
            if !read {
                return Poll::Pending;
            }
            match ready!(self.poll_link(cx)) {
                Event::Lost => self.lost(),
                Event::Message(message) => match Answer::read(message) {
                    Ok(answer) => {
                        if let Some(signal) = self.take(answer) {
                            return Poll::Ready(signal);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(group = %self.group.name(), %error, "a watch response cannot be read");
                        self.lost();
                    }
                },
            }
        }
    }

    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let event = self.link.poll(cx);
            // a rest is over: open at once, or nobody would wake this task
            if event.is_pending() && self.link.is_idle() && self.wants_link() {
                self.link.open(&self.core, &self.group, self.part);
                self.send_creates();
                continue;
            }
            return event;
        }
    }

    /// The stream is gone or of no use: every part is created again on the next one.
    fn lost(&mut self) {
        self.link.lose(&self.group);
        self.unanswered.clear();
        self.unsent = self.parts.iter().filter(|(_, part)| !part.ended).map(|(id, _)| *id).collect();
        for part in self.parts.values_mut() {
            part.acknowledged = false;
            part.covered = false;
            part.resumed = true;
        }
        if let Some(asking) = &mut self.asking {
            asking.again = None;
        }
    }

    /// After a rest, parts that the group did not serve are asked for again.
    fn poll_rest(&mut self, cx: &mut Context<'_>) {
        if self.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(cx).is_ready()) {
            self.rest = None;
            for (id, part) in self.parts.iter_mut().filter(|(_, part)| part.ended) {
                part.ended = false;
                self.unsent.push_back(*id);
            }
        }
    }

    /// What the group must have reached before the next part is created or the next question makes sense.
    fn wanted(&self) -> Revision {
        let floor = self.core.floor.get();
        let next = self.unsent.iter().find_map(|id| self.parts.get(id)).map(|part| part.closed);
        // a start that the client only named raises nobody
        let next = next.filter(|closed| *closed <= floor).unwrap_or_default();
        let asked = self.asking.as_ref().map(|asking| asking.target.min(floor)).unwrap_or_default();
        next.max(asked)
    }

    fn poll_advance(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.pause = None;
            }
            let wanted = self.wanted();
            let advancing = match &mut self.advancing {
                Some(advancing) => advancing,
                None if wanted > self.group.known() => {
                    let (core, group) = (Arc::clone(&self.core), Arc::clone(&self.group));
                    let advance = async move {
                        let late = core.config.retry_for;
                        match timeout(late, core.advance_once(&group, wanted)).await {
                            Ok(advanced) => advanced.map(|_| ()),
                            Err(_) => Err(Status::unavailable("too late")),
                        }
                    };
                    self.advancing.insert(Box::pin(advance))
                }
                None => return,
            };
            let Poll::Ready(advanced) = advancing.as_mut().poll(cx) else { return };
            self.advancing = None;
            if let Err(status) = advanced {
                tracing::debug!(group = %self.group.name(), %status, "could not be advanced");
                self.pause = Some(self.group.changes().rest(ADVANCE_PAUSE));
            }
        }
    }

    fn send_creates(&mut self) {
        let Some(requests) = self.link.requests() else { return };
        let floor = self.core.floor.get();
        while let Some(id) = self.unsent.front().copied() {
            if let Some(part) = self.parts.get(&id) {
                if part.closed <= floor && part.closed > self.group.known() {
                    return;
                }
                let repeat = part.resumed && self.core.config.planted(|seams| seams.resume_at_closed);
                let start = if repeat { part.closed } else { part.closed.next() };
                requests.create(WatchCreateRequest {
                    start_revision: start.to_wire(),
                    progress_notify: true,
                    watch_id: id.to_wire(),
                    fragment: false,
                    ..WatchCreateRequest::clone(&part.create)
                });
                self.unanswered.push_back(id);
            }
            self.unsent.pop_front();
        }
    }

    fn poll_asking(&mut self, cx: &mut Context<'_>) {
        let settled = self.unsent.is_empty() && self.unanswered.is_empty();
        let Some(asking) = &mut self.asking else { return };
        let floor = self.core.floor.get();
        if !settled || asking.target.min(floor) > self.group.known() {
            return;
        }
        let Some(requests) = self.link.requests() else { return };
        if let Some(again) = &mut asking.again
            && again.as_mut().poll(cx).is_pending()
        {
            return;
        }
        requests.progress();
        for part in self.parts.values_mut() {
            part.covered = part.acknowledged;
        }
        let mut again = Box::pin(sleep(asking.delay));
        let _registered = again.as_mut().poll(cx);
        asking.again = Some(again);
        asking.delay = (asking.delay * 2).min(ASK_AGAIN_MAX);
    }

    fn take(&mut self, answer: Answer) -> Option<Signal> {
        // before anybody can see it
        self.core.floor.raise(answer.revision);
        self.group.reached(answer.revision);
        self.link.works();
        if answer.id == NO_WATCHER {
            return self.take_for_all(answer);
        }
        let id = PartId::from_wire(answer.id);
        let part = self.parts.get_mut(&id);
        match (answer.kind.clone(), part) {
            (Kind::Created, part) => {
                self.unanswered.retain(|unanswered| *unanswered != id);
                if let Some(part) = part {
                    part.acknowledged = true;
                    self.refused_pause = REFUSED_PAUSE;
                }
                None
            }
            (_, None) => None, // removed while this was on its way
            (Kind::Events { last }, Some(part)) => {
                part.closed = part.closed.max(last);
                self.settle();
                Some(Signal::Events { part: id, answer, last })
            }
            (Kind::Progress, Some(part)) => {
                part.closed = part.closed.max(answer.revision);
                let revision = part.closed;
                self.settle();
                Some(Signal::Progress { part: id, revision })
            }
            (Kind::Compacted { at }, Some(_)) => {
                self.forget(id);
                Some(Signal::Compacted { part: id, at })
            }
            (Kind::Cancelled { reason }, Some(part)) => {
                // all up to here was sent, where it says a revision
                if reason.starts_with(MOVED)
                    && !self.core.config.planted(|seams| seams.resume_moved_at_own_closed)
                {
                    part.closed = part.closed.max(answer.revision);
                    self.settle();
                }
                self.cancelled(id, reason)
            }
        }
    }

    /// An answer that names no watcher: progress of all, or the refusal of the oldest create.
    fn take_for_all(&mut self, answer: Answer) -> Option<Signal> {
        match answer.kind {
            Kind::Progress => {
                for part in self.parts.values_mut().filter(|part| part.covered) {
                    part.closed = part.closed.max(answer.revision);
                }
                self.settle();
                Some(Signal::Closed)
            }
            Kind::Cancelled { reason } => {
                let refused = self.unanswered.pop_front()?;
                self.cancelled(refused, reason)
            }
            Kind::Created | Kind::Events { .. } | Kind::Compacted { .. } => None,
        }
    }

    fn cancelled(&mut self, id: PartId, reason: String) -> Option<Signal> {
        let part = self.parts.get_mut(&id)?;
        if reason.starts_with("kubebrain:") {
            tracing::debug!(group = %self.group.name(), reason, "a watcher's keys are not the group's");
            (part.acknowledged, part.covered, part.resumed, part.ended) = (false, false, true, true);
            self.unanswered.retain(|unanswered| *unanswered != id);
            if self.rest.is_none() {
                self.rest = Some(self.group.changes().rest(self.refused_pause));
                self.refused_pause = (self.refused_pause * 2).min(REFUSED_PAUSE_MAX);
            }
            self.group.changes().ask(self.group.name());
            return Some(Signal::Ended { part: id });
        }
        self.forget(id);
        Some(Signal::Cancelled { part: id, reason })
    }

    fn forget(&mut self, id: PartId) {
        self.parts.remove(&id);
        self.unanswered.retain(|unanswered| *unanswered != id);
    }

    /// A wish that came true is dropped.
    fn settle(&mut self) {
        if self.asking.as_ref().is_some_and(|asking| self.has_closed(asking.target)) {
            self.asking = None;
        }
    }
}
