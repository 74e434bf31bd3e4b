//! Requests as kube-apiserver makes them, encoded; and as much of the answers as the load looks at.

use anyhow::{Context, Result};
use bytes::Bytes;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::request_op::Request as Op;
use kubebrain_proto::etcdserverpb::response_op::Response;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest,
};
use kubebrain_shared::wire::Fields;
use prost::Message;

pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Where all keys are: in standalone's built-in placement this is a group of its own, as in a cluster.
pub(crate) const PREFIX: &[u8] = b"/registry/pods/bench/";
const PREFIX_END: &[u8] = b"/registry/pods/bench0";

/// As long as a pod's, 43 bytes.
pub(crate) fn key(number: u64) -> Bytes {
    let mut key = PREFIX.to_vec();
    key.extend_from_slice(format!("pod-{number:018x}").as_bytes());
    key.into()
}

fn unchanged(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    }
}

fn txn(key: &Bytes, revision: i64, then: Op, read_on_failure: bool) -> Vec<u8> {
    let op = |op| RequestOp { request: Some(op) };
    let read = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    TxnRequest {
        compare: vec![unchanged(key, revision)],
        success: vec![op(then)],
        failure: if read_on_failure { vec![op(Op::RequestRange(read))] } else { Vec::new() },
    }
    .encode_to_vec()
}

/// A key that must not exist.
pub(crate) fn create(key: &Bytes, value: &Bytes) -> Vec<u8> {
    let put = PutRequest { key: key.clone(), value: value.clone(), ..PutRequest::default() };
    txn(key, 0, Op::RequestPut(put), false)
}

/// A key that must be at `revision`.
pub(crate) fn update(key: &Bytes, revision: i64, value: &Bytes) -> Vec<u8> {
    let put = PutRequest { key: key.clone(), value: value.clone(), ..PutRequest::default() };
    txn(key, revision, Op::RequestPut(put), true)
}

/// A key that must be at `revision`.
pub(crate) fn delete(key: &Bytes, revision: i64) -> Vec<u8> {
    let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    txn(key, revision, Op::RequestDeleteRange(delete), true)
}

pub(crate) fn get(key: &Bytes) -> Vec<u8> {
    RangeRequest { key: key.clone(), limit: 1, ..RangeRequest::default() }.encode_to_vec()
}

/// The keys from `start` on, at a revision; `None` starts at the first.
pub(crate) fn list(start: Option<&[u8]>, limit: i64, revision: i64) -> Vec<u8> {
    let key = Bytes::copy_from_slice(start.unwrap_or(PREFIX));
    let range_end = Bytes::from_static(PREFIX_END);
    RangeRequest { key, range_end, limit, revision, ..RangeRequest::default() }.encode_to_vec()
}

/// All keys, from now on, as the watch cache asks.
pub(crate) fn watch() -> Vec<u8> {
    let create = WatchCreateRequest {
        key: Bytes::from_static(PREFIX),
        range_end: Bytes::from_static(PREFIX_END),
        progress_notify: true,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }.encode_to_vec()
}

/// What a transaction on one key did.
pub(crate) enum Done {
    /// It happened, at this revision.
    At(i64),
    /// The key is at this revision instead.
    Instead(i64),
}

pub(crate) fn done(answer: Bytes) -> Result<Done> {
    let answer = TxnResponse::decode(answer)?;
    if answer.succeeded {
        return Ok(Done::At(answer.header.context("an answer without header")?.revision));
    }
    let found = answer.responses.into_iter().next().and_then(|op| op.response);
    match found {
        Some(Response::ResponseRange(range)) => {
            Ok(Done::Instead(range.kvs.first().map_or(0, |kv| kv.mod_revision)))
        }
        _ => Ok(Done::Instead(0)),
    }
}

/// What a part of a list held.
#[derive(Default)]
pub(crate) struct Listed {
    pub(crate) revision: i64,
    pub(crate) keys: u64,
    /// Of the last one.
    pub(crate) last: Bytes,
    pub(crate) more: bool,
}

/// Looks through a `RangeResponse`.
pub(crate) fn listed(answer: &Bytes) -> Result<Listed> {
    let mut listed = Listed::default();
    let mut last = None;
    for field in Fields::new(answer) {
        let field = field?;
        match field.number {
            1 => listed.revision = number(field.value.as_bytes().context("a header")?, 3)?,
            2 => {
                listed.keys += 1;
                last = field.value.as_bytes();
            }
            3 => listed.more = field.value.as_varint() == Some(1),
            _ => {}
        }
    }
    if let Some(last) = last {
        listed.last = Bytes::copy_from_slice(bytes(last, 1)?);
    }
    Ok(listed)
}

/// The `RangeResponse` in a message of a range stream.
pub(crate) fn chunk(message: &Bytes) -> Result<Bytes> {
    Ok(message.slice_ref(bytes(message, 1)?))
}

/// The values of a watch response's puts.
pub(crate) fn events(message: &Bytes) -> Result<Vec<Bytes>> {
    let mut values = Vec::new();
    for field in Fields::new(message) {
        let field = field?;
        if field.number == 11 {
            let kv = bytes(field.value.as_bytes().context("an event")?, 2)?;
            values.push(message.slice_ref(bytes(kv, 5)?));
        }
    }
    Ok(values)
}

fn bytes(message: &[u8], wanted: u32) -> Result<&[u8]> {
    for field in Fields::new(message) {
        let field = field?;
        if field.number == wanted {
            return field.value.as_bytes().context("a field of another type");
        }
    }
    Ok(&[])
}

fn number(message: &[u8], wanted: u32) -> Result<i64> {
    for field in Fields::new(message) {
        let field = field?;
        if field.number == wanted {
            return Ok(field.value.as_varint().context("a field of another type")?.cast_signed());
        }
    }
    Ok(0)
}
