//! Clients that ping too often.

use std::time::Duration;

use crate::support::process::{Place, Start};
use crate::support::raw::Raw;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pings_too_often_is_told_so() {
    let place = Place::new();
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
    let place = Place::new();
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
