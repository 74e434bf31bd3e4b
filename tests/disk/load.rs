//! [`Load`]: clients that write as they do in a cluster, and note what they were told and when.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RequestOp, TxnRequest,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::history::{Compaction, Done, Grant, History, Write};
use crate::shim;
use kit::client::{Client, revision};
use kit::process::Process;

const CLIENTS: usize = 6;
const KEYS: u32 = 20;
const SHARED_KEYS: u32 = 3;
/// One of each group of a standalone server.
const KINDS: [&str; 3] = ["pods", "events", "configmaps"];
/// Between two compactions, in revisions; and how much of the past stays.
const COMPACT_EVERY: i64 = 150;
const KEPT: i64 = 60;

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Option<Status>>,
}

/// What the clients share.
#[derive(Clone)]
struct Common {
    history: Arc<Mutex<History>>,
    trace: PathBuf,
    stop: Arc<AtomicBool>,
    numbers: Arc<AtomicU64>,
}

struct Writer {
    common: Common,
    client: Client,
    leases: LeaseClient<Channel>,
    random: SmallRng,
    kind: &'static str,
    number: usize,
    lease: i64,
    compacted: i64,
}

impl Load {
    /// Clients that go on until they are stopped or get no answer.
    pub(crate) fn start(server: &Process, history: &Arc<Mutex<History>>, trace: PathBuf, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let numbers = Arc::new(AtomicU64::new(history.lock().writes.len() as u64));
        let common = Common { history: history.clone(), trace, stop: stop.clone(), numbers };
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let address = server.address().to_owned();
            let channel = Channel::new(Connector::Tcp(address.clone()), DialConfig::default());
            let writer = Writer {
                common: common.clone(),
                client: Client::new(&address),
                leases: LeaseClient::new(channel),
                random: SmallRng::seed_from_u64(seed ^ (number as u64) << 32),
                kind: KINDS[number % KINDS.len()],
                number,
                lease: 0,
                compacted: 0,
            };
            clients.spawn(writer.run());
        }
        Self { stop, clients }
    }

    /// Lets all of them finish what they are at; gives what they were told instead of an answer.
    pub(crate) async fn stop(self) -> Vec<Status> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended().await
    }

    /// Waits until none gets an answer.
    pub(crate) async fn ended(mut self) -> Vec<Status> {
        let mut errors = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            errors.extend(ended.expect("a client does not fail"));
        }
        errors
    }
}

impl Writer {
    /// Gives the first error.
    async fn run(mut self) -> Option<Status> {
        while !self.common.stop.load(Ordering::Relaxed) {
            let answer = tokio::time::timeout(Duration::from_secs(20), self.step()).await;
            match answer {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Some(error),
                Err(_) => return Some(Status::deadline_exceeded("no answer in 20 s")),
            }
        }
        None
    }

    async fn step(&mut self) -> Result<(), Status> {
        let own =
            format!("/registry/{}/c{}/{:02}", self.kind, self.number, self.random.random_range(0..KEYS));
        match self.random.random_range(0..100) {
            0..12 => self.delete(own).await,
            12..30 => self.swap().await,
            30..38 if self.lease == 0 || self.random.random_ratio(1, 4) => self.grant().await,
            30..38 => self.write(vec![(own, self.lease)], None).await.map(drop),
            _ => {
                let revision = self.write(vec![(own, 0)], None).await?.unwrap_or(0);
                if self.number == 0 && revision - self.compacted > COMPACT_EVERY {
                    self.compact(revision - KEPT).await?;
                }
                Ok(())
            }
        }
    }

    /// Bytes that no other write has. Most are small, as in a cluster; some are large.
    fn value(&mut self) -> Bytes {
        let length = match self.random.random_range(0..100) {
            0..75 => self.random.random_range(900..1500),
            75..96 => self.random.random_range(1500..12_000),
            _ => 100 << 10,
        };
        let mut value = format!("{};", self.common.numbers.fetch_add(1, Ordering::Relaxed)).into_bytes();
        let begin = value.len();
        value.resize(length, 0);
        self.random.fill_bytes(&mut value[begin..]);
        value.into()
    }

    fn position(&self) -> u64 {
        shim::position(&self.common.trace)
    }

    /// Puts keys in one transaction, if the condition holds. Gives the revision, if it did.
    async fn write(
        &mut self,
        keys: Vec<(String, i64)>,
        compare: Option<Compare>,
    ) -> Result<Option<i64>, Status> {
        let mut success = Vec::new();
        let mut writes = Vec::new();
        let sent = self.position();
        for (key, lease) in keys {
            let value = self.value();
            let put =
                PutRequest { key: key.clone().into(), value: value.clone(), lease, ..Default::default() };
            success.push(RequestOp { request: Some(Request::RequestPut(put)) });
            writes.push(Write { key, value: Some(value), lease, sent, done: None });
        }
        self.send(success, writes, compare).await
    }

    async fn delete(&mut self, key: String) -> Result<(), Status> {
        let exists = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Version as i32,
            key: key.clone().into(),
            target_union: Some(TargetUnion::Version(0)),
            ..Default::default()
        };
        let delete = DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
        let success = vec![RequestOp { request: Some(Request::RequestDeleteRange(delete)) }];
        let writes = vec![Write { key, value: None, lease: 0, sent: self.position(), done: None }];
        self.send(success, writes, Some(exists)).await.map(drop)
    }

    /// Reads a key that others write too, and writes it with one of its own if nobody was faster.
    async fn swap(&mut self) -> Result<(), Status> {
        let shared = format!("/registry/{}/shared/{}", self.kind, self.random.random_range(0..SHARED_KEYS));
        let found = self.client.get(&shared).await?;
        let modified = found.kvs.first().map_or(0, |kv| kv.mod_revision);
        let unchanged = Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: shared.clone().into(),
            target_union: Some(TargetUnion::ModRevision(modified)),
            ..Default::default()
        };
        let pair = format!("/registry/{}/c{}/pair", self.kind, self.number);
        self.write(vec![(shared, 0), (pair, 0)], Some(unchanged)).await.map(drop)
    }

    async fn send(
        &mut self,
        success: Vec<RequestOp>,
        mut writes: Vec<Write>,
        compare: Option<Compare>,
    ) -> Result<Option<i64>, Status> {
        let request = TxnRequest { compare: compare.into_iter().collect(), success, failure: Vec::new() };
        let answer = self.client.txn(request).await;
        let position = self.position();
        let outcome = match answer {
            Ok(answer) if !answer.succeeded => return Ok(None),
            Ok(answer) => Ok(answer.header.expect("every answer has a header").revision),
            Err(error) => Err(error),
        };
        if let Ok(revision) = outcome {
            writes.iter_mut().for_each(|write| write.done = Some(Done { position, revision }));
        }
        self.common.history.lock().writes.extend(writes);
        outcome.map(Some)
    }

    async fn grant(&mut self) -> Result<(), Status> {
        let lease = i64::from(self.random.next_u32()) + 1;
        let answer = self.leases.lease_grant(LeaseGrantRequest { ttl: 36_000, id: lease }).await;
        let done = answer.is_ok().then(|| self.position());
        self.common.history.lock().grants.push(Grant { lease, done });
        answer?;
        self.lease = lease;
        Ok(())
    }

    async fn compact(&mut self, target: i64) -> Result<(), Status> {
        let sent = self.position();
        let answer = self.client.compact(target).await;
        // In a second life the first compaction may have been made in the first one.
        if answer.as_ref().is_err_and(|error| error.code() == Code::OutOfRange) {
            return Ok(());
        }
        let done = answer.is_ok().then(|| self.position());
        self.common.history.lock().compactions.push(Compaction { revision: target, sent, done });
        self.compacted = target;
        answer
    }
}

/// True once a server shows this revision or a later one; for tests that want some traffic first.
pub(crate) async fn reached(server: &Process, wanted: i64) -> bool {
    Client::new(server.address()).get("/").await.is_ok_and(|answer| revision(&answer) >= wanted)
}
