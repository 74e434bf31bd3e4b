//! Spans as OTLP has them: names of attributes by OpenTelemetry's conventions for RPC and databases.

use std::time::{Duration, SystemTime};

use kubebrain_net::trace::{Ended, Name, Step, Work};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use tonic::Code;

use super::settings::{number, text};

/// W3C's: sampled.
const SAMPLED: u32 = 1;

/// As a collector gets them.
pub(super) fn message(spans: Vec<Ended>, resource: &Resource) -> ExportTraceServiceRequest {
    let spans = spans.into_iter().map(span).collect();
    let scope = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![scope],
            ..ResourceSpans::default()
        }],
    }
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "kubebrain".to_owned(), ..InstrumentationScope::default() }
}

pub(super) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn span(ended: Ended) -> Span {
    let (kind, name) = match ended.work {
        Work::Serves(name) => (SpanKind::Server, name.to_string()),
        Work::Asks(name) => (SpanKind::Client, name.to_string()),
        Work::Does(step) => (SpanKind::Internal, step.name().to_owned()),
    };
    // What a status says may name keys.
    let failed = || Status { code: StatusCode::Error.into(), ..Status::default() };
    Span {
        trace_id: ended.context.trace.to_be_bytes().to_vec(),
        span_id: ended.context.span.to_be_bytes().to_vec(),
        trace_state: ended.state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: ended.parent.map(|parent| parent.span.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: SAMPLED,
        name,
        kind: kind.into(),
        start_time_unix_nano: nanos(ended.began),
        end_time_unix_nano: nanos(ended.began + ended.took),
        status: is_error(ended.work, ended.code).then(failed),
        attributes: attributes(ended),
        ..Span::default()
    }
}

fn attributes(ended: Ended) -> Vec<KeyValue> {
    let mut attributes = match ended.work {
        Work::Serves(Name { service, method }) | Work::Asks(Name { service, method }) => vec![
            text("rpc.system", "grpc"),
            text("rpc.service", service),
            text("rpc.method", method),
            number("rpc.grpc.status_code", i32::from(ended.code).into()),
        ],
        Work::Does(Step::Commit { system, writes }) => vec![
            text("db.system.name", system),
            text("db.operation.name", "commit"),
            number("db.operation.batch.size", i64::try_from(writes).unwrap_or(i64::MAX)),
        ],
        Work::Does(_) => Vec::new(),
    };
    attributes.push(text("kubebrain.role", ended.role));
    let group = ended.group.map(|group| text("kubebrain.group", group.to_string()));
    let peer = ended.peer.map(|peer| text("server.address", peer));
    let revision = ended.revision.and_then(|revision| i64::try_from(revision).ok());
    let revision = revision.map(|revision| number("kubebrain.revision", revision));
    let kind = ended.kind.as_deref().map(|kind| text("kubebrain.kind", kind));
    attributes.extend(group.into_iter().chain(kind).chain(peer).chain(revision));
    attributes
}

/// As OpenTelemetry's conventions for gRPC judge: what is a client's own mistake is no error of who serves it, and what was given
/// up inside is no error of its own.
fn is_error(work: Work, code: Code) -> bool {
    match work {
        Work::Asks(_) => code != Code::Ok,
        Work::Does(_) => !matches!(code, Code::Ok | Code::Cancelled),
        Work::Serves(_) => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
    }
}
