//! [`History`]: what clients have sent and been told, and what a store must therefore hold after a power cut.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kubebrain_proto::mvccpb::KeyValue;

use crate::seen::Seen;

/// Of one server's life, or several of them on one directory.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) compactions: Vec<Compaction>,
    pub(crate) grants: Vec<Grant>,
}

/// One key that one request writes or deletes.
pub(crate) struct Write {
    pub(crate) key: String,
    /// None for a deletion. No two are the same.
    pub(crate) value: Option<Bytes>,
    pub(crate) lease: i64,
    /// How long the trace was before it was sent: a cut before that cannot show it.
    pub(crate) sent: u64,
    /// None where no answer came: it may have happened.
    pub(crate) done: Option<Done>,
}

#[derive(Clone, Copy)]
pub(crate) struct Done {
    /// How long the trace was after the answer: a cut after that must show it.
    pub(crate) position: u64,
    pub(crate) revision: i64,
}

pub(crate) struct Compaction {
    pub(crate) revision: i64,
    pub(crate) sent: u64,
    pub(crate) done: Option<u64>,
}

pub(crate) struct Grant {
    pub(crate) lease: i64,
    pub(crate) done: Option<u64>,
}

/// How strictly revisions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// One group: the state is that of one revision, over all keys.
    OneGroup,
    /// Several groups, each with its own count after a crash: every key by itself.
    ByKey,
}

/// A key as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Bytes,
    lease: i64,
    created: i64,
    modified: i64,
    version: i64,
}

impl From<&KeyValue> for Entry {
    fn from(kv: &KeyValue) -> Self {
        Self {
            value: kv.value.clone(),
            lease: kv.lease,
            created: kv.create_revision,
            modified: kv.mod_revision,
            version: kv.version,
        }
    }
}

/// All writes of one key: those with a revision in order, and those without.
#[derive(Default)]
struct Of<'a> {
    known: Vec<(&'a Write, Done)>,
    unknown: Vec<&'a Write>,
}

impl Of<'_> {
    /// The key after the first `count` known writes.
    fn after(&self, count: usize) -> Option<Entry> {
        let mut entry: Option<Entry> = None;
        for (write, done) in &self.known[..count] {
            entry = write.value.as_ref().map(|value| Entry {
                value: value.clone(),
                lease: write.lease,
                created: entry.as_ref().map_or(done.revision, |entry| entry.created),
                modified: done.revision,
                version: entry.as_ref().map_or(0, |entry| entry.version) + 1,
            });
        }
        entry
    }

    /// True if what is there may come from a write without an answer that was sent by then.
    fn may_be_unknown(&self, found: Option<&Entry>, position: u64) -> bool {
        self.unknown.iter().filter(|write| write.sent <= position).any(|write| match (&write.value, found) {
            (Some(value), Some(found)) => found.value == value,
            (None, None) => true,
            _ => false,
        })
    }
}

impl History {
    /// Holds what a store shows against what was promised when the trace was `position` long.
    ///
    /// # Errors
    /// A sentence about the first thing that is wrong.
    pub(crate) fn judge(&self, position: u64, seen: &Seen, counting: Counting) -> Result<(), String> {
        let keys = self.keys();
        let found: HashMap<&[u8], Entry> = seen.kvs.iter().map(|kv| (&kv.key[..], kv.into())).collect();
        if let Some(invented) = found.keys().find(|key| !keys.keys().any(|known| known.as_bytes() == **key)) {
            return Err(format!("key {} was never written", invented.escape_ascii()));
        }
        for (key, of) in &keys {
            let found = found.get(key.as_bytes());
            self.judge_key(position, seen, counting, key, of, found)?;
        }
        for (revision, past) in &seen.past {
            self.judge_past(position, &keys, *revision, past.as_deref())?;
        }
        let acknowledged = self.writes.iter().filter_map(|write| write.done);
        let acknowledged = acknowledged.filter(|done| done.position <= position);
        let highest = acknowledged.map(|done| done.revision).max().unwrap_or(1);
        if seen.revision < highest {
            return Err(format!("the header shows {}, {highest} was acknowledged", seen.revision));
        }
        if seen.next <= highest || seen.next <= seen.revision {
            return Err(format!("revision {} is given out again after {highest}", seen.next));
        }
        for grant in &self.grants {
            if grant.done.is_some_and(|done| done <= position) && !seen.leases.contains(&grant.lease) {
                return Err(format!("lease {:x} was granted and is gone", grant.lease));
            }
        }
        if let Some(lease) =
            seen.leases.iter().find(|id| !self.grants.iter().any(|grant| grant.lease == **id))
        {
            return Err(format!("lease {lease:x} was never granted"));
        }
        Ok(())
    }

    /// How many writes were answered.
    pub(crate) fn answered(&self) -> usize {
        self.writes.iter().filter(|write| write.done.is_some()).count()
    }

    fn keys(&self) -> BTreeMap<&str, Of<'_>> {
        let mut keys: BTreeMap<&str, Of<'_>> = BTreeMap::new();
        for write in &self.writes {
            let of = keys.entry(&write.key).or_default();
            match write.done {
                Some(done) => of.known.push((write, done)),
                None => of.unknown.push(write),
            }
        }
        for of in keys.values_mut() {
            of.known.sort_by_key(|(_, done)| done.revision);
        }
        keys
    }

    fn judge_key(
        &self,
        position: u64,
        seen: &Seen,
        counting: Counting,
        key: &str,
        of: &Of<'_>,
        found: Option<&Entry>,
    ) -> Result<(), String> {
        let short = |entry: Option<&Entry>| {
            entry.map_or("nothing".to_owned(), |entry| {
                format!(
                    "{} bytes at r{}, version {}, created r{}, lease {:x}",
                    entry.value.len(),
                    entry.modified,
                    entry.version,
                    entry.created,
                    entry.lease
                )
            })
        };
        let must = of.known.iter().filter(|(_, done)| done.position <= position).count();
        let must = match of.known.iter().rposition(|(_, done)| done.position <= position) {
            Some(last) => last + 1,
            None => must,
        };
        let may = of.known.iter().rposition(|(write, _)| write.sent <= position).map_or(0, |last| last + 1);
        let range = match counting {
            Counting::OneGroup => {
                let there = of.known.partition_point(|(_, done)| done.revision <= seen.revision);
                if there < must {
                    return Err(format!(
                        "key {key}: r{} was acknowledged, the store ends at r{}",
                        of.known[must - 1].1.revision,
                        seen.revision
                    ));
                }
                if there > may {
                    return Err(format!(
                        "key {key}: r{} is there before it was sent",
                        of.known[there - 1].1.revision
                    ));
                }
                there..=there
            }
            Counting::ByKey => must..=may.max(must),
        };
        // After a write whose outcome nobody was told, versions depend on it.
        let matches = |count: usize| match (of.after(count), found) {
            (None, None) => true,
            (Some(expected), Some(found)) => {
                expected == *found
                    || (!of.unknown.is_empty()
                        && (&expected.value, expected.modified) == (&found.value, found.modified))
            }
            _ => false,
        };
        if range.clone().any(matches) || of.may_be_unknown(found, position) {
            return Ok(());
        }
        let expected = of.after(*range.end());
        Err(format!(
            "key {key} holds {}, {} is expected (header r{})",
            short(found),
            short(expected.as_ref()),
            seen.revision
        ))
    }

    /// A read of the past shows what was there, or is refused because of a compaction that was asked for.
    fn judge_past(
        &self,
        position: u64,
        keys: &BTreeMap<&str, Of<'_>>,
        revision: i64,
        past: Option<&[KeyValue]>,
    ) -> Result<(), String> {
        let Some(past) = past else {
            let asked =
                |compaction: &Compaction| compaction.sent <= position && compaction.revision > revision;
            return match self.compactions.iter().any(asked) {
                true => Ok(()),
                false => Err(format!("r{revision} is compacted and nobody asked for that")),
            };
        };
        let undone = |compaction: &&Compaction| {
            compaction.done.is_some_and(|done| done <= position) && compaction.revision > revision
        };
        if let Some(compaction) = self.compactions.iter().find(undone) {
            return Err(format!("r{revision} is readable after a compaction at r{}", compaction.revision));
        }
        let found: HashMap<&[u8], Entry> = past.iter().map(|kv| (&kv.key[..], kv.into())).collect();
        for (key, of) in keys.iter().filter(|(_, of)| of.unknown.is_empty()) {
            let count = of.known.partition_point(|(_, done)| done.revision <= revision);
            if of.after(count).as_ref() != found.get(key.as_bytes()) {
                return Err(format!("key {key} at r{revision} is not what it was then"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` is written twice and `b` once; then `a` is deleted, while the trace grows by 10 a write.
    fn history() -> History {
        let write = |key: &str, value: Option<&'static str>, number: u64| Write {
            key: key.to_owned(),
            value: value.map(Into::into),
            lease: 0,
            sent: number * 10,
            done: Some(Done { position: number * 10 + 5, revision: number.cast_signed() + 1 }),
        };
        History {
            writes: vec![
                write("a", Some("1"), 1),
                write("a", Some("2"), 2),
                write("b", Some("3"), 3),
                write("a", None, 4),
            ],
            compactions: vec![Compaction { revision: 3, sent: 36, done: Some(37) }],
            grants: vec![Grant { lease: 7, done: Some(12) }],
        }
    }

    fn kv(key: &'static str, value: &'static str, created: i64, modified: i64, version: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: created,
            mod_revision: modified,
            version,
            ..KeyValue::default()
        }
    }

    /// What is right after the third write.
    fn seen() -> Seen {
        let (a, b) = (kv("a", "2", 2, 3, 2), kv("b", "3", 4, 4, 1));
        Seen { revision: 4, kvs: vec![a, b], leases: vec![7], past: vec![(2, None)], next: 5 }
    }

    #[test]
    fn the_judge_sees_each_broken_promise() {
        type Change = fn(&mut Seen);
        let cases: [(&str, u64, Change, &str); 14] = [
            ("all is well", 38, |_| {}, ""),
            (
                "the deletion may have happened",
                41,
                |seen| {
                    seen.kvs.remove(0);
                    (seen.revision, seen.next) = (5, 6);
                },
                "",
            ),
            ("the deletion was acknowledged", 46, |_| {}, "was acknowledged"),
            (
                "the deletion was not sent",
                38,
                |seen| {
                    seen.kvs.remove(0);
                    (seen.revision, seen.next) = (5, 6);
                },
                "before it was sent",
            ),
            ("an old value", 38, |seen| seen.kvs[0] = kv("a", "1", 2, 2, 1), "is expected"),
            ("another value", 38, |seen| seen.kvs[0].value = "x".into(), "is expected"),
            ("another version", 38, |seen| seen.kvs[0].version = 1, "is expected"),
            ("a lost key", 38, |seen| drop(seen.kvs.pop()), "is expected"),
            ("an invented key", 38, |seen| seen.kvs.push(kv("c", "4", 4, 4, 1)), "never written"),
            ("a revision given out twice", 38, |seen| seen.next = 4, "given out again"),
            ("a lost lease", 38, |seen| seen.leases.clear(), "is gone"),
            ("an invented lease", 38, |seen| seen.leases.push(8), "never granted"),
            (
                "a compaction undone",
                38,
                |seen| seen.past = vec![(2, Some(vec![kv("a", "1", 2, 2, 1)]))],
                "readable after",
            ),
            ("another past", 36, |seen| seen.past = vec![(3, Some(Vec::new()))], "what it was then"),
        ];
        for counting in [Counting::OneGroup, Counting::ByKey] {
            for (name, position, change, expected) in cases {
                let mut seen = seen();
                change(&mut seen);
                let verdict = history().judge(position, &seen, counting);
                match (expected, &verdict) {
                    ("", Ok(())) => {}
                    ("", Err(error)) => panic!("{name}: {error}"),
                    (_, Ok(())) => panic!("{name}, {counting:?}: nothing was seen"),
                    (word, Err(error)) => {
                        assert!(error.contains(word) || counting == Counting::ByKey, "{name}: {error}")
                    }
                }
            }
        }
    }
}
