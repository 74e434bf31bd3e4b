//! [`Calls`]: the numbers of a listener's gRPC calls, and [`Call`]: one of them, from its headers to its end.
//!
//! Names and labels are those of grpc-ecosystem's Go library, which etcd uses: its dashboards and alerts work.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, Request};
use kubebrain_shared::metadata;
use kubebrain_shared::method::{Kind, Method};
use prometheus::{Histogram, IntCounter};
use tokio::time::Instant;
use tonic::Code;

use super::frames::Passed;
use super::method;
use super::side::Side;
use super::slow::Ended;
use super::{Metrics, Slow};
use crate::trace::{Name, Span, Tracer};

/// By number, as gRPC's Go library writes them in labels.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// See the module.
pub struct Calls {
    rows: Vec<Row>,
    /// Where in `rows` a path is.
    places: HashMap<&'static str, usize>,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    slow: Slow,
    tracer: Tracer,
    /// Who asks here has no parent that could have decided whether a trace begins.
    begins_traces: bool,
}

/// One method's numbers, looked up once per call.
struct Row {
    method: Method,
    started: IntCounter,
    handled: [IntCounter; CODES.len()],
    received: IntCounter,
    sent: IntCounter,
    seconds: Histogram,
}

/// One call.
pub(super) struct Call {
    calls: Arc<Calls>,
    row: usize,
    began: Instant,
    ended: AtomicBool,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    head: OnceLock<Head>,
    span: Option<Span>,
}

/// What came first of a unary request: keys stand there. A copy, since whoever reads the request may want its buffer
/// for itself.
struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    length: usize,
}

/// Two long keys.
const HEAD_BYTES_MAX: usize = 512;

impl Calls {
    /// Registers the numbers of one side's calls; warns of slow ones; `tracer` is told of those that are traced.
    pub fn new(metrics: &Metrics, side: Side, slow: Slow, tracer: Tracer) -> Arc<Self> {
        let (prefix, received_bytes, sent_bytes) = match side {
            Side::Clients => (
                "",
                "etcd_network_client_grpc_received_bytes_total",
                "etcd_network_client_grpc_sent_bytes_total",
            ),
            Side::Peers => {
                ("kubebrain_peer_", "kubebrain_peer_received_bytes_total", "kubebrain_peer_sent_bytes_total")
            }
        };
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let with_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let counters = |name: &str, help: &str| metrics.counters(&format!("{prefix}{name}"), help, &labels);
        let started = counters("grpc_server_started_total", "Calls begun.");
        let received = counters("grpc_server_msg_received_total", "Messages received in calls.");
        let sent = counters("grpc_server_msg_sent_total", "Messages sent in calls.");
        let handled = metrics.counters(
            &format!("{prefix}grpc_server_handled_total"),
            "Calls ended, by how; one that the client gave up is Canceled.",
            &with_code,
        );
        let seconds = metrics.histograms(
            &format!("{prefix}grpc_server_handling_seconds"),
            "Seconds from a call's headers to its end.",
            prometheus::DEFAULT_BUCKETS.to_vec(),
            &labels,
        );
        let row = |method: Method| {
            let labels = [method::label(method.kind), method.service, method.name];
            let handled = |code| handled.with_label_values(&[labels[0], labels[1], labels[2], code]);
            Row {
                method,
                started: started.with_label_values(&labels),
                handled: CODES.map(handled),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                seconds: seconds.with_label_values(&labels),
            }
        };
        let rows: Vec<_> = method::of(side).into_iter().map(row).collect();
        let places = rows.iter().enumerate().map(|(place, row)| (row.method.path, place)).collect();
        Arc::new(Self {
            rows,
            places,
            received_bytes: metrics.counter(received_bytes, "Bytes of messages received in calls."),
            sent_bytes: metrics.counter(sent_bytes, "Bytes of messages sent in calls."),
            slow,
            tracer,
            begins_traces: side == Side::Clients,
        })
    }

    /// A call begins. Where it is traced, its headers name its span from here on.
    pub(super) fn begin<B>(self: &Arc<Self>, request: &mut Request<B>) -> Arc<Call> {
        let row = self.places.get(request.uri().path()).copied().unwrap_or(self.rows.len() - 1);
        self.rows[row].started.inc();
        let Method { service, name: method, .. } = self.rows[row].method;
        let span = self.tracer.serve(request.headers_mut(), Name { service, method }, self.begins_traces);
        Arc::new(Call {
            calls: Arc::clone(self),
            row,
            began: Instant::now(),
            ended: AtomicBool::new(false),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            head: OnceLock::new(),
            span,
        })
    }
}

impl Call {
    /// Where it is traced.
    pub(super) fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    /// What is sent and answered in it.
    pub(super) fn kind(&self) -> Kind {
        self.row().method.kind
    }

    fn row(&self) -> &Row {
        &self.calls.rows[self.row]
    }

    /// Bytes of the request.
    pub(super) fn received(&self, data: &[u8], passed: Passed) {
        let row = self.row();
        if row.method.kind == Kind::Unary {
            self.head.get_or_init(|| Head::of(data));
        }
        if passed.messages > 0 {
            row.received.inc_by(passed.messages);
            self.calls.received_bytes.inc_by(passed.bytes);
            self.request_bytes.fetch_add(passed.bytes, Ordering::Relaxed);
        }
    }

    /// The answer begins.
    pub(super) fn answered(&self, headers: &HeaderMap) {
        if let Some(span) = &self.span
            && let Some(revision) = metadata::revision(headers, &metadata::REVISION)
        {
            span.reached(revision);
        }
    }

    /// Bytes of the answer.
    pub(super) fn sent(&self, passed: Passed) {
        self.span.iter().for_each(Span::answers);
        if passed.messages > 0 {
            self.row().sent.inc_by(passed.messages);
            self.calls.sent_bytes.inc_by(passed.bytes);
            self.response_bytes.fetch_add(passed.bytes, Ordering::Relaxed);
        }
    }

    /// The call has ended; only the first end counts.
    pub(super) fn end(&self, code: Code) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let (row, took) = (self.row(), self.began.elapsed());
        let trace = self.span.as_ref().map(|span| {
            span.end(code);
            span.context()
        });
        let code = code as usize;
        row.handled[code].inc();
        row.seconds.observe(took.as_secs_f64());
        let request_bytes = self.request_bytes.load(Ordering::Relaxed);
        let method = row.method;
        tracing::debug!(
            method = %format_args!("{}/{}", method.service, method.name),
            code = CODES[code],
            seconds = took.as_secs_f64(),
            trace = trace.map(display),
            request_bytes,
            response_bytes = self.response_bytes.load(Ordering::Relaxed),
            "answered"
        );
        if method.kind == Kind::Unary {
            let head = self.head.get().map_or(&b""[..], Head::bytes);
            self.calls.slow.look(&Ended { method, code: CODES[code], took, request_bytes, head, trace });
        }
    }
}

impl Head {
    fn of(data: &[u8]) -> Self {
        let length = data.len().min(HEAD_BYTES_MAX);
        let mut bytes = [0; HEAD_BYTES_MAX];
        bytes[..length].copy_from_slice(&data[..length]);
        Self { bytes, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({})", self.row().method.path)
    }
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calls")
    }
}
