//! The shallow reading against the full decoder, for tests and fuzzing.

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use pb::request_op::Request;
use prost::Message;

use super::{Footprint, Shape, Span, footprint};

/// Reads `message` both ways, as the request that `shape` chooses.
///
/// # Panics
/// Where the decoder takes it and the shallow reading refuses it, or finds something else.
pub fn check(shape: u8, message: &Bytes) {
    let (shape, decoded) = match shape % 4 {
        0 => (Shape::Range, pb::RangeRequest::decode(message.clone()).map(Request::RequestRange)),
        1 => (Shape::Put, pb::PutRequest::decode(message.clone()).map(Request::RequestPut)),
        2 => {
            let decoded = pb::DeleteRangeRequest::decode(message.clone());
            (Shape::DeleteRange, decoded.map(Request::RequestDeleteRange))
        }
        _ => (Shape::Txn, pb::TxnRequest::decode(message.clone()).map(Request::RequestTxn)),
    };
    let found = footprint(shape, message);
    let Ok(request) = decoded else { return };
    let mut full = Footprint::default();
    op(&request, &mut full);
    let found = found.expect("what the decoder takes is read");
    assert_eq!(sorted(found), sorted(full));
}

/// What a decoded transaction touches.
pub(crate) fn expected(txn: &pb::TxnRequest, found: &mut Footprint) {
    for compare in &txn.compare {
        span(&compare.key, &compare.range_end, found);
    }
    for request in txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref()) {
        op(request, found);
    }
}

fn op(request: &Request, found: &mut Footprint) {
    match request {
        Request::RequestRange(range) => {
            span(&range.key, &range.range_end, found);
            found.revision = found.revision.max(range.revision);
        }
        Request::RequestPut(put) => {
            span(&put.key, &Bytes::new(), found);
            if put.lease != 0 && !found.leases.contains(&put.lease) {
                found.leases.push(put.lease);
            }
        }
        Request::RequestDeleteRange(delete) => span(&delete.key, &delete.range_end, found),
        Request::RequestTxn(txn) => expected(txn, found),
    }
}

fn span(key: &Bytes, end: &Bytes, found: &mut Footprint) {
    if !key.is_empty() {
        found.spans.push(Span { key: key.clone(), end: end.clone() });
    }
}

/// The order of the branches is not part of the promise.
fn sorted(mut footprint: Footprint) -> Footprint {
    footprint.spans.sort();
    footprint.leases.sort_unstable();
    footprint
}
