//! A large range of one group, read from several of its brains at once.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;
use prost::Message as _;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::config::Config;
use crate::grpc::Framed;
use crate::testing::{How, Nodes, Planned};

const RANGE: &str = "/etcdserverpb.KV/Range";
const STREAM: &str = "/etcdserverpb.KV/RangeStream";
const KEYS: usize = 60;

/// Three brains with 60 pods, whose rows of some 250 bytes are cut from 2 000 bytes on.
async fn filled() -> Nodes {
    filled_with(Config { fanout_bytes_min: Some(2_000), ..Config::default() }).await
}

async fn filled_with(config: Config) -> Nodes {
    let nodes = Nodes::with(3, config, How::default()).await;
    for number in 0..KEYS {
        nodes.client.put(&format!("/registry/pods/{number:03}"), &"v".repeat(200)).await;
    }
    nodes
}

fn pods() -> pb::RangeRequest {
    pb::RangeRequest {
        key: "/registry/pods/".into(),
        range_end: "/registry/pods0".into(),
        ..Default::default()
    }
}

/// What one brain gives.
fn of_one(nodes: &Nodes, request: &pb::RangeRequest) -> Bytes {
    let state = nodes.brain.state.lock();
    let (kvs, more, count) = state.range(&nodes.brain.name, request, false).expect("reads");
    let header = nodes.brain.header(state.revision);
    pb::RangeResponse { header, kvs, more, count }.encode_to_vec().into()
}

fn counter(registry: &kubebrain_net::metrics::Metrics, name: &str) -> f64 {
    let page = registry.page();
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_answer_put_together_is_the_one_that_one_brain_gives() {
    let nodes = filled().await;
    for request in [
        pods(),
        pb::RangeRequest { limit: 20, ..pods() },
        pb::RangeRequest { revision: 30, ..pods() },
        pb::RangeRequest { serializable: true, ..pods() },
        pb::RangeRequest { keys_only: true, ..pods() },
        pb::RangeRequest { range_end: "\0".into(), ..pods() },
    ] {
        let before: usize = nodes.counts(RANGE).iter().sum();
        let whole = nodes.client.raw(RANGE, HeaderMap::new(), Framed::of(&request)).await;
        assert_eq!(whole.status.code(), Code::Ok, "{request:?}: {}", whole.status);
        assert_eq!(whole.messages, [of_one(&nodes, &request)], "{request:?}");
        let asked = nodes.counts(RANGE).iter().sum::<usize>() - before;
        assert!(asked > 3, "{asked} for {request:?}");

        let chunks = nodes.client.raw(STREAM, HeaderMap::new(), Framed::of(&request)).await;
        assert_eq!(chunks.status.code(), Code::Ok, "{request:?}: {}", chunks.status);
        assert!(chunks.messages.len() > 2, "{} chunks", chunks.messages.len());
        let mut streamed = pb::RangeResponse::default();
        for chunk in chunks.messages {
            let chunk =
                pb::RangeStreamResponse::decode(chunk).expect("decodes").range_response.expect("never nil");
            assert!(streamed.header.is_none() && !chunk.kvs.is_empty(), "the header is in the last one");
            streamed.kvs.extend(chunk.kvs);
            (streamed.header, streamed.more, streamed.count) = (chunk.header, chunk.more, chunk.count);
        }
        assert_eq!(streamed.encode_to_vec(), of_one(&nodes, &request), "{request:?}");
    }
    assert!(nodes.counts(RANGE).iter().all(|count| *count > 10), "all share it: {:?}", nodes.counts(RANGE));
}

#[tokio::test(start_paused = true)]
async fn what_is_small_or_no_list_costs_one_request() {
    let nodes = filled().await;
    for request in [
        pb::RangeRequest { range_end: "/registry/pods/005".into(), ..pods() },
        pb::RangeRequest { limit: 3, ..pods() },
        pb::RangeRequest { count_only: true, ..pods() },
        pb::RangeRequest { key: "/registry/pods/001".into(), ..Default::default() },
    ] {
        let before: usize = nodes.counts(RANGE).iter().sum();
        let whole = nodes.client.raw(RANGE, HeaderMap::new(), Framed::of(&request)).await;
        assert_eq!(whole.messages.len(), 1, "{request:?}: {}", whole.status);
        assert_eq!(nodes.counts(RANGE).iter().sum::<usize>() - before, 1, "{request:?}");
    }
    let never = filled_with(Config { fanout_bytes_min: None, ..Config::default() }).await;
    never.client.range(pods()).await.expect("read");
    assert_eq!(never.counts(RANGE).iter().sum::<usize>(), 1, "it is turned off");
    let alone =
        Nodes::with(1, Config { fanout_bytes_min: Some(1), ..Config::default() }, How::default()).await;
    alone.client.put("/registry/pods/a", "v").await;
    alone.client.range(pods()).await.expect("read");
    assert_eq!(alone.counts(RANGE), [1], "there is nobody to share it");
}

#[tokio::test(start_paused = true)]
async fn the_part_of_a_brain_that_fails_or_is_late_is_asked_for_elsewhere() {
    let registry = kubebrain_net::metrics::Metrics::new();
    let metrics = crate::metrics::Metrics::new(&registry);
    let nodes = filled_with(Config { fanout_bytes_min: Some(2_000), metrics, ..Config::default() }).await;
    let second_tries = || counter(&registry, "kubebrain_proxy_fanout_second_tries_total");
    let expected = of_one(&nodes, &pods());
    nodes.all.iter().for_each(|node| node.behave(|how| how.delay = Duration::from_millis(10)));
    for slow in [1, 2] {
        nodes.all[slow].behave(|how| how.delay = Duration::from_secs(2));
        let (before, began) = (second_tries(), Instant::now());
        let whole = nodes.client.raw(RANGE, HeaderMap::new(), Framed::of(&pods())).await;
        assert_eq!(whole.messages, [expected.clone()], "{}", whole.status);
        assert!(second_tries() > before, "others were asked");
        assert!(began.elapsed() < Duration::from_millis(3_500), "{:?}", began.elapsed());
        nodes.all[slow].behave(|how| how.delay = Duration::from_millis(10));
        sleep(Duration::from_secs(20)).await;
    }
    let asked = nodes.client.raw(RANGE, HeaderMap::new(), Framed::of(&pods()));
    let killed = async {
        sleep(Duration::from_millis(15)).await;
        nodes.all[2].kill();
    };
    let (whole, ()) = tokio::join!(asked, killed);
    assert_eq!(whole.messages, [expected], "{}", whole.status);
}

#[tokio::test(start_paused = true)]
async fn a_compaction_under_it_begins_it_anew_or_ends_the_stream() {
    for (path, code) in [(RANGE, Code::Ok), (STREAM, Code::OutOfRange)] {
        let nodes = filled().await;
        nodes.brain.plan(path, Planned::WriteFirst("/registry/pods/a"));
        nodes.brain.plan(RANGE, Planned::Fail(Fault::Compacted));
        let request = if path == STREAM { pb::RangeRequest { revision: 40, ..pods() } } else { pods() };
        let read = nodes.client.raw(path, HeaderMap::new(), Framed::of(&request)).await;
        if path == STREAM {
            assert_eq!(read.status.code(), code, "{}", read.status);
            assert!(read.messages.is_empty());
        } else {
            let answer = pb::RangeResponse::decode(read.messages[0].clone()).expect("decodes");
            assert_eq!((read.status.code(), answer.kvs.len()), (code, KEYS + 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_not_what_was_announced_ends_it() {
    let nodes = filled().await;
    let other = pb::RangeResponse { count: 1, ..Default::default() };
    nodes.brain.plan(STREAM, Planned::WriteFirst("/registry/pods/000a"));
    nodes.brain.plan(RANGE, Planned::Raw(Framed::of(&other).frame()));
    let read = nodes.client.raw(STREAM, HeaderMap::new(), Framed::of(&pods())).await;
    assert_eq!(read.status.code(), Code::Internal, "{}", read.status);
    assert!(read.status.message().contains("were announced"), "{}", read.status);
}

#[tokio::test(start_paused = true)]
async fn where_too_many_are_put_together_one_brain_answers() {
    let config = Config { fanout_bytes_min: Some(2_000), fanout_parts_max: 6, ..Config::default() };
    let nodes = filled_with(config).await;
    let read = nodes.client.raw(RANGE, HeaderMap::new(), Framed::of(&pods())).await;
    assert_eq!(read.messages, [of_one(&nodes, &pods())], "{}", read.status);
    assert_eq!(nodes.counts(RANGE).iter().sum::<usize>(), 2, "how it is cut, and all of it");
}
