//! Traces and figures: what a collector is told, and that nobody waits for it.

mod collector;

use std::path::Path;
use std::time::Duration;

use kubebrain_net::tls::{TlsConfig, TlsServer};
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
use kit::pki::Authority;
use kit::process::{Place, Process, Start};
use kit::{in_time, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";
const KEY: &str = "/registry/secrets/ns/the-key-itself";
const VALUE: &str = "the-value-itself";
/// Of that key.
const KIND: &str = "secrets";

const PROTOCOLS: [&str; 2] = ["grpc", "http/protobuf"];

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const ASKS: i32 = 3;

/// Told by this collector, which is where the default address is not.
fn traced(start: Start, collector: &Collector) -> Start {
    start.flag("enable-distributed-tracing", "true").flag("distributed-tracing-address", &collector.address)
}

/// As [`traced`], by this protocol.
fn traced_by(start: Start, collector: &Collector, protocol: &str) -> Start {
    told_by(start.flag("enable-distributed-tracing", "true"), collector, protocol)
}

/// It knows where the collector is; over HTTP what is told has a path there.
fn told_by(start: Start, collector: &Collector, protocol: &str) -> Start {
    told_at(start, "http", collector, protocol)
}

/// The same by this scheme.
fn told_at(start: Start, scheme: &str, collector: &Collector, protocol: &str) -> Start {
    let endpoint = format!("{scheme}://{}/under", collector.address);
    start.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
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
        success: vec![op(request_op::Request::RequestPut(put.clone()))],
        failure: vec![op(request_op::Request::RequestRange(get)), op(request_op::Request::RequestPut(put))],
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

/// The one span of this name and kind below that one.
fn below<'a>(spans: &'a [Span], parent: &str, name: &str, kind: i32) -> &'a Span {
    let is_it = |span: &&Span| {
        collector::hex(&span.parent_span_id) == parent && span.name == name && span.kind == kind
    };
    let found: Vec<_> = spans.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{name} below {parent}: {spans:#?}");
    found[0]
}

/// A transaction is one tree: whoever is asked by a client asks a brain, and that writes. `services` and `roles` are of both.
async fn is_one_tree(collector: &Collector, services: [&str; 2], roles: [&str; 2], group: &str) {
    const TXN: &str = "etcdserverpb.KV/Txn";
    let spans = until("nine spans", async || {
        let spans = collector.spans();
        (spans.len() >= 9).then_some(spans)
    })
    .await;
    assert_eq!(spans.len(), 9, "{spans:#?}");
    let id = |span: &Span| collector::hex(&span.span_id);
    let door = below(&spans, CLIENT, TXN, SERVER);
    let asks = below(&spans, &id(door), TXN, ASKS);
    let brain = below(&spans, &id(asks), TXN, SERVER);
    let steps = |of: &Span, names: &[&str]| -> Vec<Span> {
        names.iter().map(|name| below(&spans, &id(of), name, INTERNAL).clone()).collect()
    };
    let [at_door, at_brain] = [
        steps(door, &["admission", "first byte"]),
        steps(brain, &["queue", "batch", "commit", "first byte"]),
    ];
    for span in &spans {
        assert_eq!(collector::hex(&span.trace_id), TRACE);
        assert_eq!(span.trace_state, "vendor=of-the-client");
        assert!(0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    for (place, spans) in
        [at_door.iter().chain([door, asks]), at_brain.iter().chain([brain, brain])].into_iter().enumerate()
    {
        for span in spans {
            assert_eq!(
                (span.resource("service.name"), span.text("kubebrain.role")),
                (services[place], roles[place])
            );
            assert_eq!(span.resource("service.version"), env!("CARGO_PKG_VERSION"));
        }
    }
    for span in [door, asks, brain] {
        assert_eq!((span.text("rpc.system"), span.text("rpc.service")), ("grpc", "etcdserverpb.KV"));
        assert_eq!((span.text("rpc.method"), span.number("rpc.grpc.status_code")), ("Txn", Some(0)));
    }
    for span in [door, asks, brain].into_iter().chain(&at_brain) {
        assert_eq!(span.text("kubebrain.kind"), KIND, "{span:?}");
    }
    for span in [asks, brain] {
        assert_eq!(span.text("kubebrain.group"), group);
        assert!(span.number("kubebrain.revision").is_some_and(|revision| revision > 1), "{span:?}");
    }
    let begins: Vec<_> = at_brain[..3].iter().map(|step| step.start_time_unix_nano).collect();
    assert!(begins.is_sorted() && begins[0] >= brain.start_time_unix_nano, "{begins:?}");
    let commit = &at_brain[2];
    assert_eq!((commit.text("db.system.name"), commit.text("db.operation.name")), ("embedded", "commit"));
    assert!(commit.number("db.operation.batch.size").is_some_and(|rows| rows >= 2), "{commit:?}");
    for secret in [KEY, VALUE, "the-key-itself"] {
        assert!(!collector.has_seen(secret.as_bytes()), "{secret} has left the process");
    }
}

/// Some that are not traced, and one that is.
async fn transact_all(client: &Client) {
    let long = "the-value-itself=1,".repeat(2000);
    transact(client, &[]).await;
    transact(client, &[("traceparent", &wanted("00"))]).await;
    let wanted = wanted("01");
    transact(client, &[("traceparent", "garbage"), ("tracestate", "garbage"), ("baggage", &long)]).await;
    transact(client, &[("traceparent", &wanted), ("traceparent", &wanted)]).await;
    let state = ("tracestate", "vendor=of-the-client");
    transact(client, &[("traceparent", &wanted), state, ("baggage", &long)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_one_tree_through_proxy_and_brain_without_its_keys() {
    let place = BINARY.place();
    let collector = Collector::answering().await;
    let (brain, proxy) = cluster(&place, &collector).await;
    transact_all(&Client::new(proxy.address())).await;
    is_one_tree(&collector, ["kubebrain-proxy", "kubebrain-brain"], ["proxy", "master"], "core").await;
    let of_proxy = |span: &&Span| span.resource("service.instance.id") == "the-first";
    assert_eq!(collector.spans().iter().filter(of_proxy).count(), 4);
    assert!(proxy.log().contains(TRACE), "the line about a slow request names its trace");
    until("a count of them", async || {
        let page = scrape(proxy.address()).await;
        (page.value("kubebrain_trace_spans_exported_total", &[]) >= 4.0).then_some(())
    })
    .await;
    for mut process in [proxy, brain] {
        process.signal("TERM");
        assert!(process.ended().await.success(), "who traces ends as ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_shows_the_same_tree_by_either_protocol() {
    for protocol in PROTOCOLS {
        let place = BINARY.place();
        let collector = Collector::answering().await;
        let server = traced_by(Start::standalone(&place), &collector, protocol).run().await;
        transact_all(&Client::new(server.address())).await;
        is_one_tree(&collector, ["kubebrain-standalone"; 2], ["standalone", "master"], "core").await;
        assert_eq!(collector.connections(), 1, "it is kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_range_are_parts_of_its_tree() {
    let place = BINARY.place();
    let collector = Collector::answering().await;
    let text = "home: a\ndefault: a\ngroups: {a: {}, b: {}}\nkinds: [{prefix: /registry/pods/, group: b}]\n";
    let placement = place.file("placement.yaml", text);
    let server = traced(Start::standalone(&place), &collector).placement(&placement).run().await;
    let request =
        RangeRequest { key: "/registry/".into(), range_end: "/registry0".into(), ..Default::default() };
    let mut request = Request::new(request);
    request.metadata_mut().insert("traceparent", MetadataValue::try_from(wanted("01")).expect("a header"));
    let client = Client::new(server.address());
    in_time("an answer", KvClient::new(client.channel()).range(request)).await.expect("a range");
    let door = until("the range", async || {
        let spans = collector.spans();
        spans.iter().find(|span| collector::hex(&span.parent_span_id) == CLIENT).cloned()
    })
    .await;
    let spans = collector.spans();
    let children = |of: &Span, name: &str| -> Vec<Span> {
        spans.iter().filter(|span| span.parent_span_id == of.span_id && span.name == name).cloned().collect()
    };
    let groups = |spans: &[Span]| -> Vec<String> {
        let mut groups: Vec<_> = spans.iter().map(|span| span.text("kubebrain.group").to_owned()).collect();
        groups.sort();
        groups
    };
    let parts = children(&door, "part");
    assert_eq!(parts.len(), 2, "{spans:#?}");
    let asked: Vec<_> = parts.iter().flat_map(|part| children(part, "etcdserverpb.KV/Range")).collect();
    assert_eq!(groups(&asked), ["a", "b"]);
    let served: Vec<_> = asked.iter().flat_map(|asks| children(asks, "etcdserverpb.KV/Range")).collect();
    assert_eq!(groups(&served), ["a", "b"]);
    let fenced = children(&door, "kubebrain.peer.v1.Peer/Advance");
    assert_eq!(groups(&fenced), ["a", "b"], "how far they are was asked first: {spans:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_amount_of_baggage_harms_anybody() {
    let place = BINARY.place();
    let collector = Collector::answering().await;
    let server = traced(Start::standalone(&place), &collector).run().await;
    let mut request = Request::new(transaction());
    let headers = request.metadata_mut();
    headers.insert("traceparent", MetadataValue::try_from(wanted("01")).expect("a header"));
    headers
        .insert("baggage", MetadataValue::try_from("the-value-itself=1,".repeat(1 << 16)).expect("a header"));
    let heavy = Client::new(server.address());
    drop(in_time("an answer", KvClient::new(heavy.channel()).txn(request)).await);
    transact_all(&Client::new(server.address())).await;
    until("spans", async || (collector.spans().len() >= 9).then_some(())).await;
    assert!(!collector.has_seen(b"the-value-itself"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_told_as_their_page_shows_them_by_either_protocol() {
    for protocol in PROTOCOLS {
        let place = BINARY.place();
        let collector = Collector::answering().await;
        // Without the switch: that is for traces.
        let mut server = told_by(Start::standalone(&place), &collector, protocol)
            .env("OTEL_METRICS_EXPORTER", "otlp")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=of%20tests")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a-token")
            .run()
            .await;
        transact(&Client::new(server.address()), &[("traceparent", &wanted("01"))]).await;
        let began = collector.tellings();
        until("two more", async || (collector.tellings() >= began + 2).then_some(())).await;
        let page = scrape(server.address()).await;
        let figures = collector.figures();
        let figure = |name: &str| figures.iter().find(|figure| figure.name == name).expect(name);
        let handled = figure("grpc_server_handled_total").sum.as_ref().expect("a counter");
        assert!(handled.is_monotonic && handled.temporality == 2);
        let of_txn = [
            ("grpc_type", "unary"),
            ("grpc_service", "etcdserverpb.KV"),
            ("grpc_method", "Txn"),
            ("grpc_code", "OK"),
        ];
        let row =
            handled.points.iter().find(|point| of_txn.iter().all(|(key, value)| point.text(key) == *value));
        let row = row.expect("a row of it");
        assert_eq!(row.value, page.value("grpc_server_handled_total", &of_txn));
        assert!(0 < row.start_time_unix_nano && row.start_time_unix_nano < row.time_unix_nano);
        assert_eq!(figure("etcd_server_version").gauge.as_ref().expect("a gauge").points.len(), 1);
        let seconds = figure("grpc_server_handling_seconds").histogram.as_ref().expect("a histogram");
        let row = seconds
            .points
            .iter()
            .find(|point| of_txn[..3].iter().all(|(key, value)| point.text(key) == *value));
        let row = row.expect("a row of it");
        assert_eq!((row.count, row.counts.iter().sum::<u64>()), (1, 1), "{row:?}");
        assert_eq!(row.counts.len(), row.bounds.len() + 1);
        assert_eq!(figures.len(), page.families.len(), "all of them");
        assert_eq!(figure("etcd_server_version").resource("service.name"), "kubebrain-standalone");
        assert_eq!(figure("etcd_server_version").resource("deployment.environment.name"), "of tests");
        assert!(collector.has_seen(b"x-token") && !collector.has_seen(KEY.as_bytes()));
        assert!(collector.spans().is_empty());
        until("a count of them", async || {
            let page = scrape(server.address()).await;
            (page.value("kubebrain_metrics_exported_total", &[]) >= 2.0).then_some(())
        })
        .await;
        let before = collector.tellings();
        server.signal("TERM");
        assert!(server.ended().await.success());
        assert!(collector.tellings() > before, "the last ones too");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_compressed_is_told_by_either_protocol_to_whom_is_trusted() {
    let place = BINARY.place();
    let (ours, others) = (Authority::new(&place, "ours"), Authority::new(&place, "others"));
    let of_collector = ours.issue("collector", 1);
    let serving = TlsConfig {
        certificate: of_collector.certificate,
        key: of_collector.key,
        client_ca: Some(ours.file.clone()),
        ..TlsConfig::default()
    };
    let shown = ours.issue("kubebrain", 2);
    let path = |path: &Path| path.to_str().expect("text").to_owned();
    for protocol in PROTOCOLS {
        let collector =
            Collector::answering_by(Some(TlsServer::load(serving.clone()).expect("certificates"))).await;
        let start = |place: &Place, trusted: &Path| {
            let start = Start::standalone(place).flag("enable-distributed-tracing", "true");
            told_at(start, "https", &collector, protocol)
                .env("OTEL_METRICS_EXPORTER", "otlp")
                .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
                .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
                .env("OTEL_EXPORTER_OTLP_CERTIFICATE", &path(trusted))
                .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &path(&shown.certificate))
                .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", &path(&shown.key))
        };
        let place = BINARY.place();
        let deceived = start(&place, &others.file).run().await;
        transact_all(&Client::new(deceived.address())).await;
        for warning in ["takes no spans", "takes no figures"] {
            let said = |line: &str| line.contains(warning) && line.contains("invalid peer certificate");
            until("the warning", async || deceived.log().lines().any(said).then_some(())).await;
        }
        drop(deceived);
        assert!(collector.spans().is_empty() && collector.tellings() == 0, "nobody is told unseen");
        let place = BINARY.place();
        let server = start(&place, &ours.file).run().await;
        transact_all(&Client::new(server.address())).await;
        is_one_tree(&collector, ["kubebrain-standalone"; 2], ["standalone", "master"], "core").await;
        until("figures", async || (collector.tellings() >= 2).then_some(())).await;
        assert!(collector.compressed() >= 3, "spans and figures");
        assert!(!server.log().contains("the collector of"), "{}", server.log());
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
    nobody_waits("grpc").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_over_http_keeps_nobody_waiting() {
    nobody_waits("http/protobuf").await;
}

async fn nobody_waits(protocol: &str) {
    let place = BINARY.place();
    let collector = Collector::silent().await;
    let start = traced_by(Start::standalone(&place), &collector, protocol)
        .flag("distributed-tracing-sampling-rate", "1000000")
        .env("OTEL_METRICS_EXPORTER", "otlp")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "100")
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
    for warning in ["takes no spans", "takes no figures"] {
        until("the warning", async || server.log().contains(warning).then_some(())).await;
    }
    let client = Client::new(server.address());
    client.put("/registry/pods/ns/last", "x").await.expect("a put");
    let began = Instant::now();
    server.signal("TERM");
    assert!(server.ended().await.success());
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?} to end", began.elapsed());
    let log = server.log();
    let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("collector")).count();
    assert_eq!(warnings, 2, "one for each: {log}");
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
        ("distributed-tracing-address", "ftp://127.0.0.1:1", "distributed-tracing-address"),
        ("distributed-tracing-address", "not an address", "distributed-tracing-address"),
    ] {
        let start = Start::standalone(&place).flag("enable-distributed-tracing", "true").flag(flag, value);
        let failure = start.fails().await;
        assert!(failure.message.contains(said), "{}", failure.message);
    }
    for (variable, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "\"grpc\" and \"http/protobuf\" are spoken"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "udp", "\"grpc\" and \"http/protobuf\" are spoken"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://127.0.0.1:1", "by http:// or https://"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "\"gzip\" or \"none\""),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere", "cannot be read"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere", "a certificate is shown with its key"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "a number of milliseconds"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a-token", "no list of NAME=VALUE"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=x", "no list of NAME=VALUE"),
        ("OTEL_TRACES_EXPORTER", "console", "\"otlp\" or \"none\""),
    ] {
        let start = Start::standalone(&place).flag("enable-distributed-tracing", "true").env(variable, value);
        let message = start.fails().await.message;
        assert!(message.contains(variable) && message.contains(said), "{message}");
    }
    for (variable, value) in
        [("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"), ("OTEL_METRIC_EXPORT_INTERVAL", "0")]
    {
        let start = Start::standalone(&place).env("OTEL_METRICS_EXPORTER", "otlp").env(variable, value);
        let message = start.fails().await.message;
        assert!(message.contains(variable), "{message}");
    }
}
