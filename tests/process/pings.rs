//! Clients that ping too often.

use std::time::Duration;

use bytes::BytesMut;
use kubebrain_proto::etcdserverpb::LeaseKeepAliveRequest;
use kubebrain_shared::wire::frame;
use prost::Message as _;

use crate::BINARY;
use crate::load::frames::{PING, Wild, put_frame};
use kit::exposition::scrape;
use kit::process::Start;
use kit::raw::Raw;
use kit::{in_time, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pings_too_often_is_told_so() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let mut raw = Raw::connect(server.address()).await;
    for _ in 0..3 {
        raw.ping().await.expect("overlooked");
    }
    let _refused = raw.ping().await;
    let said = raw.ended().await.expect("a reason");
    assert_eq!(said.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "{said:?}");
    assert!(format!("{said:?}").contains("too_many_pings"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pace_of_pings_is_a_setting() {
    let place = BINARY.place();
    let server = Start::standalone(&place).flag("grpc-keepalive-min-time", "0s").run().await;
    let mut raw = Raw::connect(server.address()).await;
    for _ in 0..20 {
        raw.ping().await.expect("never too many");
    }
    let slower = Start::brain(&place, "default").flag("grpc-keepalive-min-time", "50ms").run().await;
    let mut raw = Raw::connect(slower.address()).await;
    for _ in 0..10 {
        raw.ping().await.expect("not too often");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

/// What the pace of frames has held back.
async fn held(address: &str) -> f64 {
    scrape(address).await.value("kubebrain_held_back_total", &[("bound", "control_frames")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_for_each_answer_is_free_and_a_flood_has_its_pace() {
    let place = BINARY.place();
    for start in [Start::standalone(&place), Start::brain(&place, "default")] {
        let server = start.flag("grpc-keepalive-min-time", "0s").run().await;
        let mut raw = Raw::connect(server.address()).await;
        // As Go's client measures its bandwidth, for longer than any burst.
        for _ in 0..2500 {
            let answer = raw.call("/etcdserverpb.KV/Range", "application/grpc", frame(b"\x0a\x01a")).await;
            assert_eq!(answer.expect("an answer").grpc, Some((0, String::new())));
            raw.ping().await.expect("an answer");
        }
        assert_eq!(held(server.address()).await, 0.0);
        // As its KeepAliveOnce does: each on a stream that is reset once it is answered.
        let renew = frame(&LeaseKeepAliveRequest { id: 7 }.encode_to_vec());
        for _ in 0..1500 {
            let (response, mut stream) = raw.open("/etcdserverpb.Lease/LeaseKeepAlive", renew.clone()).await;
            let mut body = in_time("a head", response).await.expect("a head").into_body();
            in_time("a message", body.data()).await.expect("a message").expect("a message");
            stream.send_reset(h2::Reason::CANCEL);
            raw.ping().await.expect("an answer");
        }
        assert_eq!(held(server.address()).await, 0.0);
        let mut flood = Wild::connect(server.address()).await;
        let mut pings = BytesMut::new();
        for _ in 0..2500 {
            put_frame(&mut pings, PING, 0, 0, b"12345678");
        }
        assert!(flood.send(&pings).await, "nobody is thrown out");
        until("a flood that is held back", async || (held(server.address()).await > 0.0).then_some(())).await;
    }
}
