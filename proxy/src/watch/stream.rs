//! [`WatchStream`]: a client's watch stream, as the body of its answer.
//!
//! Each poll takes at most one request of the client and one signal of the group streams, in turns, and gives at most a few
//! responses; the next poll gives those first. So a client that does not read is not read from either, and a client
//! that floods does not starve its own watchers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use kubebrain_net::metrics::One;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use super::answer::NO_WATCHER;
use super::group_stream::GroupStream;
use super::part::PartId;
use super::progress::Manual;
use super::watcher::{Watcher, check};
use crate::core::Core;
use crate::grpc::{self, Framed};

type Changed = Pin<Box<dyn Future<Output = Option<watch::Receiver<u64>>> + Send>>;

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
        loop {
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

    /// Answered at once, whatever the groups do: the client sends its next create only then.
    fn create(&mut self, create: WatchCreateRequest) {
        let floor = self.core.floor.get();
        let asked_id = create.watch_id;
        let checked = check(create).and_then(|create| match asked_id {
            _ if self.watchers.len() >= self.core.config.watchers_max => Err("etcdserver: too many requests"),
            id if id != 0 && self.watchers.contains_key(&id) => {
                Err("mvcc: duplicate watch ID provided on the WatchStream")
            }
            _ => Ok(create),
        });
        let create = match checked {
            Ok(create) => Arc::new(create),
            Err(reason) => {
                let cancel_reason = reason.into();
                let refused =
                    WatchResponse { created: true, canceled: true, cancel_reason, ..<_>::default() };
                return self.say(floor, WatchResponse { watch_id: NO_WATCHER, ..refused });
            }
        };
        let id = if asked_id == 0 { self.free_id() } else { asked_id };
        self.say(floor, WatchResponse { watch_id: id, created: true, ..<_>::default() });
        let named = Revision::checked_from(create.start_revision).unwrap_or(Revision::MAX);
        let delivered = if named == Revision::ZERO { floor } else { named.previous() };
        self.admit(id, create, named, delivered);
    }

    fn cancel(&mut self, watch_id: i64) {
        if self.remove(watch_id) {
            let floor = self.core.floor.get();
            self.say(floor, WatchResponse { watch_id, canceled: true, ..<_>::default() });
        }
    }

    /// As etcd counts: up from 0, over those that clients took.
    fn free_id(&mut self) -> i64 {
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

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Poll::Ready(tables)) = self.changed.as_mut().map(|changed| changed.as_mut().poll(cx)) else {
            return false;
        };
        self.changed = tables.map(changed);
        true
    }
}

/// Resolves when there is another table.
fn changed(mut tables: watch::Receiver<u64>) -> Changed {
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
            moved |= this.poll_input(cx);
            moved |= this.poll_group_streams(cx);
            moved |= this.manual.as_mut().is_some_and(|manual| manual.poll_hold(cx));
            if !moved {
                return Poll::Pending;
            }
        }
    }
}
