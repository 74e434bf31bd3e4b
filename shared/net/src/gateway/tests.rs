use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;
use parking_lot::Mutex;
use prost::Message;
use tower::service_fn;

use super::*;

/// What a service was asked: path, headers, and the messages that came.
type Asked = Arc<Mutex<Vec<(String, HeaderMap, Vec<Bytes>)>>>;

/// An answer of gRPC: these messages, and how it ends.
fn grpc(messages: Vec<Vec<u8>>, end: Result<(), Status>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    let status = end.err().unwrap_or_else(|| Status::new(Code::Ok, ""));
    status.add_header(&mut trailers).expect("a header");
    let data = messages.into_iter().map(|message| Ok::<_, Status>(Frame::data(wire::frame(&message))));
    let frames = data.chain([Ok(Frame::trailers(trailers))]).collect::<Vec<_>>();
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

/// Reads a request whole, then answers as `answer` says for its path.
fn gateway(answer: fn(&str) -> Response<Body>) -> (Arc<Shared>, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let service = service_fn(move |request: Request<Body>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let mut buffer = BytesMut::from(&body.collect().await.expect("a body").to_bytes()[..]);
            let mut messages = Vec::new();
            while let Some(message) = wire::Message::split(&mut buffer).expect("frames") {
                messages.push(message);
            }
            seen.lock().push((head.uri.path().to_owned(), head.headers, messages));
            Ok::<_, Infallible>(answer(head.uri.path()))
        }
    });
    (shared(service), asked)
}

fn shared<S>(service: S) -> Arc<Shared>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>,
    S: Clone + Send + Sync + 'static,
{
    Gateway::new(service, 1 << 20).shared.expect("there is one")
}

fn request(method: Method, path: &str, text: impl Into<Bytes>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("authorization", "token");
    request.body(Body::new(Full::new(text.into()))).expect("a request")
}

async fn read(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

async fn post(gateway: &Arc<Shared>, path: &str, text: &'static str) -> (u16, String) {
    read(gateway.clone().answer(request(Method::POST, path, text)).await).await
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

#[tokio::test]
async fn a_request_is_the_one_that_a_client_would_have_sent() {
    let (gateway, asked) = gateway(|_| {
        let answer = pb::RangeResponse { header: header(7), count: 1, ..Default::default() };
        grpc(vec![answer.encode_to_vec()], Ok(()))
    });
    let response =
        gateway.clone().answer(request(Method::POST, "/v3/kv/range", r#"{"key":"Zm9v"} and more"#)).await;
    let headers = response.headers().clone();
    assert_eq!(read(response).await, (200, r#"{"header":{"revision":"7"},"count":"1"}"#.to_owned()));
    let of = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(of("content-type"), Some("application/json"));
    assert_eq!(of("grpc-metadata-content-type"), Some("application/grpc"));
    assert_eq!(of("content-length"), Some("39"));
    let (path, headers, messages) = asked.lock().pop().expect("it was asked");
    assert_eq!(path, "/etcdserverpb.KV/Range");
    assert_eq!(headers["authorization"], "token");
    let wanted = pb::RangeRequest { key: "foo".into(), ..Default::default() };
    assert_eq!(messages, [wanted.encode_to_vec()]);
}

#[tokio::test]
async fn what_fails_says_so_as_json_with_its_status() {
    let (gateway, asked) = gateway(|path| match path {
        "/etcdserverpb.Lease/LeaseRevoke" => Status::from(Fault::LeaseNotFound).into_http(),
        "/etcdserverpb.KV/Put" => grpc(Vec::new(), Err(Status::from(Fault::NoLeader))),
        _ => panic!("a service that ends so"),
    });
    for (path, text, status, said) in [
        ("/v3/lease/revoke", "{}", 404, r#"{"code":5,"message":"etcdserver: requested lease not found"}"#),
        ("/v3/kv/put", "", 503, r#"{"code":14,"message":"etcdserver: no leader"}"#),
        ("/v3/kv/txn", "{}", 503, r#"{"code":14,"message":"the service has panicked"}"#),
        ("/v3/kv/range", "{", 400, r#"{"code":3,"message":"unexpected EOF"}"#),
        ("/v3/kv/nope", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
    ] {
        assert_eq!(post(&gateway, path, text).await, (status, said.to_owned()), "{path}");
    }
    let get = gateway.clone().answer(request(Method::GET, "/v3/kv/range", "")).await;
    assert_eq!(read(get).await, (501, r#"{"code":12,"message":"Method Not Allowed"}"#.to_owned()));
    assert_eq!(asked.lock().len(), 3, "what is no request does not reach the service");
}

#[tokio::test]
async fn a_client_waits_no_longer_than_it_says() {
    let late = r#"{"code":4,"message":"context deadline exceeded"}"#;
    let never = shared(service_fn(|_: Request<Body>| std::future::pending::<Result<_, Infallible>>()));
    let (at_once, asked) = gateway(|_| grpc(vec![Vec::new()], Ok(())));
    for (gateway, limit, status, said) in
        [(&never, "5m", 504, late), (&at_once, "1n", 504, late), (&at_once, "9S", 200, "{}")]
    {
        let mut request = request(Method::POST, "/v3/kv/range", "{}");
        request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static(limit));
        let answer = read(gateway.clone().answer(request).await).await;
        assert_eq!(answer, (status, said.to_owned()), "{limit}");
    }
    assert_eq!(asked.lock().len(), 1, "what is over does not begin");
}

#[tokio::test]
async fn a_stream_is_lines_and_ends_with_its_error() {
    let (gateway, asked) = gateway(|path| {
        let alive = |id| pb::LeaseKeepAliveResponse { id, ..Default::default() }.encode_to_vec();
        let leader = kubebrain_proto::v3electionpb::LeaderResponse { header: header(3), kv: None };
        match path {
            "/etcdserverpb.Lease/LeaseKeepAlive" => grpc(vec![alive(1), alive(2)], Ok(())),
            "/v3electionpb.Election/Observe" => {
                grpc(vec![leader.encode_to_vec()], Err(Status::from(Fault::Stopped)))
            }
            _ => grpc(Vec::new(), Err(Status::from(Fault::Stopped))),
        }
    });
    let lines = "{\"result\":{\"ID\":\"1\"}}\n{\"result\":{\"ID\":\"2\"}}\n".to_owned();
    assert_eq!(post(&gateway, "/v3/lease/keepalive", r#"{"ID":1}{"ID":"2"}"#).await, (200, lines));
    assert_eq!(asked.lock().pop().expect("asked").2.len(), 2);
    let stopped = r#"{"error":{"code":14,"message":"etcdserver: server stopped"}}"#;
    let observed = post(&gateway, "/v3/election/observe", "{}").await;
    assert_eq!(observed, (200, format!("{{\"result\":{{\"header\":{{\"revision\":\"3\"}}}}}}\n{stopped}\n")));
    assert_eq!(post(&gateway, "/v3/maintenance/snapshot", "").await, (503, format!("{stopped}\n")));
    let (status, said) = post(&gateway, "/v3/lease/keepalive", r#"{"ID":1} nope"#).await;
    assert_eq!(status, 200);
    assert!(said.contains("Failed to decode request"), "{said}");
}

/// Answers one message and then nothing, until it is dropped.
fn endless(open: Arc<AtomicUsize>) -> Arc<Shared> {
    struct Open(Arc<AtomicUsize>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    shared(service_fn(move |request: Request<Body>| {
        open.fetch_add(1, Ordering::SeqCst);
        let held = Open(open.clone());
        async move {
            let mut requests = request.into_body();
            let _first = requests.frame().await;
            let created = pb::WatchResponse { created: true, ..Default::default() };
            let first = Frame::data(wire::frame(&created.encode_to_vec()));
            let rest = stream::pending::<Result<_, Status>>().map(move |frame| {
                let _both = (&held, &requests);
                frame
            });
            let messages = stream::iter([Ok(first)]).chain(rest);
            Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(messages))))
        }
    }))
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_watch() {
    let open = Arc::new(AtomicUsize::new(0));
    let gateway = endless(open.clone());
    let mut response =
        gateway.answer(request(Method::POST, "/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#)).await;
    let line =
        response.body_mut().frame().await.expect("a line").expect("no error").into_data().expect("data");
    assert_eq!(line, "{\"result\":{\"created\":true}}\n");
    assert_eq!(open.load(Ordering::SeqCst), 1);
    let more = tokio::time::timeout(Duration::from_millis(20), response.body_mut().frame()).await;
    assert!(more.is_err(), "it goes on without its client's requests");
    drop(response);
    assert_eq!(open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn large_answers_are_let_in_and_given_back() {
    let (gateway, _asked) = gateway(|_| {
        let kv = kubebrain_proto::mvccpb::KeyValue { value: vec![b'x'; 3000].into(), ..Default::default() };
        let answer = pb::RangeResponse { kvs: vec![kv; 1000], ..Default::default() };
        grpc(vec![answer.encode_to_vec()], Ok(()))
    });
    let response = gateway.clone().answer(request(Method::POST, "/v3/kv/range", "{}")).await;
    assert!(gateway.answers.used() > 4_000_000);
    let (status, text) = read(response).await;
    assert_eq!(
        (status, text.len()),
        (200, r#"{"kvs":[]}"#.len() + 1000 * (r#"{"value":""}"#.len() + 4000) + 999)
    );
    assert_eq!(gateway.answers.used(), 0);
}
