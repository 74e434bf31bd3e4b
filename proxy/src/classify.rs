//! What a unary request touches, read from its bytes without decoding it.
//!
//! Reading follows protobuf's rules, because the brain will: of a field that may stand once the last one counts, a
//! message that stands twice is merged, of a `oneof` the last one counts. A property test compares with the full
//! decoder. Fields that are not looked at are not judged either: that is the brain's.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_net::kinds::{Kind, Kinds};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::compaction::API_SERVERS_KEY;
use kubebrain_shared::method;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::wire::{Field, Fields, Malformed, Value};
use prost::Message as _;
use tonic::Status;

/// Nesting above this is refused, as prost does.
const DEPTH_MAX: usize = 48;

/// `key` and `range_end` as they stand in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) key: Bytes,
    pub(crate) end: Bytes,
}

impl Span {
    pub(crate) fn range(&self) -> KeyRange {
        KeyRange::from_wire(self.key.clone(), self.end.clone())
    }
}

/// All that a proxy needs to know of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Every key or range that it reads, compares or writes; empty keys are left out, the brain refuses them.
    pub(crate) spans: Vec<Span>,
    /// The highest revision that a Range in it names; 0 if none.
    pub(crate) revision: i64,
    /// The leases that its puts name.
    pub(crate) leases: Vec<i64>,
}

impl Footprint {
    /// True if it compares, reads or writes exactly the compactors' key.
    pub(crate) fn touches_compact_key(&self) -> bool {
        self.spans.iter().any(|span| span.end.is_empty() && span.key == API_SERVERS_KEY)
    }
}

/// Which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Range,
    Put,
    DeleteRange,
    Txn,
}

impl Shape {
    /// The shape of requests to `/service/method`; none where they name no keys.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            method::RANGE | method::RANGE_STREAM => Some(Self::Range),
            method::PUT => Some(Self::Put),
            method::DELETE_RANGE => Some(Self::DeleteRange),
            method::TXN => Some(Self::Txn),
            _ => None,
        }
    }
}

/// Reads what `message` touches.
///
/// # Errors
/// `InvalidArgument` if it is not valid protobuf as far as it was read.
pub(crate) fn footprint(shape: Shape, message: &Bytes) -> Result<Footprint, Status> {
    let mut reader = Reader { message, found: Footprint::default() };
    let read = match shape {
        Shape::Txn => reader.txn(&[message], 0),
        other => reader.op(other, &[message]),
    };
    match read {
        Ok(()) => Ok(reader.found),
        Err(error) => Err(Status::invalid_argument(format!("the request is not valid protobuf: {error}"))),
    }
}

/// Each kind that `message` may write, and how many bytes it may put of it. What cannot be read writes nothing: it is refused
/// elsewhere.
pub(crate) fn writes(shape: Shape, message: &Bytes, kinds: &Kinds) -> Vec<(Arc<Kind>, u64)> {
    let mut found = Vec::with_capacity(1);
    match shape {
        Shape::Range => {}
        Shape::Put => put(&pb::PutRequest::decode(message.clone()).unwrap_or_default(), kinds, &mut found),
        Shape::DeleteRange => {
            delete(pb::DeleteRangeRequest::decode(message.clone()).unwrap_or_default(), kinds, &mut found);
        }
        Shape::Txn => txn(pb::TxnRequest::decode(message.clone()).unwrap_or_default(), kinds, &mut found),
    }
    found
}

fn txn(txn: pb::TxnRequest, kinds: &Kinds, found: &mut Vec<(Arc<Kind>, u64)>) {
    for op in txn.success.into_iter().chain(txn.failure) {
        match op.request {
            Some(pb::request_op::Request::RequestPut(op)) => put(&op, kinds, found),
            Some(pb::request_op::Request::RequestDeleteRange(op)) => delete(op, kinds, found),
            Some(pb::request_op::Request::RequestTxn(op)) => self::txn(op, kinds, found),
            Some(pb::request_op::Request::RequestRange(_)) | None => {}
        }
    }
}

fn put(put: &pb::PutRequest, kinds: &Kinds, found: &mut Vec<(Arc<Kind>, u64)>) {
    Kind::add_to(found, kinds.of_key(&put.key), (put.key.len() + put.value.len()) as u64);
}

fn delete(delete: pb::DeleteRangeRequest, kinds: &Kinds, found: &mut Vec<(Arc<Kind>, u64)>) {
    Kind::add_to(found, kinds.of_range(&KeyRange::from_wire(delete.key, delete.range_end)), 0);
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("field {0} has another type than it should")]
    Type(u32),
    #[error("transactions are nested too deeply")]
    Depth,
}

struct Reader<'a> {
    message: &'a Bytes,
    found: Footprint,
}

impl<'a> Reader<'a> {
    /// One operation or a whole unary request; `pieces` are to be merged.
    fn op(&mut self, shape: Shape, pieces: &[&'a [u8]]) -> Result<(), Unreadable> {
        let (mut key, mut end, mut revision, mut lease): (&[u8], &[u8], i64, i64) = (&[], &[], 0, 0);
        for piece in pieces {
            for field in Fields::new(piece) {
                let field = field?;
                match (shape, field.number) {
                    (_, 1) => key = bytes(field)?,
                    (Shape::Range | Shape::DeleteRange, 2) => end = bytes(field)?,
                    (Shape::Range, 4) => revision = varint(field)?,
                    (Shape::Put, 3) => lease = varint(field)?,
                    _ => {}
                }
            }
        }
        self.span(key, end);
        self.found.revision = self.found.revision.max(revision);
        if lease != 0 && !self.found.leases.contains(&lease) {
            self.found.leases.push(lease);
        }
        Ok(())
    }

    fn txn(&mut self, pieces: &[&'a [u8]], depth: usize) -> Result<(), Unreadable> {
        if depth > DEPTH_MAX {
            return Err(Unreadable::Depth);
        }
        for piece in pieces {
            for field in Fields::new(piece) {
                let field = field?;
                match field.number {
                    1 => self.compare(bytes(field)?)?,
                    2 | 3 => self.request_op(bytes(field)?, depth)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, compare: &'a [u8]) -> Result<(), Unreadable> {
        let (mut key, mut end): (&[u8], &[u8]) = (&[], &[]);
        for field in Fields::new(compare) {
            let field = field?;
            match field.number {
                3 => key = bytes(field)?,
                64 => end = bytes(field)?,
                _ => {}
            }
        }
        self.span(key, end);
        Ok(())
    }

    fn request_op(&mut self, op: &'a [u8], depth: usize) -> Result<(), Unreadable> {
        let mut arm = 0;
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(1);
        for field in Fields::new(op) {
            let field = field?;
            if (1..=4).contains(&field.number) {
                if arm != field.number {
                    arm = field.number;
                    pieces.clear();
                }
                pieces.push(bytes(field)?);
            }
        }
        match arm {
            1 => self.op(Shape::Range, &pieces),
            2 => self.op(Shape::Put, &pieces),
            3 => self.op(Shape::DeleteRange, &pieces),
            4 => self.txn(&pieces, depth + 1),
            _ => Ok(()),
        }
    }

    fn span(&mut self, key: &[u8], end: &[u8]) {
        if !key.is_empty() {
            let span = Span { key: self.message.slice_ref(key), end: self.slice(end) };
            self.found.spans.push(span);
        }
    }

    fn slice(&self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() { Bytes::new() } else { self.message.slice_ref(bytes) }
    }
}

fn bytes(field: Field<'_>) -> Result<&[u8], Unreadable> {
    match field.value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(Unreadable::Type(field.number)),
    }
}

fn varint(field: Field<'_>) -> Result<i64, Unreadable> {
    field.value.as_varint().map(u64::cast_signed).ok_or(Unreadable::Type(field.number))
}

#[cfg(any(test, feature = "seams"))]
pub(crate) mod agreement;
#[cfg(test)]
mod tests;
