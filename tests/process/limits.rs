//! etcd's limits, from the flag to what a client sees.

use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use tonic::Code;

use crate::BINARY;
use kit::client::Client;
use kit::process::Start;
use kit::raw::Raw;

fn puts(count: usize) -> TxnRequest {
    let put = |number: usize| {
        let put = PutRequest { key: format!("/registry/pods/{number}").into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    TxnRequest { success: (0..count).map(put).collect(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_bound_transactions_requests_and_streams() {
    let place = BINARY.place();
    let limited = |start: Start| {
        start.flag("max-txn-ops", "3").flag("max-request-bytes", "1000").flag("max-concurrent-streams", "2")
    };
    for start in [Start::standalone(&place), Start::brain(&place, "default")] {
        let server = limited(start).run().await;
        let client = Client::new(server.address());
        client.txn(puts(3)).await.expect("as many as allowed");
        let many = client.txn(puts(4)).await.expect_err("one too many");
        assert_eq!(many.message(), "etcdserver: too many operations in txn request");
        client.put("/registry/pods/a", vec![b'x'; 900]).await.expect("as large as allowed");
        let large = client.put("/registry/pods/a", vec![b'x'; 1100]).await.expect_err("too large");
        assert_eq!(
            (large.code(), large.message()),
            (Code::InvalidArgument, "etcdserver: request is too large")
        );
        let mut raw = Raw::connect(server.address()).await;
        raw.ping().await.expect("the server's settings have come");
        assert_eq!(raw.sender.current_max_send_streams(), 2);
    }
}
