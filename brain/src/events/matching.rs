//! [`Watchers`]: which watchers want this key.
//!
//! Kubernetes watches prefixes and single keys. Both are found by hashing: a key's own bytes, and its beginnings of the
//! lengths that some watched prefix has. Other ranges are few and looked at one by one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kubebrain_shared::range::{KeyRange, prefix_end};

/// Watchers by what they watch. `T` is shared with whoever is woken.
#[derive(Debug)]
pub(crate) struct Watchers<T> {
    keys: HashMap<Bytes, Vec<Arc<T>>>,
    prefixes: HashMap<Bytes, Vec<Arc<T>>>,
    /// How many watched prefixes have each length.
    lengths: BTreeMap<usize, usize>,
    ranges: Vec<(KeyRange, Arc<T>)>,
}

impl<T> Default for Watchers<T> {
    fn default() -> Self {
        Self { keys: HashMap::new(), prefixes: HashMap::new(), lengths: BTreeMap::new(), ranges: Vec::new() }
    }
}

fn is_prefix(range: &KeyRange) -> bool {
    !range.start().is_empty() && prefix_end(range.start()).as_ref() == range.end()
}

impl<T> Watchers<T> {
    /// Adds one.
    pub(crate) fn insert(&mut self, range: &KeyRange, watcher: Arc<T>) {
        if let Some(key) = range.as_one() {
            self.keys.entry(key.clone()).or_default().push(watcher);
        } else if is_prefix(range) {
            let watchers = self.prefixes.entry(range.start().clone()).or_default();
            if watchers.is_empty() {
                *self.lengths.entry(range.start().len()).or_default() += 1;
            }
            watchers.push(watcher);
        } else {
            self.ranges.push((range.clone(), watcher));
        }
    }

    /// Removes it again.
    pub(crate) fn remove(&mut self, range: &KeyRange, watcher: &Arc<T>) {
        if let Some(key) = range.as_one() {
            remove(&mut self.keys, key, watcher);
        } else if is_prefix(range) {
            if remove(&mut self.prefixes, range.start(), watcher) {
                let length = range.start().len();
                let left = self.lengths.get_mut(&length).map(|count| {
                    *count -= 1;
                    *count
                });
                if left == Some(0) {
                    self.lengths.remove(&length);
                }
            }
        } else {
            self.ranges.retain(|(_, other)| !Arc::ptr_eq(other, watcher));
        }
    }

    /// Calls `each` for every watcher.
    pub(crate) fn all(&self, mut each: impl FnMut(&Arc<T>)) {
        self.keys.values().chain(self.prefixes.values()).flatten().for_each(&mut each);
        self.ranges.iter().for_each(|(_, watcher)| each(watcher));
    }

    /// Calls `each` for every watcher of `key`.
    pub(crate) fn of(&self, key: &Bytes, mut each: impl FnMut(&Arc<T>)) {
        if !self.keys.is_empty() {
            self.keys.get(key).into_iter().flatten().for_each(&mut each);
        }
        for length in self.lengths.keys().take_while(|length| **length <= key.len()) {
            self.prefixes.get(&key[..*length]).into_iter().flatten().for_each(&mut each);
        }
        self.ranges.iter().filter(|(range, _)| range.contains(key)).for_each(|(_, watcher)| each(watcher));
    }
}

/// True if it was the last one under this key.
fn remove<T>(map: &mut HashMap<Bytes, Vec<Arc<T>>>, key: &Bytes, watcher: &Arc<T>) -> bool {
    let Some(watchers) = map.get_mut(key) else { return false };
    if let Some(position) = watchers.iter().position(|other| Arc::ptr_eq(other, watcher)) {
        watchers.swap_remove(position);
    }
    let last = watchers.is_empty();
    if last {
        map.remove(key);
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        vec(prop::sample::select(vec![0u8, b'a', b'b', 0xff]), 0..4)
    }

    fn ranges() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            keys().prop_map(|key| KeyRange::one(key.into())),
            keys().prop_map(|key| KeyRange::prefix(key.into())),
            (keys(), prop::option::of(keys())).prop_map(|(a, b)| KeyRange::new(a.into(), b.map(Bytes::from))),
        ]
    }

    proptest! {
        #[test]
        fn exactly_the_watchers_whose_range_has_the_key(
            watched in vec((ranges(), any::<bool>()), 0..12), key in keys(),
        ) {
            let key = Bytes::from(key);
            let mut watchers = Watchers::default();
            let all: Vec<_> = watched.iter().map(|(range, stays)| (range, *stays, Arc::new(range.clone()))).collect();
            all.iter().for_each(|(range, _, watcher)| watchers.insert(range, watcher.clone()));
            all.iter().filter(|(_, stays, _)| !stays).for_each(|(range, _, watcher)| watchers.remove(range, watcher));
            let mut found = Vec::new();
            watchers.of(&key, |watcher| found.push(Arc::as_ptr(watcher)));
            let want = all.iter().filter(|(range, stays, _)| *stays && range.contains(&key));
            let mut want: Vec<_> = want.map(|(_, _, watcher)| Arc::as_ptr(watcher)).collect();
            found.sort();
            want.sort();
            prop_assert_eq!(found, want);
        }
    }
}
