//! Spans as OpenTelemetry's SDK has them: names of attributes by its conventions for RPC and databases.

use std::str::FromStr as _;

use kubebrain_net::trace::{Ended, Name, Step, Work};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tonic::Code;

/// In which library spans and figures were made.
pub(super) const SCOPE: &str = "kubebrain";

/// As a collector gets it.
pub(super) fn span(ended: Ended) -> SpanData {
    let (kind, name) = match ended.work {
        Work::Serves(name) => (SpanKind::Server, name.to_string()),
        Work::Asks(name) => (SpanKind::Client, name.to_string()),
        Work::Does(step) => (SpanKind::Internal, step.name().to_owned()),
    };
    let state = ended.state.as_deref().and_then(|state| TraceState::from_str(state).ok());
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(ended.context.trace),
            SpanId::from(ended.context.span),
            TraceFlags::SAMPLED,
            false,
            state.unwrap_or_default(),
        ),
        parent_span_id: ended.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span)),
        parent_span_is_remote: ended.parent.is_some() && kind == SpanKind::Server,
        span_kind: kind,
        name: name.into(),
        start_time: ended.began,
        end_time: ended.began + ended.took,
        status: match is_error(ended.work, ended.code) {
            true => Status::error(""), // what a status says may name keys
            false => Status::Unset,
        },
        attributes: attributes(ended),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        instrumentation_scope: InstrumentationScope::builder(SCOPE).build(),
    }
}

fn attributes(ended: Ended) -> Vec<KeyValue> {
    let mut attributes = match ended.work {
        Work::Serves(Name { service, method }) | Work::Asks(Name { service, method }) => vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(ended.code))),
        ],
        Work::Does(Step::Commit { system, writes }) => vec![
            KeyValue::new("db.system.name", system),
            KeyValue::new("db.operation.name", "commit"),
            KeyValue::new("db.operation.batch.size", i64::try_from(writes).unwrap_or(i64::MAX)),
        ],
        Work::Does(_) => Vec::new(),
    };
    attributes.push(KeyValue::new("kubebrain.role", ended.role));
    let group = ended.group.map(|group| KeyValue::new("kubebrain.group", group.to_string()));
    let peer = ended.peer.map(|peer| KeyValue::new("server.address", peer));
    let revision = ended.revision.and_then(|revision| i64::try_from(revision).ok());
    let revision = revision.map(|revision| KeyValue::new("kubebrain.revision", revision));
    let kind = ended.kind.map(|kind| KeyValue::new("kubebrain.kind", kind.into_string()));
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
