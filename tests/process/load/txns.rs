//! Transactions as large as they may be.

use futures_util::future::join_all;
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};

use super::{BOTH, Bounds, HEAP_BYTES, Hurt};
use kit::client::Client;
use kit::{full_tier, in_time};

const OPS: usize = 128;
/// Of a transaction; a little below the bound of 1.5 MiB.
const BYTES: usize = 3 << 19;
const EVENTS: &str = "/registry/events/large/";

fn txn(client: usize, number: usize) -> TxnRequest {
    let put = |op| {
        let put = PutRequest {
            key: format!("{EVENTS}{client:03}/{op:03}").into(),
            value: number.to_string().repeat((BYTES / OPS - 200) / number.to_string().len()).into(),
            ..Default::default()
        };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    TxnRequest { success: (0..OPS).map(put).collect(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_transactions_of_several_clients_leave_others_their_share() {
    let (clients, each) = if full_tier() { (16, 30) } else { (8, 4) };
    for mode in BOTH {
        let mut hurt = Hurt::start_with(mode, |start| {
            start
                .flag("watch-window-bytes", "1048576")
                .flag("value-cache-bytes", "4194304")
                .flag("block-cache-bytes", "4194304")
        })
        .await;
        let address = hurt.address().to_owned();
        let load = join_all((0..clients).map(|client| {
            let address = &address;
            async move {
                let mut revision = 0;
                let connection = Client::new(address);
                for number in 1..=each {
                    let answer =
                        in_time("a large txn", connection.txn(txn(client, number))).await.expect("a txn");
                    assert!(answer.succeeded && answer.responses.len() == OPS);
                    revision = answer.header.expect("every answer has a header").revision;
                }
                revision
            }
        }));
        // Tables that are filled and written out, and what is on its way; twice as many transactions take no more.
        let bounds = Bounds { memory_bytes: (512 << 20) + HEAP_BYTES, share_permille: 2 };
        let name = format!("{} transactions of {OPS} operations and 1.5 MiB", clients * each);
        let revisions = hurt.under(&name, &bounds, load).await;
        let client = Client::new(&address);
        for (number, revision) in revisions.into_iter().enumerate() {
            let there = client.list(&format!("{EVENTS}{number:03}/")).await.expect("a list");
            assert_eq!(there.kvs.len(), OPS, "what was acknowledged is there");
            for kv in &there.kvs {
                assert_eq!(kv.mod_revision, revision, "all of it at once");
                assert!(kv.value.starts_with(each.to_string().as_bytes()));
            }
        }
    }
}
