//! [`Traffic`]: one writer for each kind, by compare-and-swap through either proxy, and what it was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::client::Client;
use crate::until;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::history::History;

const KEYS: usize = 4;
/// A client gives a call up after so long, and does not know what came of it.
const GIVEN_UP: Duration = Duration::from_secs(8);

/// What was tried with a key, by the value that it would have got; a deletion has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Done(i64),
    /// The comparison did not hold.
    Not,
    Unknown,
}

/// One kind, with all that was told of it.
pub(super) struct Kind {
    pub(super) name: String,
    /// Nobody writes.
    rests: AtomicBool,
    /// The writer has seen that.
    stands: AtomicBool,
    over: AtomicBool,
    numbers: AtomicU64,
    /// By key and value.
    pub(super) tried: Mutex<BTreeMap<(String, String), Told>>,
    /// Of each key the revision of the last write that was acknowledged.
    pub(super) acknowledged: Mutex<BTreeMap<String, i64>>,
    /// The highest revision that an answer about the kind has shown, whichever proxy gave it.
    shown: AtomicI64,
    /// When reads began while nobody wrote, and how long it took until one succeeded.
    calls: Mutex<Vec<(Instant, Duration)>>,
}

impl Kind {
    pub(super) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            rests: AtomicBool::new(false),
            stands: AtomicBool::new(false),
            over: AtomicBool::new(false),
            numbers: AtomicU64::new(0),
            tried: Mutex::default(),
            acknowledged: Mutex::default(),
            shown: AtomicI64::new(0),
            calls: Mutex::default(),
        })
    }

    pub(super) fn prefix(&self) -> String {
        format!("/registry/{}/", self.name)
    }

    fn key(&self, number: usize) -> String {
        // Not in the kind that lies inside.
        format!("{}n{number}", self.prefix())
    }

    pub(super) fn resume(&self) {
        self.stands.store(false, Ordering::SeqCst);
        self.rests.store(false, Ordering::SeqCst);
    }

    /// The longest time until a read succeeded, of those that were under way at or after `began`.
    pub(super) fn longest_since(&self, began: Instant) -> Option<Duration> {
        let calls = std::mem::take(&mut *self.calls.lock());
        calls.into_iter().filter(|(at, took)| *at + *took >= began).map(|(_, took)| took).max()
    }

    /// Tries to write or delete a key that has been seen at a revision.
    async fn attempt(&self, client: &Client, key: &str, seen: i64, delete: bool) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let value = if delete { format!("-{seen}") } else { format!("{number}") };
        let at = (key.to_owned(), value.clone());
        // A deletion may be tried twice at one revision; what is known stays known.
        self.tried.lock().entry(at.clone()).or_insert(Told::Unknown);
        let shown = self.shown.load(Ordering::SeqCst);
        let answer = match timeout(GIVEN_UP, client.txn(swap(key, seen, (!delete).then_some(&value)))).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("given up")),
        };
        let told = match answer {
            Ok(answer) if answer.succeeded => {
                let revision = answer.header.expect("every answer has a header").revision;
                self.shown.fetch_max(revision, Ordering::SeqCst);
                assert!(revision > shown, "{key}: a write at {revision} after {shown} was shown");
                self.acknowledged.lock().insert(key.to_owned(), revision);
                Told::Done(revision)
            }
            Ok(_) if delete => return,
            Ok(_) => Told::Not,
            Err(_) => return,
        };
        self.tried.lock().insert(at, told);
    }

    /// What a fresh read shows, which is not older than what was acknowledged before.
    async fn look(&self, client: &Client, key: &str) -> Option<i64> {
        let known = self.acknowledged.lock().get(key).copied().unwrap_or(0);
        let shown = self.shown.load(Ordering::SeqCst);
        let read = timeout(GIVEN_UP, client.get(key)).await.ok()?.ok()?;
        let header = read.header.as_ref().expect("every answer has a header").revision;
        self.shown.fetch_max(header, Ordering::SeqCst);
        assert!(header >= shown, "{key}: a fresh read at {header} after {shown} was shown");
        let seen = read.kvs.first().map_or(0, |kv| kv.mod_revision);
        assert!(
            seen >= known || (seen == 0 && self.may_be_gone(key, known)),
            "{key}: a fresh read shows {seen} after {known} was acknowledged"
        );
        Some(seen)
    }

    /// True if what was acknowledged at `known` was a deletion, or one was tried since, of this or of what came after it.
    fn may_be_gone(&self, key: &str, known: i64) -> bool {
        self.tried.lock().iter().filter(|((of, _), _)| of == key).any(|((_, value), told)| {
            let deleted = value.strip_prefix('-').and_then(|seen| seen.parse::<i64>().ok());
            deleted.is_some_and(|seen| seen >= known || *told == Told::Done(known))
        })
    }

    async fn write(self: Arc<Self>, clients: Vec<Client>, mut random: SmallRng) {
        let mut unserved = None;
        while !self.over.load(Ordering::SeqCst) {
            let client = &clients[random.random_range(0..clients.len())];
            let key = self.key(random.random_range(0..KEYS));
            if self.rests.load(Ordering::SeqCst) {
                // It reads on: a kind that moves is served by nobody for a moment.
                self.stands.store(true, Ordering::SeqCst);
                let began = *unserved.get_or_insert_with(Instant::now);
                if self.look(client, &key).await.is_some() {
                    self.calls.lock().push((began, began.elapsed()));
                    unserved = None;
                }
                sleep(Duration::from_millis(random.random_range(1..4))).await;
                continue;
            }
            unserved = None;
            if let Some(seen) = self.look(client, &key).await {
                let delete = seen > 0 && random.random_bool(0.2);
                self.attempt(client, &key, seen, delete).await;
            }
            sleep(Duration::from_millis(random.random_range(1..6))).await;
        }
    }
}

/// If the key is as it was seen, it gets a value, or goes.
fn swap(key: &str, seen: i64, value: Option<&str>) -> TxnRequest {
    let key = bytes::Bytes::from(key.to_owned());
    let request = match value {
        Some(value) => Request::RequestPut(PutRequest {
            key: key.clone(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        }),
        None => Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..Default::default() }),
    };
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(seen)),
        ..Compare::default()
    };
    TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp { request: Some(request) }],
        failure: Vec::new(),
    }
}

/// See the module.
pub(super) struct Traffic {
    kinds: Vec<Arc<Kind>>,
    writers: JoinSet<()>,
}

impl Traffic {
    pub(super) fn begin(kinds: &[Arc<Kind>], addresses: &[String], seed: u64) -> Self {
        let mut writers = JoinSet::new();
        for (at, kind) in kinds.iter().enumerate() {
            let clients = addresses.iter().map(|address| Client::new(address)).collect();
            writers.spawn(kind.clone().write(clients, SmallRng::seed_from_u64(seed ^ (at as u64 + 1) << 8)));
        }
        Self { kinds: kinds.to_vec(), writers }
    }

    /// Ends when all have; a writer that has found something wrong fails here.
    pub(super) async fn end(mut self) {
        self.kinds.iter().for_each(|kind| kind.over.store(true, Ordering::SeqCst));
        while let Some(ended) = self.writers.join_next().await {
            ended.expect("a writer finds nothing wrong");
        }
    }
}

/// Nobody writes the kind, its keys are gone, and so is their history, for all that is known.
pub(super) async fn empty(
    kind: &Arc<Kind>,
    addresses: &[String],
    histories: &BTreeMap<(usize, usize), History>,
) {
    kind.rests.store(true, Ordering::SeqCst);
    until("that nobody writes", async || kind.stands.load(Ordering::SeqCst).then_some(())).await;
    let client = Client::new(&addresses[0]);
    let revision = until("that the kind is empty", async || {
        for number in 0..KEYS {
            let key = kind.key(number);
            match kind.look(&client, &key).await? {
                0 => {}
                seen => {
                    kind.attempt(&client, &key, seen, true).await;
                    return None;
                }
            }
        }
        let read = client.get(&kind.key(0)).await.ok()?;
        read.header.map(|header| header.revision)
    })
    .await;
    // Whoever watches goes on from above what is compacted.
    let end = Instant::now() + Duration::from_secs(30);
    for history in histories.values() {
        while history.next() <= revision {
            assert!(
                Instant::now() < end,
                "a watch of {} is at {} and not at {revision}",
                history.name(),
                history.next()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
    until("a compaction", async || match client.compact(revision).await {
        Ok(()) => Some(()),
        Err(status) if status.message().contains("compacted") => Some(()),
        Err(_) => None,
    })
    .await;
    // It goes from the storage in the background.
    sleep(Duration::from_millis(100)).await;
}
