//! What runs against the proxies: clients that read and write, compactors, watchers, and trouble.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::dial::Channel;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::response_op::Response;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::record::{Answer, Ask, Op};
use crate::world::{End, World};

/// Kinds whose keys are written: pods and events have rules, the others are of the default.
pub(crate) const KINDS: &[&str] =
    &["/registry/pods/", "/registry/events/", "/registry/configmaps/", "/registry/example.com/widgets/"];
const NAMES: &[&str] = &["a/x", "a/y", "b/x", "b/z"];
const OUTSIDE: &str = "outside";
const COMPACT_KEY: &str = "compact_rev_key";

/// The end of the range of keys that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("not empty");
    *last += 1;
    end.into()
}

/// One client of one proxy.
pub(crate) struct Client {
    world: Arc<World>,
    id: usize,
    proxy: usize,
    pub rng: StdRng,
    channel: Option<(u64, Channel)>,
    serial: u64,
    /// The last known `mod_revision` of keys.
    known: HashMap<Bytes, i64>,
    seen: Vec<i64>,
    leases: Vec<i64>,
}

impl Client {
    pub(crate) fn new(world: Arc<World>, id: usize, proxy: usize) -> Self {
        let rng = world.rng();
        let (known, seen, leases) = (HashMap::new(), vec![1], Vec::new());
        Self { world, id, proxy, rng, channel: None, serial: 0, known, seen, leases }
    }

    fn channel(&mut self) -> Channel {
        let generation = self.world.generation(self.proxy);
        match &self.channel {
            Some((of, channel)) if *of == generation => channel.clone(),
            _ => {
                let channel = self.world.channel(self.proxy);
                self.channel.insert((generation, channel)).1.clone()
            }
        }
    }

    /// Asks and writes down what came of it.
    pub(crate) async fn ask(&mut self, ask: Ask) -> Option<Result<Answer, Status>> {
        let channel = self.channel();
        let hurried = self.world.is_troubled() && self.rng.random_bool(0.02);
        let patience = if hurried {
            Duration::from_millis(self.rng.random_range(0..30))
        } else {
            Duration::from_secs(15)
        };
        let begin = self.world.journal.now();
        let outcome = timeout(patience, send(&self.world, channel, ask.clone())).await.ok();
        let end = self.world.journal.now();
        if let Some(Ok(answer)) = &outcome {
            self.learn(&ask, answer);
        }
        let op = Op { client: self.id, proxy: self.proxy, begin, end, ask, outcome: outcome.clone() };
        self.world.journal.op(op);
        outcome
    }

    fn learn(&mut self, ask: &Ask, answer: &Answer) {
        let revision = answer.revision();
        self.seen.push(revision);
        match (ask, answer) {
            (_, Answer::Range(range)) => {
                for kv in &range.kvs {
                    self.known.insert(kv.key.clone(), kv.mod_revision);
                }
            }
            (Ask::Put(put), _) => drop(self.known.insert(put.key.clone(), revision)),
            (Ask::Txn(txn), Answer::Txn(answer)) => {
                let Some(compare) = txn.compare.first() else { return };
                if answer.succeeded {
                    self.known.insert(compare.key.clone(), revision);
                }
                for response in &answer.responses {
                    if let Some(Response::ResponseRange(range)) = &response.response {
                        let found = range.kvs.first().map_or(0, |kv| kv.mod_revision);
                        self.known.insert(compare.key.clone(), found);
                    }
                }
            }
            (Ask::Grant(_), Answer::Grant(lease)) => self.leases.push(lease.id),
            _ => {}
        }
    }

    fn value(&mut self) -> Bytes {
        self.serial += 1;
        format!("c{}-{}", self.id, self.serial).into()
    }

    fn kind(&mut self) -> &'static str {
        KINDS.choose(&mut self.rng).expect("not empty")
    }

    fn key(&mut self) -> Bytes {
        if self.rng.random_bool(0.05) {
            return OUTSIDE.into();
        }
        let kind = self.kind();
        format!("{kind}{}", NAMES.choose(&mut self.rng).expect("not empty")).into()
    }

    /// Every key, every key of the registry, or those of one kind.
    fn keys(&mut self) -> (Bytes, Bytes) {
        match self.rng.random_range(0..10) {
            0 | 1 => ("\0".into(), "\0".into()),
            2 => ("/".into(), prefix_end("/")),
            3 => ("/registry/".into(), prefix_end("/registry/")),
            _ => {
                let kind = self.kind();
                (kind.into(), prefix_end(kind))
            }
        }
    }

    fn old_revision(&mut self) -> i64 {
        let from = self.seen.len().saturating_sub(12);
        let revision = *self.seen[from..].choose(&mut self.rng).expect("not empty");
        (revision + self.rng.random_range(-3..=1)).max(1)
    }

    fn lease(&mut self) -> i64 {
        match self.rng.random_bool(0.15) {
            true => self.leases.last().copied().unwrap_or(0),
            false => 0,
        }
    }

    /// One thing that a client of Kubernetes or of etcd does.
    pub(crate) async fn act(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => self.compare_and_swap().await,
            30..40 => {
                let (key, value, lease) = (self.key(), self.value(), self.lease());
                let prev_kv = self.rng.random();
                self.ask(Ask::Put(pb::PutRequest { key, value, lease, prev_kv, ..<_>::default() })).await;
            }
            40..45 => {
                let key = self.key();
                let prev_kv = self.rng.random();
                self.ask(Ask::Delete(pb::DeleteRangeRequest { key, prev_kv, ..<_>::default() })).await;
            }
            45..47 => {
                let (key, range_end) = self.keys();
                self.ask(Ask::Delete(pb::DeleteRangeRequest { key, range_end, prev_kv: true })).await;
            }
            47..58 => {
                let range = pb::RangeRequest {
                    key: self.key(),
                    serializable: self.rng.random_bool(0.1),
                    ..<_>::default()
                };
                self.ask(Ask::Range(range)).await;
            }
            58..75 => self.read_range().await,
            75..82 => self.list().await,
            82..88 => {
                let kind = self.kind();
                let range =
                    pb::RangeRequest { key: kind.trim_end_matches('/').into(), limit: 1, ..<_>::default() };
                self.ask(Ask::Range(range)).await;
            }
            88..93 => {
                let (key, range_end) = self.keys();
                let revision = if self.rng.random_bool(0.3) { self.old_revision() } else { 0 };
                let limit = if self.rng.random_bool(0.3) { 3 } else { 0 };
                self.ask(Ask::Stream(pb::RangeRequest { key, range_end, revision, limit, ..<_>::default() }))
                    .await;
            }
            93..99 => self.use_lease().await,
            _ => self.cross_groups().await,
        }
    }

    /// As the API server writes: create, update and delete under the revision that it knows.
    async fn compare_and_swap(&mut self) {
        let (key, value, lease) = (self.key(), self.value(), self.lease());
        let known = self.known.get(&key).copied().unwrap_or(0);
        let stale = self.rng.random_bool(0.1);
        let known = if stale { (known - 1).max(0) } else { known };
        let put = Request::RequestPut(pb::PutRequest { key: key.clone(), value, lease, ..<_>::default() });
        let delete =
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..<_>::default() });
        let change = if known > 0 && self.rng.random_bool(0.25) { delete } else { put };
        let get = Request::RequestRange(pb::RangeRequest { key: key.clone(), ..<_>::default() });
        let failure = if known == 0 && self.rng.random() { Vec::new() } else { vec![op(get)] };
        let compare = vec![compare_mod(key, known)];
        self.ask(Ask::Txn(pb::TxnRequest { compare, success: vec![op(change)], failure })).await;
    }

    async fn read_range(&mut self) {
        let (key, range_end) = self.keys();
        let mut range = pb::RangeRequest { key, range_end, ..<_>::default() };
        match self.rng.random_range(0..10) {
            0..3 => range.revision = self.old_revision(),
            3 => range.limit = self.rng.random_range(1..4),
            4 => range.count_only = true,
            5 => range.keys_only = true,
            6 => {
                range.sort_order = self.rng.random_range(0..3);
                range.sort_target = self.rng.random_range(0..5);
                range.limit = self.rng.random_range(0..3);
                range.keys_only = self.rng.random();
            }
            7 => range.min_mod_revision = self.old_revision(),
            _ => {}
        }
        self.ask(Ask::Range(range)).await;
    }

    /// A list in pages, all of them at the revision of the first.
    async fn list(&mut self) {
        let (key, range_end) = self.keys();
        let limit = self.rng.random_range(1..5);
        let mut range = pb::RangeRequest { key, range_end, limit, ..<_>::default() };
        for _ in 0..40 {
            let Some(Ok(Answer::Range(page))) = self.ask(Ask::Range(range.clone())).await else { return };
            if range.revision == 0 {
                range.revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else { return };
            range.key = [&last.key[..], b"\0"].concat().into();
            self.rest(10).await;
        }
        self.world.journal.wrong(format!("client {}: a list has no last page", self.id));
    }

    async fn use_lease(&mut self) {
        let last = self.leases.last().copied();
        match (self.rng.random_range(0..8), last) {
            (0..3, _) | (_, None) => {
                self.serial += 1;
                let id = if self.rng.random() {
                    0
                } else {
                    (self.id as i64 + 1) * 1_000_000 + self.serial.cast_signed()
                };
                let ttl = self.rng.random_range(1..6);
                self.ask(Ask::Grant(pb::LeaseGrantRequest { id, ttl })).await;
            }
            (3..6, Some(id)) => drop(self.ask(Ask::KeepAlive(pb::LeaseKeepAliveRequest { id })).await),
            (6, Some(id)) => {
                drop(self.ask(Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true })).await)
            }
            (_, Some(id)) => drop(self.ask(Ask::Revoke(pb::LeaseRevokeRequest { id })).await),
        }
    }

    /// Refused, always: the keys belong to two groups.
    async fn cross_groups(&mut self) {
        let success = [OUTSIDE, "/registry/pods/a/x"].map(|key| {
            op(Request::RequestPut(pb::PutRequest { key: key.into(), value: self.value(), ..<_>::default() }))
        });
        self.ask(Ask::Txn(pb::TxnRequest { success: success.into(), ..<_>::default() })).await;
    }

    /// A moment's rest, or none.
    pub(crate) async fn rest(&mut self, millis_max: u64) {
        match self.rng.random_range(0..4) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => sleep(Duration::from_millis(self.rng.random_range(0..=millis_max))).await,
        }
    }

    /// Writes one key of each kind.
    pub(crate) async fn touch_all(&mut self) {
        for kind in KINDS.iter().chain(&[OUTSIDE]) {
            let put =
                pb::PutRequest { key: format!("{kind}last").into(), value: self.value(), ..<_>::default() };
            self.ask(Ask::Put(put)).await;
        }
    }

    /// Reads everything now.
    pub(crate) async fn read_all(&mut self) {
        let range = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..<_>::default() };
        self.ask(Ask::Range(range)).await;
    }

    /// Reads everything, again until it is answered; the revision of the answer.
    pub(crate) async fn probe(&mut self) -> i64 {
        loop {
            let range = pb::RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                count_only: true,
                ..<_>::default()
            };
            if let Some(Ok(answer)) = self.ask(Ask::Range(range)).await {
                return answer.revision();
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

pub(crate) fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn compare_mod(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..<_>::default()
    }
}

async fn send(world: &World, channel: Channel, ask: Ask) -> Result<Answer, Status> {
    let (mut kv, mut lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel));
    Ok(match ask {
        Ask::Range(ask) => Answer::Range(kv.range(ask).await?.into_inner()),
        Ask::Stream(ask) => {
            let mut chunks = kv.range_stream(ask).await?.into_inner();
            let mut whole = pb::RangeResponse::default();
            while let Some(chunk) = chunks.message().await? {
                let chunk = chunk.range_response.unwrap_or_default();
                if whole.header.is_some() {
                    world.journal.wrong("a streamed range goes on after its header".into());
                }
                whole.kvs.extend(chunk.kvs);
                (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
            }
            Answer::Range(whole)
        }
        Ask::Put(ask) => Answer::Put(kv.put(ask).await?.into_inner()),
        Ask::Delete(ask) => Answer::Delete(kv.delete_range(ask).await?.into_inner()),
        Ask::Txn(ask) => Answer::Txn(kv.txn(ask).await?.into_inner()),
        Ask::Compact(ask) => Answer::Compact(kv.compact(ask).await?.into_inner()),
        Ask::Grant(ask) => Answer::Grant(lease.lease_grant(ask).await?.into_inner()),
        Ask::Revoke(ask) => Answer::Revoke(lease.lease_revoke(ask).await?.into_inner()),
        Ask::TimeToLive(ask) => Answer::TimeToLive(lease.lease_time_to_live(ask).await?.into_inner()),
        Ask::KeepAlive(ask) => {
            let mut answers = lease.lease_keep_alive(futures_util::stream::iter([ask])).await?.into_inner();
            let answer = answers.message().await?;
            Answer::KeepAlive(answer.ok_or_else(|| Status::unavailable("ended without an answer"))?)
        }
    })
}

/// Reads and writes until the time is over.
pub(crate) async fn use_store(world: Arc<World>, id: usize, proxy: usize, time: Duration) {
    let began = Instant::now();
    let mut client = Client::new(world, id, proxy);
    while began.elapsed() < time {
        client.act().await;
        client.rest(80).await;
    }
}

/// What each API server does: races for `compact_rev_key`, and compacts at the revision of its last answer.
pub(crate) async fn compact(world: Arc<World>, id: usize, proxy: usize, time: Duration) {
    let began = Instant::now();
    let mut client = Client::new(world, id, proxy);
    let (mut version, mut revision) = (0, 0);
    while began.elapsed() < time {
        sleep(Duration::from_millis(client.rng.random_range(100..900))).await;
        let put =
            pb::PutRequest { key: COMPACT_KEY.into(), value: revision.to_string().into(), ..<_>::default() };
        let get = pb::RangeRequest { key: COMPACT_KEY.into(), ..<_>::default() };
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: COMPACT_KEY.into(),
            target_union: Some(TargetUnion::Version(version)),
            ..<_>::default()
        };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(Request::RequestPut(put))],
            failure: vec![op(Request::RequestRange(get))],
        };
        let Some(Ok(Answer::Txn(answer))) = client.ask(Ask::Txn(txn)).await else { continue };
        let current = answer.header.as_ref().map_or(0, |header| header.revision);
        if !answer.succeeded {
            version = match answer.responses.first().and_then(|response| response.response.as_ref()) {
                Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.version),
                _ => 0,
            };
            revision = current;
            continue;
        }
        version += 1;
        let before = std::mem::replace(&mut revision, current);
        if before == 0 {
            continue;
        }
        let physical = client.rng.random_bool(0.2);
        let done = client.ask(Ask::Compact(pb::CompactionRequest { revision: before, physical })).await;
        if matches!(done, Some(Ok(_))) {
            for at in [before - 1, before] {
                let (key, range_end) = client.keys();
                client
                    .ask(Ask::Range(pb::RangeRequest { key, range_end, revision: at, ..<_>::default() }))
                    .await;
            }
        }
    }
}

/// Ends, cuts and stalls.
pub(crate) async fn trouble(world: Arc<World>, time: Duration) {
    let began = Instant::now();
    let mut rng = world.rng();
    let groups = world.groups();
    while began.elapsed() < time {
        sleep(Duration::from_millis(rng.random_range(50..1500))).await;
        let group = groups.choose(&mut rng).expect("not empty");
        let pause = Duration::from_millis(rng.random_range(0..600));
        match rng.random_range(0..12) {
            0 | 1 => world.restart_brain(group, End::Killed, pause).await,
            2 | 3 => world.restart_brain(group, End::Asleep, pause).await,
            4 => world.restart_brain(group, End::Closed, pause).await,
            5..=7 => world.cut(group).await,
            8 | 9 => world.stall(group, pause * 3).await,
            10 => {
                let proxy = rng.random_range(0..world.plan.proxies);
                world.restart_proxy(proxy).await;
            }
            _ => {}
        }
    }
}
