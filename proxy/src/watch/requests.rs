//! [`Requests`]: what is still to be sent on one group stream, as the body of its request.
//!
//! Bounded by what there is: a create for each watcher, a cancel for each that was sent, one progress request.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Frame;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
};
use parking_lot::Mutex;
use tonic::Status;

use super::part::PartId;
use crate::grpc::Framed;

/// The sending end. Its drop ends the body.
#[derive(Debug, Default)]
pub(super) struct Requests {
    shared: Arc<Mutex<Queue>>,
}

/// The body.
pub(super) struct RequestBody {
    shared: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    /// What is to be sent, each with the part that it creates, if it creates one.
    waiting: VecDeque<(Option<PartId>, Bytes)>,
    asks_progress: bool,
    ended: bool,
    reader: Option<Waker>,
}

fn frame(request: RequestUnion) -> Bytes {
    Framed::of(&WatchRequest { request_union: Some(request) }).frame()
}

impl Requests {
    pub(super) fn body(&self) -> RequestBody {
        RequestBody { shared: Arc::clone(&self.shared) }
    }

    pub(super) fn create(&self, create: WatchCreateRequest) {
        let part = PartId::from_wire(create.watch_id);
        self.push(Some(part), frame(RequestUnion::CreateRequest(create)));
    }

    /// Takes back a part that was handed to [`Requests::create`] before. False for one that was not sent yet: it is just
    /// forgotten, and nobody will answer.
    pub(super) fn cancel(&self, part: PartId) -> bool {
        let mut queue = self.shared.lock();
        let before = queue.waiting.len();
        queue.waiting.retain(|(creates, _)| *creates != Some(part));
        let was_waiting = queue.waiting.len() < before;
        drop(queue);
        if !was_waiting {
            let cancel = WatchCancelRequest { watch_id: part.to_wire() };
            self.push(None, frame(RequestUnion::CancelRequest(cancel)));
        }
        !was_waiting
    }

    /// Asks for the progress of all watchers; one question waits at most.
    pub(super) fn progress(&self) {
        let mut queue = self.shared.lock();
        queue.asks_progress = true;
        wake(queue);
    }

    fn push(&self, part: Option<PartId>, frame: Bytes) {
        let mut queue = self.shared.lock();
        queue.waiting.push_back((part, frame));
        wake(queue);
    }
}

fn wake(mut queue: parking_lot::MutexGuard<'_, Queue>) {
    let reader = queue.reader.take();
    drop(queue);
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.ended = true;
        wake(queue);
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut queue = self.shared.lock();
        if let Some((_, frame)) = queue.waiting.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if std::mem::take(&mut queue.asks_progress) {
            let ask = frame(RequestUnion::ProgressRequest(WatchProgressRequest {}));
            return Poll::Ready(Some(Ok(Frame::data(ask))));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}
