//! Streams over a store in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::{StreamConfig, WatchStream};
use crate::config::Config;
use crate::decide::held::testing::document;
use crate::engine::memory::Memory;
use crate::lead::command::PlaceStep;
use crate::request::{Delete, Given, Put};
use crate::store::Store;

struct Client {
    requests: mpsc::Sender<Result<WatchRequest, Status>>,
    messages: Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>,
    _stopper: Stopper,
}

async fn store(window_bytes: usize, placement: &str) -> Store {
    let placement = Placement::parse(placement).expect("a legal placement");
    let group = GroupName::parse("a").expect("a legal name");
    let config = Config { window_bytes, ..Config::new(group, "test") };
    Store::open(config, Arc::new(Memory::new()), Arc::new(placement)).await.expect("an empty store opens")
}

const ALONE: &str = "{prefix: /r, home: a, default: a, groups: {a: {}}}";
const MOVED: &str = "{prefix: /r, home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: m, group: b}]}";

async fn put(store: &Store, key: &str, value: &str) -> u64 {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Given::New(Bytes::copy_from_slice(value.as_bytes())),
        lease: Given::New(0),
        prev_kv: false,
    };
    store.put(put, Revision::ZERO).await.expect("a put works").revision.get()
}

async fn delete(store: &Store, key: &str) {
    let keys = KeyRange::one(Bytes::copy_from_slice(key.as_bytes()));
    store.delete(Delete { keys, prev_kv: false }, Revision::ZERO, None).await.expect("a deletion works");
}

impl Client {
    fn new(store: &Store) -> Self {
        Self::with(store, false)
    }

    fn with(store: &Store, tells_all: bool) -> Self {
        let (requests, inbound) = mpsc::channel(16);
        let stopper = Stopper::default();
        let config = StreamConfig { progress_interval: Duration::from_secs(600), part: None, tells_all };
        let inbound = tokio_stream::wrappers::ReceiverStream::new(inbound);
        let stream = WatchStream::new(store.clone(), inbound, config, stopper.handle());
        Self { requests, messages: Box::pin(stream.into_messages()), _stopper: stopper }
    }

    async fn ask(&self, request: RequestUnion) {
        self.requests
            .send(Ok(WatchRequest { request_union: Some(request) }))
            .await
            .expect("the stream lives");
    }

    async fn watch(&mut self, prefix: &'static str, start_revision: i64) -> WatchResponse {
        let keys = KeyRange::prefix(Bytes::from_static(prefix.as_bytes()));
        let create = WatchCreateRequest {
            key: keys.start().clone(),
            range_end: keys.wire_end(),
            start_revision,
            prev_kv: true,
            progress_notify: true,
            ..WatchCreateRequest::default()
        };
        self.ask(RequestUnion::CreateRequest(create)).await;
        self.next().await.expect("a create is answered")
    }

    async fn next(&mut self) -> Result<WatchResponse, Status> {
        // On the paused clock this is at once where nothing can come any more.
        let message = tokio::time::timeout(Duration::from_secs(60), self.messages.next()).await;
        let message = message.expect("an answer comes").expect("the stream goes on")?;
        Ok(WatchResponse::decode(message).expect("a response"))
    }

    /// `key=value` with the value before it and the revision, of so many events.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        while events.len() < count {
            for event in self.next().await.expect("events follow").events {
                let (kv, prev) = (event.kv.expect("an event has a key"), event.prev_kv);
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let before = prev.map_or_else(|| "-".to_owned(), |prev| text(&prev.value));
                events.push(format!("{}={}<{}@{}", text(&kv.key), text(&kv.value), before, kv.mod_revision));
            }
        }
        events
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_from_the_past_sees_everything_once_whether_from_window_or_log() {
    for window_bytes in [1 << 20, 1] {
        let store = store(window_bytes, ALONE).await;
        put(&store, "/r/m/a", "1").await;
        put(&store, "/r/n/x", "1").await;
        put(&store, "/r/m/a", "2").await;
        let mut client = Client::new(&store);
        assert!(client.watch("/r/m/", 2).await.created);
        delete(&store, "/r/m/a").await;
        put(&store, "/r/m/b", "3").await;
        let events = client.events(4).await;
        let want = ["/r/m/a=1<-@2", "/r/m/a=2<1@4", "/r/m/a=<2@5", "/r/m/b=3<-@6"];
        assert_eq!(events, want, "window of {window_bytes} bytes");
        put(&store, "/r/m/b", "4").await;
        assert_eq!(client.events(1).await, ["/r/m/b=4<3@7"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_history_is_read_page_by_page() {
    for every in [1, 7, 40] {
        let store = store(1, ALONE).await;
        let mut want = Vec::new();
        for number in 0..700 {
            let kind = if number % every == 0 { 'm' } else { 'n' };
            let revision = put(&store, &format!("/r/{kind}/{number}"), "v").await;
            if kind == 'm' {
                want.push(format!("/r/m/{number}=v<-@{revision}"));
            }
        }
        let mut client = Client::new(&store);
        client.watch("/r/m/", 1).await;
        assert_eq!(client.events(want.len()).await, want, "one in {every} is wanted");
        put(&store, "/r/m/end", "v").await;
        assert_eq!(client.events(1).await, ["/r/m/end=v<-@702"], "one in {every} is wanted");
    }
}

#[tokio::test(start_paused = true)]
async fn progress_follows_the_events_that_it_covers() {
    let store = store(1 << 20, ALONE).await;
    let mut client = Client::new(&store);
    client.watch("/r/m/", 1).await;
    client.watch("/r/n/", 1).await;
    for round in 0..50 {
        let last = put(&store, "/r/m/a", "x").await;
        client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
        assert_eq!(client.next().await.expect("the event").events.len(), 1, "round {round}");
        let progress = client.next().await.expect("the progress");
        assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
        assert_eq!(progress.header.map(|header| header.revision), Some(last.cast_signed()));
    }
}

#[tokio::test(start_paused = true)]
async fn progress_is_not_told_below_the_start_of_a_watcher() {
    let store = store(1 << 20, ALONE).await;
    let mut client = Client::new(&store);
    client.watch("/r/m/", 2).await;
    client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let silence = tokio::time::timeout(Duration::from_secs(5), client.next()).await;
    assert!(silence.is_err(), "an empty store has not reached revision 2: {silence:?}");
    put(&store, "/r/n/x", "elsewhere").await;
    client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = client.next().await.expect("the progress");
    assert_eq!(progress.header.map(|header| header.revision), Some(2));
}

/// The revision of the next response, which is progress of `id`; `None` where none comes within five intervals.
async fn progress(client: &mut Client, id: i64) -> Option<i64> {
    let response = tokio::time::timeout(Duration::from_secs(3000), client.messages.next()).await.ok()?;
    let message = response.expect("the stream goes on").expect("no error");
    let response = WatchResponse::decode(message).expect("a response");
    assert!(response.events.is_empty() && !response.created && !response.canceled, "{response:?}");
    assert_eq!(response.watch_id, id);
    response.header.map(|header| header.revision)
}

#[tokio::test(start_paused = true)]
async fn a_watcher_from_now_is_told_its_progress_at_once() {
    let store = store(1 << 20, ALONE).await;
    put(&store, "/r/n/x", "1").await;
    let asked = || RequestUnion::ProgressRequest(WatchProgressRequest {});
    let mut client = Client::new(&store);
    client.watch("/r/m/", 0).await;
    client.ask(asked()).await;
    assert_eq!(progress(&mut client, -1).await, Some(2), "asked for");
    assert_eq!(progress(&mut client, 0).await, Some(2), "periodic");
    client.watch("/r/m/", 3).await;
    client.ask(asked()).await;
    assert_eq!(progress(&mut client, 0).await, Some(2), "the other one holds back what is asked of both");
    put(&store, "/r/n/x", "2").await;
    client.ask(asked()).await;
    assert_eq!(progress(&mut client, -1).await, Some(3));
}

/// A proxy names every start, and judges by those that its clients named.
#[tokio::test(start_paused = true)]
async fn a_proxy_is_told_progress_below_the_start_too() {
    let store = store(1 << 20, ALONE).await;
    for (tells_all, expected) in [(false, None), (true, Some(1))] {
        let mut client = Client::with(&store, tells_all);
        client.watch("/r/m/", 2).await;
        assert_eq!(progress(&mut client, 0).await, expected, "periodic");
        client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
        if tells_all {
            assert_eq!(progress(&mut client, -1).await, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_below_the_compacted_revision_is_cancelled_and_at_it_is_served() {
    let store = store(1 << 20, ALONE).await;
    for value in ["1", "2", "3"] {
        put(&store, "/r/m/a", value).await;
    }
    store.compact(3, true, Revision::ZERO).await.expect("compacts");
    let mut client = Client::new(&store);
    assert!(client.watch("/r/m/", 2).await.created);
    let cancelled = client.next().await.expect("the cancellation");
    assert!(cancelled.canceled && cancelled.cancel_reason.is_empty());
    assert_eq!(cancelled.compact_revision, 3);
    assert_eq!(cancelled.header.map(|header| header.revision), Some(0));
    client.watch("/r/m/", 3).await;
    assert_eq!(client.events(2).await, ["/r/m/a=2<-@3", "/r/m/a=3<2@4"], "what was before 3 is gone");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_keys_go_to_another_group() {
    let store = store(1 << 20, ALONE).await;
    let mut stays = Client::new(&store);
    stays.watch("/r/n/", 0).await;
    let mut moves = Client::new(&store);
    moves.watch("/r/m/", 1).await;
    let step = PlaceStep::Prepare { base: None, next: document(1, MOVED), known: false };
    assert_eq!(store.place(step).await.expect("an answer").refusal, "", "the kind is empty");
    put(&store, "/r/n/x", "1").await;
    assert_eq!(stays.events(1).await, ["/r/n/x=1<-@2"]);
    moves.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let ended = moves.next().await.expect_err("no progress for keys of another group");
    assert_eq!(ended.code(), tonic::Code::Unavailable);
    let refused = stays.watch("/r/m/", 1).await;
    assert!(refused.canceled && refused.cancel_reason.starts_with(super::stream::NOT_OWNER_REASON));
}

/// A proxy hears of each watcher by itself: up to where all was sent, and nothing above that.
#[tokio::test(start_paused = true)]
async fn a_proxys_watcher_ends_alone_when_its_keys_go_to_another_group() {
    let store = store(1 << 20, ALONE).await;
    let mut proxy = Client::with(&store, true);
    assert_eq!(proxy.watch("/r/n/", 0).await.watch_id, 0);
    assert_eq!(proxy.watch("/r/m/", 0).await.watch_id, 1);
    put(&store, "/r/m/x", "1").await;
    delete(&store, "/r/m/x").await;
    assert_eq!(proxy.events(2).await, ["/r/m/x=1<-@2", "/r/m/x=<1@3"]);
    store.compact(3, true, Revision::ZERO).await.expect("compacts");
    store.advance(Revision::new(50)).await.expect("advances");
    let step = PlaceStep::Prepare { base: None, next: document(1, MOVED), known: false };
    let adopted = store.place(step).await.expect("an answer");
    assert_eq!((&adopted.refusal[..], adopted.revision.get()), ("", 50));
    store.advance(Revision::new(70)).await.expect("advances");
    proxy.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let moved = proxy.next().await.expect("one of them ends");
    assert_eq!(
        (moved.watch_id, moved.canceled, &moved.cancel_reason[..]),
        (1, true, super::stream::MOVED_REASON)
    );
    assert_eq!(moved.header.map(|header| header.revision), Some(50), "not as far as the other one is");
    let progress = proxy.next().await.expect("who stays is told how far it is");
    assert_eq!((progress.watch_id, progress.header.map(|header| header.revision)), (-1, Some(70)));
    put(&store, "/r/n/x", "1").await;
    assert_eq!(proxy.events(1).await, ["/r/n/x=1<-@71"]);
}

/// What was not sent before its keys went is not said to have been.
#[tokio::test(start_paused = true)]
async fn a_watcher_that_has_not_read_what_was_compacted_is_not_told_that_all_was_sent() {
    let store = store(1, ALONE).await;
    put(&store, "/r/m/x", "1").await;
    delete(&store, "/r/m/x").await;
    let mut proxy = Client::with(&store, true);
    assert!(proxy.watch("/r/m/", 2).await.created);
    store.compact(3, true, Revision::ZERO).await.expect("compacts");
    let step = PlaceStep::Prepare { base: None, next: document(1, MOVED), known: false };
    assert_eq!(store.place(step).await.expect("an answer").refusal, "");
    let ended = proxy.next().await.expect("it ends");
    assert!(ended.canceled && ended.events.is_empty(), "{ended:?}");
    assert_eq!(ended.header.map(|header| header.revision), Some(0));
}
