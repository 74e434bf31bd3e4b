//! [`Cut`]: where a large range is cut, so that several brains can read it at once.
//!
//! The index knows what each row takes, so the parts' exact sizes are told before anybody has read a value: whoever puts
//! them together writes the length of the whole first, and notices a part that is not what was told.

use bytes::Bytes;
use kubebrain_shared::metadata::CUT_PART_BYTES as PART_BYTES;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::wire::bytes_field_len;

use crate::rows::codec::Layout;
use crate::rows::entry;
use crate::rows::version::{BYTES_MAX, Version};

/// A range that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// In the order of their keys, each beginning where the one before it ends.
    pub parts: Vec<Part>,
    /// Rows behind the last part, which the limit left out.
    pub left: usize,
}

/// One part of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub keys: KeyRange,
    /// What its rows take in an answer, tags and lengths included.
    pub bytes: u64,
    pub rows: u64,
}

/// Cuts a range whose rows are shown to it in order.
#[derive(Debug)]
pub(crate) struct Cutter<'a> {
    layout: &'a Layout,
    keys_only: bool,
    from: u64,
    begun: Vec<Begun>,
    /// What a row takes was not known of each.
    is_vague: bool,
}

#[derive(Debug)]
struct Begun {
    from: Bytes,
    bytes: u64,
    rows: u64,
}

impl<'a> Cutter<'a> {
    /// For rows that are cut where they take `from` bytes; their parts are no larger.
    pub(crate) fn new(layout: &'a Layout, keys_only: bool, from: u64) -> Self {
        Self { layout, keys_only, from: from.max(1), begun: Vec::new(), is_vague: false }
    }

    /// The next row.
    pub(crate) fn add(&mut self, key: &Bytes, version: &Version) {
        let Some(bytes) = self.row_bytes(key, version) else {
            self.is_vague = true;
            return;
        };
        let enough = PART_BYTES.min(self.from);
        match self.begun.last_mut().filter(|part| part.bytes < enough) {
            Some(part) => {
                part.bytes += bytes;
                part.rows += 1;
            }
            None => self.begun.push(Begun { from: key.clone(), bytes, rows: 1 }),
        }
    }

    fn row_bytes(&self, key: &Bytes, version: &Version) -> Option<u64> {
        let bytes = match self.keys_only {
            true => entry::key_value_len(key, version),
            // A row's value is one byte more than its `KeyValue`.
            false if version.bytes >= BYTES_MAX => return None,
            false => usize::try_from(version.bytes).ok()?.checked_sub(self.layout.data_len(key) + 1)?,
        };
        Some(bytes_field_len(2, bytes) as u64)
    }

    /// What the rows take; `None` where that is not known of each.
    fn bytes(&self) -> Option<u64> {
        (!self.is_vague).then(|| self.begun.iter().map(|part| part.bytes).sum())
    }

    /// True if they are worth a cut.
    pub(crate) fn cuts(&self) -> bool {
        self.bytes().is_some_and(|bytes| bytes >= self.from)
    }

    /// The parts of `keys`, of which `left` rows from `rest` on were not shown.
    pub(crate) fn finish(self, keys: &KeyRange, rest: Option<&Bytes>, left: usize) -> Cut {
        let end = rest.or(keys.end());
        let begun = self.begun;
        let ends: Vec<_> =
            begun.iter().skip(1).map(|next| Some(next.from.clone())).chain([end.cloned()]).collect();
        let parts = begun.into_iter().zip(ends).map(|(part, end)| Part {
            keys: KeyRange::new(part.from, end),
            bytes: part.bytes,
            rows: part.rows,
        });
        Cut { parts: parts.collect(), left }
    }
}

#[cfg(test)]
mod tests {
    use kubebrain_shared::group::GroupName;
    use kubebrain_shared::revision::Revision;
    use proptest::prelude::*;

    use super::*;
    use crate::rows::codec;

    fn layout() -> Layout {
        Layout::new(b"p/", &GroupName::parse("pods").expect("a name"))
    }

    proptest! {
        #[test]
        fn parts_are_the_range_and_their_sizes_are_exact(
            sizes in prop::collection::vec(0_usize..90_000, 1..60),
            keys_only: bool,
            lease in prop::option::of(any::<i64>()),
        ) {
            let layout = layout();
            let mut cutter = Cutter::new(&layout, keys_only, 1 << 20);
            let mut rows = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let key = Bytes::from(format!("/a\0{number:05}"));
                let version = Version {
                    revision: 1 << (number % 40), create: 3, count: 1 + number as u64, lease: lease.unwrap_or(0), bytes: 0,
                };
                let kv = entry::key_value(&key, &version, &vec![b'v'; *size]);
                let row = layout.data(&key, Revision::new(version.revision));
                let version = version.taking(&row, &codec::data_value(Some(&kv)));
                cutter.add(&key, &version);
                let shown = if keys_only { entry::key_value(&key, &version, b"") } else { kv };
                rows.push((key, bytes_field_len(2, shown.len()) as u64));
            }
            let all = KeyRange::prefix(Bytes::from_static(b"/a"));
            prop_assert_eq!(cutter.bytes(), Some(rows.iter().map(|(_, bytes)| bytes).sum()));
            let cut = cutter.finish(&all, None, 0);
            prop_assert_eq!(cut.parts.last().expect("one").keys.end(), all.end());
            for two in cut.parts.windows(2) {
                prop_assert_eq!(two[0].keys.end(), Some(two[1].keys.start()));
                prop_assert!(two[0].bytes >= PART_BYTES);
            }
            for part in &cut.parts {
                let inside = rows.iter().filter(|(key, _)| part.keys.contains(key));
                let (count, bytes) = inside.fold((0, 0), |all, (_, bytes)| (all.0 + 1, all.1 + bytes));
                prop_assert_eq!((part.rows, part.bytes), (count, bytes));
            }
        }
    }

    #[test]
    fn what_is_larger_than_the_index_knows_is_not_cut() {
        let layout = layout();
        let mut cutter = Cutter::new(&layout, false, 1);
        let version = Version { revision: 2, create: 2, count: 1, lease: 0, bytes: BYTES_MAX };
        cutter.add(&Bytes::from_static(b"a"), &version);
        assert!(!cutter.cuts());
    }
}
