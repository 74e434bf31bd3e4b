//! Many who list everything at once.

use bytes::Bytes;
use futures_util::future::join_all;
use kubebrain_proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use kubebrain_shared::wire::{self, FRAME_PREFIX_BYTES, frame};
use prost::Message;

use super::{BOTH, Bounds, HEAP_BYTES, Hurt};
use kit::client::end_of;
use kit::full_tier;
use kit::raw::{Answer, Raw};

const PODS: &str = "/registry/pods/large/";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STREAM: &str = "/etcdserverpb.KV/RangeStream";
const TOO_MANY: (i32, &str) = (8, "etcdserver: too many requests");

fn request() -> Bytes {
    let request = RangeRequest { key: PODS.into(), range_end: end_of(PODS).into(), ..Default::default() };
    frame(&request.encode_to_vec())
}

/// The `kvs` of an answer as they stand in it.
fn rows(path: &str, answer: &Answer) -> Vec<u8> {
    let mut buffer = bytes::BytesMut::from(&answer.data[..]);
    let mut rows = Vec::new();
    while let Some(message) = wire::Message::split(&mut buffer).expect("frames") {
        let range = if path == RANGE {
            RangeResponse::decode(message).expect("an answer")
        } else {
            let part = RangeStreamResponse::decode(message).expect("an answer");
            part.range_response.expect("a part of it")
        };
        RangeResponse { kvs: range.kvs, ..Default::default() }.encode(&mut rows).expect("there is room");
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_lists_takes_bounded_memory_and_holds_up_nobody() {
    let (keys, clients, each) = if full_tier() { (10_000, 60, 4) } else { (2000, 24, 2) };
    for mode in BOTH {
        let mut hurt = Hurt::start_with(mode, |start| start.flag("answer-bytes", "33554432")).await;
        hurt.fill(PODS, keys, 1 << 10).await;
        for path in [RANGE, STREAM] {
            let mut raw = Raw::connect(hurt.address()).await;
            let first = raw.call(path, "application/grpc", request()).await.expect("an answer");
            let want = rows(path, &first);
            assert!(want.len() > keys * (1 << 10), "all of them");
            let address = hurt.address().to_owned();
            let load = join_all((0..clients).map(|_| async {
                let mut raw = Raw::connect(&address).await;
                let mut refused = 0;
                for _ in 0..each {
                    let answer = raw.call(path, "application/grpc", request()).await.expect("an answer");
                    match &answer.grpc {
                        Some((0, _)) => {
                            // Decoding costs more than the answer: most are only measured, the header may grow by some bytes.
                            assert!(
                                answer.data.len().abs_diff(first.data.len()) < 64,
                                "{}",
                                answer.data.len()
                            );
                            assert!(answer.data.len() > want.len() + FRAME_PREFIX_BYTES);
                        }
                        Some((code, text)) if (*code, &text[..]) == TOO_MANY => refused += 1,
                        other => panic!("{other:?}"),
                    }
                }
                refused
            }));
            let bounds = Bounds { memory_bytes: 3 * (32 << 20) + HEAP_BYTES, share_permille: 5 };
            let name = format!("{} lists of {} MiB by {path}", clients * each, want.len() >> 20);
            let refused: usize = hurt.under(&name, &bounds, load).await.into_iter().sum();
            eprintln!("{name}: {refused} refused");
            assert!(refused * 2 < clients * each, "most are answered");
            let last = raw.call(path, "application/grpc", request()).await.expect("an answer");
            assert!(rows(path, &last) == want, "the same afterwards");
        }
    }
}
