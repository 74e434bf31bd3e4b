//! `etcdserverpb.KV`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::HeaderValue;
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::inner::{Answered, Inner};
use crate::request::{Delete, Put, Range, Txn};
use crate::store::Ranged;

pub(super) async fn range(inner: Arc<Inner>, request: Request<wire::RangeRequest>) -> Answered {
    let terms = inner.terms(request.metadata().as_ref())?;
    let range = Range::try_from(request.into_inner())?;
    let read = inner.store.range_on(&range, &terms).await;
    Ok(match read.map_err(|error| inner.refusal(error))? {
        Ranged::Whole(reply) => inner.reply(reply),
        Ranged::Cut(cut) => is_cut(inner.reply(cut)),
    })
}

/// Says that the message is not what was asked for, but where it is cut.
fn is_cut<T>(mut response: tonic::Response<T>) -> tonic::Response<T> {
    let mut headers = std::mem::take(response.metadata_mut()).into_headers();
    headers.insert(metadata::CUT, HeaderValue::from_static("1"));
    *response.metadata_mut() = MetadataMap::from_headers(headers);
    response
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

pub(super) async fn range_stream(
    inner: Arc<Inner>,
    request: Request<wire::RangeRequest>,
) -> Result<tonic::Response<Chunks>, Status> {
    let terms = inner.terms(request.metadata().as_ref())?;
    let request = request.into_inner();
    let is_ordered = request.sort_order != wire::range_request::SortOrder::None as i32;
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let mut range = Range::try_from(request)?;
    if !is_ordered {
        range.sort = None; // a target alone is no order, as in etcd
    }
    if range.sort.is_some() {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if filters.iter().any(|bound| *bound != 0) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    let read = inner.store.range_stream(range, terms).await;
    let (revision, chunks, share) = match read.map_err(|error| inner.refusal(error))? {
        Ranged::Whole(streamed) => streamed,
        Ranged::Cut(cut) => {
            let chunks: Chunks = Box::pin(stream::iter([Ok(cut.message)]));
            return Ok(is_cut(inner.answer(chunks, cut.revision)));
        }
    };
    let chunks: Chunks = Box::pin(chunks.map(|chunk| chunk.map_err(Status::from)));
    let mut response = inner.answer(chunks, revision);
    if let Some(share) = share {
        response.extensions_mut().insert(share);
    }
    Ok(response)
}

pub(super) async fn put(inner: Arc<Inner>, request: Request<wire::PutRequest>) -> Answered {
    let floor = inner.floor(request.metadata().as_ref())?;
    let request = request.into_inner();
    fits(&inner, &request)?;
    let put = Put::try_from(request)?;
    Ok(inner.reply(inner.store.put(put, floor).await.map_err(|error| inner.refusal(error))?))
}

pub(super) async fn delete_range(inner: Arc<Inner>, request: Request<wire::DeleteRangeRequest>) -> Answered {
    let (floor, part) = (inner.floor(request.metadata().as_ref())?, inner.part(request.metadata().as_ref()));
    let request = request.into_inner();
    fits(&inner, &request)?;
    let delete = Delete::try_from(request)?;
    Ok(inner.reply(inner.store.delete(delete, floor, part).await.map_err(|error| inner.refusal(error))?))
}

pub(super) async fn txn(inner: Arc<Inner>, request: Request<wire::TxnRequest>) -> Answered {
    let floor = inner.floor(request.metadata().as_ref())?;
    let request = request.into_inner();
    if !only_reads(&request) {
        fits(&inner, &request)?;
    }
    let txn = Txn::from_wire(request, inner.store.limits())?;
    Ok(inner.reply(inner.store.txn(txn, floor).await.map_err(|error| inner.refusal(error))?))
}

pub(super) async fn compact(inner: Arc<Inner>, request: Request<wire::CompactionRequest>) -> Answered {
    let floor = inner.floor(request.metadata().as_ref())?;
    let request = request.into_inner();
    let revision = inner.store.compact(request.revision, request.physical, floor).await?;
    let answer = wire::CompactionResponse { header: inner.header(revision) };
    Ok(inner.answer(Bytes::from(answer.encode_to_vec()), revision))
}

/// True of a transaction that etcd proposes to nobody: what it reads has no size to be measured.
fn only_reads(txn: &wire::TxnRequest) -> bool {
    let ops = txn.success.iter().chain(&txn.failure);
    ops.into_iter().all(|op| match &op.request {
        Some(wire::request_op::Request::RequestRange(_)) => true,
        Some(wire::request_op::Request::RequestTxn(inner)) => only_reads(inner),
        _ => false,
    })
}

/// etcd measures the proposal, which is the request and a little more.
fn fits(inner: &Inner, request: &impl Message) -> Result<(), Fault> {
    match request.encoded_len() > inner.store.limits().request_bytes_max {
        true => Err(Fault::RequestTooLarge),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use wire::request_op::Request;

    use super::*;

    fn txn(success: Vec<Request>, failure: Vec<Request>) -> wire::TxnRequest {
        let ops = |list: Vec<Request>| {
            list.into_iter().map(|request| wire::RequestOp { request: Some(request) }).collect()
        };
        wire::TxnRequest { compare: Vec::new(), success: ops(success), failure: ops(failure) }
    }

    #[test]
    fn only_what_may_write_is_measured() {
        let range = || Request::RequestRange(wire::RangeRequest::default());
        let put = || Request::RequestPut(wire::PutRequest::default());
        let delete = || Request::RequestDeleteRange(wire::DeleteRangeRequest::default());
        assert!(only_reads(&txn(vec![], vec![])));
        assert!(only_reads(&txn(vec![range()], vec![Request::RequestTxn(txn(vec![range()], vec![]))])));
        assert!(!only_reads(&txn(vec![range(), put()], vec![])));
        assert!(!only_reads(&txn(vec![range()], vec![delete()])));
        assert!(!only_reads(&txn(vec![Request::RequestTxn(txn(vec![], vec![put()]))], vec![])));
        assert!(!only_reads(&wire::TxnRequest {
            success: vec![wire::RequestOp { request: None }],
            ..wire::TxnRequest::default()
        }));
    }
}
