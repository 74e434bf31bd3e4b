//! Slaves and their masters in one process, on a paused clock, over what may be lost, held and cut between them.

mod directed;
mod model;
mod promotion;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse};
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_proto::peer::FollowResponse;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::slave::Slave;
use crate::config::Config;
use crate::engine::faulty::{Faulty, Mood};
use crate::engine::memory::Memory;
use crate::lead::command::WriteError;
use crate::request::{Delete, Given, Put, Range, ReadAt};
use crate::state::upstream::{Fenced, Upstream, UpstreamError};
use crate::store::{Store, read_all};
use crate::watch::{StreamConfig, WatchStream};

const ALONE: &str = "{prefix: /r, home: a, default: a, groups: {a: {}}}";

/// A slave's way to a master of this process.
struct Link {
    store: Store,
    /// What is cut counts up; the rest is where messages wait.
    cuts: watch::Sender<u64>,
    responses_held: watch::Sender<bool>,
    answers_held: watch::Sender<bool>,
    dead: watch::Sender<bool>,
    questions: AtomicU64,
    /// Subscriptions, by where they began.
    subscribed: Mutex<Vec<u64>>,
}

impl Link {
    fn to(store: &Store) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            cuts: watch::Sender::new(0),
            responses_held: watch::Sender::new(false),
            answers_held: watch::Sender::new(false),
            dead: watch::Sender::new(false),
            questions: AtomicU64::new(0),
            subscribed: Mutex::default(),
        })
    }

    /// The streams are lost, others may follow.
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What the stream brings waits.
    fn hold_responses(&self, held: bool) {
        self.responses_held.send_replace(held);
    }

    /// What the master answers waits, once it is answered.
    fn hold_answers(&self, held: bool) {
        self.answers_held.send_replace(held);
    }

    /// Nobody is there any more.
    fn kill(&self) {
        self.dead.send_replace(true);
        self.cut();
    }

    fn lives(&self) -> Result<(), UpstreamError> {
        if *self.dead.borrow() { Err(UpstreamError::Lost("it is dead".into())) } else { Ok(()) }
    }

    fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }
}

async fn passes(held: &watch::Sender<bool>) {
    let mut held = held.subscribe();
    let _gone = held.wait_for(|held| !held).await;
}

#[async_trait]
impl Upstream for Link {
    async fn follow(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<FollowResponse, UpstreamError>>, UpstreamError> {
        self.lives()?;
        self.subscribed.lock().push(from);
        let (mut cuts, held) = (self.cuts.subscribe(), self.responses_held.clone());
        cuts.mark_unchanged();
        let responses = self.store.feed(from).then(move |response| {
            let held = held.clone();
            async move {
                // As on a wire: encoded, on its way, decoded.
                let response = response.map(|response| response.encode_to_vec());
                passes(&held).await;
                match response {
                    Ok(bytes) => Ok(FollowResponse::decode(&bytes[..]).expect("a message")),
                    Err(Fault::Compacted) => Err(UpstreamError::Compacted),
                    Err(fault) => Err(UpstreamError::Lost(fault.wire().1.to_owned())),
                }
            }
        });
        let cut = async move { drop(cuts.changed().await) };
        Ok(responses.take_until(Box::pin(cut)).boxed())
    }

    async fn ask(&self, floor: Revision) -> Result<Fenced, UpstreamError> {
        self.lives()?;
        self.questions.fetch_add(1, Ordering::Relaxed);
        let fenced = self.store.claim(floor).await;
        let fenced = fenced.map_err(|fault| UpstreamError::Lost(fault.wire().1.to_owned()))?;
        passes(&self.answers_held).await;
        self.lives()?;
        Ok(fenced)
    }
}

fn group() -> GroupName {
    GroupName::parse("a").expect("a legal name")
}

fn config(name: &str) -> Config {
    Config::new(group(), name)
}

fn placement(text: &str) -> Arc<Placement> {
    Arc::new(Placement::parse(text).expect("a legal placement"))
}

/// A process's way to an engine that others write too.
fn way(memory: &Arc<Memory>, seed: u64) -> Arc<Faulty> {
    Arc::new(Faulty::new(memory.clone(), Mood::default(), seed).shared())
}

async fn master(engine: &Arc<Faulty>, name: &str) -> Store {
    Store::open(config(name), engine.clone(), placement(ALONE)).await.expect("opens")
}

fn slave(engine: &Arc<Faulty>, config: Config) -> (Store, Slave) {
    Store::follow(config, engine.clone(), placement(ALONE))
}

/// Waits until it serves.
async fn level(slave: &Slave) {
    let mut state = slave.state();
    let level = timeout(Duration::from_secs(60), state.wait_for(|state| state.level)).await;
    assert!(level.is_ok(), "{slave:?}");
}

/// A slave that serves, of this master.
async fn followed(engine: &Arc<Faulty>, config: Config, master: &Store) -> (Store, Slave, Arc<Link>) {
    let (store, mut slave) = slave(engine, config);
    let link = Link::to(master);
    slave.attach(link.clone());
    level(&slave).await;
    (store, slave, link)
}

async fn put_with(store: &Store, key: &str, value: &str, lease: i64) -> Result<u64, WriteError> {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Given::New(Bytes::copy_from_slice(value.as_bytes())),
        lease: Given::New(lease),
        prev_kv: false,
    };
    store.put(put, Revision::ZERO).await.map(|reply| reply.revision.get())
}

async fn put(store: &Store, key: &str, value: &str) -> u64 {
    put_with(store, key, value, 0).await.expect("a put works")
}

async fn delete(store: &Store, key: &str) -> u64 {
    let delete = Delete { keys: KeyRange::one(Bytes::copy_from_slice(key.as_bytes())), prev_kv: false };
    store.delete(delete, Revision::ZERO, None).await.expect("a deletion works").revision.get()
}

/// The header's revision, and all keys.
async fn read(store: &Store, range: &Range) -> Result<(u64, Vec<KeyValue>), Fault> {
    let reply = store.range(range, Revision::ZERO).await?;
    let answer = RangeResponse::decode(reply.message).expect("an answer");
    assert_eq!(answer.header.map(|header| header.revision), Some(reply.revision.to_wire()));
    Ok((reply.revision.get(), answer.kvs))
}

async fn now(store: &Store) -> Result<(u64, Vec<KeyValue>), Fault> {
    read(store, &read_all(ReadAt::Latest)).await
}

async fn old(store: &Store) -> Result<(u64, Vec<KeyValue>), Fault> {
    read(store, &Range { serializable: true, ..read_all(ReadAt::Latest) }).await
}

async fn at(store: &Store, revision: u64) -> Result<Vec<KeyValue>, Fault> {
    let range = read_all(ReadAt::Revision(Revision::new(revision)));
    read(store, &range).await.map(|(_, kvs)| kvs)
}

/// `key=value` of each.
fn pairs(kvs: &[KeyValue]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect()
}

type Messages = BoxStream<'static, Result<Bytes, Status>>;

/// One watcher of everything, with the entries before.
struct Watching {
    messages: Messages,
    /// Its client lives.
    _requests: tokio::sync::mpsc::Sender<WatchRequest>,
    _stopper: Stopper,
    /// The header of the answer to its create.
    created: u64,
    heard: Vec<String>,
    /// The code that it ended with.
    ended: Option<tonic::Code>,
    cancelled: Option<i64>,
}

impl Watching {
    /// From `start` on; 0 is now.
    async fn new(store: &Store, start: u64) -> Result<Self, Status> {
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: start.cast_signed(),
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let (requests, inbound) = tokio::sync::mpsc::channel(4);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.expect("room");
        let inbound = futures_util::stream::unfold(inbound, |mut inbound| async {
            inbound.recv().await.map(|request| (Ok(request), inbound))
        });
        let stopper = Stopper::default();
        let config =
            StreamConfig { progress_interval: Duration::from_secs(600), part: None, tells_all: false };
        let stream = WatchStream::new(store.clone(), inbound.boxed(), config, stopper.handle());
        let mut messages = boxed(stream.into_messages());
        let created = messages.next().await.expect("an answer")?;
        let created = WatchResponse::decode(created).expect("a response");
        assert!(created.created);
        let created = created.header.map_or(0, |header| header.revision.cast_unsigned());
        let (heard, ended, cancelled) = (Vec::new(), None, None);
        Ok(Self { messages, _requests: requests, _stopper: stopper, created, heard, ended, cancelled })
    }

    /// Hears all that comes without waiting for long.
    async fn listen(&mut self) -> &[String] {
        while self.ended.is_none()
            && let Ok(message) = timeout(Duration::from_millis(100), self.messages.next()).await
        {
            match message.expect("a stream ends with a reason") {
                Ok(message) => self.hear(WatchResponse::decode(message).expect("a response")),
                Err(status) => self.ended = Some(status.code()),
            }
        }
        &self.heard
    }

    fn hear(&mut self, response: WatchResponse) {
        if response.canceled {
            self.cancelled = Some(response.compact_revision);
        }
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        for event in response.events {
            let (kv, prev) = (event.kv.expect("an event has a key"), event.prev_kv);
            let before = prev.map_or_else(|| "-".to_owned(), |prev| text(&prev.value));
            self.heard.push(format!("{}={}<{before}@{}", text(&kv.key), text(&kv.value), kv.mod_revision));
        }
    }
}

fn boxed(stream: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Messages {
    stream.boxed()
}

/// Long enough for everything that comes by itself.
async fn settle() {
    sleep(Duration::from_secs(2)).await;
}
