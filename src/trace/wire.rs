//! A span as OpenTelemetry has it: its names of attributes, by its conventions for RPC.

use std::str::FromStr as _;

use kubebrain_net::trace::{Ended, Kind};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tonic::Code;

/// As a collector gets it.
pub(super) fn span(ended: Ended) -> SpanData {
    let status = match is_error(ended.kind, ended.code) {
        true => Status::error(""), // what a status says may name keys
        false => Status::Unset,
    };
    let attributes = attributes(&ended);
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
        parent_span_is_remote: ended.parent.is_some() && ended.kind == Kind::Server,
        span_kind: match ended.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        },
        name: ended.name.to_string().into(),
        start_time: ended.began,
        end_time: ended.began + ended.took,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("kubebrain").build(),
    }
}

fn attributes(ended: &Ended) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", ended.name.service),
        KeyValue::new("rpc.method", ended.name.method),
        KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(ended.code))),
        KeyValue::new("kubebrain.role", ended.role),
    ];
    let group = ended.group.as_ref().map(|group| KeyValue::new("kubebrain.group", group.to_string()));
    let peer = ended.peer.clone().map(|peer| KeyValue::new("server.address", peer));
    let revision = ended.revision.and_then(|revision| i64::try_from(revision).ok());
    let revision = revision.map(|revision| KeyValue::new("kubebrain.revision", revision));
    attributes.extend(group.into_iter().chain(peer).chain(revision));
    attributes
}

/// As OpenTelemetry's conventions for gRPC judge: what is a client's own mistake is no error of who serves it.
fn is_error(kind: Kind, code: Code) -> bool {
    match kind {
        Kind::Client => code != Code::Ok,
        Kind::Server => matches!(
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
