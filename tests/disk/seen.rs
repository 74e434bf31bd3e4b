//! [`Seen`]: what a store shows when it is opened, by the real binary or, faster, in this process.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kubebrain_brain::config;
use kubebrain_brain::engine::embedded::{self, Embedded};
use kubebrain_brain::request::{Put, Range};
use kubebrain_brain::store::Store;
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::{LeaseLeasesRequest, PutRequest, RangeRequest, RangeResponse};
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use prost::Message;
use tonic::{Code, Status};

use kit::PATIENCE;
use kit::client::Client;
use kit::process::{Place, Process, Start};

/// Written once all else was read; deleted again, so that it is never among what is judged.
const ONE_MORE: &str = "/one-more";
/// How far back reads of the past go.
const PAST: [i64; 3] = [3, 40, 120];

/// See the module.
pub(crate) struct Seen {
    pub(crate) revision: i64,
    pub(crate) kvs: Vec<KeyValue>,
    pub(crate) leases: Vec<i64>,
    /// Reads of the past: the revision and what was there; `None` where it is compacted.
    pub(crate) past: Vec<(i64, Option<Vec<KeyValue>>)>,
    /// The revision of one more write.
    pub(crate) next: i64,
}

/// A read of everything.
fn everything(revision: i64) -> RangeRequest {
    RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), revision, ..Default::default() }
}

fn header(answer: &RangeResponse) -> i64 {
    answer.header.as_ref().map_or(0, |header| header.revision)
}

/// What a brain of one group finds in a directory.
///
/// # Errors
/// If it does not open, or a read or the write fails, or one of them takes too long.
pub(crate) async fn in_process(directory: &Path) -> Result<Seen> {
    tokio::time::timeout(PATIENCE / 3, open_and_look(directory)).await.context("it hangs")?
}

async fn open_and_look(directory: &Path) -> Result<Seen> {
    let config = embedded::Config { cache_bytes: 1 << 20, ..embedded::Config::new(directory) };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&config)).await?;
    let engine = Arc::new(opened.context("the store cannot be opened")?);
    let group = GroupName::parse("default").context("a name")?;
    let config = config::Config::new(group.clone(), "test");
    let store = Store::open(config, engine, Arc::new(Placement::single(group))).await?;
    let seen = of_store(&store).await;
    store.close().await;
    seen
}

async fn of_store(store: &Store) -> Result<Seen> {
    let fault = |fault: Fault| anyhow::anyhow!("{}", fault.wire().1);
    let read = async |revision| -> Result<RangeResponse, Fault> {
        let range = Range::try_from(everything(revision))?;
        let reply = store.range(&range, Revision::ZERO).await?;
        Ok(RangeResponse::decode(reply.message).expect("an answer"))
    };
    let all = read(0).await.map_err(fault)?;
    let revision = header(&all);
    let mut past = Vec::new();
    for at in PAST.map(|back| revision - back).into_iter().filter(|at| *at > 0) {
        match read(at).await {
            Ok(answer) => past.push((at, Some(answer.kvs))),
            Err(Fault::Compacted) => past.push((at, None)),
            Err(error) => return Err(fault(error)),
        }
    }
    let put = PutRequest { key: ONE_MORE.into(), value: "x".into(), ..Default::default() };
    let put = store.put(Put::try_from(put).map_err(fault)?, Revision::ZERO).await;
    let put = put.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(Seen { revision, kvs: all.kvs, leases: store.leases(), past, next: put.revision.to_wire() })
}

/// What a server shows its clients.
///
/// # Errors
/// What it answers instead.
pub(crate) async fn of_server(server: &Process) -> Result<Seen, Status> {
    let client = Client::new(server.address());
    let all = client.range(everything(0)).await?;
    let revision = header(&all);
    let mut past = Vec::new();
    for at in PAST.map(|back| revision - back).into_iter().filter(|at| *at > 0) {
        match client.range(everything(at)).await {
            Ok(answer) => past.push((at, Some(answer.kvs))),
            Err(error) if error.code() == Code::OutOfRange => past.push((at, None)),
            Err(error) => return Err(error),
        }
    }
    let channel = Channel::new(Connector::Tcp(server.address().to_owned()), DialConfig::default());
    let leases = LeaseClient::new(channel).lease_leases(LeaseLeasesRequest {}).await?.into_inner();
    let next = client.put(ONE_MORE, "x").await?;
    client.delete(ONE_MORE).await?;
    let leases = leases.leases.iter().map(|lease| lease.id).collect();
    Ok(Seen { revision, kvs: all.kvs, leases, past, next })
}

/// A brain of one group on a directory, without a shim.
pub(crate) fn brain(place: &Place, directory: &Path) -> Start {
    Start::brain(place, "default").data_dir(directory)
}
