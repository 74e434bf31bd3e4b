//! [`Index`]: every uncompacted version of every key, in memory, without the values.
//!
//! Compares, counts, keys-only reads and the finding of versions never touch the engine. A read at a revision is
//! stable while writes go on, so long reads take the lock page by page.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use kubebrain_shared::range::KeyRange;

use crate::rows::version::{BYTES_BITS, BYTES_MAX, Version};

/// A version as the index keeps it, which holds tens of millions: the puts (2^40 are more than two hundred days of the
/// fastest writer there is) share a word with the bytes.
#[derive(Clone, Copy, Debug)]
struct Packed {
    revision: u64,
    create: u64,
    lease: i64,
    count_and_bytes: u64,
}

impl Packed {
    const fn is_tombstone(&self) -> bool {
        self.count_and_bytes >> BYTES_BITS == 0
    }

    const fn bytes(&self) -> u64 {
        self.count_and_bytes & BYTES_MAX
    }
}

impl From<Version> for Packed {
    fn from(version: Version) -> Self {
        let Version { revision, create, count, lease, bytes } = version;
        Self { revision, create, lease, count_and_bytes: count << BYTES_BITS | bytes.min(BYTES_MAX) }
    }
}

impl From<Packed> for Version {
    fn from(packed: Packed) -> Self {
        let Packed { revision, create, lease, count_and_bytes } = packed;
        Self { revision, create, lease, count: count_and_bytes >> BYTES_BITS, bytes: packed.bytes() }
    }
}

/// Versions by key, oldest first in each.
#[derive(Debug, Default)]
pub struct Index {
    keys: BTreeMap<Bytes, Vec<Packed>>,
    versions: usize,
}

/// The bounds of a range for an ordered map; `None` if the range is empty, which the map would panic on.
pub(crate) fn bounds(range: &KeyRange) -> Option<(Bound<&Bytes>, Bound<&Bytes>)> {
    let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
    (!range.is_empty()).then_some((Bound::Included(range.start()), end))
}

fn at(versions: &[Packed], revision: u64) -> Option<Version> {
    let found = versions.iter().rev().find(|version| version.revision <= revision)?;
    (!found.is_tombstone()).then(|| Version::from(*found))
}

impl Index {
    /// The live version of a key as of `revision`.
    pub fn get(&self, key: &[u8], revision: u64) -> Option<Version> {
        at(self.keys.get(key)?, revision)
    }

    /// The live version of a key just before `revision`.
    pub fn before(&self, key: &[u8], revision: u64) -> Option<Version> {
        self.get(key, revision.checked_sub(1)?)
    }

    /// All that are live in `range` as of `revision`, in key order.
    pub fn live(&self, range: &KeyRange, revision: u64) -> impl Iterator<Item = (&Bytes, Version)> {
        let within = bounds(range).map(|bounds| self.keys.range::<Bytes, _>(bounds));
        within.into_iter().flatten().filter_map(move |(key, versions)| Some((key, at(versions, revision)?)))
    }

    /// The first key in `range` of which anything is known, even if only that it was deleted.
    pub fn first_of(&self, range: &KeyRange) -> Option<Bytes> {
        let (key, _) = self.keys.range::<Bytes, _>(bounds(range)?).next()?;
        Some(key.clone())
    }

    /// The newest version of every key in `range`, a deletion too, in key order.
    pub fn newest_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, Version)> {
        let within = bounds(range).map(|bounds| self.keys.range::<Bytes, _>(bounds));
        let newest = |versions: &Vec<Packed>| versions.last().copied().map(Version::from);
        within.into_iter().flatten().filter_map(move |(key, versions)| Some((key, newest(versions)?)))
    }

    /// The newest version of every key, a deletion too.
    pub fn newest(&self) -> impl Iterator<Item = (&Bytes, Version)> {
        let newest = |versions: &Vec<Packed>| versions.last().copied().map(Version::from);
        self.keys.iter().filter_map(move |(key, versions)| Some((key, newest(versions)?)))
    }

    /// The revision of the newest version of a key, even if that is a deletion; 0 where nothing is known of it.
    pub fn newest_of(&self, key: &[u8]) -> u64 {
        self.keys.get(key).and_then(|versions| versions.last()).map_or(0, |newest| newest.revision)
    }

    /// Every key of which anything is known.
    pub fn all(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// Adds a version that is newer than those that the key has.
    pub fn insert(&mut self, key: &Bytes, version: Version) {
        self.versions += 1;
        match self.keys.get_mut(key) {
            Some(versions) => {
                debug_assert!(versions.last().is_none_or(|last| last.revision < version.revision));
                versions.push(version.into());
            }
            None => {
                self.keys.insert(key.clone(), vec![version.into()]);
            }
        }
    }

    /// Adds versions of one key while loading, oldest first.
    pub fn load(&mut self, key: Bytes, versions: Vec<Version>) {
        debug_assert!(versions.is_sorted_by_key(|version| version.revision));
        self.versions += versions.len();
        self.keys.insert(key, versions.into_iter().map(Packed::from).collect());
    }

    /// Keys, dead ones with uncompacted history included.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Versions of all keys.
    pub fn versions(&self) -> usize {
        self.versions
    }

    /// What compaction at `revision` makes superfluous among the `count` keys after `after`, key by key, oldest first:
    /// all versions up to it but the newest, and that one too if it is a deletion. The second half is the last key
    /// looked at, `None` at the end.
    pub fn superfluous(
        &self,
        after: Option<&Bytes>,
        count: usize,
        revision: u64,
    ) -> (Vec<(Bytes, Vec<u64>)>, Option<Bytes>) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut found, mut last, mut seen) = (Vec::new(), None, 0);
        for (key, versions) in self.keys.range::<Bytes, _>((start, Bound::Unbounded)).take(count) {
            seen += 1;
            last = Some(key);
            let dropped = superfluous(versions, revision);
            if dropped > 0 {
                found.push((
                    key.clone(),
                    versions[..dropped].iter().map(|version| version.revision).collect(),
                ));
            }
        }
        (found, last.filter(|_| seen == count).cloned())
    }

    /// Forgets what [`Self::superfluous`] finds of these keys; gives their bytes.
    pub fn compact_all<'a>(&mut self, keys: impl Iterator<Item = &'a Bytes>, revision: u64) -> u64 {
        keys.map(|key| self.compact(key, revision)).sum()
    }

    fn compact(&mut self, key: &Bytes, revision: u64) -> u64 {
        let Some(versions) = self.keys.get_mut(key) else { return 0 };
        let dropped = superfluous(versions, revision);
        let bytes = versions.drain(..dropped).map(|version| version.bytes()).sum();
        self.versions -= dropped;
        if versions.is_empty() {
            self.keys.remove(key);
        }
        bytes
    }
}

/// How many of a key's oldest versions compaction at `revision` drops.
fn superfluous(versions: &[Packed], revision: u64) -> usize {
    let up_to = versions.partition_point(|version| version.revision <= revision);
    match up_to.checked_sub(1).map(|newest| versions[newest].is_tombstone()) {
        None => 0,
        Some(true) => up_to,
        Some(false) => up_to - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(history: &[(&'static str, u64, bool)]) -> Index {
        let mut index = Index::default();
        for (key, revision, put) in history {
            let version = match put {
                true => Version {
                    revision: *revision,
                    create: *revision,
                    count: 1,
                    bytes: 7,
                    ..Version::default()
                },
                false => Version::tombstone(*revision),
            };
            index.insert(&Bytes::from_static(key.as_bytes()), version);
        }
        index
    }

    #[test]
    fn a_read_sees_the_newest_version_up_to_its_revision() {
        let index = index(&[("a", 2, true), ("a", 4, false), ("a", 6, true)]);
        let seen: Vec<_> = (1..=7).map(|revision| index.get(b"a", revision).map(|v| v.revision)).collect();
        assert_eq!(seen, [None, Some(2), Some(2), None, None, Some(6), Some(6)]);
        assert_eq!(index.before(b"a", 4).map(|v| v.revision), Some(2));
    }

    #[test]
    fn compaction_keeps_the_newest_and_every_later_version() {
        let cases: [(u64, &[u64]); 6] =
            [(1, &[]), (2, &[]), (3, &[2]), (4, &[2, 3, 4]), (5, &[2, 3, 4]), (6, &[2, 3, 4])];
        for (revision, dropped) in cases {
            let mut index = index(&[("a", 2, true), ("a", 3, true), ("a", 4, false), ("a", 6, true)]);
            let (found, more) = index.superfluous(None, 10, revision);
            assert_eq!(found.first().map_or(&[][..], |(_, revisions)| revisions), dropped, "at {revision}");
            assert_eq!(more, None);
            let before = index.get(b"a", 6);
            let freed = index.compact(&Bytes::from_static(b"a"), revision);
            let tombstones = usize::from(dropped.contains(&4));
            assert_eq!(freed, 7 * (dropped.len() - tombstones) as u64, "the bytes that were put in");
            assert_eq!(index.versions(), 4 - dropped.len());
            assert_eq!(index.get(b"a", 6), before);
        }
    }

    #[test]
    fn a_version_keeps_its_numbers_in_half_a_cache_line() {
        assert_eq!(size_of::<Packed>(), 32);
        for (count, bytes) in [(0, 0), (1, BYTES_MAX), ((1 << 40) - 1, 0), (77, 1234)] {
            let version = Version { revision: 9, create: 3, count, lease: -5, bytes };
            assert_eq!(Version::from(Packed::from(version)), version);
        }
        let large = Version { count: 3, bytes: BYTES_MAX + 1, ..Version::default() };
        assert_eq!(Version::from(Packed::from(large)), Version { bytes: BYTES_MAX, ..large });
    }

    #[test]
    fn a_deleted_key_is_forgotten_whole() {
        let mut index = index(&[("a", 2, true), ("a", 4, false)]);
        index.compact(&Bytes::from_static(b"a"), 4);
        assert!(index.first_of(&KeyRange::ALL).is_none() && index.keys() == 0);
    }
}
