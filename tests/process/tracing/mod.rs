//! Traces: what a collector is told of requests, and that nobody waits for it.

mod collector;

use std::collections::BTreeMap;
use std::time::Duration;

use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::BINARY;
use collector::{Collector, Span};
use kit::client::Client;
use kit::exposition::scrape;
use kit::process::{Place, Process, Start};
use kit::{in_time, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";
const KEY: &str = "/registry/secrets/ns/the-key-itself";
const VALUE: &str = "the-value-itself";

const SERVER: i32 = 2;
const ASKS: i32 = 3;

/// Told by this collector, which is where the default address is not.
fn traced(start: Start, collector: &Collector) -> Start {
    start.flag("enable-distributed-tracing", "true").flag("distributed-tracing-address", &collector.address)
}

/// A brain of the one group, and a proxy of it.
async fn cluster(place: &Place, collector: &Collector) -> (Process, Process) {
    let text =
        |brains: &str| format!("home: core\ndefault: core\ngroups:\n  core: {{{brains}}}\nkinds: []\n");
    let alone = place.file("placement.yaml", &text(""));
    let brain = traced(Start::brain(place, "core"), collector).placement(&alone).listening().await;
    let found = text(&format!(" brains: [\"http://{}\"] ", brain.peer_address()));
    let placement = place.file("placement.yaml", &found);
    let proxy = traced(Start::proxy(place, "proxy", &placement), collector)
        .flag("distributed-tracing-instance-id", "the-first")
        .flag("warning-unary-request-duration", "0s");
    (brain, proxy.run().await)
}

fn transaction() -> TxnRequest {
    let put = PutRequest { key: KEY.into(), value: VALUE.into(), ..Default::default() };
    let get = RangeRequest { key: KEY.into(), ..Default::default() };
    let op = |request| RequestOp { request: Some(request) };
    TxnRequest {
        compare: vec![Compare { key: KEY.into(), ..Default::default() }],
        success: vec![op(request_op::Request::RequestPut(put))],
        failure: vec![op(request_op::Request::RequestRange(get))],
    }
}

/// A transaction with these headers.
async fn transact(client: &Client, headers: &[(&'static str, &str)]) {
    let mut request = Request::new(transaction());
    for (name, value) in headers {
        request.metadata_mut().append(*name, MetadataValue::try_from(*value).expect("a header"));
    }
    let answered = in_time("an answer", KvClient::new(client.channel()).txn(request)).await;
    answered.expect("it is carried out");
}

fn wanted(flags: &str) -> String {
    format!("00-{TRACE}-{CLIENT}-{flags}")
}

/// Spans by what they are children of.
fn tree(spans: &[Span]) -> BTreeMap<String, &Span> {
    spans.iter().map(|span| (collector::hex(&span.parent_span_id), span)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_one_tree_through_proxy_and_brain_without_its_keys() {
    let place = BINARY.place();
    let collector = Collector::answering().await;
    let (brain, proxy) = cluster(&place, &collector).await;
    let client = Client::new(proxy.address());
    let long = "the-value-itself=1,".repeat(2000);
    // Not one of these is traced.
    transact(&client, &[]).await;
    transact(&client, &[("traceparent", &wanted("00"))]).await;
    transact(&client, &[("traceparent", "garbage"), ("tracestate", "garbage"), ("baggage", &long)]).await;
    transact(&client, &[("traceparent", &wanted("01")), ("traceparent", &wanted("01"))]).await;
    // This one is.
    let wanted = wanted("01");
    transact(
        &client,
        &[("traceparent", &wanted), ("tracestate", "vendor=of-the-client"), ("baggage", &long)],
    )
    .await;
    let spans = until("three spans", async || {
        let spans = collector.spans();
        (spans.len() >= 3).then_some(spans)
    })
    .await;
    assert_eq!(spans.len(), 3, "{spans:?}");
    assert!(spans.iter().all(|span| collector::hex(&span.trace_id) == TRACE), "{spans:?}");
    let by_parent = tree(&spans);
    let mut parent = CLIENT.to_owned();
    for (service, kind, role) in [
        ("kubebrain-proxy", SERVER, "proxy"),
        ("kubebrain-proxy", ASKS, "proxy"),
        ("kubebrain-brain", SERVER, "master"),
    ] {
        let span = by_parent.get(&parent).unwrap_or_else(|| panic!("no child of {parent}: {spans:?}"));
        assert_eq!((span.name.as_str(), span.kind), ("etcdserverpb.KV/Txn", kind));
        assert_eq!(span.trace_state, "vendor=of-the-client");
        assert!(0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano);
        assert_eq!(span.resource("service.name"), service);
        assert_eq!(
            span.resource("service.instance.id"),
            if service == "kubebrain-proxy" { "the-first" } else { "" }
        );
        assert_eq!(span.text("kubebrain.role"), role);
        assert_eq!((span.text("rpc.system"), span.text("rpc.service")), ("grpc", "etcdserverpb.KV"));
        assert_eq!((span.text("rpc.method"), span.number("rpc.grpc.status_code")), ("Txn", Some(0)));
        if kind == ASKS || role == "master" {
            assert_eq!(span.text("kubebrain.group"), "core");
            assert!(span.number("kubebrain.revision").is_some_and(|revision| revision > 1), "{span:?}");
        }
        parent = collector::hex(&span.span_id);
    }
    for secret in [KEY, VALUE, "the-key-itself"] {
        assert!(!collector.has_seen(secret.as_bytes()), "{secret} has left the process");
    }
    assert!(proxy.log().contains(TRACE), "the line about a slow request names its trace");
    until("a count of them", async || {
        let page = scrape(proxy.address()).await;
        (page.value("kubebrain_trace_spans_exported_total", &[]) >= 2.0).then_some(())
    })
    .await;
    for mut process in [proxy, brain] {
        process.signal("TERM");
        assert!(process.ended().await.success(), "who traces ends as ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_are_left_at_the_end_are_sent_and_those_of_refusals_say_so() {
    let place = BINARY.place();
    let collector = Collector::answering().await;
    let start = traced(Start::standalone(&place), &collector)
        .flag("distributed-tracing-sampling-rate", "1000000")
        .flag("distributed-tracing-service-name", "etcd-of-ours");
    let mut server = start.run().await;
    let client = Client::new(server.address());
    client.compact(1 << 40).await.expect_err("there is no such revision");
    server.signal("TERM");
    assert!(server.ended().await.success());
    let spans = collector.spans();
    let refused: Vec<_> = spans.iter().filter(|span| span.name == "etcdserverpb.KV/Compact").collect();
    assert!(!refused.is_empty(), "{spans:?}");
    for span in refused {
        assert_eq!(span.number("rpc.grpc.status_code"), Some(11), "{span:?}");
        assert_eq!(span.resource("service.name"), "etcd-of-ours");
        assert_eq!(span.status.as_ref().map_or("", |status| &status.message), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_keeps_nobody_waiting() {
    let place = BINARY.place();
    let collector = Collector::silent().await;
    let start = traced(Start::standalone(&place), &collector)
        .flag("distributed-tracing-sampling-rate", "1000000")
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "8000");
    let mut server = start.run().await;
    let mut writers = JoinSet::new();
    for writer in 0..16 {
        let client = Client::new(server.address());
        writers.spawn(async move {
            let mut longest = Duration::ZERO;
            for number in 0..250 {
                let began = Instant::now();
                client.put(&format!("/registry/pods/ns/{writer}-{number}"), "x").await.expect("a put");
                longest = longest.max(began.elapsed());
            }
            longest
        });
    }
    let longest = in_time("the writers", writers.join_all()).await.into_iter().max().expect("some");
    assert!(longest < Duration::from_secs(5), "a put has waited for {longest:?}");
    assert!(collector.connections() > 0, "it was tried");
    let page = scrape(server.address()).await;
    assert!(page.value("kubebrain_trace_spans_lost_total", &[]) > 1000.0, "the queue has a bound");
    assert_eq!(page.value("kubebrain_trace_spans_exported_total", &[]), 0.0);
    until("the warning", async || server.log().contains("takes no spans").then_some(())).await;
    let client = Client::new(server.address());
    client.put("/registry/pods/ns/last", "x").await.expect("a put");
    let began = Instant::now();
    server.signal("TERM");
    assert!(server.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?} to end", began.elapsed());
    let log = server.log();
    let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("collector")).count();
    assert_eq!(warnings, 1, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_switch_or_a_traced_request_nothing_is_dialled() {
    let place = BINARY.place();
    let collector = Collector::answering().await;
    let off = Start::standalone(&place)
        .flag("distributed-tracing-address", &collector.address)
        .flag("distributed-tracing-sampling-rate", "1000000");
    let off = off.run().await;
    transact(&Client::new(off.address()), &[("traceparent", &wanted("01"))]).await;
    drop(off);
    let unasked = traced(Start::standalone(&place), &collector).run().await;
    transact(&Client::new(unasked.address()), &[("traceparent", &wanted("00"))]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(collector.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_at_the_start() {
    let place = BINARY.place();
    for (flag, value, said) in [
        ("distributed-tracing-sampling-rate", "1000001", "1000001"),
        ("distributed-tracing-address", "https://127.0.0.1:1", "distributed-tracing-address"),
        ("distributed-tracing-address", "not an address", "distributed-tracing-address"),
    ] {
        let start = Start::standalone(&place).flag("enable-distributed-tracing", "true").flag(flag, value);
        let failure = start.fails().await;
        assert!(failure.message.contains(said), "{}", failure.message);
    }
    let http = Start::standalone(&place)
        .flag("enable-distributed-tracing", "true")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let message = http.fails().await.message;
    assert!(message.contains("grpc alone"), "{message}");
}
