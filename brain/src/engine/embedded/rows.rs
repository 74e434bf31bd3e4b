//! The rows of a round as a record of the log.
//!
//! ```text
//! stamp │ key length, value length │ key │ value │ ...
//!   8   │      4           4       │
//! ```
//! Little-endian. A removed key has the length [`REMOVED`] in the place of its value's.
//!
//! In the tree a value is followed by four bytes, the crc32c of key and value. The tree has checksums of its own, but
//! not over all that it reads: a length that was changed on disk made it give out memory that nobody had written.

use std::io::Read;

use bytes::Bytes;
use lsm_tree::Slice;

/// A row to store, or with `None` to remove.
pub(super) type Row = (Bytes, Option<Bytes>);

const REMOVED: u32 = u32::MAX;

/// Writes a record into a buffer, over what it holds.
pub(super) fn encode(stamp: u64, rows: &[Row], buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&stamp.to_le_bytes());
    // A batch is far below 4 GiB, which is checked at the door.
    let length = |bytes: &Bytes| bytes.len() as u32;
    for (key, value) in rows {
        buffer.extend_from_slice(&length(key).to_le_bytes());
        buffer.extend_from_slice(&value.as_ref().map_or(REMOVED, length).to_le_bytes());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(value.as_deref().unwrap_or_default());
    }
}

/// Reads a record: its stamp, and each row in order. Nothing if it is not one.
pub(super) fn decode<'a>(
    mut record: &'a [u8],
    mut each: impl FnMut(&'a [u8], Option<&'a [u8]>),
) -> Option<u64> {
    let rest = &mut record;
    let stamp = u64::from_le_bytes(take(rest, 8)?.try_into().ok()?);
    while !rest.is_empty() {
        let key = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
        let value = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
        let key = take(rest, key as usize)?;
        let value = match value {
            REMOVED => None,
            length => Some(take(rest, length as usize)?),
        };
        each(key, value);
    }
    Some(stamp)
}

/// The stamp of a record.
pub(super) fn stamp(record: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(record.first_chunk::<8>().copied()?))
}

/// A value as the tree keeps it.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Slice {
    let crc = crc(key, value).to_le_bytes();
    // Copied once, into the slice.
    Slice::from_reader(&mut value.chain(&crc[..]), value.len() + crc.len()).expect("there are as many bytes")
}

/// The value in what the tree gave, or nothing if it is not what was put there.
pub(super) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, expected) = sealed.split_last_chunk::<4>()?;
    (crc(key, value).to_le_bytes() == *expected).then_some(value)
}

fn crc(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_as_they_were(
            number in any::<u64>(),
            rows in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..50),
                prop::option::of(prop::collection::vec(any::<u8>(), 1..50))), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let rows: Vec<Row> =
                rows.into_iter().map(|(key, value)| (key.into(), value.map(Bytes::from))).collect();
            let mut record = vec![7; 3];
            encode(number, &rows, &mut record);
            let mut found = Vec::new();
            let read = decode(&record, |key, value| {
                found.push((Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice)));
            });
            prop_assert_eq!(read, Some(number));
            prop_assert_eq!(stamp(&record), Some(number));
            prop_assert_eq!(&found, &rows);
            // Cut anywhere it is a shorter row of rows, or none.
            let mut fewer = 0;
            if decode(&record[..cut.index(record.len())], |_, _| fewer += 1).is_some() {
                prop_assert!(fewer < rows.len() || rows.is_empty());
            }
        }
    }
}
