//! What clients asked and heard, in the order in which it happened.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::model::Change;

/// One order of everything that happens in a run.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The next moment.
    pub fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A revision as it was committed.
#[derive(Clone, Debug)]
pub struct Committed {
    pub group: GroupName,
    pub revision: i64,
    pub changes: Vec<Change>,
    /// When; `u64::MAX` where nobody could see that.
    pub tick: u64,
    pub at: Instant,
}

/// A moment: its place in the order, and the clock.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub tick: u64,
    pub at: Instant,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Range(pb::RangeRequest),
    Stream(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    KeepAlive(pb::LeaseKeepAliveRequest),
}

#[derive(Clone, Debug)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
}

impl Answer {
    /// Of its header; -1 without one.
    pub fn revision(&self) -> i64 {
        let header = match self {
            Self::Range(answer) => &answer.header,
            Self::Put(answer) => &answer.header,
            Self::Delete(answer) => &answer.header,
            Self::Txn(answer) => &answer.header,
            Self::Compact(answer) => &answer.header,
            Self::Grant(answer) => &answer.header,
            Self::Revoke(answer) => &answer.header,
            Self::TimeToLive(answer) => &answer.header,
            Self::KeepAlive(answer) => &answer.header,
        };
        header.as_ref().map_or(-1, |header| header.revision)
    }
}

/// One request of a client.
#[derive(Clone, Debug)]
pub struct Op {
    pub client: usize,
    pub proxy: usize,
    pub begin: Moment,
    pub end: Moment,
    pub ask: Ask,
    /// `None`: the client did not wait for it.
    pub outcome: Option<Result<Answer, Status>>,
}

/// One watcher on one stream, as its client saw it.
#[derive(Clone, Debug)]
pub struct Watch {
    pub client: usize,
    pub proxy: usize,
    pub stream: u64,
    pub create: pb::WatchCreateRequest,
    pub asked: Moment,
    /// When `created` came, and its header's revision.
    pub created: Option<(Moment, i64)>,
    /// Events and periodic progress of this watcher, and manual progress of its stream.
    pub heard: Vec<(Moment, Heard)>,
    /// It was alive at the end, and had to reach this revision.
    pub target: Option<i64>,
}

#[derive(Clone, Debug)]
pub enum Heard {
    Events(pb::WatchResponse),
    Progress {
        revision: i64,
        manual: bool,
    },
    /// Ended by the server.
    Cancelled {
        compact_revision: i64,
        reason: String,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Records {
    pub ops: Vec<Op>,
    pub watches: Vec<Watch>,
    pub notes: Vec<(u64, String)>,
    pub wrong: Vec<(u64, String)>,
}

/// Everything that clients write down.
pub struct Journal {
    clock: Arc<Clock>,
    started: Instant,
    records: Mutex<Records>,
}

impl Journal {
    pub fn new(clock: Arc<Clock>) -> Self {
        Self { clock, started: Instant::now(), records: Mutex::default() }
    }

    pub fn now(&self) -> Moment {
        Moment { tick: self.clock.tick(), at: Instant::now() }
    }

    pub fn note(&self, what: String) {
        let now = self.now();
        let what = format!("{:>9.3} {what}", (now.at - self.started).as_secs_f64());
        self.records.lock().notes.push((now.tick, what));
    }

    /// Something that a client sees by itself to be wrong.
    pub fn wrong(&self, what: String) {
        let tick = self.clock.tick();
        self.records.lock().wrong.push((tick, what));
    }

    pub fn op(&self, op: Op) {
        self.note(op.to_string());
        self.records.lock().ops.push(op);
    }

    pub fn watch(&self, watch: Watch) {
        self.records.lock().watches.push(watch);
    }

    pub fn take(&self) -> Records {
        std::mem::take(&mut *self.records.lock())
    }
}

fn keys(key: &[u8], end: &[u8]) -> String {
    match end {
        [] => key.escape_ascii().to_string(),
        end => format!("[{}, {})", key.escape_ascii(), end.escape_ascii()),
    }
}

fn kvs(kvs: &[kubebrain_proto::mvccpb::KeyValue]) -> String {
    let kv =
        |kv: &kubebrain_proto::mvccpb::KeyValue| format!("{}@{}", kv.key.escape_ascii(), kv.mod_revision);
    kvs.iter().map(kv).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(ask) | Self::Stream(ask) => {
                let name = if matches!(self, Self::Range(_)) { "range" } else { "stream" };
                write!(f, "{name} {}", keys(&ask.key, &ask.range_end))?;
                for (name, value) in [("at", ask.revision), ("limit", ask.limit)] {
                    if value != 0 {
                        write!(f, " {name} {value}")?;
                    }
                }
                if ask.serializable { write!(f, " serializable") } else { Ok(()) }
            }
            Self::Put(ask) => {
                write!(f, "put {} = {} lease {}", keys(&ask.key, b""), ask.value.escape_ascii(), ask.lease)
            }
            Self::Delete(ask) => write!(f, "delete {}", keys(&ask.key, &ask.range_end)),
            Self::Txn(ask) => {
                write!(f, "txn if")?;
                for compare in &ask.compare {
                    write!(f, " {} {:?}", keys(&compare.key, &compare.range_end), compare.target_union)?;
                }
                for op in &ask.success {
                    match &op.request {
                        Some(pb::request_op::Request::RequestPut(put)) => {
                            write!(f, " put {} = {}", keys(&put.key, b""), put.value.escape_ascii())?;
                        }
                        Some(pb::request_op::Request::RequestDeleteRange(delete)) => {
                            write!(f, " delete {}", keys(&delete.key, &delete.range_end))?;
                        }
                        _ => write!(f, " ...")?,
                    }
                }
                Ok(())
            }
            Self::Compact(ask) => write!(f, "compact {}", ask.revision),
            Self::Grant(ask) => write!(f, "grant {} for {} s", ask.id, ask.ttl),
            Self::Revoke(ask) => write!(f, "revoke {}", ask.id),
            Self::TimeToLive(ask) => write!(f, "time to live {}", ask.id),
            Self::KeepAlive(ask) => write!(f, "keep alive {}", ask.id),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "c{}/p{} [{}..{}] {} -> ",
            self.client, self.proxy, self.begin.tick, self.end.tick, self.ask
        )?;
        match &self.outcome {
            None => write!(f, "not waited for"),
            Some(Err(status)) => write!(f, "{:?} {:?}", status.code(), status.message()),
            Some(Ok(answer)) => {
                write!(f, "r{}", answer.revision())?;
                match answer {
                    Answer::Range(range) => {
                        write!(f, " {} of {}: {}", range.kvs.len(), range.count, kvs(&range.kvs))
                    }
                    Answer::Delete(delete) => write!(f, " deleted {}", delete.deleted),
                    Answer::Txn(txn) => write!(f, " succeeded {}", txn.succeeded),
                    Answer::KeepAlive(alive) => write!(f, " ttl {}", alive.ttl),
                    Answer::TimeToLive(lease) => write!(f, " ttl {}", lease.ttl),
                    _ => Ok(()),
                }
            }
        }
    }
}
