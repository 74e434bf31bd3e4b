//! [`Plan`]: what a batch asks of a transaction.

use std::collections::HashMap;

use bytes::Bytes;
use kubebrain_brain::engine::{Batch, Condition, Write};

/// The client cuts a transaction's mutations, in key order, into messages that end when they reach this size.
const MESSAGE_BYTES: usize = 16 << 10;

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Stores a value.
    Put(Bytes, Bytes),
    /// Stores a value where there is none; TiKV looks.
    Insert(Bytes, Bytes),
    /// Removes the key.
    Delete(Bytes),
    /// Changes nothing, and conflicts as if it did.
    Lock(Bytes),
}

/// A batch, made ready: at most one mutation a key, the first write's key first.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the batch's order.
    pub conditions: Vec<Condition>,
    /// Keys that must be read before the commit: all that a condition is about and no insert covers.
    pub reads: Vec<Bytes>,
    /// The first one is the transaction's primary key.
    pub mutations: Vec<Mutation>,
    /// Keys and values of the mutations.
    pub bytes: usize,
}

impl Plan {
    pub(crate) fn new(batch: Batch) -> Self {
        // The last write to a key stays, in the place of the first one: what leads the batch is the primary key.
        let mut order: Vec<Bytes> = Vec::with_capacity(batch.writes.len());
        let mut last: HashMap<Bytes, Option<Bytes>> = HashMap::with_capacity(batch.writes.len());
        for write in batch.writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value)),
                Write::Delete(key) => (key, None),
            };
            if last.insert(key.clone(), value).is_none() {
                order.push(key);
            }
        }
        let mut only_absent: HashMap<&Bytes, bool> = HashMap::new();
        for condition in &batch.conditions {
            let absent = matches!(condition, Condition::Absent(_));
            *only_absent.entry(condition.key()).or_insert(true) &= absent;
        }
        let mut mutations = Vec::with_capacity(order.len());
        for key in order {
            let value = last.remove(&key).flatten();
            let insert = only_absent.get(&key) == Some(&true);
            mutations.push(match value {
                Some(value) if insert => Mutation::Insert(key, value),
                Some(value) => Mutation::Put(key, value),
                None => Mutation::Delete(key),
            });
        }
        let written: HashMap<&Bytes, bool> =
            mutations.iter().map(|change| (change.key(), matches!(change, Mutation::Insert(..)))).collect();
        let (mut reads, mut locks) = (Vec::new(), Vec::new());
        for condition in &batch.conditions {
            let key = condition.key();
            if only_absent.remove(key).is_none() {
                continue; // seen
            }
            match written.get(key) {
                Some(true) => {}
                Some(false) => reads.push(key.clone()),
                None => {
                    reads.push(key.clone());
                    locks.push(key.clone());
                }
            }
        }
        // Conditions alone are judged at one timestamp and need no lock.
        if !mutations.is_empty() {
            mutations.extend(locks.into_iter().map(Mutation::Lock));
        }
        let bytes = mutations.iter().map(Mutation::bytes).sum();
        Self { conditions: batch.conditions, reads, mutations, bytes }
    }

    /// True if the client sends all in one message to a region.
    pub(crate) fn is_one_message(&self) -> bool {
        self.bytes < MESSAGE_BYTES
    }

    /// The key of the first condition that does not hold where `stored` is.
    pub(crate) fn broken(&self, stored: &HashMap<Bytes, Option<Bytes>>) -> Option<Bytes> {
        let broken = self.conditions.iter().find(|condition| {
            stored.get(condition.key()).is_some_and(|value| !condition.holds(value.as_deref()))
        });
        broken.map(|condition| condition.key().clone())
    }

    /// All keys that conditions are about, once each.
    pub(crate) fn condition_keys(&self) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.conditions.iter().map(|condition| condition.key().clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl Mutation {
    /// The key that it is about.
    pub(crate) const fn key(&self) -> &Bytes {
        match self {
            Self::Put(key, _) | Self::Insert(key, _) | Self::Delete(key) | Self::Lock(key) => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) | Self::Insert(key, value) => key.len() + value.len(),
            Self::Delete(key) | Self::Lock(key) => key.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &'static str) -> Bytes {
        Bytes::from(key)
    }

    #[test]
    fn the_first_written_key_leads_and_the_last_write_stays() {
        let mut batch = Batch::new();
        batch.put("z", "1").put("a", "1").delete("z").put("z", "2").put("b", "1").delete("b");
        let plan = Plan::new(batch);
        assert_eq!(
            plan.mutations,
            [
                Mutation::Put(key("z"), key("2")),
                Mutation::Put(key("a"), key("1")),
                Mutation::Delete(key("b")),
            ]
        );
        assert_eq!(plan.bytes, 5);
    }

    #[test]
    fn what_an_insert_covers_is_not_read() {
        let mut batch = Batch::new();
        batch.absent("log").absent("gone").absent("other").equals("seen", "1").equals("kept", "1");
        batch.put("log", "r").delete("gone").put("seen", "2").absent("log");
        let plan = Plan::new(batch);
        assert_eq!(plan.reads, ["gone", "other", "seen", "kept"].map(key));
        assert_eq!(
            plan.mutations,
            [
                Mutation::Insert(key("log"), key("r")),
                Mutation::Delete(key("gone")),
                Mutation::Put(key("seen"), key("2")),
                Mutation::Lock(key("other")),
                Mutation::Lock(key("kept")),
            ]
        );
    }

    #[test]
    fn a_key_that_is_to_be_absent_and_equal_is_read() {
        let mut batch = Batch::new();
        batch.absent("a").equals("a", "1").put("a", "2");
        let plan = Plan::new(batch);
        assert_eq!(plan.reads, [key("a")]);
        assert_eq!(plan.mutations, [Mutation::Put(key("a"), key("2"))]);
        let stored = HashMap::from([(key("a"), None)]);
        assert_eq!(plan.broken(&stored), Some(key("a")));
    }

    #[test]
    fn conditions_alone_lock_nothing() {
        let mut batch = Batch::new();
        batch.absent("a").equals("b", "1");
        let plan = Plan::new(batch);
        assert_eq!(plan.reads, ["a", "b"].map(key));
        assert_eq!(plan.mutations, []);
    }

    #[test]
    fn the_first_broken_condition_in_the_batch_is_named() {
        let mut batch = Batch::new();
        batch.absent("z").equals("b", "1").absent("a");
        let plan = Plan::new(batch);
        let stored = |z: Option<&'static str>, b: &'static str, a: Option<&'static str>| {
            let stored = [("z", z), ("b", Some(b)), ("a", a)];
            stored.into_iter().map(|(name, value)| (key(name), value.map(key))).collect::<HashMap<_, _>>()
        };
        assert_eq!(plan.broken(&stored(Some("1"), "2", Some("1"))), Some(key("z")));
        assert_eq!(plan.broken(&stored(None, "2", Some("1"))), Some(key("b")));
        assert_eq!(plan.broken(&stored(None, "1", Some("1"))), Some(key("a")));
        assert_eq!(plan.broken(&stored(None, "1", None)), None);
    }
}
