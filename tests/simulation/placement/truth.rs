//! [`Truth`]: what was committed, by whoever did, and what anybody was told of it. Whatever contradicts the two is wrong.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::range::KeyRange;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::record::Committed;

/// What is moved: kinds, and parts of kinds by rules of their own.
pub(super) const UNITS: [&str; 5] =
    ["/registry/u/", "/registry/u/x/", "/registry/v/", "/registry/v/x/", "/registry/w/"];

/// The unit of a key: the longest that it begins with.
pub(super) fn unit_of(key: &[u8]) -> &'static str {
    let of = UNITS.iter().filter(|unit| key.starts_with(unit.as_bytes())).max_by_key(|unit| unit.len());
    of.copied().unwrap_or("")
}

/// The keys that clients use of a unit.
pub(super) fn keys_of(unit: &str) -> [Bytes; 2] {
    ["a", "b"].map(|name| Bytes::from(format!("{unit}{name}")))
}

/// All of them, and nothing of a unit within.
pub(super) fn keys_range(unit: &str) -> KeyRange {
    KeyRange::new(Bytes::from(format!("{unit}a")), Some(Bytes::from(format!("{unit}c"))))
}

/// The units of which a range shows keys.
pub(super) fn units_in(range: &KeyRange) -> impl Iterator<Item = &'static str> {
    UNITS.into_iter().filter(|unit| keys_of(unit).iter().any(|key| range.contains(key)))
}

/// The state of a range.
pub(super) type State = BTreeMap<Bytes, KeyValue>;

#[derive(Default)]
struct Inner {
    /// Each key's versions, as they were committed.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// Up to where anybody was told the state of a unit.
    shown: BTreeMap<&'static str, i64>,
    /// Units that were on a disk that is lost: nothing is promised of them.
    forfeited: BTreeSet<&'static str>,
    wrong: Vec<String>,
    notes: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

/// See the module.
pub(super) struct Truth {
    inner: Mutex<Inner>,
    began: Instant,
}

impl Truth {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::default(), began: Instant::now() }
    }

    pub(super) fn note(&self, what: &str) {
        let line = format!("{:>6} {what}", self.began.elapsed().as_millis());
        self.inner.lock().notes.push(line);
    }

    pub(super) fn wrong(&self, what: String) {
        self.note(&format!("WRONG {what}"));
        self.inner.lock().wrong.push(what);
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.inner.lock().counts.entry(what).or_default() += 1;
    }

    pub(super) fn is_wrong(&self) -> bool {
        !self.inner.lock().wrong.is_empty()
    }

    /// What is wrong, what happened, and how often.
    pub(super) fn take(&self) -> (Vec<String>, Vec<String>, BTreeMap<&'static str, u64>) {
        let mut inner = self.inner.lock();
        (
            std::mem::take(&mut inner.wrong),
            std::mem::take(&mut inner.notes),
            std::mem::take(&mut inner.counts),
        )
    }

    /// Nothing is promised of these units any more.
    pub(super) fn forfeit(&self, units: impl IntoIterator<Item = &'static str>) {
        self.inner.lock().forfeited.extend(units);
    }

    fn is_forfeited(&self, range: &KeyRange) -> bool {
        let inner = self.inner.lock();
        units_in(range).any(|unit| inner.forfeited.contains(unit))
    }

    /// A batch has become durable.
    pub(super) fn committed(&self, committed: &Committed) {
        let (group, revision) = (&committed.group, committed.revision);
        let mut wrong = Vec::new();
        {
            let inner = &mut *self.inner.lock();
            for (key, kv) in &committed.changes {
                let unit = unit_of(key);
                let versions = inner.keys.entry(key.clone()).or_default();
                let newest = versions.last().cloned();
                let (last, live) = newest.map_or((0, None), |(last, kv)| (last, kv));
                let shown = inner.shown.get(unit).copied().unwrap_or(0);
                if !inner.forfeited.contains(unit) {
                    let here = format!("group {group} writes {key:?} at {revision}");
                    if revision <= last {
                        wrong.push(format!("{here} after {last}"));
                    }
                    if revision <= shown {
                        wrong.push(format!("{here}, {shown} had been shown"));
                    }
                    let due = live.as_ref().map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
                    let over = match kv {
                        Some(kv) => (kv.create_revision, kv.version) != due,
                        None => live.is_none(),
                    };
                    if over {
                        wrong.push(format!(
                            "{here} over what is not the newest: {kv:?} over {live:?} at {last}"
                        ));
                    }
                }
                versions.push((revision, kv.clone()));
                versions.sort_by_key(|(revision, _)| *revision);
            }
        }
        self.count("writes");
        let keys: Vec<_> = committed
            .changes
            .iter()
            .map(|(key, kv)| {
                let value = kv.as_ref().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
                format!("{}={}", key.escape_ascii(), value.unwrap_or_else(|| "-".to_owned()))
            })
            .collect();
        self.note(&format!("{group} commits {} at {revision}", keys.join(" ")));
        wrong.into_iter().for_each(|what| self.wrong(what));
    }

    /// The state of a range at a revision, as far as it is committed.
    pub(super) fn at(&self, range: &KeyRange, revision: i64) -> State {
        let inner = self.inner.lock();
        let newest = |versions: &Vec<(i64, Option<KeyValue>)>| {
            versions.iter().rev().find(|(at, _)| *at <= revision).and_then(|(_, kv)| kv.clone())
        };
        let keys = inner.keys.iter().filter(|(key, _)| range.contains(key));
        keys.filter_map(|(key, versions)| Some((key.clone(), newest(versions)?))).collect()
    }

    /// The newest revision of a key; 0 where it is not there.
    pub(super) fn newest(&self, key: &Bytes) -> i64 {
        let inner = self.inner.lock();
        let newest = inner.keys.get(key).and_then(|versions| versions.last());
        newest.filter(|(_, kv)| kv.is_some()).map_or(0, |(revision, _)| *revision)
    }

    /// What whoever asks now for something fresh must be told at least.
    pub(super) fn need(&self, range: &KeyRange) -> i64 {
        let inner = self.inner.lock();
        units_in(range).filter_map(|unit| inner.shown.get(unit)).copied().max().unwrap_or(0)
    }

    /// Somebody was told that this is the state of the range at the revision.
    pub(super) fn show(&self, who: &str, range: &KeyRange, revision: i64, found: &State) {
        if self.is_forfeited(range) {
            return;
        }
        let due = self.at(range, revision);
        if *found != due {
            self.wrong(format!(
                "{who} shows {} at {revision}: {}, it was {}",
                text(range),
                brief(found),
                brief(&due)
            ));
        }
        let inner = &mut *self.inner.lock();
        for unit in units_in(range) {
            let shown = inner.shown.entry(unit).or_default();
            *shown = (*shown).max(revision);
        }
    }

    /// An answer that has to be fresh.
    pub(super) fn fresh(&self, who: &str, range: &KeyRange, need: i64, revision: i64) {
        if revision < need && !self.is_forfeited(range) {
            self.wrong(format!(
                "{who} shows {} as fresh at {revision}, {need} had been shown before",
                text(range)
            ));
        }
    }

    /// A write was acknowledged.
    pub(super) fn acknowledged(&self, who: &str, key: &Bytes, value: Option<&[u8]>, revision: i64) {
        let range = KeyRange::one(key.clone());
        let found = self.at(&range, revision).remove(key);
        let same = found.as_ref().map(|kv| &kv.value[..]) == value;
        let there = found.as_ref().is_none_or(|kv| kv.mod_revision == revision);
        if !(same && there) && !self.is_forfeited(&range) {
            self.wrong(format!("{who} acknowledged {key:?} at {revision}, there is {found:?}"));
        }
    }
}

/// A range, for people.
pub(super) fn text(range: &KeyRange) -> String {
    range.start().escape_ascii().to_string()
}

fn brief(state: &State) -> String {
    let each = |(key, kv): (&Bytes, &KeyValue)| {
        format!("{}={}@{}", key.escape_ascii(), kv.value.escape_ascii(), kv.mod_revision)
    };
    format!("{:?}", state.iter().map(each).collect::<Vec<_>>())
}
