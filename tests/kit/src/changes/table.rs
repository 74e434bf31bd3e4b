//! [`Table`]: a placement of this test, and the next one by chance.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

/// Whose kinds are written. The first two always have keys and stay; the last one lies inside of the first.
pub(super) const KINDS: [&str; 6] = ["busy", "events", "m0", "m1", "example.com/m2", "busy/inner"];
/// Those that move, while they have no keys.
const MOVERS: [&str; 4] = ["m0", "m1", "example.com/m2", "busy/inner"];

/// Who owns which kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    /// Of those without a rule it is the default's, and of the inner one its outer kind's.
    rules: BTreeMap<&'static str, &'static str>,
    default: &'static str,
    /// The group that comes and goes.
    has_d: bool,
}

impl Table {
    pub(super) fn first() -> Self {
        Self { rules: [("busy", "core"), ("events", "a"), ("m0", "b")].into(), default: "core", has_d: false }
    }

    pub(super) fn names(&self, group: &str) -> bool {
        group != "d" || self.has_d
    }

    fn owner(&self, kind: &str) -> &'static str {
        let outer =
            kind.split_once('/').filter(|(outer, _)| *outer == "busy").map_or(kind, |(outer, _)| outer);
        self.rules.get(kind).or_else(|| self.rules.get(outer)).copied().unwrap_or(self.default)
    }

    /// True if its keys would be another group's.
    pub(super) fn moves(&self, next: &Self, kind: &str) -> bool {
        self.owner(kind) != next.owner(kind)
    }

    /// Another one, in which only those move that may be emptied.
    pub(super) fn change(&self, random: &mut SmallRng) -> Self {
        loop {
            let mut next = self.clone();
            match random.random_range(0..10) {
                0 => next.has_d = !next.has_d,
                1 => next.default = ["core", "a", "b"].choose(random).expect("some"),
                2..4 => drop(next.rules.remove(MOVERS.choose(random).expect("some"))),
                _ => {
                    let to = ["core", "a", "b", "d"].choose(random).expect("some");
                    next.rules.insert(MOVERS.choose(random).expect("some"), to);
                }
            }
            let known = next.has_d || !next.rules.values().any(|group| *group == "d");
            let stays =
                KINDS.iter().filter(|kind| !MOVERS.contains(kind)).all(|kind| !self.moves(&next, kind));
            if next != *self && known && stays {
                return next;
            }
        }
    }

    pub(super) fn text(&self, at: &dyn Fn(&str) -> String) -> String {
        let mut names = vec!["core", "a", "b"];
        names.extend(self.has_d.then_some("d"));
        let groups: String = names.iter().map(|name| format!("  {name}: {}\n", at(name))).collect();
        let rule = |(kind, group): (&&str, &&str)| match kind.split_once('/') {
            Some(("busy", _)) => format!("  - {{ prefix: /registry/{kind}/, group: {group} }}\n"),
            _ => format!("  - {{ kind: {kind}, group: {group} }}\n"),
        };
        let rules: String = self.rules.iter().map(rule).collect();
        format!("home: core\ndefault: {}\ngroups:\n{groups}kinds:\n{rules}", self.default)
    }
}
