//! How much a proxy works on at once.

use http::HeaderMap;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;

use crate::config::Config;
use crate::testing::{Client, Cluster, Planned, put};

async fn try_put(client: &Client, key: &str) -> Result<pb::PutResponse, Status> {
    client.call("/etcdserverpb.KV/Put", &put(key, "value")).await
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_the_answer_is_immediate_and_half_requests_do_not_count() {
    let cluster = Cluster::with(Config { in_flight_max: 1, ..Config::default() }).await;
    let (_nothing, inbound) = mpsc::channel::<Result<http_body::Frame<bytes::Bytes>, Status>>(1);
    let half = Body::new(http_body_util::StreamBody::new(ReceiverStream::new(inbound)));
    let client = cluster.client.clone();
    let half = tokio::spawn(async move { client.send("/etcdserverpb.KV/Put", HeaderMap::new(), half).await });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    try_put(&cluster.client, "/registry/events/a").await.expect("half a request keeps nobody out");
    cluster.brain("pods").plan("/etcdserverpb.KV/Put", Planned::Silence);
    let client = cluster.client.clone();
    let stuck = tokio::spawn(async move { try_put(&client, "/registry/pods/a").await });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let began = tokio::time::Instant::now();
    let refused = try_put(&cluster.client, "/registry/events/b").await.expect_err("one is at work");
    assert_eq!(Fault::of(&refused), Some(Fault::TooManyRequests));
    assert!(began.elapsed().as_secs() == 0, "at once");
    stuck.abort();
    let _dropped = stuck.await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    try_put(&cluster.client, "/registry/events/c").await.expect("a dropped request gives its place back");
    try_put(&cluster.client, "/registry/events/d").await.expect("and so does an answered one");
    half.abort();
}

#[tokio::test(start_paused = true)]
async fn a_group_that_never_answers_does_not_keep_its_place_for_ever() {
    let cluster = Cluster::with(Config { in_flight_max: 1, ..Config::default() }).await;
    cluster.brain("pods").plan("/etcdserverpb.KV/Put", Planned::Silence);
    let began = tokio::time::Instant::now();
    let late = try_put(&cluster.client, "/registry/pods/a").await.expect_err("there is no answer");
    assert_eq!(Fault::of(&late), Some(Fault::Timeout), "it may have been applied");
    assert_eq!(began.elapsed().as_secs(), Config::default().answer_timeout.as_secs());
    try_put(&cluster.client, "/registry/events/b").await.expect("its place is free");
}
