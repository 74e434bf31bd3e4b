//! The stand-in's watch streams: one task each, woken by every change.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::mvccpb::Event;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::range::KeyRange;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;

use super::brain::Brain;
use crate::grpc::{self, Framed};

struct Watcher {
    id: i64,
    range: KeyRange,
    next: i64,
    /// No progress below it.
    named: i64,
    prev_kv: bool,
}

/// How a brain ends a watcher whose keys go to another group.
const MOVED: &str = "kubebrain: moved";

/// What was asked for, or is due.
#[derive(Default)]
struct Progress {
    asks: usize,
    /// See [`State::notices`](super::brain::State::notices).
    notices: u64,
}

pub(super) fn serve(brain: Arc<Brain>, input: Body, part: Option<String>, tells_all: bool) -> Response<Body> {
    let (out, frames) = mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
    tokio::spawn(run(brain, input, part, tells_all, out));
    grpc::response(Body::new(StreamBody::new(ReceiverStream::new(frames).map(|frame| frame))))
}

async fn run(
    brain: Arc<Brain>,
    mut input: Body,
    part: Option<String>,
    tells_all: bool,
    out: mpsc::Sender<Result<Frame<Bytes>, Status>>,
) {
    let generation = brain.state.lock().generation;
    let number = {
        let sent = &mut brain.state.lock().sent;
        let number = sent.len() as u64;
        sent.insert(number, 0);
        number
    };
    let mut changed = brain.changed.subscribe();
    let mut buffer = BytesMut::new();
    let mut watchers: Vec<Watcher> = Vec::new();
    let mut progress = Progress { asks: 0, notices: brain.state.lock().notices };
    loop {
        if brain.state.lock().generation != generation {
            let _gone = out.send(Ok(Frame::trailers(grpc::trailers(Err(Fault::LeaderChanged.into()))))).await;
            return;
        }
        if !brain.is_stuck() {
            let delay = brain.state.lock().watch_delay;
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            for response in step(&brain, &mut watchers, part.as_deref(), &mut progress) {
                *brain.state.lock().sent.entry(number).or_default() +=
                    usize::from(!response.events.is_empty());
                if out.send(Ok(Frame::data(Framed::of(&response).frame()))).await.is_err() {
                    return;
                }
            }
        }
        if let Ok(Some(message)) = grpc::split(&mut buffer, 1 << 24) {
            let request: pb::WatchRequest = grpc::decode(message).expect("a watch request");
            let named = |start| if tells_all { 0 } else { start };
            for response in take(&brain, &mut watchers, &mut progress, request, part.as_deref(), named) {
                if out.send(Ok(Frame::data(Framed::of(&response).frame()))).await.is_err() {
                    return;
                }
            }
            continue;
        }
        tokio::select! {
            _ = changed.changed() => {}
            frame = input.frame() => match frame {
                Some(Ok(frame)) => buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                _ => return,
            }
        }
    }
}

fn take(
    brain: &Brain,
    watchers: &mut Vec<Watcher>,
    progress: &mut Progress,
    request: pb::WatchRequest,
    part: Option<&str>,
    named: impl Fn(i64) -> i64,
) -> Vec<pb::WatchResponse> {
    use pb::watch_request::RequestUnion;
    let mut state = brain.state.lock();
    let header = brain.header(state.revision);
    match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => {
            state.creates += 1;
            let range = KeyRange::from_wire(create.key, create.range_end);
            if state.check_owner(&brain.name, &range, part).is_err() {
                let refused = pb::WatchResponse {
                    header,
                    watch_id: -1,
                    created: true,
                    canceled: true,
                    cancel_reason: "kubebrain: not-owner: planned".into(),
                    ..Default::default()
                };
                return vec![refused];
            }
            let created =
                pb::WatchResponse { header, watch_id: create.watch_id, created: true, ..Default::default() };
            assert!(create.progress_notify && !create.fragment && create.start_revision > 0);
            if create.start_revision < state.compacted {
                let canceled = pb::WatchResponse {
                    watch_id: create.watch_id,
                    canceled: true,
                    compact_revision: state.compacted,
                    header: brain.header(0),
                    ..Default::default()
                };
                return vec![created, canceled];
            }
            watchers.push(Watcher {
                id: create.watch_id,
                range,
                next: create.start_revision,
                named: named(create.start_revision),
                prev_kv: create.prev_kv,
            });
            vec![created]
        }
        Some(RequestUnion::CancelRequest(cancel)) => {
            watchers.retain(|watcher| watcher.id != cancel.watch_id);
            vec![pb::WatchResponse {
                header,
                watch_id: cancel.watch_id,
                canceled: true,
                ..Default::default()
            }]
        }
        Some(RequestUnion::ProgressRequest(_)) => {
            progress.asks += 1;
            Vec::new()
        }
        None => Vec::new(),
    }
}

fn step(
    brain: &Brain,
    watchers: &mut Vec<Watcher>,
    part: Option<&str>,
    progress: &mut Progress,
) -> Vec<pb::WatchResponse> {
    let state = brain.state.lock();
    let header = brain.header(state.revision);
    let mut responses: Vec<pb::WatchResponse> = Vec::new();
    for watcher in watchers.iter_mut() {
        let wanted = |event: &&Event| {
            let kv = event.kv.as_ref().expect("has one");
            kv.mod_revision >= watcher.next
                && watcher.range.contains(&kv.key)
                && state.owns(&brain.name, &kv.key, part.is_some())
        };
        for event in state.history.iter().filter(wanted) {
            let mut event = event.clone();
            if !watcher.prev_kv {
                event.prev_kv = None;
            }
            let revision = |event: &Event| event.kv.as_ref().expect("has one").mod_revision;
            let same = |last: &pb::WatchResponse| {
                last.watch_id == watcher.id
                    && last.events.last().is_some_and(|last| revision(last) == revision(&event))
            };
            match responses.last_mut() {
                Some(last) if same(last) => last.events.push(event),
                _ => responses.push(pb::WatchResponse {
                    header,
                    watch_id: watcher.id,
                    events: vec![event],
                    ..Default::default()
                }),
            }
        }
        watcher.next = watcher.next.max(state.revision + 1);
    }
    // in band: after all that was written before, and before any later progress
    let gone = |watcher: &Watcher| state.check_owner(&brain.name, &watcher.range, part).is_err();
    responses.extend(watchers.iter().filter(|watcher| gone(watcher)).map(|watcher| pb::WatchResponse {
        header: brain.header(if state.adopted.is_some() { state.revision } else { 0 }),
        watch_id: watcher.id,
        canceled: true,
        cancel_reason: MOVED.into(),
        ..Default::default()
    }));
    watchers.retain(|watcher| !gone(watcher));
    let notices = state.notices - std::mem::replace(&mut progress.notices, state.notices);
    for _ in 0..notices {
        let told = watchers.iter().filter(|watcher| watcher.named <= state.revision);
        responses.extend(told.map(|watcher| pb::WatchResponse {
            header,
            watch_id: watcher.id,
            ..Default::default()
        }));
    }
    for _ in 0..std::mem::take(&mut progress.asks) {
        if !watchers.is_empty() && watchers.iter().all(|watcher| watcher.named <= state.revision) {
            responses.push(pb::WatchResponse { header, watch_id: -1, ..Default::default() });
        }
    }
    responses
}
