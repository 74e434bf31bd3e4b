//! [`Client`]: what Kubernetes, etcdctl and etcd's own clients do, each thing written down with what came of it.

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
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::stage::Stage;
use kit::client::end_of;
use kit::judge::record::{Answer, Ask, Op};

/// So few that writers meet.
const NAMES: u32 = 8;
/// Above this a brain says itself that it does not know.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Of leases, seconds: so short that some run out in a round.
pub(crate) const TTL_MAX: i64 = 3;
/// What readers of lists take at once.
const PAGE: i64 = 5;

/// See the module.
pub(crate) struct Client {
    stage: Arc<Stage>,
    pub(crate) number: usize,
    door: usize,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    random: SmallRng,
    /// What it believes of keys, as an informer's cache would: `mod_revision` and `version`, 0 for none.
    known: HashMap<String, (i64, i64)>,
}

impl Client {
    pub(crate) fn new(stage: &Arc<Stage>, number: usize, door: usize, seed: u64) -> Self {
        let channel = stage.doors[door].channel();
        Self::over(stage, number, door, seed, channel)
    }

    /// Over a connection that leads to the process behind a door in its own way.
    pub(crate) fn over(stage: &Arc<Stage>, number: usize, door: usize, seed: u64, channel: Channel) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ (number as u64) << 40);
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let lease = LeaseClient::new(channel);
        Self { stage: stage.clone(), number, door, kv, lease, random, known: HashMap::new() }
    }

    /// Asks, and notes what came of it.
    pub(crate) async fn ask(&mut self, ask: Ask) -> Option<Result<Answer, Status>> {
        let life = self.stage.doors[self.door].life();
        let begin = self.stage.journal.now();
        let sent = send(&self.stage, self.kv.clone(), self.lease.clone(), ask.clone());
        let outcome = timeout(PATIENCE, sent).await.ok().map(|outcome| outcome.map_err(from_server));
        let end = self.stage.journal.now();
        let proxy = self.stage.clock(self.door, life);
        let op = Op { client: self.number, proxy, begin, end, ask, outcome: outcome.clone() };
        if let Some(Ok(answer)) = &op.outcome
            && matches!(op.ask, Ask::Range(_) | Ask::Stream(_) | Ask::Put(_) | Ask::Txn(_))
        {
            self.stage.shown(self.door, answer.revision());
        }
        self.stage.journal.op(op);
        outcome
    }

    /// Creates, updates and deletes what others do, too.
    pub(crate) async fn write(mut self) {
        while !self.stage.stopped() {
            let key = self.key();
            let done = match self.random.random_range(0..100) {
                0..60 => self.swap(&key).await,
                60..70 => self.put_if_version(&key).await,
                70..84 => {
                    let value = self.value();
                    self.answered(Ask::Put(put(&key, value))).await
                }
                84..92 => {
                    let delete =
                        pb::DeleteRangeRequest { key: key.into(), prev_kv: true, ..Default::default() };
                    self.answered(Ask::Delete(delete)).await
                }
                92..94 => {
                    let kind = self.kind();
                    let (key, range_end) = (format!("{kind}n1").into(), format!("{kind}n3").into());
                    let delete = pb::DeleteRangeRequest { key, range_end, prev_kv: true };
                    self.answered(Ask::Delete(delete)).await
                }
                _ => self.pair().await,
            };
            let pause =
                if done { self.random.random_range(0..30) } else { self.random.random_range(20..200) };
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn answered(&mut self, ask: Ask) -> bool {
        matches!(self.ask(ask).await, Some(Ok(_)))
    }

    /// Reads keys and lists, new and old, whole, in pages and in streams.
    pub(crate) async fn read(mut self) {
        while !self.stage.stopped() {
            let (key, range_end): (Bytes, Bytes) = match self.random.random_range(0..8) {
                0 | 1 => (self.key().into(), Bytes::new()),
                2 if self.stage.doors[self.door].is_proxy => {
                    ("/registry/".into(), end_of("/registry/").into())
                }
                _ => {
                    let kind = self.kind();
                    (kind.into(), end_of(kind).into())
                }
            };
            let one_kind = &key[..] != b"/registry/";
            let mut ask = pb::RangeRequest { key, range_end, ..Default::default() };
            match self.random.random_range(0..100) {
                0..20 => drop(self.ask(Ask::Range(ask)).await),
                20..32 => {
                    // Over several groups there is no such thing as an old list of one moment.
                    ask.serializable = one_kind;
                    self.ask(Ask::Range(ask)).await;
                }
                32..52 => {
                    ask.revision = self.stage.past(self.door, &mut self.random).unwrap_or(0);
                    self.ask(Ask::Range(ask)).await;
                }
                52..66 => {
                    if self.random.random_ratio(1, 3) {
                        ask.revision = self.stage.past(self.door, &mut self.random).unwrap_or(0);
                    }
                    self.ask(Ask::Stream(ask)).await;
                }
                66..72 => {
                    ask.count_only = true;
                    self.ask(Ask::Range(ask)).await;
                }
                72..78 => {
                    ask.keys_only = true;
                    self.ask(Ask::Range(ask)).await;
                }
                _ => self.pages(ask).await,
            }
            sleep(Duration::from_millis(self.random.random_range(5..80))).await;
        }
    }

    /// Page by page, all pages at the first one's revision.
    async fn pages(&mut self, mut next: pb::RangeRequest) {
        next.limit = PAGE;
        while let Some(Ok(Answer::Range(page))) = self.ask(Ask::Range(next.clone())).await {
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            next.key = [&last.key[..], &[0]].concat().into();
            if next.revision == 0 {
                next.revision = page.header.map_or(0, |header| header.revision);
            }
            sleep(Duration::from_millis(self.random.random_range(0..30))).await;
        }
    }

    /// One lease after the other: keys are hung on it, it is kept alive for a while, and then revoked or left alone.
    pub(crate) async fn lease(mut self) {
        while !self.stage.stopped() {
            let ttl = self.random.random_range(2..=TTL_MAX);
            let grant = Ask::Grant(pb::LeaseGrantRequest { id: 0, ttl });
            let Some(Ok(Answer::Grant(lease))) = self.ask(grant).await else {
                sleep(Duration::from_millis(self.random.random_range(50..300))).await;
                continue;
            };
            for _ in 0..self.random.random_range(1..=3) {
                let key = format!("{}leased-{}", self.kind(), self.random.random_range(0..4));
                let value = self.value();
                let put = pb::PutRequest { lease: lease.id, ..put(&key, value) };
                self.ask(Ask::Put(put)).await;
            }
            for _ in 0..self.random.random_range(0..4) {
                sleep(Duration::from_millis(self.random.random_range(300..1200))).await;
                let ask = match self.random.random_ratio(1, 4) {
                    true => Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id: lease.id, keys: false }),
                    false => Ask::KeepAlive(pb::LeaseKeepAliveRequest { id: lease.id }),
                };
                self.ask(ask).await;
                if self.stage.stopped() {
                    return;
                }
            }
            match self.random.random_ratio(1, 3) {
                true => drop(self.ask(Ask::Revoke(pb::LeaseRevokeRequest { id: lease.id })).await),
                false => sleep(Duration::from_millis(self.random.random_range(0..1500))).await,
            }
        }
    }

    /// Compacts what the scribe has read, close behind it.
    pub(crate) async fn compact(mut self) {
        let mut last = 0;
        while !self.stage.stopped() {
            sleep(Duration::from_millis(self.random.random_range(600..2500))).await;
            let read = self.stage.read.load(std::sync::atomic::Ordering::SeqCst);
            let revision = read - self.random.random_range(0..60);
            if revision <= last {
                continue;
            }
            let physical = self.random.random_ratio(1, 4);
            let done = self.ask(Ask::Compact(pb::CompactionRequest { revision, physical })).await;
            if matches!(done, Some(Ok(_))) {
                last = revision;
            }
        }
    }

    fn kind(&mut self) -> &'static str {
        self.stage.doors[self.door].kinds.choose(&mut self.random).expect("every door has some")
    }

    fn key(&mut self) -> String {
        let kind = self.kind();
        format!("{kind}n{}", self.random.random_range(0..NAMES))
    }

    /// Most are small, as in a cluster. Some are above what TiKV commits in one phase.
    fn value(&mut self) -> Bytes {
        let mut value = format!("{};{};", self.number, self.stage.number());
        if self.random.random_ratio(1, 20) {
            value.extend(std::iter::repeat_n('x', self.random.random_range(15_000..40_000)));
        }
        value.into()
    }

    /// One transaction on a key, under the revision that is known; false without an answer.
    async fn swap(&mut self, key: &str) -> bool {
        let (known, _) = self.known.get(key).copied().unwrap_or_default();
        let success = match known > 0 && self.random.random_ratio(1, 5) {
            true => delete(key),
            false => Request::RequestPut(put(key, self.value())),
        };
        let compare = compare(key, CompareTarget::Mod, TargetUnion::ModRevision(known));
        self.txn(key, vec![compare], vec![success]).await
    }

    /// The same under the version.
    async fn put_if_version(&mut self, key: &str) -> bool {
        let (_, known) = self.known.get(key).copied().unwrap_or_default();
        let compare = compare(key, CompareTarget::Version, TargetUnion::Version(known));
        let value = self.value();
        self.txn(key, vec![compare], vec![Request::RequestPut(put(key, value))]).await
    }

    /// Several keys of one kind together, now and then under a condition on one of them.
    async fn pair(&mut self) -> bool {
        let kind = self.kind();
        let from = self.random.random_range(0..NAMES);
        let keys: Vec<String> = (0..3).map(|add| format!("{kind}n{}", (from + add * 3) % NAMES)).collect();
        let conditions = match self.random.random_bool(0.5) {
            true => {
                let (known, _) = self.known.get(&keys[0]).copied().unwrap_or_default();
                vec![compare(&keys[0], CompareTarget::Mod, TargetUnion::ModRevision(known))]
            }
            false => Vec::new(),
        };
        let mut success = vec![Request::RequestPut(put(&keys[0], self.value()))];
        success.push(Request::RequestPut(put(&keys[1], self.value())));
        success.push(match self.random.random_bool(0.5) {
            true => delete(&keys[2]),
            false => Request::RequestPut(put(&keys[2], self.value())),
        });
        self.txn(&keys[0], conditions, success).await
    }

    async fn txn(&mut self, key: &str, compare: Vec<pb::Compare>, success: Vec<Request>) -> bool {
        let deletes = matches!(success[0], Request::RequestDeleteRange(_));
        let look = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let op = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest {
            compare,
            success: success.into_iter().map(op).collect(),
            failure: vec![op(Request::RequestRange(look))],
        };
        let Some(Ok(Answer::Txn(answer))) = self.ask(Ask::Txn(txn)).await else { return false };
        let revision = answer.header.map_or(0, |header| header.revision);
        let now = match answer.responses.first().and_then(|response| response.response.as_ref()) {
            Some(Response::ResponseRange(range)) => {
                range.kvs.first().map_or((0, 0), |kv| (kv.mod_revision, kv.version))
            }
            _ if deletes => (0, 0),
            // How often it was written is known only to who has read it.
            _ => (revision, self.known.get(key).map_or(0, |(_, version)| *version) + 1),
        };
        self.known.insert(key.to_owned(), now);
        true
    }

    /// A put of a key that nobody else has; its revision, if it was answered.
    pub(crate) async fn probe(&mut self, key: &str) -> Option<i64> {
        let value = self.value();
        match self.ask(Ask::Put(put(key, value))).await {
            Some(Ok(answer)) => Some(answer.revision()),
            _ => None,
        }
    }

    /// Everything that this door has, now or then; the answer's revision.
    pub(crate) async fn everything(&mut self, revision: i64) -> Option<i64> {
        let door = &self.stage.doors[self.door];
        let spans: Vec<(Bytes, Bytes)> = match door.is_proxy {
            true => vec![("\0".into(), "\0".into())],
            false => door.kinds.iter().map(|kind| (Bytes::from(*kind), end_of(kind).into())).collect(),
        };
        let mut shown = None;
        for (key, range_end) in spans {
            let ask = pb::RangeRequest { key, range_end, revision, ..Default::default() };
            match self.ask(Ask::Range(ask)).await {
                Some(Ok(answer)) => shown = Some(answer.revision()),
                _ => return None,
            }
        }
        shown
    }
}

/// What the connection was lost with is not what a server has said: nobody knows what became of the request.
fn from_server(status: Status) -> Status {
    match std::error::Error::source(&status) {
        Some(cause) => Status::unavailable(format!("{}: {cause}", status.message())),
        None => status,
    }
}

pub(crate) fn put(key: &str, value: Bytes) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value, ..Default::default() }
}

fn delete(key: &str) -> Request {
    let key = key.to_owned().into();
    Request::RequestDeleteRange(pb::DeleteRangeRequest { key, prev_kv: true, ..Default::default() })
}

fn compare(key: &str, target: CompareTarget, union: TargetUnion) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: target as i32,
        key: key.to_owned().into(),
        target_union: Some(union),
        ..Default::default()
    }
}

async fn send(
    stage: &Stage,
    mut kv: KvClient<Channel>,
    mut lease: LeaseClient<Channel>,
    ask: Ask,
) -> Result<Answer, Status> {
    Ok(match ask {
        Ask::Range(ask) => Answer::Range(kv.range(ask).await?.into_inner()),
        Ask::Stream(ask) => {
            let mut chunks = kv.range_stream(ask).await?.into_inner();
            let mut whole = pb::RangeResponse::default();
            while let Some(chunk) = chunks.message().await? {
                let chunk = chunk.range_response.unwrap_or_default();
                if whole.header.is_some() {
                    stage.journal.wrong("a streamed range goes on after its header".into());
                }
                whole.kvs.extend(chunk.kvs);
                (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
            }
            if whole.header.is_none() {
                stage.journal.wrong("a streamed range ends without a header".into());
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
            let mut answers = lease.lease_keep_alive(tokio_stream::once(ask)).await?.into_inner();
            let answer = answers.message().await?;
            Answer::KeepAlive(answer.ok_or_else(|| Status::unavailable("ended without an answer"))?)
        }
    })
}
