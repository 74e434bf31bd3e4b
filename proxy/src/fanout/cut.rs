//! [`Cut`]: how a brain says that a large range is cut, read; and a part's rows, held against it.

use bytes::{Bytes, BytesMut};
use kubebrain_proto::peer;
use kubebrain_shared::wire::{self, Fields, Malformed, Value, bytes_field_len};
use prost::Message as _;
use tonic::Status;

use super::merge::{Part, unreadable};
use super::range::put_end;

/// How a range is cut.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What stands before the rows of the answer: its header.
    pub(crate) head: Bytes,
    /// What stands behind them: `more` and `count`.
    pub(crate) tail: Bytes,
    /// At which revision all parts are read.
    pub(crate) revision: i64,
    /// In the order of their keys; at least one.
    pub(crate) parts: Vec<peer::CutPart>,
}

impl Cut {
    /// Reads what a brain has answered.
    ///
    /// # Errors
    /// `Internal`: it is something else.
    pub(crate) fn read(message: Bytes) -> Result<Self, Status> {
        let cut = peer::Cut::decode(message).map_err(|error| {
            Status::internal(format!("a brain's answer of how a range is cut cannot be read: {error}"))
        })?;
        let answer = Part::read(&cut.answer)?;
        if cut.parts.is_empty() || !answer.rows.is_empty() || cut.revision <= 0 {
            return Err(Status::internal("a brain says that it cuts a range, and not into what"));
        }
        let (mut head, mut tail) = (BytesMut::new(), BytesMut::new());
        wire::put_bytes_field(&mut head, 1, &answer.header);
        put_end(&mut tail, answer.more, answer.count);
        Ok(Self { head: head.freeze(), tail: tail.freeze(), revision: cut.revision, parts: cut.parts })
    }

    /// What the whole answer takes; `None` where that is more than one message may have.
    pub(crate) fn answer_bytes(&self) -> Option<usize> {
        let rows = self.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.bytes))?;
        let bytes = rows.checked_add((self.head.len() + self.tail.len()) as u64)?;
        u32::try_from(bytes).ok().map(|bytes| bytes as usize)
    }
}

/// The rows of a part's answer, as they stand in it.
///
/// # Errors
/// `Internal`: they are not what was said of the part.
pub(crate) fn rows_of(message: &Bytes, part: &peer::CutPart) -> Result<Bytes, Status> {
    let found = Rows::find(message).map_err(unreadable)?;
    if found.bytes as u64 != part.bytes || found.rows != part.rows || !found.in_one_piece {
        return Err(Status::internal(format!(
            "kubebrain: a part of a range from {:?} has {} rows in {} bytes; {} rows in {} bytes were announced",
            part.key, found.rows, found.bytes, part.rows, part.bytes
        )));
    }
    Ok(message.slice(found.begin..found.begin + found.bytes))
}

/// Where the rows stand in a `RangeResponse`.
struct Rows {
    begin: usize,
    bytes: usize,
    rows: u64,
    in_one_piece: bool,
}

impl Rows {
    fn find(message: &Bytes) -> Result<Self, Malformed> {
        let mut found = Self { begin: 0, bytes: 0, rows: 0, in_one_piece: true };
        let mut is_over = false;
        for field in Fields::new(message) {
            let field = field?;
            match (field.number, field.value) {
                (2, Value::Bytes(row)) => {
                    found.in_one_piece &= !is_over;
                    found.bytes += bytes_field_len(2, row.len());
                    found.rows += 1;
                }
                (number, Value::Bytes(other)) if found.rows == 0 => {
                    found.begin += bytes_field_len(number, other.len())
                }
                // Rows behind it would not stand where they are looked for.
                _ => is_over = true,
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::etcdserverpb::{RangeResponse, ResponseHeader};
    use kubebrain_proto::mvccpb::KeyValue;

    use super::*;

    fn answer(keys: &[&str]) -> RangeResponse {
        let kv =
            |key: &&str| KeyValue { key: key.to_string().into(), mod_revision: 7, ..KeyValue::default() };
        let header = ResponseHeader { cluster_id: 1, revision: 9, ..ResponseHeader::default() };
        RangeResponse { header: Some(header), kvs: keys.iter().map(kv).collect(), more: true, count: 5 }
    }

    fn part_of(answer: &RangeResponse) -> peer::CutPart {
        let bytes = answer.kvs.iter().map(|kv| bytes_field_len(2, kv.encoded_len()) as u64).sum();
        peer::CutPart { key: "a".into(), range_end: "z".into(), bytes, rows: answer.kvs.len() as u64 }
    }

    #[test]
    fn an_answer_put_together_is_the_answer() {
        let whole = answer(&["a", "b", "c"]);
        let bare = RangeResponse { kvs: Vec::new(), ..whole.clone() };
        let halves = [answer(&["a", "b"]), answer(&["c"])];
        let parts: Vec<_> = halves.iter().map(part_of).collect();
        let cut = peer::Cut { answer: bare.encode_to_vec().into(), revision: 9, parts };
        let cut = Cut::read(cut.encode_to_vec().into()).expect("readable");
        let mut together = BytesMut::from(&cut.head[..]);
        for (half, part) in halves.iter().zip(&cut.parts) {
            together.extend_from_slice(&rows_of(&half.encode_to_vec().into(), part).expect("as announced"));
        }
        together.extend_from_slice(&cut.tail);
        assert_eq!(cut.answer_bytes(), Some(together.len()));
        assert_eq!(together, whole.encode_to_vec());
    }

    #[test]
    fn what_was_not_announced_is_refused() {
        let announced = part_of(&answer(&["a", "b"]));
        for keys in [&["a"][..], &["a", "bb"], &["a", "b", "c"], &[]] {
            let refused = rows_of(&answer(keys).encode_to_vec().into(), &announced).expect_err("not it");
            assert_eq!(refused.code(), tonic::Code::Internal, "{keys:?}");
        }
        for cut in [peer::Cut::default(), peer::Cut { revision: 3, ..peer::Cut::default() }] {
            Cut::read(cut.encode_to_vec().into()).expect_err("cut into nothing");
        }
    }
}
