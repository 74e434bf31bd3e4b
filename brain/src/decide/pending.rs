//! [`Pending`]: versions that were given out and are not durable yet, and [`View`]: the state with them on top.

use std::collections::BTreeMap;

use bytes::Bytes;
use kubebrain_shared::range::KeyRange;

use super::answer::Entry;
use super::index::{Index, bounds};
use crate::rows::version::Version;

/// A version on its way to the engine.
#[derive(Clone, Debug)]
pub(crate) struct PendingVersion {
    /// What the index will say.
    pub version: Version,
    /// The `KeyValue`; `None` for a deletion.
    pub kv: Option<Bytes>,
}

/// Versions by key, oldest first. Empty when nothing is in flight.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    keys: BTreeMap<Bytes, Vec<PendingVersion>>,
}

impl Pending {
    /// Adds the newest version of a key.
    pub(crate) fn insert(&mut self, key: Bytes, version: PendingVersion) {
        self.keys.entry(key).or_default().push(version);
    }

    /// Takes the newest version of a key back.
    pub(crate) fn undo(&mut self, key: &Bytes) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        versions.pop();
        if versions.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Forgets the oldest version of a key: it is in the index now.
    pub(crate) fn applied(&mut self, key: &Bytes) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        versions.remove(0);
        if versions.is_empty() {
            self.keys.remove(key);
        }
    }

    /// True if nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that are being written.
    pub(crate) fn keys(&self) -> Vec<Bytes> {
        self.keys.keys().cloned().collect()
    }

    fn at(versions: &[PendingVersion], revision: u64) -> Option<&PendingVersion> {
        versions.iter().rev().find(|pending| pending.version.revision <= revision)
    }
}

/// What a request sees.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// What is durable.
    pub index: &'a Index,
    /// What is not yet.
    pub pending: &'a Pending,
}

impl View<'_> {
    /// The live version of a key as of `revision`.
    pub(crate) fn get(&self, key: &Bytes, revision: u64) -> Option<Entry> {
        let pending = self.pending.keys.get(key).and_then(|versions| Pending::at(versions, revision));
        match pending {
            Some(pending) => Self::entry(key, pending),
            None => {
                self.index.get(key, revision).map(|version| Entry { key: key.clone(), version, kv: None })
            }
        }
    }

    fn entry(key: &Bytes, pending: &PendingVersion) -> Option<Entry> {
        let entry = Entry { key: key.clone(), version: pending.version, kv: pending.kv.clone() };
        (!entry.version.is_tombstone()).then_some(entry)
    }

    /// All that are live in `range` as of `revision`, in key order.
    pub(crate) fn live(&self, range: &KeyRange, revision: u64) -> Vec<Entry> {
        if let Some(key) = range.as_one() {
            return self.get(key, revision).into_iter().collect();
        }
        let stored = self.index.live(range, revision);
        let stored = stored.map(|(key, version)| Entry { key: key.clone(), version, kv: None });
        let Some(bounds) = bounds(range).filter(|_| !self.pending.is_empty()) else {
            return stored.collect();
        };
        let mut pending = self.pending.keys.range::<Bytes, _>(bounds).peekable();
        let mut live = Vec::new();
        let newer = |found: &mut Vec<Entry>, key, versions: &[PendingVersion]| {
            let version = Pending::at(versions, revision);
            found.extend(version.and_then(|version| Self::entry(key, version)));
            version.is_some()
        };
        for entry in stored {
            while let Some((key, versions)) = pending.next_if(|(key, _)| **key < entry.key) {
                newer(&mut live, key, versions);
            }
            let same = pending.next_if(|(key, _)| **key == entry.key);
            if !same.is_some_and(|(key, versions)| newer(&mut live, key, versions)) {
                live.push(entry);
            }
        }
        for (key, versions) in pending {
            newer(&mut live, key, versions);
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: u64) -> Version {
        Version { revision, create: revision, count: 1, ..Version::default() }
    }

    #[test]
    fn pending_versions_hide_older_ones_up_to_the_revision_read() {
        let key = Bytes::from_static;
        let mut index = Index::default();
        let mut pending = Pending::default();
        index.insert(&key(b"a"), put(2));
        index.insert(&key(b"b"), put(3));
        index.insert(&key(b"d"), put(4));
        pending.insert(key(b"b"), PendingVersion { version: Version::tombstone(5), kv: None });
        pending.insert(key(b"c"), PendingVersion { version: put(6), kv: Some(key(b"c")) });
        pending.insert(key(b"d"), PendingVersion { version: put(7), kv: Some(key(b"d")) });
        let view = View { index: &index, pending: &pending };
        let seen = |revision| -> Vec<_> {
            let live = view.live(&KeyRange::ALL, revision);
            for entry in &live {
                let one = view.get(&entry.key, revision).expect("live");
                assert_eq!(one.version, entry.version);
            }
            live.iter().map(|entry| (entry.key.clone(), entry.version.revision)).collect()
        };
        assert_eq!(seen(4), [(key(b"a"), 2), (key(b"b"), 3), (key(b"d"), 4)]);
        assert_eq!(seen(6), [(key(b"a"), 2), (key(b"c"), 6), (key(b"d"), 4)]);
        assert_eq!(seen(u64::MAX), [(key(b"a"), 2), (key(b"c"), 6), (key(b"d"), 7)]);
        pending.applied(&key(b"c"));
        pending.applied(&key(b"b"));
        pending.applied(&key(b"d"));
        assert!(pending.is_empty());
    }
}
