//! [`Collector`]: takes spans and figures by OTLP, over gRPC and over HTTP, or takes connections and nothing else. What it reads
//! of OTLP is written here.

use std::convert::Infallible;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kubebrain_net::serve::{Listener, ServeConfig, serve_listener};
use kubebrain_net::tls::TlsServer;
use kubebrain_shared::stop::Stopper;
use kubebrain_shared::wire::{self, FRAME_PREFIX_BYTES};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;

#[derive(Clone, PartialEq, prost::Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<Status>,
    /// Not of OTLP: put in here when it arrives.
    #[prost(message, optional, tag = "1000")]
    resource: Option<Resource>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExportFigures {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<FiguresOfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FiguresOfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<FiguresOfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FiguresOfScope {
    #[prost(message, repeated, tag = "2")]
    figures: Vec<Figure>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Figure {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "5")]
    pub(super) gauge: Option<Numbers>,
    #[prost(message, optional, tag = "7")]
    pub(super) sum: Option<Numbers>,
    #[prost(message, optional, tag = "9")]
    pub(super) histogram: Option<Histogram>,
    /// Not of OTLP: put in here when it arrives.
    #[prost(message, optional, tag = "1000")]
    resource: Option<Resource>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Numbers {
    #[prost(message, repeated, tag = "1")]
    pub(super) points: Vec<Number>,
    #[prost(int32, tag = "2")]
    pub(super) temporality: i32,
    #[prost(bool, tag = "3")]
    pub(super) is_monotonic: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Number {
    #[prost(fixed64, tag = "2")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) time_unix_nano: u64,
    #[prost(double, tag = "4")]
    pub(super) value: f64,
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Histogram {
    #[prost(message, repeated, tag = "1")]
    pub(super) points: Vec<Spread>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Spread {
    #[prost(fixed64, tag = "4")]
    pub(super) count: u64,
    #[prost(fixed64, repeated, tag = "6")]
    pub(super) counts: Vec<u64>,
    #[prost(double, repeated, tag = "7")]
    pub(super) bounds: Vec<f64>,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

impl Figure {
    pub(super) fn resource(&self, key: &str) -> &str {
        let attributes = self.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        find(attributes, key).and_then(|any| any.text.as_deref()).unwrap_or_default()
    }
}

impl Number {
    pub(super) fn text(&self, key: &str) -> &str {
        find(&self.attributes, key).and_then(|any| any.text.as_deref()).unwrap_or_default()
    }
}

impl Spread {
    pub(super) fn text(&self, key: &str) -> &str {
        find(&self.attributes, key).and_then(|any| any.text.as_deref()).unwrap_or_default()
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(int64, optional, tag = "3")]
    number: Option<i64>,
}

fn find<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a Any> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()
}

impl Span {
    /// Empty where there is none.
    pub(super) fn text(&self, key: &str) -> &str {
        find(&self.attributes, key).and_then(|any| any.text.as_deref()).unwrap_or_default()
    }

    pub(super) fn number(&self, key: &str) -> Option<i64> {
        find(&self.attributes, key)?.number
    }

    /// Of the process that says this.
    pub(super) fn resource(&self, key: &str) -> &str {
        let attributes = self.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        find(attributes, key).and_then(|any| any.text.as_deref()).unwrap_or_default()
    }
}

pub(super) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// See the module.
pub(super) struct Collector {
    pub(super) address: String,
    seen: Arc<Seen>,
    _stopper: Stopper,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Messages that came so.
    compressed: AtomicUsize,
    /// What came, as it came, without compression.
    bytes: Mutex<Vec<Vec<u8>>>,
    spans: Mutex<Vec<Span>>,
    /// The newest.
    figures: Mutex<Vec<Figure>>,
    messages_of_figures: AtomicUsize,
}

impl Collector {
    /// It takes what it gets.
    pub(super) async fn answering() -> Self {
        Self::answering_by(None).await
    }

    /// The same with TLS, or without it.
    pub(super) async fn answering_by(tls: Option<TlsServer>) -> Self {
        let inside = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = inside.local_addr().expect("it is bound");
        let (seen, stopper) = (Arc::<Seen>::default(), Stopper::default());
        let service = {
            let seen = seen.clone();
            tower::service_fn(move |request| take(seen.clone(), request))
        };
        let (config, stop) = (ServeConfig::default(), stopper.handle());
        tokio::spawn(serve_listener(Listener::Tcp(inside), tls, service, config, stop));
        // In front of it stands who counts.
        Self::counting(seen, stopper, move |mut client| async move {
            let Ok(mut server) = TcpStream::connect(address).await else { return };
            let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        })
        .await
    }

    /// It takes connections, reads, and never says a word.
    pub(super) async fn silent() -> Self {
        let read = |mut client: TcpStream| async move {
            let (mut from, _to) = client.split();
            let _ended = copy(&mut from, &mut tokio::io::sink()).await;
        };
        Self::counting(Arc::default(), Stopper::default(), read).await
    }

    async fn counting<F>(
        seen: Arc<Seen>,
        stopper: Stopper,
        each: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let counted = seen.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(each(client));
            }
        });
        Self { address, seen, _stopper: stopper }
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// How many messages were compressed.
    pub(super) fn compressed(&self) -> usize {
        self.seen.compressed.load(Ordering::Relaxed)
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.seen.spans.lock().clone()
    }

    /// As they were told last.
    pub(super) fn figures(&self) -> Vec<Figure> {
        self.seen.figures.lock().clone()
    }

    /// How often figures were told.
    pub(super) fn tellings(&self) -> usize {
        self.seen.messages_of_figures.load(Ordering::Relaxed)
    }

    /// True if these bytes stood in anything that it got.
    pub(super) fn has_seen(&self, what: &[u8]) -> bool {
        let all = self.seen.bytes.lock();
        assert!(!all.is_empty(), "nothing has come");
        all.iter().any(|bytes| bytes.windows(what.len()).any(|window| window == what))
    }
}

async fn take(seen: Arc<Seen>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a message").to_bytes();
    let content = parts.headers[header::CONTENT_TYPE].to_str().expect("text").to_owned();
    let of = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let (encoding, mut message) = match content.as_str() {
        "application/grpc" => {
            (of("grpc-encoding").filter(|_| body[0] == 1), body.slice(FRAME_PREFIX_BYTES..))
        }
        "application/x-protobuf" => (of("content-encoding"), body),
        other => panic!("{other} is not OTLP"),
    };
    if let Some(encoding) = encoding {
        assert_eq!(encoding, "gzip");
        let mut plain = Vec::new();
        GzDecoder::new(&message[..]).read_to_end(&mut plain).expect("gzip");
        message = Bytes::from(plain);
        seen.compressed.fetch_add(1, Ordering::Relaxed);
    }
    seen.bytes.lock().extend([format!("{:?}", parts.headers).into_bytes(), message.to_vec()]);
    match (parts.uri.path(), content.as_str()) {
        ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc")
        | ("/under/v1/traces", "application/x-protobuf") => take_spans(&seen, &message),
        ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", "application/grpc")
        | ("/under/v1/metrics", "application/x-protobuf") => take_figures(&seen, &message),
        (path, _) => panic!("{path} is not OTLP"),
    }
    Ok(match content.as_str() {
        "application/grpc" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let message =
                http_body_util::Full::new(wire::frame(b"")).with_trailers(async { Some(Ok(trailers)) });
            let mut response = Response::new(Body::new(message));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        _ => Response::new(Body::empty()),
    })
}

fn take_spans(seen: &Seen, message: &[u8]) {
    let export = Export::decode(message).expect("what OTLP says");
    for OfResource { resource, scopes } in export.resources {
        let spans = scopes.into_iter().flat_map(|scope| scope.spans);
        seen.spans.lock().extend(spans.map(|span| Span { resource: resource.clone(), ..span }));
    }
}

fn take_figures(seen: &Seen, message: &[u8]) {
    let export = ExportFigures::decode(message).expect("what OTLP says");
    let all = export.resources.into_iter().flat_map(|FiguresOfResource { resource, scopes }| {
        let figures = scopes.into_iter().flat_map(|scope| scope.figures);
        figures.map(move |figure| Figure { resource: resource.clone(), ..figure })
    });
    *seen.figures.lock() = all.collect();
    seen.messages_of_figures.fetch_add(1, Ordering::Relaxed);
}
