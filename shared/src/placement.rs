//! [`Placement`]: which group owns which keys, and where its brains are.
//!
//! An immutable table, read from a file (`file.rs` says how it is written) and replaced whole. Every key has exactly
//! one owner:
//!
//! ```text
//! key                             owner
//! ------------------------------  --------------------------------------------------------------------
//! begins with a rule's prefix     the rule's group; of nested rules the longest
//! a rule's prefix without its /   the same: an API server asks `/registry/pods` for the current revision
//! begins with the table's prefix  `default`: one group, or a group by consistent hashing of its kind
//! any other (`compact_rev_key`)   `home`
//! ```
//!
//! The natural kind of a key is the first segment behind the table's prefix, or the first two where the first has a
//! dot (`example.com/widgets/`: a custom resource).
//!
//! Invariants: [`Placement::owner`], [`Placement::owners`] and [`Placement::partition`] never contradict each other;
//! equal [`Placement::version`]s mean equal owners of all keys, on every machine and in every release (fixed hashes).

mod change;
mod check;
mod diff;
mod document;
mod file;
mod kinds;
mod limits;
mod ring;
mod spelling;
mod whose;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use self::check::{Finding, Severity, Use, check, limit_doubt};
pub use self::diff::{Change, Difference};
pub use self::document::{Document, DocumentError, DocumentId, Pair, TEXT_BYTES_MAX};
pub use self::limits::{Limit, Limits, OTHER};
use self::ring::Ring;
pub use self::whose::Whose;
use crate::group::GroupName;
use crate::range::KeyRange;

/// The table. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement(Arc<Table>);

/// All that is wrong with a placement file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PlacementErrors(Vec<PlacementError>);

/// One thing that is wrong with a placement file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct PlacementError {
    /// Where it stands, from 1; what is missing is reported where it was expected.
    pub line: usize,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// What a file says, checked: every group that is named exists, and every rule's prefix is there once.
#[derive(Debug, PartialEq, Eq)]
struct Draft {
    /// Of all kinds, without the slash at its end.
    prefix: Bytes,
    home: GroupName,
    default: Owner,
    groups: BTreeMap<GroupName, Vec<String>>,
    /// By prefix.
    rules: BTreeMap<Bytes, GroupName>,
    limits: Limits,
}

/// Who owns a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Group(GroupName),
    Hash(Ring),
}

#[derive(Debug, PartialEq, Eq)]
struct Table {
    draft: Draft,
    /// Where the owner changes: ascending, the first at the empty key, neighbours differ.
    segments: Vec<Segment>,
    version: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Segment {
    start: Bytes,
    owner: Owner,
}

/// A range of keys that belongs to one owner, except for what a narrower claim takes of it.
struct Claim {
    range: KeyRange,
    owner: Owner,
}

/// A key's kind, if the key is inside the table's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Natural<'a> {
    /// Behind the table's prefix, without the slash at its end: `pods`, `example.com/widgets`.
    pub name: &'a [u8],
    /// The kind's prefix as far as the key has it: the key up to its slash, or all of a key without that slash.
    pub prefix: &'a [u8],
    /// False for a key such as `/registry/pods`, which names the kind and is not inside.
    pub inside: bool,
}

/// The natural kind of `key`, where all kinds begin with `prefix` and a slash; `None` outside of it.
pub fn natural<'a>(prefix: &[u8], key: &'a [u8]) -> Option<Natural<'a>> {
    let rest = key.strip_prefix(prefix)?.strip_prefix(b"/")?;
    let start = key.len() - rest.len();
    let slash = |from: usize| rest[from..].iter().position(|byte| *byte == b'/').map(|at| from + at);
    let end = match slash(0) {
        Some(first) if rest[..first].contains(&b'.') => slash(first + 1),
        first => first,
    };
    Some(match end {
        Some(end) => Natural { name: &rest[..end], prefix: &key[..=start + end], inside: true },
        None => Natural { name: rest, prefix: key, inside: false },
    })
}

/// The one natural kind that all keys of `range` have, as [`natural`] of its first key says it; `None` where they may have
/// several, or are outside of all kinds.
pub fn natural_of<'a>(prefix: &[u8], range: &'a KeyRange) -> Option<Natural<'a>> {
    let natural = natural(prefix, range.start())?;
    let covers = || natural.inside && KeyRange::prefix(Bytes::copy_from_slice(natural.prefix)).covers(range);
    (range.as_one().is_some() || covers()).then_some(natural)
}

impl Placement {
    /// Reads a placement file.
    ///
    /// # Errors
    /// Everything that is wrong with it in one report.
    pub fn parse(text: &str) -> Result<Self, PlacementErrors> {
        file::read(text).map(Self::new)
    }

    /// What `standalone` uses where no file is given: pods and events apart, everything else in `core`.
    pub fn builtin() -> Self {
        let [core, pods, events] =
            ["core", "pods", "events"].map(|name| GroupName::parse(name).expect("a legal name"));
        Self::new(Draft {
            prefix: Bytes::from_static(b"/registry"),
            home: core.clone(),
            default: Owner::Group(core.clone()),
            groups: [&core, &pods, &events].map(|group| (group.clone(), Vec::new())).into(),
            rules: BTreeMap::from([
                (Bytes::from_static(b"/registry/pods/"), pods),
                (Bytes::from_static(b"/registry/events/"), events),
            ]),
            limits: Limits::new(),
        })
    }

    /// One group owns every key: indistinguishable from one etcd.
    pub fn single(group: GroupName) -> Self {
        Self::new(Draft {
            prefix: Bytes::from_static(b"/registry"),
            home: group.clone(),
            default: Owner::Group(group.clone()),
            groups: BTreeMap::from([(group, Vec::new())]),
            rules: BTreeMap::new(),
            limits: Limits::new(),
        })
    }

    /// Whoever is recorded as the owner of all keys that begin with so much has them, the longest one first; the rest is
    /// nobody's. With the prefix of `table`.
    pub fn recorded(table: &Self, owners: impl IntoIterator<Item = (Bytes, GroupName)>) -> Self {
        Self::new(Draft {
            prefix: table.prefix().clone(),
            home: GroupName::nobody(),
            default: Owner::Group(GroupName::nobody()),
            groups: BTreeMap::new(),
            rules: owners.into_iter().collect(),
            limits: Limits::new(),
        })
    }

    fn new(draft: Draft) -> Self {
        let segments = draft.segments();
        let version = draft.version();
        Self(Arc::new(Table { draft, segments, version }))
    }

    /// A hash of who owns what: the same meaning has the same version, however the file is written. Addresses of
    /// brains, groups that own nothing and limits do not count (tables that differ only there serve together); compare whole
    /// tables with `==` to see those.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// What all kinds begin with, without the slash at its end: `/registry`. May be empty.
    pub fn prefix(&self) -> &Bytes {
        &self.0.draft.prefix
    }

    /// What is limited; says nothing of who owns what.
    pub fn limits(&self) -> &Limits {
        &self.0.draft.limits
    }

    /// The group of the keys outside the prefix, which also keeps what exists once: compaction's lock and leases.
    pub fn home(&self) -> &GroupName {
        &self.0.draft.home
    }

    /// Every group with the peer URLs of its brains (`http://host:port`, `https://host:port`, no slash at the end,
    /// or `unix:///path`), in order of names.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupName, &[String])> {
        self.0.draft.groups.iter().map(|(group, brains)| (group, &brains[..]))
    }

    /// The group that owns `key`.
    pub fn owner(&self, key: &[u8]) -> &GroupName {
        match &self.0.segments[self.segment(key)].owner {
            Owner::Group(group) => group,
            Owner::Hash(ring) => ring.group(self.0.draft.natural(key).map_or(b"", |natural| natural.name)),
        }
    }

    /// The groups that own a part of `range`, each once, in order of names; none for an empty range. With
    /// `default: hash` a range wider than one kind names every group of the hash: an upper bound, since a kind may
    /// begin to exist anywhere in it.
    pub fn owners(&self, range: &KeyRange) -> Vec<GroupName> {
        let mut owners = Vec::new();
        for (part, owner) in self.parts(range) {
            match owner {
                Owner::Group(group) => owners.push(group.clone()),
                Owner::Hash(ring) => match self.hashed(ring, &part) {
                    Some(group) => owners.push(group.clone()),
                    None => owners.extend(ring.groups().cloned()),
                },
            }
        }
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// Cuts `range` into what each group owns: in key order, disjoint, together exactly `range`, neighbours of
    /// different groups; no parts for an empty range. `None` where the table cannot say it: with `default: hash` for
    /// a range wider than one kind. Then ask all of [`Placement::owners`] for the whole range, and merge.
    pub fn partition(&self, range: &KeyRange) -> Option<Vec<(KeyRange, GroupName)>> {
        let mut parts: Vec<(KeyRange, GroupName)> = Vec::new();
        for (part, owner) in self.parts(range) {
            let group = match owner {
                Owner::Group(group) => group,
                Owner::Hash(ring) => self.hashed(ring, &part)?,
            };
            match parts.last_mut() {
                Some((last, same)) if same == group => {
                    *last = KeyRange::new(last.start().clone(), part.end().cloned());
                }
                _ => parts.push((part, group.clone())),
            }
        }
        Some(parts)
    }

    /// The range of keys whose ownership is recorded together with that of `key`, which it contains: everything
    /// under the most specific rule, or under the key's natural kind, or the key alone where a kind could be but is
    /// not; for a key outside the table's prefix everything, since whatever is not recorded more narrowly is home's.
    /// A narrower rule inside takes nothing away from it.
    pub fn unit(&self, key: &[u8]) -> KeyRange {
        let draft = &self.0.draft;
        if let Some(prefix) = draft.rule(key) {
            return KeyRange::prefix(prefix.clone());
        }
        match draft.natural(key) {
            Some(natural) if natural.inside => KeyRange::prefix(Bytes::copy_from_slice(natural.prefix)),
            Some(_) => KeyRange::one(Bytes::copy_from_slice(key)),
            None => KeyRange::ALL,
        }
    }

    /// The prefixes of all rules, ascending.
    pub fn boundaries(&self) -> impl Iterator<Item = &Bytes> {
        self.0.draft.rules.keys()
    }

    /// Rules that probably match no key: for each the kind that it names, and what was probably meant, as a rule's field.
    pub fn doubts(&self) -> impl Iterator<Item = (&str, String)> {
        let prefix = std::str::from_utf8(self.prefix()).unwrap_or("");
        self.boundaries().filter_map(move |rule| {
            let kind = std::str::from_utf8(rule).ok()?.strip_prefix(prefix)?.strip_prefix('/')?;
            let kind = kind.strip_suffix('/')?;
            Some((kind, kinds::meant(kind, prefix)?))
        })
    }

    /// Limits that probably match no request: for each its kind, and which was probably meant.
    pub fn limit_doubts(&self) -> impl Iterator<Item = (&str, String)> {
        let named = |kind: &&String| kind.as_str() != OTHER;
        self.limits().keys().filter(named).filter_map(|kind| {
            let meant = kinds::meant(kind, "")?;
            // what is meant by a rule may be a part of a kind: `prefix: /services/endpoints/`
            let (_, path) = meant.split_once(": ")?;
            let path = path.trim_start_matches('/');
            let kind_of_it = if meant.starts_with("kind") { path } else { path.split('/').next()? };
            Some((kind.as_str(), kind_of_it.to_owned()))
        })
    }

    fn segment(&self, key: &[u8]) -> usize {
        self.0.segments.partition_point(|segment| segment.start[..] <= *key) - 1
    }

    fn parts<'a>(&'a self, range: &KeyRange) -> impl Iterator<Item = (KeyRange, &'a Owner)> {
        let first = if range.is_empty() { self.0.segments.len() } else { self.segment(range.start()) };
        (first..self.0.segments.len())
            .map(move |index| {
                let end = self.0.segments.get(index + 1).map(|next| next.start.clone());
                (KeyRange::new(self.0.segments[index].start.clone(), end), &self.0.segments[index].owner)
            })
            .map(|(segment, owner)| (segment.intersection(range), owner))
            .take_while(|(part, _)| !part.is_empty())
    }

    /// The one group that the hash gives all of `part`, which is not empty.
    fn hashed<'a>(&self, ring: &'a Ring, part: &KeyRange) -> Option<&'a GroupName> {
        natural_of(self.prefix(), part).map(|natural| ring.group(natural.name))
    }
}

impl Draft {
    /// The prefix of the most specific rule that `key` is under.
    fn rule(&self, key: &[u8]) -> Option<&Bytes> {
        let mut bound = key;
        loop {
            // The greatest rule up to `bound`: if it is not a prefix of the key, what is one is also one of what
            // both have in common.
            let (prefix, _) = self
                .rules
                .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(bound)))
                .next_back()?;
            if key.starts_with(prefix) {
                return Some(prefix);
            }
            let common = prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
            bound = &key[..common];
        }
    }

    fn natural<'a>(&self, key: &'a [u8]) -> Option<Natural<'a>> {
        natural(&self.prefix, key)
    }

    /// Lays the claims over each other, the narrower upon the wider. They are nested or disjoint, as prefixes are.
    fn segments(&self) -> Vec<Segment> {
        let kinds = KeyRange::prefix([&self.prefix[..], b"/"].concat().into());
        let mut claims = vec![
            Claim { range: KeyRange::ALL, owner: Owner::Group(self.home.clone()) },
            Claim { range: kinds.clone(), owner: self.default.clone() },
        ];
        for (prefix, group) in &self.rules {
            let owner = Owner::Group(group.clone());
            if let Some(probe) = prefix.strip_suffix(b"/")
                && kinds.contains(probe)
            {
                let range = KeyRange::one(prefix.slice(..probe.len()));
                claims.push(Claim { range, owner: owner.clone() });
            }
            claims.push(Claim { range: KeyRange::prefix(prefix.clone()), owner });
        }
        // The wider first; the sort is stable, so that a rule lies upon a default of the same range.
        claims.sort_by(|a, b| a.range.start().cmp(b.range.start()).then_with(|| above(&a.range, &b.range)));

        let mut segments = Vec::new();
        let mut open: Vec<Claim> = Vec::new();
        for claim in claims {
            close(&mut open, &mut segments, Some(claim.range.start()));
            push(&mut segments, claim.range.start().clone(), &claim.owner);
            open.push(claim);
        }
        close(&mut open, &mut segments, None);
        segments
    }

    fn version(&self) -> u64 {
        let mut text = Vec::new();
        let mut field = |tag: u8, bytes: &[u8]| {
            text.push(tag);
            text.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            text.extend_from_slice(bytes);
        };
        field(b'p', &self.prefix);
        field(b'h', self.home.as_str().as_bytes());
        match &self.default {
            Owner::Group(group) => field(b'd', group.as_str().as_bytes()),
            Owner::Hash(ring) => ring.groups().for_each(|group| field(b'r', group.as_str().as_bytes())),
        }
        for (prefix, group) in &self.rules {
            field(b'k', prefix);
            field(b'g', group.as_str().as_bytes());
        }
        ring::hash(&text)
    }
}

/// Sorts the range with the higher end first.
fn above(a: &KeyRange, b: &KeyRange) -> std::cmp::Ordering {
    match (a.end(), b.end()) {
        (None, None) => std::cmp::Ordering::Equal,
        (None, Some(_)) => std::cmp::Ordering::Less,
        (Some(_), None) => std::cmp::Ordering::Greater,
        (Some(a), Some(b)) => b.cmp(a),
    }
}

/// Ends the claims that end at or before `at`, or at all: what they lay upon comes to light again.
fn close(open: &mut Vec<Claim>, segments: &mut Vec<Segment>, at: Option<&Bytes>) {
    while let Some(end) = open.last().and_then(|claim| claim.range.end().cloned())
        && at.is_none_or(|at| end <= *at)
    {
        open.pop();
        let below = open.last().expect("the claim on all keys never ends");
        push(segments, end, &below.owner);
    }
}

fn push(segments: &mut Vec<Segment>, start: Bytes, owner: &Owner) {
    segments.pop_if(|last| last.start == start);
    if segments.last().is_none_or(|last| last.owner != *owner) {
        segments.push(Segment { start, owner: owner.clone() });
    }
}

impl PlacementErrors {
    /// Each problem, at least one.
    pub fn problems(&self) -> &[PlacementError] {
        &self.0
    }
}

impl fmt::Display for PlacementErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
