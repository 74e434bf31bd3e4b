//! [`WatchStream`]: a client's watch stream, as the body of its answer.
//!
//! Each poll takes at most one request of the client and one signal of the group streams, in turns, and gives at most a few
//! responses; the next poll gives those first. So a client that does not read is not read from either, and a client
//! that floods does not starve its own watchers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use kubebrain_net::metrics::One;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{WatchRequest, WatchResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use super::answer::NO_WATCHER;
use super::creates::Creating;
use super::group_stream::GroupStream;
use super::part::PartId;
use super::progress::Manual;
use super::watcher::Watcher;
use crate::core::Core;
use crate::grpc::{self, Framed};

/// Compaction stays further behind than a quiet group does in this time.
const FRESH_EVERY: Duration = Duration::from_secs(10);

type Changed = Pin<Box<dyn Future<Output = Option<watch::Receiver<DocumentId>>> + Send>>;

pub(super) struct WatchStream {
    pub(super) core: Arc<Core>,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    changed: Option<Changed>,
    input: Option<Body>,
    buffer: BytesMut,
    pub(super) watchers: BTreeMap<i64, Watcher>,
    /// The streams that serve watchers of one group each, by group.
    pub(super) shared: BTreeMap<GroupName, GroupStream>,
    /// Which watcher a part of a shared group stream belongs to.
    pub(super) clients: HashMap<PartId, i64>,
    pub(super) manual: Option<Manual>,
    pub(super) creating: Creating,
    /// Until when groups are waited for that lose keys of watchers.
    pub(super) leaving: Option<Pin<Box<Sleep>>>,
    fresh: Pin<Box<Sleep>>,
    pub(super) turn: usize,
    next_id: i64,
    last_part: PartId,
    out: VecDeque<Bytes>,
    end: Option<Result<(), Status>>,
    ended: bool,
    _counted: One,
}

impl WatchStream {
    pub(super) fn new(core: Arc<Core>, input: Body, stop: Stop) -> Self {
        let changed = changed(core.tables());
        let counted = One::of(&core.config.metrics.all.streams);
        Self {
            core,
            stop: Box::pin(async move { stop.asked().await }),
            changed: Some(changed),
            input: Some(input),
            buffer: BytesMut::new(),
            watchers: BTreeMap::new(),
            shared: BTreeMap::new(),
            clients: HashMap::new(),
            manual: None,
            creating: Creating::default(),
            leaving: None,
            fresh: Box::pin(sleep(FRESH_EVERY)),
            turn: 0,
            next_id: 0,
            last_part: PartId::default(),
            out: VecDeque::new(),
            end: None,
            ended: false,
            _counted: counted,
        }
    }

    pub(super) fn next_part(&mut self) -> PartId {
        self.last_part = self.last_part.next();
        self.last_part
    }

    pub(super) fn push(&mut self, frame: Bytes) {
        self.out.push_back(frame);
    }

    /// A response without events.
    pub(super) fn say(&mut self, revision: Revision, response: WatchResponse) {
        let header = Some(self.core.identity().header(revision));
        self.push(Framed::of(&WatchResponse { header, ..response }).frame());
    }

    /// The next request of the client; true if something was done.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> bool {
        while self.creating.has_room() {
            match grpc::split(&mut self.buffer, self.core.config.message_bytes_max()) {
                Err(status) => {
                    self.end = Some(Err(status));
                    return true;
                }
                Ok(Some(message)) => {
                    match grpc::decode(message) {
                        Ok(request) => self.take(request),
                        Err(status) => self.end = Some(Err(status)),
                    }
                    return true;
                }
                Ok(None) => {}
            }
            let Some(input) = &mut self.input else { return false };
            match Pin::new(input).poll_frame(cx) {
                Poll::Pending => return false,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if self.buffer.is_empty() => self.buffer = BytesMut::from(data),
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(_trailers) => return self.said_all(),
                },
                Poll::Ready(None) => return self.said_all(),
                Poll::Ready(Some(Err(status))) => {
                    self.end = Some(Err(Status::unavailable(status.message())));
                    return true;
                }
            }
        }
        false
    }

    /// The client sends nothing more; as in etcd it still hears, unless it was cut off inside a message.
    fn said_all(&mut self) -> bool {
        self.input = None;
        if !self.buffer.is_empty() {
            self.end = Some(Err(grpc::cut_off()));
        }
        true
    }

    fn take(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress(),
            None => {}
        }
    }

    /// As etcd counts: up from 0, over those that clients took.
    pub(super) fn free_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn ask_progress(&mut self) {
        let floor = self.core.floor.get();
        if self.core.config.planted(|seams| seams.progress_early) {
            return self.say(floor, WatchResponse { watch_id: NO_WATCHER, ..<_>::default() });
        }
        match &mut self.manual {
            Some(manual) => manual.again = true,
            None => self.manual = Some(Manual::new(floor)),
        }
        self.judge_progress();
    }

    /// Now and then quiet groups of watchers over several are asked how far they are: whoever has to be asked anew by the next
    /// placement should not stand at what was compacted long ago.
    fn poll_fresh(&mut self, cx: &mut Context<'_>) -> bool {
        if self.fresh.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.fresh.as_mut().reset(Instant::now() + FRESH_EVERY);
        let floor = self.core.floor.get();
        for watcher in self.watchers.values_mut() {
            watcher.ask(floor);
        }
        true
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Poll::Ready(tables)) = self.changed.as_mut().map(|changed| changed.as_mut().poll(cx)) else {
            return false;
        };
        self.changed = tables.map(changed);
        true
    }
}

/// Resolves when there is another table.
fn changed(mut tables: watch::Receiver<DocumentId>) -> Changed {
    Box::pin(async move { tables.changed().await.ok().map(|()| tables) })
}

impl http_body::Body for WatchStream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.out.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.end.is_none() && this.stop.as_mut().poll(cx).is_ready() {
                this.end = Some(Err(Fault::Stopped.into()));
            }
            if let Some(end) = this.end.take() {
                this.ended = true;
                this.input = None;
                this.watchers.clear();
                this.shared.clear();
                return Poll::Ready(Some(Ok(Frame::trailers(grpc::trailers(end)))));
            }
            let mut moved = this.poll_changed(cx);
            if moved {
                this.reroute();
            }
            moved |= this.poll_creating(cx);
            moved |= this.poll_input(cx);
            moved |= this.poll_group_streams(cx);
            moved |= this.manual.as_mut().is_some_and(|manual| manual.poll_hold(cx));
            // last: what a group has said comes before what it was waited for
            moved |= this.poll_fresh(cx);
            if !moved && !this.poll_leaving(cx) {
                return Poll::Pending;
            }
        }
    }
}
