//! Deletions of many keys in one revision: their keys bound them, not their values, nor what they were.

use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use kubebrain_shared::fault::Fault;
use tonic::Status;

use crate::BINARY;
use kit::client::{Client, end_of};
use kit::full_tier;
use kit::process::Start;
use kit::watch::mod_revision;

/// 24 000 keys of 1000 bytes: more than 64 MiB with what their events say, 46 MiB as they are stored.
const KEYS: usize = 24_000;
const KEY_BYTES: usize = 1000;
const TXN_PUTS: usize = 2000;
const PREFIX: &str = "/registry/pods/";

fn key(number: usize) -> String {
    format!("{PREFIX}{number:0width$}", width = KEY_BYTES - PREFIX.len())
}

async fn fill(client: &Client) {
    for first in (0..KEYS).step_by(TXN_PUTS) {
        let put = |number| {
            let put = PutRequest { key: key(number).into(), value: "v".into(), ..Default::default() };
            RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let success = (first..first + TXN_PUTS).map(put).collect();
        client.txn(TxnRequest { success, ..Default::default() }).await.expect("a transaction");
    }
}

async fn delete_all(client: &Client, prev_kv: bool) -> Result<DeleteRangeResponse, Status> {
    let mut kv = KvClient::new(client.channel()).max_decoding_message_size(usize::MAX);
    let request = DeleteRangeRequest { key: PREFIX.into(), range_end: end_of(PREFIX).into(), prev_kv };
    Ok(kv.delete_range(request).await?.into_inner())
}

async fn count(client: &Client, revision: i64) -> i64 {
    let range_end = end_of(PREFIX).into();
    let range =
        RangeRequest { key: PREFIX.into(), range_end, revision, count_only: true, ..Default::default() };
    client.range(range).await.expect("an answer").count
}

async fn in_one_revision(start: Start) {
    let start = start.flag("max-txn-ops", "10000").flag("max-request-bytes", "8388608");
    let server = start.run().await;
    let client = Client::new(server.address());
    fill(&client).await;
    let before = client.put("/registry/pods0", "beside").await.expect("a put");
    let mut watch = client.watch(PREFIX, before + 1).await;
    let revision = before + 1;
    match delete_all(&client, false).await {
        Ok(answer) => {
            let header = answer.header.expect("every answer has a header");
            assert_eq!((answer.deleted, header.revision), (KEYS as i64, revision));
        }
        // A build that is not optimised, on a busy machine: it is not known yet.
        Err(status) => assert_eq!(Fault::of(&status), Some(Fault::Timeout), "{status:?}"),
    }
    let events = watch.events_to(revision).await;
    let mut all = events.len();
    assert!(events.iter().all(|event| mod_revision(event) == revision));
    while all < KEYS {
        all += watch.next().await.expect("the stream goes on").expect("the stream goes on").len();
    }
    assert_eq!(all, KEYS);
    assert_eq!(delete_all(&client, true).await.expect("nothing is left").deleted, 0);
    assert_eq!((count(&client, 0).await, count(&client, before).await), (0, KEYS as i64));
    // From the log: what is on disk is the same, and watchers of the past hear of it.
    let server = server.restart().await;
    let client = Client::new(server.address());
    assert_eq!((count(&client, 0).await, count(&client, before).await), (0, KEYS as i64));
    let mut watch = client.watch(PREFIX, revision).await;
    let mut all = 0;
    while all < KEYS {
        let events = watch.next().await.expect("the stream goes on").expect("the stream goes on");
        assert!(events.iter().all(|event| mod_revision(event) == revision));
        all += events.len();
    }
    assert_eq!(client.put("/registry/pods0", "beside").await.ok(), Some(revision + 1));
}

/// Each takes some seconds of a processor, many more where nothing is optimised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_are_deleted_in_one_revision() {
    let place = BINARY.place();
    in_one_revision(Start::brain(&place, "default")).await;
    if full_tier() {
        in_one_revision(Start::standalone(&place)).await;
    }
}
