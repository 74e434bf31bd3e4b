//! Watchers from a revision on, with progress: a lost stream is opened again where it was, as etcd's client does it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::traffic::Stage;
use kit::judge::record::{Heard, Watch};

/// How long a watcher may take to hear of everything once nothing is in trouble any more. A stream to a server that
/// vanished is found dead by pings, after 20 s.
const CATCH_UP_MAX: Duration = Duration::from_secs(45);

/// What a watcher wants.
pub(crate) struct Wanted {
    pub(crate) number: usize,
    pub(crate) key: Bytes,
    pub(crate) range_end: Bytes,
    /// The first revision.
    pub(crate) start: i64,
}

/// Watches until it has heard of everything up to the revision that `target` becomes.
pub(crate) async fn watch_until(stage: Arc<Stage>, wanted: Wanted, mut target: watch::Receiver<Option<i64>>) {
    let mut watcher = Watcher { stage, next: wanted.start, streams: 0, wanted, since: None };
    while !watcher.stream(&mut target).await {
        sleep(Duration::from_millis(50)).await;
    }
}

struct Watcher {
    stage: Arc<Stage>,
    wanted: Wanted,
    next: i64,
    streams: u64,
    /// When it was first told where to end.
    since: Option<Instant>,
}

impl Watcher {
    /// One stream; true if it is done.
    async fn stream(&mut self, target: &mut watch::Receiver<Option<i64>>) -> bool {
        let life = self.stage.life.load(Ordering::SeqCst);
        let create = pb::WatchCreateRequest {
            key: self.wanted.key.clone(),
            range_end: self.wanted.range_end.clone(),
            start_revision: self.next,
            progress_notify: true,
            prev_kv: true,
            ..Default::default()
        };
        let (requests, body) = mpsc::channel(8);
        let asks = |union| pb::WatchRequest { request_union: Some(union) };
        let asked = self.stage.journal.now();
        requests.try_send(asks(RequestUnion::CreateRequest(create.clone()))).expect("there is room");
        let mut client = WatchClient::new(self.stage.channel()).max_decoding_message_size(usize::MAX);
        let opened = timeout(Duration::from_secs(5), client.watch(ReceiverStream::new(body))).await;
        let Ok(Ok(opened)) = opened else { return self.is_late(target) };
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
        let mut told = self.next - 1;
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
                    } else if response.canceled {
                        let (compact_revision, reason) = (response.compact_revision, response.cancel_reason);
                        record.heard.push((now, Heard::Cancelled { compact_revision, reason }));
                        break false;
                    } else if response.events.is_empty() {
                        told = told.max(revision);
                        record.heard.push((now, Heard::Progress { revision, manual: response.watch_id == -1 }));
                    } else {
                        let last = response.events.iter().filter_map(|event| event.kv.as_ref());
                        told = told.max(last.map(|kv| kv.mod_revision).max().unwrap_or(0));
                        record.heard.push((now, Heard::Events(response)));
                    }
                }
                _ = tick.tick(), if record.created.is_some() => {
                    let full = requests.try_send(asks(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})));
                    if matches!(full, Err(mpsc::error::TrySendError::Closed(_))) {
                        break false;
                    }
                }
            }
            if let Some(revision) = target.borrow().filter(|revision| told >= *revision) {
                record.target = Some(revision);
                break true;
            }
            if self.is_late(target) {
                break true;
            }
        };
        self.next = told + 1;
        record.proxy = self.stage.server(life);
        self.stage.journal.watch(record);
        done
    }

    /// True, and noted, if it takes too long.
    fn is_late(&mut self, target: &watch::Receiver<Option<i64>>) -> bool {
        let Some(revision) = *target.borrow() else { return false };
        let late = self.since.get_or_insert_with(Instant::now).elapsed() > CATCH_UP_MAX;
        if late {
            let number = self.wanted.number;
            let what = format!("w{number} has not heard of everything up to {revision} in {CATCH_UP_MAX:?}");
            self.stage.journal.wrong(what);
        }
        late
    }
}
