//! [`WatchStream`]: one client stream with all its watchers. It is pulled: what the client does not take is not made.
//!
//! Order on the stream: an answer to a create before that watcher's events; a progress after every event that it covers.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use kubebrain_net::metrics::One;
use kubebrain_proto::etcdserverpb::watch_create_request::FilterType;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use kubebrain_shared::wire::{put_bytes_field, put_varint_field};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::Status;

use super::watcher::{Step, Watcher, Wish};
use crate::decide::held::{Gives, Held};
use crate::decide::identity::put_header;
use crate::events::hub::{Registration, Signal};
use crate::store::Store;

/// How a stream behaves.
#[derive(Clone, Copy, Debug)]
pub struct StreamConfig {
    /// Between two progress notifications of a quiet watcher that asked for them. etcd's default is 10 minutes.
    pub progress_interval: Duration,
    /// The document by which ranges over several groups are watched in parts.
    pub part: Option<DocumentId>,
    /// A proxy listens: it is told of each watcher whose keys go to another group. Progress is told below the start of a watcher too: there is nothing below it that it could miss.
    pub tells_all: bool,
}

/// One client stream with all its watchers.
pub struct WatchStream<S> {
    store: Store,
    inbound: Option<S>,
    config: StreamConfig,
    /// By what its watchers were checked.
    held: Arc<Held>,
    /// What they watch.
    generation: u64,
    stop: Stop,
    signal: Arc<Signal>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// Messages that go out before anything else.
    ready: VecDeque<Ready>,
    /// Watchers that have something to read.
    work: VecDeque<i64>,
    /// A watcher from now on, and whether "now" is this master's still. Requests behind it wait, everything else goes on.
    fencing: Option<(WatchCreateRequest, Fencing)>,
    /// The client has asked for progress.
    asked: bool,
    tick: Interval,
    _counted: One,
}

/// A message that goes out before anything else.
struct Ready {
    /// Its watcher; -1 for all of them.
    id: i64,
    /// It says how far that is, and nothing else.
    progress: bool,
    message: Bytes,
}

type Fencing = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// What a create is refused with, in etcd's words.
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

impl<S> WatchStream<S>
where
    S: Stream<Item = Result<WatchRequest, Status>> + Unpin + Send,
{
    /// Serves the watchers that `inbound` creates.
    pub fn new(store: Store, inbound: S, config: StreamConfig, stop: Stop) -> Self {
        let interval = config.progress_interval.max(Duration::from_millis(100));
        let interval = interval + interval.mul_f64(rand::random_range(0.0..0.1));
        let mut tick = interval_at(Instant::now() + interval, interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let held = store.state().held.load_full();
        let generation = store.state().generation();
        let counted = One::of(&store.state().metrics.watch.streams);
        Self {
            store,
            inbound: Some(inbound),
            config,
            held,
            generation,
            stop,
            signal: Arc::default(),
            watchers: BTreeMap::new(),
            next_id: 0,
            ready: VecDeque::new(),
            work: VecDeque::new(),
            fencing: None,
            asked: false,
            tick,
            _counted: counted,
        }
    }

    /// The responses, encoded.
    pub fn into_messages(self) -> impl Stream<Item = Result<Bytes, Status>> + Send
    where
        S: 'static,
    {
        futures_util::stream::unfold(Some(self), |stream| async {
            let mut stream = stream?;
            match stream.next().await {
                Ok(message) => Some((Ok(message), Some(stream))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Bytes, Status> {
        loop {
            self.work.extend(self.signal.take());
            self.check_generation()?;
            self.check_placement()?;
            if let Some(ready) = self.ready.pop_front() {
                return Ok(ready.message);
            }
            let busy = !self.work.is_empty();
            if !busy && std::mem::take(&mut self.asked) {
                self.answer_progress();
                continue;
            }
            let stop = self.stop.clone();
            tokio::select! {
                biased;
                () = stop.asked() => return Err(self.store.state().leaves_as().into()),
                fenced = fenced(&mut self.fencing) => {
                    fenced?;
                    if let Some((create, _)) = self.fencing.take() {
                        self.create(create);
                    }
                }
                request = next_request(&mut self.inbound), if self.fencing.is_none() => match request {
                    Some(request) => self.take(request?)?,
                    None => self.inbound = None,
                },
                _ = self.tick.tick() => self.send_progress(),
                () = std::future::ready(()), if busy => self.work().await?,
                () = self.signal.marked(), if !busy => {}
            }
        }
    }

    /// Ends watchers whose keys go to another group: nothing that they would say from now on is true of them, and what is
    /// ready may have been read too late. Whoever watches resumes where the keys are. A client's stream ends with them.
    fn check_placement(&mut self) -> Result<(), Status> {
        // Asked for each message: the count of owners moves only where the placement did.
        let held = self.store.state().held.load();
        if Arc::ptr_eq(&held, &self.held) {
            return Ok(());
        }
        let held = arc_swap::Guard::into_inner(held);
        #[cfg(any(test, feature = "faults"))]
        if self.store.state().planted.keeps_watches {
            return Ok(());
        }
        let (group, part) = (&self.store.state().group, self.config.part);
        // What has been another group's meanwhile is not gone on with either.
        let follows = self.held.is_followed_by(&held);
        let goes = |watcher: &Watcher| {
            !follows || held.check(group, std::slice::from_ref(&watcher.wish.keys), part).is_err()
        };
        let gone: Vec<i64> =
            self.watchers.iter().filter(|(_, watcher)| goes(watcher)).map(|(id, _)| *id).collect();
        if !gone.is_empty() && !self.config.tells_all {
            return Err(Fault::LeaderChanged.into());
        }
        for id in gone {
            self.hand_over(id, &held);
        }
        self.held = held;
        Ok(())
    }

    /// Ends a watcher whose keys go to another group, or which was created by another document, and says up to where all was
    /// sent, if it was.
    fn hand_over(&mut self, id: i64, held: &Held) {
        let Some(watcher) = self.watchers.get(&id) else { return };
        let (state, keys) = (self.store.state(), &watcher.wish.keys);
        let closed = state.hub.closed_for(std::iter::once(&watcher.registration));
        let closed = closed.filter(|_| watcher.is_synced() && !held.is_nothing());
        let closed = closed.filter(|_| self.held.is_followed_by(held));
        let sent = match (closed, held.loses(&self.held, &state.group, keys)) {
            (None, _) => 0,
            (Some(closed), None) => closed,
            // There are no events between what was compacted when the keys were given away and that moment; what was closed
            // later is another group's to say. An adoption tells of what it gives away itself.
            (Some(closed), Some(document)) => match held.gives() {
                Some(Gives { number, revision, compacted })
                    if number == document.number() && closed.cast_signed() >= compacted =>
                {
                    revision.get()
                }
                _ => 0,
            },
        };
        self.remove(id);
        #[cfg(any(test, feature = "faults"))]
        let sent = match held.gives().filter(|_| self.store.state().planted.claims_all_sent) {
            Some(gives) => gives.revision.get(),
            None => sent,
        };
        // Progress may have been read above that; who is left is told again.
        let before = self.ready.len();
        let keeps = |ready: &Ready| !ready.progress || (ready.id != id && ready.id != NO_WATCHER);
        #[cfg(any(test, feature = "faults"))]
        let keeps = |ready: &Ready| self.store.state().planted.keeps_progress || keeps(ready);
        self.ready.retain(keeps);
        self.asked |= self.ready.len() < before;
        self.control(id, sent, |response| {
            put_varint_field(response, 4, 1);
            put_bytes_field(response, 6, MOVED_REASON.as_bytes());
        });
    }

    /// Ends a stream with a watcher where everything was loaded anew under it: nothing tells what it has missed.
    fn check_generation(&mut self) -> Result<(), Status> {
        let generation = self.store.state().generation();
        if generation != self.generation && !self.watchers.is_empty() {
            return Err(Fault::LeaderChanged.into());
        }
        self.generation = generation;
        Ok(())
    }

    fn take(&mut self, request: WatchRequest) -> Result<(), Status> {
        match request.request_union {
            // A slave without keys has no place to begin at.
            Some(RequestUnion::CreateRequest(_)) if !self.store.state().follow.is_loaded() => {
                return Err(Fault::LeaderChanged.into());
            }
            Some(RequestUnion::CreateRequest(create)) if create.start_revision == 0 => {
                let (store, ticket) = (self.store.clone(), self.store.ticket());
                self.fencing = Some((create, Box::pin(async move { store.fence(ticket).await })));
            }
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.asked = true,
            None => {}
        }
        Ok(())
    }

    fn cancel(&mut self, id: i64) {
        if self.remove(id) {
            let header = self.store.state().hub.closed();
            self.control(id, header, |response| put_varint_field(response, 4, 1));
        }
    }

    fn create(&mut self, create: WatchCreateRequest) {
        let closed = self.store.state().hub.closed();
        let key = if create.key.is_empty() { Bytes::from_static(b"\0") } else { create.key };
        let keys = KeyRange::from_wire(key, create.range_end);
        let refusal = if create.start_revision < 0 {
            Some(Fault::Compacted.wire().1.to_owned())
        } else if keys.is_empty() {
            Some(EMPTY_RANGE.to_owned())
        } else if create.watch_id != 0 && self.watchers.contains_key(&create.watch_id) {
            Some(DUPLICATE_ID.to_owned())
        } else {
            let owned = self.store.owns(std::slice::from_ref(&keys), self.config.part);
            owned.err().map(|unserved| format!("{NOT_OWNER_REASON}: {unserved}"))
        };
        if let Some(reason) = refusal {
            self.control(NO_WATCHER, closed, |response| {
                put_varint_field(response, 3, 1);
                put_varint_field(response, 4, 1);
                put_bytes_field(response, 6, reason.as_bytes());
            });
            return;
        }
        let id = match create.watch_id {
            0 => self.free_id(),
            id => id,
        };
        self.control(id, closed, |response| put_varint_field(response, 3, 1));
        if create.start_revision > 0 && self.is_gone(create.start_revision) {
            self.cancel_compacted(id, Revision::ZERO);
            return;
        }
        let start = match create.start_revision {
            0 => closed + 1,
            start => start.cast_unsigned(),
        };
        let has = |filter: FilterType| create.filters.contains(&(filter as i32));
        let wish = Wish {
            keys: keys.clone(),
            start,
            named: if self.config.tells_all { 0 } else { create.start_revision.cast_unsigned() },
            prev_kv: create.prev_kv,
            no_put: has(FilterType::Noput),
            no_delete: has(FilterType::Nodelete),
            fragment: create.fragment,
            progress: create.progress_notify,
        };
        let metrics = &self.store.state().metrics.watch;
        let registration = Registration::new(id, self.signal.clone(), keys);
        self.watchers.insert(id, Watcher::new(id, wish, registration, metrics));
        self.work.push_back(id);
    }

    /// True if not all is known any more that happened from `start` on. At the compacted revision itself something may have
    /// been deleted, which the log still has; but not of another group's, whose keys came here with a document.
    fn is_gone(&self, start: i64) -> bool {
        let state = self.store.state();
        let compacted = state.compacted();
        start < compacted || (start == compacted && state.held.load().document().compacted() == compacted)
    }

    fn free_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// `at` may be further than what is known here: it is told by another master's compaction.
    fn cancel_compacted(&mut self, id: i64, at: Revision) {
        let compacted = self.store.state().compacted().max(at.to_wire());
        self.control(id, 0, |response| {
            put_varint_field(response, 4, 1);
            put_varint_field(response, 5, compacted.cast_unsigned());
        });
    }

    /// Queues a response without events.
    fn control(&mut self, id: i64, header: u64, rest: impl FnOnce(&mut BytesMut)) {
        let mut response = BytesMut::with_capacity(64);
        put_header(&mut response, Some(&self.store.state().identity()), header);
        put_varint_field(&mut response, 2, id.cast_unsigned());
        rest(&mut response);
        self.ready.push_back(Ready { id, progress: false, message: response.freeze() });
    }

    /// Queues a response that says how far a watcher is, or all are.
    fn progress(&mut self, id: i64, closed: u64) {
        self.control(id, closed, |_| {});
        if let Some(ready) = self.ready.back_mut() {
            ready.progress = true;
        }
    }

    fn events(&mut self, id: i64, responses: Vec<Bytes>) {
        self.ready.extend(responses.into_iter().map(|message| Ready { id, progress: false, message }));
    }

    fn remove(&mut self, id: i64) -> bool {
        let Some(watcher) = self.watchers.remove(&id) else { return false };
        self.store.state().hub.remove(&watcher.registration);
        true
    }

    /// Lets one watcher read on.
    async fn work(&mut self) -> Result<(), Status> {
        let Some(id) = self.work.pop_front() else { return Ok(()) };
        let Some(watcher) = self.watchers.get_mut(&id) else { return Ok(()) };
        let fragment_bytes = self.store.limits().request_bytes_max + (512 << 10);
        match watcher.step(self.store.state(), fragment_bytes).await {
            Ok(Step::Responses(responses)) => {
                self.events(id, responses);
                self.work.push_back(id);
            }
            Ok(Step::Synced(responses)) => self.events(id, responses),
            Ok(Step::Compacted(at)) => {
                self.remove(id);
                self.cancel_compacted(id, at);
            }
            Err(error) => {
                tracing::error!("history for a watcher was not read: {error}");
                return Err(Fault::Timeout.into());
            }
        }
        Ok(())
    }

    /// What everybody on this stream has closed, if all are synced and none has anything to read.
    fn closed(&self) -> Option<u64> {
        let synced = self.watchers.values().all(Watcher::is_synced);
        let registrations = self.watchers.values().map(|watcher| &watcher.registration);
        synced.then(|| self.store.state().hub.closed_for(registrations)).flatten()
    }

    fn answer_progress(&mut self) {
        let Some(closed) = self.closed().filter(|_| !self.watchers.is_empty()) else { return };
        if self.watchers.values().all(|watcher| watcher.wish.named <= closed) {
            self.progress(NO_WATCHER, closed);
        }
    }

    fn send_progress(&mut self) {
        let hub = &self.store.state().hub;
        let mut quiet = Vec::new();
        for (id, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| watcher.wish.progress) {
            let spoke = std::mem::take(&mut watcher.spoke);
            let closed = hub.closed_for(std::iter::once(&watcher.registration));
            if let Some(closed) =
                closed.filter(|closed| watcher.is_synced() && !spoke && watcher.wish.named <= *closed)
            {
                quiet.push((*id, closed));
            }
        }
        for (id, closed) in quiet {
            self.progress(id, closed);
        }
    }
}

/// How a refusal of keys that another group owns begins.
pub const NOT_OWNER_REASON: &str = "kubebrain: not-owner";
/// Why a proxy's watcher ends whose keys go to another group. The header's revision says up to where all was sent; 0: not
/// all may have been.
pub const MOVED_REASON: &str = "kubebrain: moved";
/// Instead of a watcher's id: all of them, or none.
const NO_WATCHER: i64 = -1;

impl<S> Drop for WatchStream<S> {
    fn drop(&mut self) {
        for watcher in self.watchers.values() {
            self.store.state().hub.remove(&watcher.registration);
        }
    }
}

async fn fenced(fencing: &mut Option<(WatchCreateRequest, Fencing)>) -> Result<(), Fault> {
    match fencing {
        Some((_, fencing)) => fencing.await,
        None => std::future::pending().await,
    }
}

async fn next_request<S>(inbound: &mut Option<S>) -> Option<Result<WatchRequest, Status>>
where
    S: Stream<Item = Result<WatchRequest, Status>> + Unpin,
{
    match inbound {
        Some(inbound) => inbound.next().await,
        None => std::future::pending().await,
    }
}
