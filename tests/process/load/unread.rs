//! Answers that nobody reads.

use std::time::Duration;

use kubebrain_proto::etcdserverpb::RangeRequest;
use kubebrain_shared::wire::frame;
use prost::Message;

use super::{BOTH, Bounds, HEAP_BYTES, Hurt};
use kit::client::{Client, end_of};
use kit::raw::Raw;
use kit::{full_tier, in_time, until};

const PODS: &str = "/registry/pods/large/";

/// Asks and never reads: each connection takes what its window lets through, and stays open until it is dropped.
pub(super) struct Unread {
    _raw: Raw,
    _streams: Vec<(h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>)>,
}

pub(super) async fn ask(address: &str, path: &str, count: usize) -> Unread {
    let request = RangeRequest { key: PODS.into(), range_end: end_of(PODS).into(), ..Default::default() };
    let body = frame(&request.encode_to_vec());
    let mut raw = Raw::connect(address).await;
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(raw.ask(path, body.clone()).await);
    }
    Unread { _raw: raw, _streams: streams }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_hold_up_nobody() {
    let (keys, connections, each) = if full_tier() { (10_000, 50, 20) } else { (2000, 10, 10) };
    for mode in BOTH {
        for path in ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/RangeStream"] {
            let mut hurt = Hurt::start_with(mode, |start| start.flag("answer-bytes", "33554432")).await;
            hurt.fill(PODS, keys, 1 << 10).await;
            let address = hurt.address().to_owned();
            let load = async {
                let mut all = Vec::new();
                for _ in 0..connections {
                    all.push(ask(&address, path, each).await);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                all
            };
            let bounds = Bounds { memory_bytes: 3 * (32 << 20) + HEAP_BYTES, share_permille: 5 };
            let unread =
                hurt.under(&format!("{} unread answers of {path}", connections * each), &bounds, load).await;
            // And a list gets its turn: what is not read is given up.
            let client = Client::new(hurt.address());
            let list = until("a list beside those that nobody reads", async || {
                match in_time("a list", client.list(PODS)).await {
                    Ok(list) => Some(list),
                    Err(refused) => {
                        assert_eq!(refused.message(), "etcdserver: too many requests", "{refused:?}");
                        None
                    }
                }
            });
            assert_eq!(list.await.kvs.len(), keys);
            drop(unread);
        }
    }
}
