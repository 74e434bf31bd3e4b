//! Creates of a [`WatchStream`], in the order of the client's requests.
//!
//! A watcher *from now* is told "created" at a revision W that every group of its keys has reached: then nothing is written
//! at or below W any more, whoever writes. A group that is behind is raised first. Creates behind it wait, since clients
//! tell answers apart by their order; everything else on the stream goes on.
//!
//! A group that is away is waited for as long as any request is tried again. Then the create is refused with "no leader",
//! as etcd ends watches of whom it cannot serve: a client of etcd sends its next create only after an answer to the one
//! before, so that a create which stayed open would hold up its watchers in all other groups for as long as the group is
//! away. A watcher from a named revision needs no "now" and is created at once; it is silent until its group answers.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use kubebrain_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;
use tokio::time::timeout;

use super::answer::NO_WATCHER;
use super::creates::Waiting;
use super::stream::WatchStream;
use super::watcher::check;
use crate::classify::Span;
use crate::core::Core;

const ADVANCE_PAUSE: Duration = Duration::from_millis(100);

impl WatchStream {
    pub(super) fn create(&mut self, create: WatchCreateRequest) {
        match self.creating.raising {
            Some(_) => self.creating.waiting.push_back(Waiting::Create(create)),
            None => self.begin(create),
        }
    }

    pub(super) fn cancel(&mut self, watch_id: i64) {
        if !self.watchers.contains_key(&watch_id) && self.creating.will_create(watch_id) {
            return self.creating.waiting.push_back(Waiting::Cancel(watch_id));
        }
        if self.remove(watch_id) {
            let floor = self.core.floor.get();
            self.say(floor, WatchResponse { watch_id, canceled: true, ..<_>::default() });
        }
    }

    /// The next step of creates; true if something was done.
    pub(super) fn poll_creating(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((_, _, raising)) = &mut self.creating.raising else { return false };
        let Poll::Ready(is_raised) = raising.as_mut().poll(cx) else { return false };
        if let Some((create, now, _)) = self.creating.raising.take() {
            match is_raised {
                true => self.finish(create, now),
                false => self.refuse(Fault::NoLeader.wire().1),
            }
        }
        while self.creating.raising.is_none()
            && let Some(next) = self.creating.waiting.pop_front()
        {
            match next {
                Waiting::Create(create) => self.begin(create),
                Waiting::Cancel(id) => self.cancel(id),
            }
        }
        true
    }

    fn begin(&mut self, create: WatchCreateRequest) {
        let create = match self.judge_create(create) {
            Ok(create) => create,
            Err(reason) => return self.refuse(reason),
        };
        let now = self.core.floor.get();
        let raises = create.start_revision == 0 && !self.core.config.planted(|seams| seams.create_unraised);
        if raises && !are_at(&self.core, &span(&create), now) {
            let raising = Box::pin(raise(Arc::clone(&self.core), span(&create), now));
            self.creating.raising = Some((create, now, raising));
        } else {
            self.finish(create, now);
        }
    }

    /// Answers a create whose groups have all reached `now`, if it is one from now on.
    fn finish(&mut self, create: WatchCreateRequest, now: Revision) {
        let floor = self.core.floor.get();
        let now = if are_at(&self.core, &span(&create), floor) { floor } else { now };
        let id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        let named = Revision::checked_from(create.start_revision).unwrap_or(Revision::MAX);
        let (said, delivered) = match named {
            Revision::ZERO => (now, now),
            named => (floor, named.previous()),
        };
        self.say(said, WatchResponse { watch_id: id, created: true, ..<_>::default() });
        self.admit(id, Arc::new(create), named, delivered);
    }

    fn judge_create(&self, create: WatchCreateRequest) -> Result<WatchCreateRequest, &'static str> {
        match check(create)? {
            _ if self.watchers.len() >= self.core.config.watchers_max => Err("etcdserver: too many requests"),
            create if create.watch_id != 0 && self.watchers.contains_key(&create.watch_id) => {
                Err("mvcc: duplicate watch ID provided on the WatchStream")
            }
            create => Ok(create),
        }
    }

    fn refuse(&mut self, reason: &str) {
        let cancel_reason = reason.into();
        let refused = WatchResponse { created: true, canceled: true, cancel_reason, ..<_>::default() };
        self.say(self.core.floor.get(), WatchResponse { watch_id: NO_WATCHER, ..refused });
    }
}

fn span(create: &WatchCreateRequest) -> Span {
    Span { key: create.key.clone(), end: create.range_end.clone() }
}

/// True if every group of these keys is known to have come so far.
fn are_at(core: &Core, span: &Span, revision: Revision) -> bool {
    core.table().owners(span).iter().all(|group| group.known() >= revision)
}

/// Raises the groups of these keys, by the newest table; false if one of them does not answer in time.
async fn raise(core: Arc<Core>, span: Span, to: Revision) -> bool {
    let work = async {
        loop {
            let behind = core.table().owners(&span).into_iter().filter(|group| group.known() < to);
            let behind: Vec<_> = behind.collect();
            if behind.is_empty() {
                return;
            }
            let rest = core.changes().rest(ADVANCE_PAUSE);
            let asked = join_all(behind.iter().map(|group| core.advance_once(group, to))).await;
            if asked.iter().any(Result::is_err) {
                rest.await;
            }
        }
    };
    timeout(core.config.retry_for, work).await.is_ok()
}
