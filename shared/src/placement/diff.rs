//! [`Difference`]: what changes for whom when one placement takes the place of another.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;

use super::{Draft, Limit, Owner, Placement};

/// How many changes stand in the one line; the rest is counted.
const IN_A_LINE: usize = 8;

/// One thing that changes. Its `Display` is a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What all kinds begin with.
    Prefix {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// Who owns what lies outside the kinds.
    Home {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// Who owns the kinds without a rule: a group, or `hash of a, b`.
    Default {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// A group that is new.
    Added {
        /// Its name.
        group: String,
        /// Its peer URLs.
        brains: Vec<String>,
    },
    /// A group that is gone.
    Removed {
        /// Its name.
        group: String,
    },
    /// A group's brains are elsewhere.
    Brains {
        /// Its name.
        group: String,
        /// Before.
        from: Vec<String>,
        /// After.
        to: Vec<String>,
    },
    /// Keys go from group to group.
    Moved {
        /// `kind pods`, `prefix /registry/services/endpoints/`.
        unit: String,
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// A rule comes or goes, and its keys stay where they are.
    Stays {
        /// As of [`Change::Moved`].
        unit: String,
        /// Whose they are.
        group: String,
        /// True if there is a rule now and was none.
        has_rule: bool,
    },
    /// How much of a kind is taken on.
    Limited {
        /// The kind.
        kind: String,
        /// Before.
        from: Limit,
        /// After.
        to: Limit,
    },
}

/// All that changes. Its `Display` is one line; empty where both mean the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference(Vec<Change>);

impl Placement {
    /// What changes for whom when `next` takes this one's place.
    pub fn difference(&self, next: &Self) -> Difference {
        let (mine, other) = (&self.0.draft, &next.0.draft);
        let mut changes = Vec::new();
        let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
        if mine.prefix != other.prefix {
            changes.push(Change::Prefix { from: text(&mine.prefix), to: text(&other.prefix) });
        }
        if mine.home != other.home {
            changes.push(Change::Home { from: mine.home.to_string(), to: other.home.to_string() });
        }
        if mine.default != other.default {
            changes.push(Change::Default { from: mine.default.to_string(), to: other.default.to_string() });
        }
        for (name, brains) in &other.groups {
            let group = name.to_string();
            match mine.groups.get(name) {
                None => changes.push(Change::Added { group, brains: brains.clone() }),
                Some(before) if before != brains => {
                    changes.push(Change::Brains { group, from: before.clone(), to: brains.clone() });
                }
                Some(_) => {}
            }
        }
        let gone = mine.groups.keys().filter(|group| !other.groups.contains_key(*group));
        changes.extend(gone.map(|group| Change::Removed { group: group.to_string() }));
        let rules: BTreeSet<&Bytes> = mine.rules.keys().chain(other.rules.keys()).collect();
        for rule in rules {
            let (had, has) = (mine.rules.contains_key(rule), other.rules.contains_key(rule));
            let (from, to) = (self.under(rule), next.under(rule));
            let unit = next.prefix_name(rule);
            if from != to {
                changes.push(Change::Moved { unit, from, to });
            } else if had != has {
                changes.push(Change::Stays { unit, group: to, has_rule: has });
            }
        }
        let limited: BTreeSet<&String> = mine.limits.keys().chain(other.limits.keys()).collect();
        for kind in limited {
            let of = |draft: &Draft| draft.limits.get(kind).copied().unwrap_or_default();
            let (from, to) = (of(mine), of(other));
            if from != to {
                changes.push(Change::Limited { kind: kind.clone(), from, to });
            }
        }
        Difference(changes)
    }

    /// Who owns what begins so and has no narrower rule.
    fn under(&self, prefix: &Bytes) -> String {
        let draft = &self.0.draft;
        let is_of_a_kind = || draft.natural(prefix).is_some_and(|natural| natural.inside);
        match (draft.rule(prefix), &draft.default) {
            (None, Owner::Hash(_)) if draft.natural(prefix).is_some() && !is_of_a_kind() => {
                draft.default.to_string()
            }
            _ => self.owner(prefix).to_string(),
        }
    }
}

impl Difference {
    /// Each change: of the whole first, then groups, then units, by name.
    pub fn changes(&self) -> &[Change] {
        &self.0
    }

    /// True if both mean the same.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(f, "{group}"),
            Self::Hash(ring) => {
                let groups: Vec<_> = ring.groups().map(crate::group::GroupName::as_str).collect();
                write!(f, "hash of {}", groups.join(", "))
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |brains: &[String]| match brains {
            [] => "no brains".to_owned(),
            brains => brains.join(", "),
        };
        match self {
            Self::Prefix { from, to } => write!(f, "prefix of all kinds: from {from:?} to {to:?}"),
            Self::Home { from, to } => write!(f, "home: from {from} to {to}"),
            Self::Default { from, to } => write!(f, "default: from {from} to {to}"),
            Self::Added { group, brains } => write!(f, "group {group}: new, with {}", listed(brains)),
            Self::Removed { group } => write!(f, "group {group}: gone"),
            Self::Brains { group, from, to } => {
                write!(f, "brains of group {group}: from {} to {}", listed(from), listed(to))
            }
            Self::Moved { unit, from, to } => write!(f, "{unit}: from {from} to {to}"),
            Self::Stays { unit, group, has_rule: true } => {
                write!(f, "{unit}: has a rule of its own, and stays in {group}")
            }
            Self::Stays { unit, group, has_rule: false } => {
                write!(f, "{unit}: has no rule of its own, and stays in {group}")
            }
            Self::Limited { kind, from, to } => write!(f, "limit of kind {kind}: from {from} to {to}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no difference");
        }
        for (index, change) in self.0.iter().take(IN_A_LINE).enumerate() {
            write!(f, "{}{change}", if index == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(IN_A_LINE) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "home: a\ndefault: a\ngroups: { a: { brains: [http://h:1] }, b: {} }\nkinds:\n  \
                          - { kind: pods, group: b }\n";

    fn told(before: &str, after: &str) -> Vec<String> {
        let read = |text| Placement::parse(text).expect("a placement");
        read(before).difference(&read(after)).changes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_changes_is_said_by_unit() {
        let with = |from: &str, to: &str| BEFORE.replace(from, to);
        let cases: [(String, &[&str]); 13] = [
            (BEFORE.replace("default: a", "default:   a # as ever"), &[]),
            (with("kind: pods, group: b", "kind: pods, group: a"), &["kind pods: from b to a"]),
            (with("kind: pods,", "kind: events,"), &["kind events: from a to b", "kind pods: from b to a"]),
            (
                with("kind: pods,", "prefix: /registry/pods/,")
                    + "  - { prefix: /registry/pods/x/, group: a }\n",
                &["prefix /registry/pods/x/: from b to a"],
            ),
            (
                BEFORE.to_owned() + "  - { kind: secrets, group: a }\n",
                &["kind secrets: has a rule of its own, and stays in a"],
            ),
            (with("default: a", "default: b"), &["default: from a to b"]),
            (
                BEFORE.to_owned() + "limits: [{ kind: events, writesPerSecond: 20, bytesPerSecond: 1KiB }]\n",
                &["limit of kind events: from no limit to writesPerSecond 20, bytesPerSecond 1024"],
            ),
            (with("home: a", "home: b"), &["home: from a to b"]),
            (with("default: a", "default: hash\nhashGroups: [a, b]"), &["default: from a to hash of a, b"]),
            (with("b: {}", "b: {}, c: {}"), &["group c: new, with no brains"]),
            (
                with("http://h:1", "http://h:1, http://i:1"),
                &["brains of group a: from http://h:1 to http://h:1, http://i:1"],
            ),
            (
                "home: a\ndefault: a\ngroups: { a: { brains: [http://h:1] } }\n".to_owned(),
                &["group b: gone", "kind pods: from b to a"],
            ),
            (
                "prefix: /r\n".to_owned() + &with("kind: pods,", "kind: pods,"),
                &[
                    "prefix of all kinds: from \"/registry\" to \"/r\"",
                    "kind pods: from a to b",
                    "prefix /registry/pods/: from b to a",
                ],
            ),
        ];
        for (after, wanted) in &cases {
            assert_eq!(told(BEFORE, after), *wanted, "{after}");
        }
    }

    #[test]
    fn a_rule_that_goes_leaves_its_keys_to_what_lies_around_it() {
        let hashed = "home: a\ndefault: hash\nhashGroups: [a, b]\ngroups: { a: {}, b: {} }\n";
        let table = Placement::parse(hashed).expect("a placement");
        let group = table.owner(b"/registry/pods/x").to_string();
        let pinned = format!("{hashed}kinds: [{{ kind: pods, group: {group} }}]\n");
        assert_eq!(
            told(&pinned, hashed),
            [format!("kind pods: has no rule of its own, and stays in {group}")]
        );
        let all = format!("{hashed}kinds: [{{ prefix: /registry/, group: a }}]\n");
        assert_eq!(told(&all, hashed), ["prefix /registry/: from a to hash of a, b"]);
    }

    #[test]
    fn one_line_has_the_first_changes_and_counts_the_rest() {
        let read = |text: &str| Placement::parse(text).expect("a placement");
        let before = read(BEFORE);
        assert_eq!(before.difference(&before).to_string(), "no difference");
        let rules: String = (0..20).map(|n| format!("  - {{ kind: kind{n:02}, group: b }}\n")).collect();
        let line = before.difference(&read(&(BEFORE.to_owned() + &rules))).to_string();
        assert!(line.starts_with("kind kind00: from a to b; kind kind01: from a to b; "), "{line}");
        assert!(line.ends_with("kind kind07: from a to b; and 12 more") && !line.contains('\n'), "{line}");
    }
}
