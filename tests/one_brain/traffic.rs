//! [`Client`]: one that works as kube-apiserver does, and [`Stage`], where all of them note what they ask and hear.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::response_op::Response;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};
use tonic::Status;

use kit::client::end_of;
use kit::judge::record::{Answer, Ask, Journal, Op};

/// One of each group of a placement of three.
pub(crate) const KINDS: [&str; 3] = ["/registry/pods/", "/registry/events/", "/registry/configmaps/"];
/// So few that writers meet.
const NAMES: u32 = 8;
/// Above this a brain says itself that it does not know.
const PATIENCE: Duration = Duration::from_secs(20);
/// What readers of lists take at once.
const PAGE: i64 = 5;

/// See the module.
pub(crate) struct Stage {
    pub(crate) journal: Journal,
    pub(crate) address: String,
    /// Raised when the server under the address is another one.
    pub(crate) life: AtomicUsize,
    pub(crate) stop: AtomicBool,
    numbers: AtomicU64,
}

impl Stage {
    pub(crate) fn new(address: &str) -> Arc<Self> {
        Arc::new(Self {
            journal: Journal::new(Arc::default()),
            address: address.to_owned(),
            life: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            numbers: AtomicU64::new(0),
        })
    }

    /// A number that nobody else gets.
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::new(Connector::Tcp(self.address.clone()), DialConfig::default())
    }

    /// What an operation is to be attributed to that began in `life`: clients of one server see one clock. Where the
    /// server changed meanwhile it is nobody's, so that nothing is concluded from it.
    pub(crate) fn server(&self, life: usize) -> usize {
        match self.life.load(Ordering::SeqCst) {
            now if now == life => life,
            _ => 1_000_000 + usize::try_from(self.number()).expect("few"),
        }
    }
}

/// See the module.
pub(crate) struct Client {
    stage: Arc<Stage>,
    number: usize,
    kv: KvClient<Channel>,
    random: SmallRng,
    /// What it believes of keys, as an informer's cache would: their `mod_revision`, 0 for none.
    known: HashMap<String, i64>,
}

impl Client {
    pub(crate) fn new(stage: &Arc<Stage>, number: usize, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ (number as u64) << 40);
        let kv = KvClient::new(stage.channel()).max_decoding_message_size(usize::MAX);
        Self { stage: stage.clone(), number, kv, random, known: HashMap::new() }
    }

    /// Asks, and notes what came of it.
    pub(crate) async fn ask(&mut self, ask: Ask) -> Option<Result<Answer, Status>> {
        let life = self.stage.life.load(Ordering::SeqCst);
        let begin = self.stage.journal.now();
        let outcome = timeout(PATIENCE, send(self.kv.clone(), ask.clone())).await.ok();
        let end = self.stage.journal.now();
        let proxy = self.stage.server(life);
        self.stage.journal.op(Op { client: self.number, proxy, begin, end, ask, outcome: outcome.clone() });
        outcome
    }

    /// Creates, updates and deletes what others do, too.
    pub(crate) async fn write(mut self) {
        while !self.stage.stop.load(Ordering::Relaxed) {
            let key = self.key();
            let done = self.swap(&key).await;
            let pause =
                if done { self.random.random_range(0..30) } else { self.random.random_range(20..200) };
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Lists a kind, all kinds, or one key: page by page, all pages at the first one's revision.
    pub(crate) async fn read(mut self) {
        while !self.stage.stop.load(Ordering::Relaxed) {
            let (key, range_end): (Bytes, Bytes) = match self.random.random_range(0..6) {
                0 => (self.key().into(), Bytes::new()),
                1 => ("/registry/".into(), end_of("/registry/").into()),
                _ => {
                    let kind = *KINDS.choose(&mut self.random).expect("not empty");
                    (kind.into(), end_of(kind).into())
                }
            };
            let limit = if range_end.is_empty() { 0 } else { PAGE };
            let mut next = pb::RangeRequest { key, range_end, limit, ..Default::default() };
            while let Some(Ok(Answer::Range(page))) = self.ask(Ask::Range(next.clone())).await {
                let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
                next.key = [&last.key[..], &[0]].concat().into();
                if next.revision == 0 {
                    next.revision = page.header.map_or(0, |header| header.revision);
                }
                sleep(Duration::from_millis(self.random.random_range(0..40))).await;
            }
            sleep(Duration::from_millis(self.random.random_range(10..150))).await;
        }
    }

    fn key(&mut self) -> String {
        let kind = KINDS.choose(&mut self.random).expect("not empty");
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

    /// One transaction on a key, now and then with a second key of its kind beside it; false without an answer.
    async fn swap(&mut self, key: &str) -> bool {
        let known = self.known.get(key).copied().unwrap_or(0);
        let mut success = vec![match known > 0 && self.random.random_ratio(1, 5) {
            true => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key: key.to_owned().into(),
                prev_kv: true,
                ..Default::default()
            }),
            false => Request::RequestPut(put(key, self.value())),
        }];
        if self.random.random_ratio(1, 10) {
            let beside = format!("{key}-beside");
            success.push(Request::RequestPut(put(&beside, self.value())));
        }
        let look = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let unchanged = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.to_owned().into(),
            target_union: Some(TargetUnion::ModRevision(known)),
            ..Default::default()
        };
        let deletes = matches!(success[0], Request::RequestDeleteRange(_));
        let op = |request| pb::RequestOp { request: Some(request) };
        let txn = pb::TxnRequest {
            compare: vec![unchanged],
            success: success.into_iter().map(op).collect(),
            failure: vec![op(Request::RequestRange(look))],
        };
        let Some(Ok(Answer::Txn(answer))) = self.ask(Ask::Txn(txn)).await else { return false };
        let revision = answer.header.map_or(0, |header| header.revision);
        let now = match answer.responses.first().and_then(|response| response.response.as_ref()) {
            Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.mod_revision),
            _ if deletes => 0,
            _ => revision,
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

    /// Everything, now or then.
    pub(crate) async fn everything(&mut self, revision: i64) -> Option<i64> {
        let (key, range_end) = (Bytes::from("\0"), Bytes::from("\0"));
        let ask = pb::RangeRequest { key, range_end, revision, ..Default::default() };
        match self.ask(Ask::Range(ask)).await {
            Some(Ok(answer)) => Some(answer.revision()),
            _ => None,
        }
    }
}

pub(crate) fn put(key: &str, value: Bytes) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value, ..Default::default() }
}

async fn send(mut kv: KvClient<Channel>, ask: Ask) -> Result<Answer, Status> {
    Ok(match ask {
        Ask::Range(ask) => Answer::Range(kv.range(ask).await?.into_inner()),
        Ask::Put(ask) => Answer::Put(kv.put(ask).await?.into_inner()),
        Ask::Txn(ask) => Answer::Txn(kv.txn(ask).await?.into_inner()),
        other => panic!("nobody asks for {other}"),
    })
}
