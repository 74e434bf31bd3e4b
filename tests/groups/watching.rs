//! Watchers from now and from old revisions on, with progress: a lost stream is opened again where it was, as etcd's
//! client does it, and one that was compacted away goes on from there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::mvccpb::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::stage::Stage;
use kit::judge::record::{Heard, Watch};

/// How long a watcher may take to hear of everything once nothing is in trouble any more. A stream to a server that
/// vanished is found dead by pings, after 20 s.
const CATCH_UP_MAX: Duration = Duration::from_secs(45);
/// A stream opens in this time, or another one is tried.
const OPENS: Duration = Duration::from_secs(5);

/// What a watcher wants.
pub(crate) struct Wanted {
    pub(crate) number: usize,
    pub(crate) door: usize,
    pub(crate) key: Bytes,
    pub(crate) range_end: Bytes,
    /// The first revision; 0 is whatever comes now.
    pub(crate) start: i64,
    /// As in a create request.
    pub(crate) filters: Vec<i32>,
    pub(crate) fragment: bool,
}

impl Wanted {
    /// All events of all keys.
    pub(crate) fn everything(number: usize, door: usize, start: i64) -> Self {
        let (key, range_end) = ("\0".into(), "\0".into());
        Self { number, door, key, range_end, start, filters: Vec::new(), fragment: false }
    }
}

/// Watches until it has heard of everything up to the revision that `target` becomes.
pub(crate) async fn watch_until(stage: Arc<Stage>, wanted: Wanted, target: watch::Receiver<Option<i64>>) {
    let mut watcher = Watcher::new(stage, wanted, target);
    while !watcher.stream(|_, _| {}).await {
        sleep(Duration::from_millis(50)).await;
    }
}

/// See the module.
pub(crate) struct Watcher {
    stage: Arc<Stage>,
    pub(crate) wanted: Wanted,
    target: watch::Receiver<Option<i64>>,
    /// The next revision that it has not heard of; 0 before it knows any.
    next: i64,
    streams: u64,
    /// When it was first told where to end.
    since: Option<Instant>,
}

impl Watcher {
    pub(crate) fn new(stage: Arc<Stage>, wanted: Wanted, target: watch::Receiver<Option<i64>>) -> Self {
        Self { stage, next: wanted.start, streams: 0, wanted, target, since: None }
    }

    /// One stream; true if it is done. `hears` is given what comes: events, and up to where that is all.
    pub(crate) async fn stream(&mut self, mut hears: impl FnMut(Vec<Event>, i64)) -> bool {
        let door = &self.stage.doors[self.wanted.door];
        let life = door.life();
        let create = pb::WatchCreateRequest {
            key: self.wanted.key.clone(),
            range_end: self.wanted.range_end.clone(),
            start_revision: self.next,
            progress_notify: true,
            prev_kv: true,
            filters: self.wanted.filters.clone(),
            fragment: self.wanted.fragment,
            ..Default::default()
        };
        let (requests, body) = mpsc::channel(8);
        let asks = |union| pb::WatchRequest { request_union: Some(union) };
        let asked = self.stage.journal.now();
        requests.try_send(asks(RequestUnion::CreateRequest(create.clone()))).expect("there is room");
        let mut client = WatchClient::new(door.channel()).max_decoding_message_size(usize::MAX);
        let opened = timeout(OPENS, client.watch(ReceiverStream::new(body))).await;
        let Ok(Ok(opened)) = opened else { return self.is_late() };
        let mut responses = opened.into_inner();
        self.streams += 1;
        let mut record = Watch {
            client: self.wanted.number,
            proxy: 0,
            stream: self.streams,
            create,
            asked,
            created: None,
            heard: Vec::new(),
            target: None,
        };
        let mut tick = interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let done = loop {
            tokio::select! {
                response = responses.message() => {
                    let Ok(Some(response)) = response else { break false };
                    let now = self.stage.journal.now();
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    if response.created && !response.canceled {
                        record.created = Some((now, revision));
                        if self.next == 0 {
                            self.next = revision + 1;
                        }
                    } else if response.canceled {
                        let (compact_revision, reason) = (response.compact_revision, response.cancel_reason);
                        self.next = self.next.max(compact_revision);
                        record.heard.push((now, Heard::Cancelled { compact_revision, reason }));
                        break false;
                    } else if response.events.is_empty() {
                        self.next = self.next.max(revision + 1);
                        record.heard.push((now, Heard::Progress { revision, manual: response.watch_id == -1 }));
                        hears(Vec::new(), revision);
                    } else {
                        let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
                        let last = kvs.map(|kv| kv.mod_revision).max().unwrap_or(0);
                        if !response.fragment {
                            self.next = self.next.max(last + 1);
                        }
                        let events = response.events.clone();
                        record.heard.push((now, Heard::Events(response)));
                        hears(events, last);
                    }
                }
                _ = tick.tick(), if record.created.is_some() => {
                    let full = requests.try_send(asks(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})));
                    if matches!(full, Err(mpsc::error::TrySendError::Closed(_))) {
                        break false;
                    }
                }
            }
            if let Some(revision) = self.target.borrow().filter(|revision| self.next > *revision) {
                record.target = Some(revision);
                break true;
            }
            if self.is_late() {
                break true;
            }
        };
        record.proxy = self.stage.clock(self.wanted.door, life);
        self.stage.journal.watch(record);
        done
    }

    /// True, and noted, if it takes too long.
    fn is_late(&mut self) -> bool {
        let Some(revision) = *self.target.borrow() else { return false };
        let late = self.since.get_or_insert_with(Instant::now).elapsed() > CATCH_UP_MAX;
        if late {
            let (number, door) = (self.wanted.number, &self.stage.doors[self.wanted.door].name);
            let what = format!(
                "w{number} at {door} has not heard of everything up to {revision} in {CATCH_UP_MAX:?}"
            );
            self.stage.journal.wrong(what);
        }
        late
    }
}
