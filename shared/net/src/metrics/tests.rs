use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::stop::Stopper;
use kubebrain_shared::wire;
use prost::Message as _;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use super::slow::Ended;
use super::slow::{Keys, keys};
use super::{Calls, Inbound, Metrics, Observe, Side, Slow};
use crate::dial::{Channel, Connector, DialConfig};
use crate::gzip::Gzip;
use crate::held::Held;
use crate::serve::{ServeConfig, memory, serve_memory};
use crate::trace::Tracer;

/// The value of a line of the page; `None` if it has none.
fn value(page: &str, row: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' ')?.parse().ok())
}

fn trailers(code: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    Frame::trailers(trailers)
}

fn frames(frames: Vec<Result<Frame<Bytes>, Status>>, ends: bool) -> Response<Body> {
    use tokio::sync::mpsc;
    let (sender, receiver) = mpsc::channel(frames.len() + 1);
    for frame in frames {
        sender.try_send(frame).expect("room");
    }
    let open = (!ends).then_some(sender);
    let body = StreamBody::new(Receiver { receiver, _open: open });
    Response::new(Body::new(body))
}

/// A stream that never ends while it holds its own sender.
struct Receiver {
    receiver: tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, Status>>,
    _open: Option<tokio::sync::mpsc::Sender<Result<Frame<Bytes>, Status>>>,
}

impl tonic::codegen::tokio_stream::Stream for Receiver {
    type Item = Result<Frame<Bytes>, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

/// Answers by path as each test wants, after it has read the request.
async fn answer(request: Request<Inbound>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/etcdserverpb.KV/Txn" {
        return std::future::pending().await;
    }
    if path != "/etcdserverpb.Watch/Watch" {
        let _read = request.into_body().collect().await;
    }
    let message = || Ok(Frame::data(wire::frame(b"four")));
    Ok(match path.as_str() {
        "/etcdserverpb.KV/Range" => frames(vec![message(), Ok(trailers("0"))], true),
        "/etcdserverpb.KV/Put" => frames(vec![Ok(trailers("14"))], true),
        "/etcdserverpb.KV/Compact" => Status::out_of_range("compacted").into_http(),
        "/etcdserverpb.Watch/Watch" => frames(vec![message(), message()], false),
        "/etcdserverpb.KV/RangeStream" => frames(vec![message(), Err(Status::internal("broken"))], true),
        "/etcdserverpb.KV/DeleteRange" => frames(vec![message()], true),
        _ => Status::unimplemented("what is that").into_http(),
    })
}

/// A server whose calls are observed, and a client of it.
fn serve() -> (Metrics, Channel, Stopper) {
    let metrics = Metrics::new();
    let calls = Calls::new(&metrics, Side::Clients, Slow::new(Duration::MAX), Tracer::default());
    let service =
        Observe::new(tower::service_fn(answer), metrics.clone(), calls, Gzip::new(1 << 20, Held::default()));
    let (connector, listener) = memory();
    let stopper = Stopper::default();
    tokio::spawn(serve_memory(listener, service, ServeConfig::default(), stopper.handle()));
    (metrics, Channel::new(Connector::Memory(connector), DialConfig::default()), stopper)
}

fn request(path: &str, message: &[u8]) -> Request<Body> {
    let request = Request::post(path).header("content-type", "application/grpc");
    request.body(Body::new(Full::new(wire::frame(message)))).expect("a request")
}

async fn until(metrics: &Metrics, row: &str, wanted: f64) {
    let mut found = None;
    for _ in 0..500 {
        found = value(&metrics.page(), row);
        if found == Some(wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{row} is {found:?}, not {wanted}");
}

fn handled(kind: &str, method: &str, code: &str) -> String {
    let (service, name) = method.split_once('/').expect("service/name");
    format!(
        r#"grpc_server_handled_total{{grpc_code="{code}",grpc_method="{name}",grpc_service="{service}",grpc_type="{kind}"}}"#
    )
}

#[tokio::test]
async fn a_call_counts_under_the_code_that_it_ended_with() {
    for (kind, method, code) in [
        ("unary", "etcdserverpb.KV/Range", "OK"),
        ("unary", "etcdserverpb.KV/Put", "Unavailable"),
        ("unary", "etcdserverpb.KV/Compact", "OutOfRange"),
        ("unary", "etcdserverpb.KV/DeleteRange", "Unknown"),
        ("server_stream", "etcdserverpb.KV/RangeStream", "Internal"),
    ] {
        let (metrics, mut channel, _stopper) = serve();
        let row = handled(kind, method, code);
        assert_eq!(value(&metrics.page(), &row), Some(0.0), "rows are there before they are counted");
        // One that is reset may be gone before its headers are seen.
        if let Ok(response) = channel.call(request(&format!("/{method}"), b"request")).await {
            let _broken = response.into_body().collect().await;
        }
        until(&metrics, &row, 1.0).await;
        let page = metrics.page();
        let all = page.lines().filter(|line| line.starts_with("grpc_server_handled_total"));
        let sum: f64 =
            all.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("one")).sum();
        assert_eq!(sum, 1.0, "{method} counts once");
        assert_eq!(value(&page, "etcd_network_client_grpc_received_bytes_total"), Some(7.0));
    }
}

#[tokio::test]
async fn messages_and_bytes_are_counted_both_ways() {
    let (metrics, mut channel, _stopper) = serve();
    for _ in 0..3 {
        let response = channel.call(request("/etcdserverpb.KV/Range", b"request")).await.expect("an answer");
        response.into_body().collect().await.expect("a whole answer");
    }
    until(&metrics, &handled("unary", "etcdserverpb.KV/Range", "OK"), 3.0).await;
    let page = metrics.page();
    let labels = r#"{grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    for (name, expected) in [
        (format!("grpc_server_started_total{labels}"), 3.0),
        (format!("grpc_server_msg_received_total{labels}"), 3.0),
        (format!("grpc_server_msg_sent_total{labels}"), 3.0),
        (format!("grpc_server_handling_seconds_count{labels}"), 3.0),
        ("etcd_network_client_grpc_received_bytes_total".to_owned(), 21.0),
        ("etcd_network_client_grpc_sent_bytes_total".to_owned(), 12.0),
    ] {
        assert_eq!(value(&page, &name), Some(expected), "{name}");
    }
}

#[tokio::test]
async fn what_a_client_gives_up_is_canceled() {
    let (metrics, mut channel, _stopper) = serve();
    let watch = handled("bidi_stream", "etcdserverpb.Watch/Watch", "Canceled");
    let mut response = channel.call(request("/etcdserverpb.Watch/Watch", b"x")).await.expect("an answer");
    let _first = response.body_mut().frame().await.expect("a message").expect("a message");
    assert_eq!(value(&metrics.page(), &watch), Some(0.0), "it lasts");
    drop(response);
    until(&metrics, &watch, 1.0).await;

    let txn = handled("unary", "etcdserverpb.KV/Txn", "Canceled");
    let asked =
        tokio::time::timeout(Duration::from_millis(50), channel.call(request("/etcdserverpb.KV/Txn", b"x")));
    assert!(asked.await.is_err(), "it has no answer");
    until(&metrics, &txn, 1.0).await;
}

#[tokio::test]
async fn unknown_methods_make_no_rows() {
    let (metrics, mut channel, _stopper) = serve();
    let lines = metrics.page().lines().count();
    for number in 0..50 {
        let path = format!("/made.up.Service{number}/Method");
        let response = channel.call(request(&path, b"")).await.expect("an answer");
        let _nothing = response.into_body().collect().await;
    }
    until(&metrics, &handled("unary", "unknown/unknown", "Unimplemented"), 50.0).await;
    assert_eq!(metrics.page().lines().count(), lines);
}

#[test]
fn a_slow_requests_keys_are_found_and_its_values_are_not_shown() {
    let put = pb::PutRequest { key: "/a/k".into(), value: "secret".into(), ..Default::default() };
    let range = pb::RangeRequest { key: "/a/".into(), range_end: "/a0".into(), ..Default::default() };
    let operation = |request| pb::RequestOp { request: Some(request) };
    let compare = pb::Compare { key: "/a/c".into(), ..Default::default() };
    let puts = operation(pb::request_op::Request::RequestPut(put.clone()));
    let ranges = operation(pb::request_op::Request::RequestRange(range.clone()));
    let txn = |compare, success, failure| pb::TxnRequest { compare, success, failure }.encode_to_vec();
    for (name, message, key, end) in [
        ("Put", put.encode_to_vec(), "/a/k", ""),
        ("Range", range.encode_to_vec(), "/a/", "/a0"),
        ("DeleteRange", range.encode_to_vec(), "/a/", "/a0"),
        ("Txn", txn(vec![compare], vec![puts.clone()], vec![]), "/a/c", ""),
        ("Txn", txn(vec![], vec![puts], vec![ranges.clone()]), "/a/k", ""),
        ("Txn", txn(vec![], vec![], vec![ranges]), "/a/", "/a0"),
    ] {
        let found =
            keys(&format!("/etcdserverpb.KV/{name}"), &wire::frame(&message)).map(|Keys { key, end }| {
                (String::from_utf8_lossy(key).into_owned(), String::from_utf8_lossy(end).into_owned())
            });
        assert_eq!(found, Some((key.to_owned(), end.to_owned())), "{name}");
    }
    let large = pb::PutRequest { value: vec![b'x'; 4096].into(), ..put };
    let cut = &wire::frame(&large.encode_to_vec())[..100];
    assert_eq!(keys("/etcdserverpb.KV/Put", cut).map(|keys| keys.key), Some(&b"/a/k"[..]), "a cut message");
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Txn", "/etcdserverpb.Lease/LeaseGrant"] {
        assert_eq!(keys(path, b""), None);
        assert_eq!(keys(path, &[0, 0, 0, 0, 2, 0xff, 0xff]), None, "nonsense");
    }
}

/// Counts warnings, and what they say.
#[derive(Clone, Default)]
struct Lines(std::sync::Arc<parking_lot::Mutex<Vec<String>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_slow_requests_is_ten_lines_a_second() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let slow = Slow::new(Duration::from_millis(300));
    let method = super::method::of(Side::Clients)[0];
    let range = pb::RangeRequest { key: "/a/\u{1}".into(), ..Default::default() }.encode_to_vec();
    let head = wire::frame(&range);
    let look = |millis| {
        let took = Duration::from_millis(millis);
        slow.look(&Ended { method, code: "OK", took, request_bytes: 6, head: &head, trace: None });
    };
    look(300);
    assert_eq!(lines.0.lock().len(), 0, "as long as is allowed");
    (0..1000).for_each(|_| look(301));
    assert_eq!(lines.0.lock().len(), 10);
    let first = lines.0.lock()[0].clone();
    for part in
        ["WARN", "etcdserverpb.KV/Range", "seconds=0.301", r#"code="OK""#, "request_bytes=6", r"/a/\\x01"]
    {
        assert!(first.contains(part), "{part} in {first}");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    look(5000);
    let last = lines.0.lock().last().cloned().expect("a line");
    assert!(last.contains("suppressed=990"), "{last}");
}

#[test]
fn codes_have_the_names_of_grpcs_go_library() {
    let metrics = Metrics::new();
    let _calls = Calls::new(&metrics, Side::Peers, Slow::new(Duration::MAX), Tracer::default());
    let page = metrics.page();
    assert!(
        page.contains(r#"kubebrain_peer_grpc_server_handled_total{grpc_code="OK",grpc_method="Advance""#)
    );
    assert!(!page.contains("\ngrpc_server_"), "peers are not clients");
    assert_eq!(Code::Unauthenticated as usize, 16, "codes are numbered as in the table");
}
