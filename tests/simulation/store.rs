//! One store against the naive model: random transactions, reads, leases, compactions and restarts, one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use kubebrain_brain::config::{self, ValueCache};
use kubebrain_brain::engine::faulty::{Faulty, Mood};
use kubebrain_brain::request::{Delete, Limits, Put, Range, ReadAt, Txn};
use kubebrain_brain::store::{Ranged, Reply, Store, Terms, WriteError};
use kubebrain_brain::watch::{StreamConfig, WatchStream};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::peer;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::bytes_field_len;
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::client::op;
use crate::engine::{Clock, Disk};
use crate::model::{self, Evaluation, History, within};

/// Neighbours in every sense: zero bytes, escapes, a key that begins another.
const KEYS: &[&[u8]] = &[b"a", b"a\0", b"a\0\0", b"a\0\xff", b"a/", b"b", b"ba", b"c", b"\xff", b"\xff\xff"];
const OPS: usize = 250;

struct Lease {
    ttl: i64,
    deadline: Instant,
}

struct Bench {
    rng: StdRng,
    disk: Arc<Disk>,
    mood: Mood,
    small: bool,
    engine: Arc<Faulty>,
    store: Store,
    gone: Vec<Store>,
    model: History,
    current: i64,
    compacted: i64,
    leases: BTreeMap<i64, Lease>,
    advanced: bool,
    serial: u64,
    done: Arc<Mutex<Vec<String>>>,
}

async fn open(disk: &Arc<Disk>, mood: Mood, small: bool, seed: u64) -> (Arc<Faulty>, Store) {
    let group = GroupName::parse("core").expect("a name");
    let mut config = config::Config::new(group.clone(), "model");
    if small {
        (config.value_cache, config.window_bytes) = (ValueCache::new(1), 1);
    }
    let placement = Arc::new(Placement::single(group));
    for seed in seed.. {
        let engine = Arc::new(Faulty::new(Arc::clone(disk) as _, mood, seed));
        match Store::open(config.clone(), engine.clone(), Arc::clone(&placement)).await {
            Ok(store) => return (engine, store),
            // a process that ends over it is started again
            Err(error) => assert!(mood.refuses + mood.blind > 0.0, "the store does not open: {error}"),
        }
    }
    unreachable!("an engine that refuses everything")
}

impl Bench {
    async fn new(seed: u64, done: Arc<Mutex<Vec<String>>>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // what takes time may cross a lease's end: unkind engines are met without leases
        let mood = match rng.random_bool(0.5) {
            true => Mood { unknown: 0.2, slow: 0.3, refuses: 0.1, ..Mood::default() },
            false => Mood::default(),
        };
        let group = GroupName::parse("core").expect("a name");
        let disk = Disk::new(&[group], Arc::new(Clock::default()), false);
        let small = rng.random();
        let (engine, store) = open(&disk, mood, small, seed).await;
        let (model, leases, gone) = (History::default(), BTreeMap::new(), Vec::new());
        Self {
            rng,
            disk,
            mood,
            small,
            engine,
            store,
            gone,
            model,
            current: 1,
            compacted: -1,
            leases,
            advanced: false,
            serial: 0,
            done,
        }
    }

    fn says(&mut self, what: String) {
        self.done.lock().push(format!("r{} {what}", self.current));
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS.choose(&mut self.rng).expect("not empty"))
    }

    fn keys(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.rng.random_range(0..6) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            _ => self.key(),
        };
        if self.rng.random_bool(0.1) {
            (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
        } else {
            (key, end)
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.keys();
        let mut bound =
            |of: f64| if self.rng.random_bool(of) { self.rng.random_range(0..=self.current) } else { 0 };
        let (min_mod_revision, max_mod_revision) = (bound(0.1), bound(0.1));
        let (min_create_revision, max_create_revision) = (bound(0.1), bound(0.1));
        let revision = match self.rng.random_bool(0.35) {
            true => self.rng.random_range((self.compacted - 2).max(1)..=self.current + 1),
            false => 0,
        };
        pb::RangeRequest {
            key,
            range_end,
            limit: if self.rng.random_bool(0.4) { self.rng.random_range(0..6) } else { 0 },
            revision,
            sort_order: self.rng.random_range(0..3),
            sort_target: self.rng.random_range(0..5),
            serializable: self.rng.random(),
            keys_only: self.rng.random_bool(0.2),
            count_only: self.rng.random_bool(0.1),
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        self.serial += 1;
        let mut put = pb::PutRequest { key: self.key(), prev_kv: self.rng.random(), ..<_>::default() };
        put.ignore_value = self.rng.random_bool(0.1);
        put.ignore_lease = self.rng.random_bool(0.1);
        if !put.ignore_value {
            put.value = if self.rng.random_bool(0.1) {
                Bytes::new()
            } else {
                format!("v{}", self.serial % 40).into()
            };
        }
        if !put.ignore_lease && self.rng.random_bool(0.3) {
            let known: Vec<i64> = self.leases.keys().copied().collect();
            put.lease = if self.rng.random_bool(0.1) {
                404
            } else {
                known.choose(&mut self.rng).copied().unwrap_or(0)
            };
        }
        put
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.keys();
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.rng.random() }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, range_end) = self.keys();
        let target = self.rng.random_range(0..5);
        let number = self.rng.random_range(0..=self.current);
        let union = match CompareTarget::try_from(target).expect("of five") {
            CompareTarget::Version => TargetUnion::Version(number % 4),
            CompareTarget::Create => TargetUnion::CreateRevision(number),
            CompareTarget::Mod => TargetUnion::ModRevision(number),
            CompareTarget::Value => TargetUnion::Value(format!("v{}", number % 40).into()),
            CompareTarget::Lease => TargetUnion::Lease(0),
        };
        pb::Compare { result: self.rng.random_range(0..4), target, key, range_end, target_union: Some(union) }
    }

    fn txn(&mut self, depth: usize) -> pb::TxnRequest {
        let mut branch = || -> Vec<pb::RequestOp> {
            let count = self.rng.random_range(0..4);
            (0..count)
                .map(|_| {
                    op(match self.rng.random_range(0..8) {
                        0..3 => Request::RequestPut(self.put()),
                        3 | 4 => Request::RequestRange(self.range()),
                        5 => Request::RequestDeleteRange(self.delete()),
                        _ if depth > 0 => Request::RequestTxn(self.txn(depth - 1)),
                        _ => Request::RequestRange(self.range()),
                    })
                })
                .collect()
        };
        let (success, failure) = (branch(), branch());
        let compare = (0..self.rng.random_range(0..3)).map(|_| self.compare()).collect();
        pb::TxnRequest { compare, success, failure }
    }

    /// What etcd refuses of one request, on the state before it.
    fn refusal(&self, request: &Request, evaluation: &Evaluation<'_>) -> Option<Fault> {
        match request {
            Request::RequestRange(range) => match range.revision {
                ..=0 => None,
                revision if revision > self.current => Some(Fault::FutureRevision),
                revision if revision < self.compacted => Some(Fault::Compacted),
                _ => None,
            },
            Request::RequestPut(put) => {
                // The lease first, as etcd looks.
                if put.lease != 0 && !self.leases.contains_key(&put.lease) {
                    return Some(Fault::LeaseNotFound);
                }
                let exists = self.model.at(self.current).contains_key(&put.key);
                ((put.ignore_value || put.ignore_lease) && !exists).then_some(Fault::KeyNotFound)
            }
            Request::RequestDeleteRange(_) => None,
            Request::RequestTxn(txn) => {
                let ops = evaluation.branch(txn).iter().filter_map(|op| op.request.as_ref());
                ops.into_iter().find_map(|op| self.refusal(op, evaluation))
            }
        }
    }

    async fn write(&mut self, request: Request) {
        let mut evaluation = Evaluation::new(&self.model, self.current);
        let refusal = match &request {
            Request::RequestTxn(txn) if !is_distinct(txn) => Some(Fault::DuplicateKey),
            request => self.refusal(request, &evaluation),
        };
        let zero = Revision::ZERO;
        let given: Result<Reply, Fault> = match &request {
            Request::RequestPut(put) => match Put::try_from(put.clone()) {
                Ok(put) => self.store.put(put, zero).await.map_err(fault),
                Err(fault) => Err(fault),
            },
            Request::RequestDeleteRange(delete) => {
                let delete = Delete::try_from(delete.clone()).expect("legal");
                self.store.delete(delete, zero, None).await.map_err(fault)
            }
            Request::RequestTxn(txn) => match Txn::from_wire(txn.clone(), &Limits::default()) {
                Ok(txn) => self.store.txn(txn, zero).await.map_err(fault),
                Err(fault) => Err(fault),
            },
            Request::RequestRange(_) => unreachable!("not a write"),
        };
        let reply = match (given, refusal) {
            (Err(given), Some(expected)) => return assert_eq!(given, expected, "{request:?}"),
            (Ok(reply), None) => reply,
            (given, expected) => panic!("{given:?} where the model has {expected:?}: {request:?}"),
        };
        match &request {
            Request::RequestPut(put) => {
                let mut given = pb::PutResponse::decode(reply.message).expect("a message");
                given.header = model::bare(given.header);
                assert_eq!(given, evaluation.put(put), "{request:?}");
            }
            Request::RequestDeleteRange(delete) => {
                let mut given = pb::DeleteRangeResponse::decode(reply.message).expect("a message");
                given.header = model::bare(given.header);
                assert_eq!(given, evaluation.delete(delete), "{request:?}");
            }
            Request::RequestTxn(txn) => {
                let given = model::plain(pb::TxnResponse::decode(reply.message).expect("a message"));
                let before = self.model.at(self.current);
                let expected = model::plain(evaluation.txn(txn));
                assert!(
                    model::txn_agrees(&expected, &given),
                    "{txn:?}\ngiven    {given:?}\nexpected {expected:?}\non {before:?}"
                );
            }
            Request::RequestRange(_) => {}
        }
        let changes = evaluation.into_changes();
        if !changes.is_empty() {
            self.current += 1;
            self.model.push(self.current, changes);
        }
    }

    async fn read(&mut self) {
        let request = self.range();
        self.says(format!("{request:?}"));
        let expected = match request.revision {
            ..=0 => Ok(self.current),
            revision if revision > self.current => Err(Fault::FutureRevision),
            revision if revision < self.compacted => Err(Fault::Compacted),
            revision => Ok(revision),
        };
        let range = Range::try_from(request.clone()).expect("legal");
        let given = if range.is_plain() && self.rng.random_bool(0.3) && !range.count_only {
            self.stream(range).await
        } else if self.rng.random_bool(0.3) {
            let from = self.rng.random_range(1..200);
            self.cut(range, from).await
        } else {
            let reply = self.store.range(&range, Revision::ZERO).await;
            reply.map(|reply| pb::RangeResponse::decode(reply.message).expect("a message"))
        };
        match (given, expected) {
            (Ok(given), Ok(at)) => {
                assert_eq!(
                    given.header.as_ref().map(|header| header.revision),
                    Some(self.current),
                    "{request:?}"
                );
                let state = self.model.at(at);
                let agrees = model::range_agrees(&state, &request, &given);
                assert!(
                    agrees,
                    "{request:?}\ngiven    {given:?}\nexpected {:?}",
                    model::range(&state, &request)
                );
            }
            (Err(given), Err(expected)) => assert_eq!(given, expected),
            (given, expected) => panic!("{given:?} where the model has {expected:?}: {request:?}"),
        }
    }

    /// Asked as by a proxy that puts a range together from its parts.
    async fn cut(&self, range: Range, from: u64) -> Result<pb::RangeResponse, Fault> {
        let decode = |reply: Reply| pb::RangeResponse::decode(reply.message).expect("a message");
        let terms = Terms { cut_from: Some(from), ..Terms::default() };
        let cut = match self.store.range_on(&range, &terms).await.map_err(fault)? {
            Ranged::Whole(reply) => return Ok(decode(reply)),
            Ranged::Cut(reply) => peer::Cut::decode(reply.message).expect("a message"),
        };
        assert!(range.is_plain() && !range.count_only && !cut.parts.is_empty(), "{range:?}");
        let mut whole = pb::RangeResponse::decode(cut.answer).expect("a message");
        assert!(whole.kvs.is_empty());
        for part in cut.parts {
            let asked = Range {
                keys: KeyRange::from_wire(part.key, part.range_end),
                at: ReadAt::Revision(Revision::new(cut.revision.cast_unsigned())),
                limit: None,
                serializable: true,
                ..range.clone()
            };
            let terms = Terms { fenced: true, ..Terms::default() };
            let Ranged::Whole(reply) = self.store.range_on(&asked, &terms).await.map_err(fault)? else {
                panic!("nobody has offered to cut it")
            };
            let rows = decode(reply).kvs;
            let bytes: usize = rows.iter().map(|kv| bytes_field_len(2, kv.encoded_len())).sum();
            assert_eq!((rows.len() as u64, bytes as u64), (part.rows, part.bytes), "{range:?}");
            whole.kvs.extend(rows);
        }
        Ok(whole)
    }

    async fn stream(&self, range: Range) -> Result<pb::RangeResponse, Fault> {
        let streamed = self.store.range_stream(range, Terms::default()).await.map_err(fault)?;
        let Ranged::Whole((_, chunks, _share)) = streamed else { panic!("nobody has offered to cut it") };
        let mut chunks = std::pin::pin!(chunks);
        let mut whole = pb::RangeResponse::default();
        while let Some(chunk) = chunks.next().await {
            let chunk = pb::RangeStreamResponse::decode(chunk?)
                .expect("a message")
                .range_response
                .unwrap_or_default();
            assert!(whole.header.is_none(), "nothing follows the header");
            whole.kvs.extend(chunk.kvs);
            (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
        }
        Ok(whole)
    }

    async fn compact(&mut self) {
        let revision = self.rng.random_range((self.compacted - 1).max(0)..=self.current + 1);
        let physical = self.rng.random_bool(0.3);
        self.says(format!("compact {revision} physical {physical}"));
        let expected = match revision {
            revision if revision <= self.compacted => Err(Fault::Compacted),
            revision if revision > self.current => Err(Fault::FutureRevision),
            _ => Ok(self.current),
        };
        let given = self.store.compact(revision, physical, Revision::ZERO).await;
        assert_eq!(given.map(Revision::to_wire), expected);
        if expected.is_ok() {
            self.compacted = revision;
        }
    }

    async fn restart(&mut self) {
        let kind = self.rng.random_range(0..3);
        self.says(format!("restart {kind}"));
        match kind {
            0 => self.store.close().await,
            1 => self.engine.kill(),
            _ => {} // asleep, and back for a moment below
        }
        let seed = self.rng.random();
        let (engine, store) = open(&self.disk, self.mood, self.small, seed).await;
        self.engine = engine;
        let old = std::mem::replace(&mut self.store, store);
        if kind == 2 {
            let put = pb::PutRequest { key: self.key(), value: "late".into(), ..<_>::default() };
            let late = old.put(Put::try_from(put).expect("legal"), Revision::ZERO).await;
            assert!(late.is_err(), "an older master was not refused");
        }
        self.gone.push(old);
        let now = self.store.state().committed().to_wire();
        assert!(
            now == self.current || (self.advanced && now > self.current),
            "r{now} after a restart at {}",
            self.current
        );
        self.current = now;
        for lease in self.leases.values_mut() {
            lease.deadline = Instant::now() + Duration::from_secs(lease.ttl.cast_unsigned());
        }
    }

    async fn use_lease(&mut self) {
        let known: Vec<i64> = self.leases.keys().copied().collect();
        let id = known.choose(&mut self.rng).copied().unwrap_or(7);
        let deadline = |ttl: i64| Instant::now() + Duration::from_secs(ttl.cast_unsigned());
        match self.rng.random_range(0..6) {
            0 | 1 => {
                let id = self.rng.random_range(1..9);
                let ttl = self.rng.random_range(1..5);
                self.says(format!("grant {id} {ttl}"));
                let given = self.store.grant(id, ttl, Revision::ZERO).await;
                if self.leases.contains_key(&id) {
                    return assert_eq!(given.err(), Some(Fault::LeaseExists));
                }
                let given = given.expect("granted");
                assert_eq!((given.id, given.ttl, given.revision.to_wire()), (id, ttl.max(2), self.current));
                self.leases.insert(id, Lease { ttl: given.ttl, deadline: deadline(given.ttl) });
            }
            2 => {
                self.says(format!("renew {id}"));
                let given = self.store.renew(id).await.expect("renewed").map(|(ttl, _)| ttl);
                assert_eq!(given, self.leases.get(&id).map(|lease| lease.ttl));
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.deadline = deadline(lease.ttl);
                }
            }
            3 => {
                self.says(format!("revoke {id}"));
                let given = self.store.revoke(id, Revision::ZERO).await;
                match self.leases.contains_key(&id) {
                    false => assert_eq!(given, Err(Fault::LeaseNotFound)),
                    true => {
                        self.end_lease(id);
                        assert_eq!(given.map(Revision::to_wire), Ok(self.current));
                    }
                }
            }
            _ => {
                let given = self.store.remaining(id);
                let now = Instant::now();
                let expected = self.leases.get(&id).map(|lease| (lease.ttl, lease.deadline - now));
                assert_eq!(given, expected, "lease {id}");
                assert_eq!(
                    self.store.lease_keys(id),
                    if expected.is_some() { self.attached(id) } else { Vec::new() }
                );
            }
        }
    }

    fn attached(&self, id: i64) -> Vec<Bytes> {
        let now = self.model.at(self.current);
        now.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect()
    }

    fn end_lease(&mut self, id: i64) {
        self.leases.remove(&id);
        let changes: Vec<_> = self.attached(id).into_iter().map(|key| (key, None)).collect();
        if !changes.is_empty() {
            self.current += 1;
            self.model.push(self.current, changes);
        }
    }

    /// Lets time pass; leases that ran out end in the order of their deadlines.
    async fn wait(&mut self) {
        sleep(Duration::from_millis(self.rng.random_range(0..2000))).await;
        self.expire().await;
    }

    async fn expire(&mut self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let now = Instant::now();
        let mut over: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, lease)| (lease.deadline, *id))
            .collect();
        over.sort();
        for (_, id) in over {
            self.end_lease(id);
        }
    }

    async fn act(&mut self) {
        let with_leases = self.mood.unknown == 0.0;
        match self.rng.random_range(0..100) {
            0..25 => {
                let put = self.put();
                self.says(format!("{put:?}"));
                self.write(Request::RequestPut(put)).await;
            }
            25..32 => {
                let delete = self.delete();
                self.says(format!("{delete:?}"));
                self.write(Request::RequestDeleteRange(delete)).await;
            }
            32..58 => {
                let txn = self.txn(2);
                self.says(format!("{txn:?}"));
                self.write(Request::RequestTxn(txn)).await;
            }
            58..80 => self.read().await,
            80..85 => self.compact().await,
            85..87 => self.restart().await,
            87 => {
                let floor = self.current + self.rng.random_range(0..5);
                self.says(format!("advance {floor}"));
                let given = self.store.advance(Revision::new(floor.cast_unsigned())).await;
                self.advanced |= floor > self.current;
                self.current = floor;
                assert_eq!(given.map(Revision::to_wire), Ok(floor));
            }
            88..97 if with_leases => self.use_lease().await,
            _ if with_leases => self.wait().await,
            _ => {}
        }
        if with_leases {
            self.expire().await;
        }
    }
}

fn fault(error: WriteError) -> Fault {
    match error {
        WriteError::Fault(fault) => fault,
        error @ (WriteError::Unserved(_) | WriteError::TooLarge(_)) => panic!("{error:?}"),
    }
}

/// No path through a transaction changes a key twice, unless both are deletions.
fn is_distinct(txn: &pb::TxnRequest) -> bool {
    [&txn.success, &txn.failure].iter().all(|branch| {
        paths(branch).iter().all(|path| {
            let mut pairs = path
                .iter()
                .enumerate()
                .flat_map(|(at, one)| path[at + 1..].iter().map(move |other| (one, other)));
            !pairs.any(|(one, other)| match (one, other) {
                (Request::RequestPut(one), Request::RequestPut(other)) => one.key == other.key,
                (Request::RequestPut(put), Request::RequestDeleteRange(delete))
                | (Request::RequestDeleteRange(delete), Request::RequestPut(put)) => {
                    within(&put.key, &delete.key, &delete.range_end)
                }
                _ => false,
            })
        })
    })
}

/// Every list of changes that a branch may come to.
fn paths(branch: &[pb::RequestOp]) -> Vec<Vec<Request>> {
    branch.iter().filter_map(|op| op.request.as_ref()).fold(vec![Vec::new()], |paths, op| {
        let next = match op {
            Request::RequestTxn(txn) => [self::paths(&txn.success), self::paths(&txn.failure)].concat(),
            op => vec![vec![op.clone()]],
        };
        paths.iter().flat_map(|path| next.iter().map(move |more| [&path[..], &more[..]].concat())).collect()
    })
}

#[test]
fn a_store_answers_as_the_model_does() {
    let (first, count) = match (crate::number("KUBEBRAIN_SEED"), crate::number("KUBEBRAIN_SEEDS")) {
        (Some(seed), None) => (seed, 1),
        (seed, count) => (seed.unwrap_or(1), count.unwrap_or(60)),
    };
    for seed in first..first + count {
        let done = Arc::new(Mutex::new(Vec::new()));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("a runtime").block_on(async {
                let mut bench = Bench::new(seed, Arc::clone(&done)).await;
                for _ in 0..OPS {
                    bench.act().await;
                }
                let (_, wrong) = bench.disk.log();
                assert!(wrong.is_empty(), "{wrong:?}");
            });
        }));
        if outcome.is_err() {
            let done = done.lock();
            for line in done.iter().skip(done.len().saturating_sub(crate::LINES)) {
                eprintln!("{line}");
            }
            panic!("KUBEBRAIN_SEED={seed}");
        }
    }
}

/// What a test does on a runtime of its own, which it may block: it has to come to an end within 20 s of real time.
fn ends<F: Future<Output = ()>>(what: &str, test: impl FnOnce() -> F + Send + 'static) {
    let (ended, ends) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(test());
        let _gone = ended.send(());
    });
    ends.recv_timeout(Duration::from_secs(20)).expect(what);
}

fn core_disk() -> Arc<Disk> {
    Disk::new(&[GroupName::parse("core").expect("a name")], Arc::new(Clock::default()), false)
}

fn put_of(key: &'static str, value: &'static str) -> Put {
    let put = pb::PutRequest { key: key.into(), value: value.into(), ..<_>::default() };
    Put::try_from(put).expect("legal")
}

/// A process that reloads drops stores: what they have begun must come to its end, and so must their tasks.
#[test]
fn a_store_that_is_dropped_with_a_write_under_way_ends() {
    ends("the writer spins: its handles are gone and a batch flies", || async {
        let disk = core_disk();
        let (_, store) = open(&disk, Mood { slow: 1.0, ..Mood::default() }, false, 1).await;
        // asked for, on its way, and nobody waits for it any more
        let _late = tokio::time::timeout(Duration::ZERO, store.put(put_of("k", "v"), Revision::ZERO)).await;
        drop(store);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(disk.log().0.len(), 1, "the write was lost");
    });
}

/// The log shows a batch before its writer has heard of it. A watcher in history waits for it; it does not spin.
#[test]
fn a_watcher_in_history_waits_for_a_batch_that_is_not_answered_yet() {
    ends("the watcher spins: a batch is durable and not published", || async {
        let disk = core_disk();
        let (engine, store) = open(&disk, Mood::default(), true, 3).await;
        for key in ["a", "b", "c"] {
            store.put(put_of(key, "v"), Revision::ZERO).await.expect("put");
        }
        // the revisions up to the ceiling stand in no record
        store.advance(Revision::new(9)).await.expect("advanced");
        engine.kill();
        let (_, store) = open(&disk, Mood { late_answer: 1.0, ..Mood::default() }, true, 4).await;
        let ceiling = store.state().committed().to_wire();
        let writer = store.clone();
        let late = tokio::spawn(async move { writer.put(put_of("d", "v"), Revision::ZERO).await });
        while disk.log().0.len() < 4 {
            tokio::task::yield_now().await;
        }
        let create = pb::WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision: 2,
            ..<_>::default()
        };
        let create =
            pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let inbound = futures_util::stream::iter([Ok(create)]).chain(futures_util::stream::pending());
        let stopper = kubebrain_shared::stop::Stopper::default();
        let config =
            StreamConfig { progress_interval: Duration::from_secs(600), part: None, tells_all: false };
        let messages = WatchStream::new(store.clone(), inbound, config, stopper.handle()).into_messages();
        let mut messages = std::pin::pin!(messages);
        let mut heard = Vec::new();
        while heard.len() < 4 {
            let message = messages.next().await.expect("never ends").expect("no error");
            let events = pb::WatchResponse::decode(message).expect("a message").events;
            heard.extend(events.into_iter().filter_map(|event| event.kv).map(|kv| kv.mod_revision));
        }
        assert_eq!(heard, [2, 3, 4, ceiling + 1]);
        late.await.expect("no panic").expect("put");
    });
}

/// What a slow watcher has not read may be compacted: then it hears of that, and never of what comes after a gap.
#[tokio::test(start_paused = true)]
async fn a_watcher_that_compaction_overtakes_hears_of_it() {
    let disk = core_disk();
    let (engine, store) = open(&disk, Mood::default(), true, 1).await;
    for _ in 0..6 {
        store.put(put_of("k", "v"), Revision::ZERO).await.expect("put");
    }
    engine.kill();
    let (_, store) = open(&disk, Mood::default(), true, 2).await;
    let create = pb::WatchCreateRequest { key: "k".into(), start_revision: 2, ..<_>::default() };
    let create =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let inbound = futures_util::stream::iter([Ok(create)]).chain(futures_util::stream::pending());
    let stopper = kubebrain_shared::stop::Stopper::default();
    let config = StreamConfig { progress_interval: Duration::from_secs(600), part: None, tells_all: false };
    let messages = WatchStream::new(store.clone(), inbound, config, stopper.handle()).into_messages();
    let mut messages = std::pin::pin!(messages);
    let created = messages.next().await.expect("never ends").expect("no error");
    assert!(pb::WatchResponse::decode(created).expect("a message").created);
    // the client does not read on, and everything before 7 goes
    for _ in 0..3 {
        store.put(put_of("k", "v"), Revision::ZERO).await.expect("put");
    }
    store.compact(7, true, Revision::ZERO).await.expect("compacted");
    sleep(Duration::from_secs(5)).await;
    let next = messages.next().await.expect("never ends").expect("no error");
    let next = pb::WatchResponse::decode(next).expect("a message");
    let first = next.events.first().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
    assert!(next.compact_revision == 7 || first == Some(2), "{next:?}");
}

/// An engine that does not answer for a moment ends the stream, which its client opens again. An event that goes out
/// without the entry before it ends the watch of an API server.
#[tokio::test(start_paused = true)]
async fn an_event_never_goes_out_without_the_entry_before_it() {
    let disk = core_disk();
    let (_, store) = open(&disk, Mood { blind: 0.3, ..Mood::default() }, true, 1).await;
    for _ in 0..4 {
        for key in ["a", "b", "c"] {
            store.put(put_of(key, "v"), Revision::ZERO).await.expect("put");
        }
    }
    let mut whole = 0;
    for _ in 0..40 {
        let (key, range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        let create =
            pb::WatchCreateRequest { key, range_end, start_revision: 2, prev_kv: true, ..<_>::default() };
        let create =
            pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let inbound = futures_util::stream::iter([Ok(create)]).chain(futures_util::stream::pending());
        let stopper = kubebrain_shared::stop::Stopper::default();
        let config =
            StreamConfig { progress_interval: Duration::from_secs(600), part: None, tells_all: false };
        let messages = WatchStream::new(store.clone(), inbound, config, stopper.handle()).into_messages();
        let mut messages = std::pin::pin!(messages);
        let mut heard = 0;
        while heard < 12 {
            let Some(Ok(message)) = messages.next().await else { break };
            for event in pb::WatchResponse::decode(message).expect("a message").events {
                let version = event.kv.as_ref().map_or(0, |kv| kv.version);
                assert_eq!(event.prev_kv.as_ref().map_or(0, |kv| kv.version), version - 1, "{event:?}");
                heard += 1;
            }
        }
        whole += usize::from(heard == 12);
    }
    assert!(whole > 0, "no stream came to its end");
}

/// A read of many values at once must give each entry its value, also one that is asked for twice.
#[tokio::test(start_paused = true)]
async fn a_transaction_may_need_one_value_twice() {
    const KEYS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let disk = core_disk();
    let (_, store) = open(&disk, Mood::default(), true, 1).await;
    for key in KEYS {
        store.put(put_of(key, "v"), Revision::ZERO).await.expect("put");
    }
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: "\0".into(),
        range_end: "\0".into(),
        target_union: Some(TargetUnion::Value("v".into())),
    };
    let keep = pb::PutRequest { key: "i".into(), ignore_value: true, ..<_>::default() };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(keep))],
        failure: Vec::new(),
    };
    let txn = Txn::from_wire(txn, &Limits::default()).expect("legal");
    let given = store.txn(txn, Revision::ZERO).await;
    assert!(given.is_ok(), "{given:?}");
}
