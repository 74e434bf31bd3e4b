//! Parts of one range put back into one order, by copying raw fields.

use std::cmp::Ordering;

use bytes::{Bytes, BytesMut};
use kubebrain_proto::etcdserverpb::RangeRequest;
use kubebrain_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::wire::{self, Fields, Malformed, Value};
use tonic::Status;

/// A `KeyValue` as it stands in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Bytes,
    /// The encoded message.
    pub(crate) raw: Bytes,
}

/// One group's `RangeResponse`, read without decoding its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) rows: Vec<Row>,
    pub(crate) more: bool,
    pub(crate) count: i64,
    /// The header's encoded message.
    pub(crate) header: Bytes,
}

/// How rows of several groups are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// By key, in which order each group gives them.
    Key,
    /// By something else or backwards: rows are decoded to be compared.
    By { target: SortTarget, descending: bool },
}

/// The key of an encoded `KeyValue`.
pub(crate) fn row(raw: Bytes) -> Result<Row, Malformed> {
    let mut key = Bytes::new();
    for field in Fields::new(&raw) {
        let field = field?;
        if let (1, Value::Bytes(bytes)) = (field.number, field.value) {
            key = slice(&raw, bytes);
        }
    }
    Ok(Row { key, raw })
}

/// `part` of `whole` without a copy.
pub(crate) fn slice(whole: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { whole.slice_ref(part) }
}

impl Part {
    /// Reads a `RangeResponse`.
    ///
    /// # Errors
    /// `Internal`: a brain sent something else.
    pub(crate) fn read(message: &Bytes) -> Result<Self, Status> {
        Self::fields(message).map_err(unreadable)
    }

    fn fields(message: &Bytes) -> Result<Self, Malformed> {
        let mut part = Self::default();
        for field in Fields::new(message) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(header)) => part.header = slice(message, header),
                (2, Value::Bytes(raw)) => part.rows.push(row(slice(message, raw))?),
                (3, Value::Varint(more)) => part.more = more != 0,
                (4, Value::Varint(count)) => part.count = count.cast_signed(),
                _ => {}
            }
        }
        Ok(part)
    }
}

pub(crate) fn unreadable(error: Malformed) -> Status {
    Status::internal(format!("a brain's answer cannot be read: {error}"))
}

impl Order {
    /// As etcd reads the request: sorting by something without a direction is ascending.
    pub(crate) fn of(request: &RangeRequest) -> Self {
        let target = request.sort_target();
        match (target, request.sort_order()) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => Self::Key,
            (target, order) => Self::By { target, descending: order == SortOrder::Descend },
        }
    }
}

/// Merges rows of parts, each in order, into one; at most `limit` (0: all). Ties keep the order of the keys.
///
/// # Errors
/// `Internal` if a row cannot be decoded.
pub(crate) fn merge(parts: Vec<Vec<Row>>, order: Order, limit: usize) -> Result<Vec<Row>, Status> {
    let total: usize = parts.iter().map(Vec::len).sum();
    let wanted = if limit == 0 { total } else { total.min(limit) };
    let mut merged = match order {
        Order::Key => return Ok(by_key(parts, wanted)),
        Order::By { target, descending } => {
            let mut rows = Vec::with_capacity(total);
            for row in parts.into_iter().flatten() {
                let decoded: KeyValue = prost::Message::decode(row.raw.clone())
                    .map_err(|error| Status::internal(format!("a brain's answer cannot be read: {error}")))?;
                rows.push((decoded, row));
            }
            rows.sort_by(|(a, _), (b, _)| {
                let by_target = compare(target, a, b);
                if descending { by_target.reverse() } else { by_target }.then_with(|| a.key.cmp(&b.key))
            });
            rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>()
        }
    };
    merged.truncate(wanted);
    Ok(merged)
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

/// There are few parts: the smallest head is looked for, not kept in a heap.
fn by_key(parts: Vec<Vec<Row>>, wanted: usize) -> Vec<Row> {
    let mut heads: Vec<_> = parts.into_iter().map(|rows| rows.into_iter().peekable()).collect();
    let mut merged = Vec::with_capacity(wanted);
    while merged.len() < wanted {
        let mut least: Option<(usize, Bytes)> = None;
        for (index, head) in heads.iter_mut().enumerate() {
            if let Some(row) = head.peek()
                && least.as_ref().is_none_or(|(_, key)| row.key < *key)
            {
                least = Some((index, row.key.clone()));
            }
        }
        let next = least.and_then(|(index, _)| heads.get_mut(index)).and_then(Iterator::next);
        match next {
            Some(row) => merged.push(row),
            None => break,
        }
    }
    merged
}

/// Appends rows as field `number`.
pub(crate) fn put_rows<'a>(answer: &mut BytesMut, number: u32, rows: impl IntoIterator<Item = &'a Row>) {
    for row in rows {
        wire::put_bytes_field(answer, number, &row.raw);
    }
}

#[cfg(test)]
mod tests;
