//! What one placement gives up that another one has: what a group has to let go of when the one takes the other's place.

use super::{Owner, Placement};
use crate::group::GroupName;
use crate::range::KeyRange;

impl Placement {
    /// True if a key of `range` may be the group's by this one and somebody else's by `next`. With `default: hash` a range
    /// wider than one kind is judged by the groups of the hash: it may be true for a key that nobody has.
    pub fn loses(&self, next: &Self, group: &GroupName, range: &KeyRange) -> bool {
        if let Some(key) = range.as_one() {
            return self.owner(key) == group && next.owner(key) != group;
        }
        self.parts(range).any(|(part, owner)| {
            self.may_own(owner, &part, group)
                && next.parts(&part).any(|(piece, then)| {
                    let same = owner == then && self.prefix() == next.prefix();
                    let stays = same && matches!(owner, Owner::Hash(_));
                    !stays && !next.surely_owns(then, &piece, group)
                })
        })
    }

    /// True if it gives all keys to the same groups as `other`.
    pub fn owns_alike(&self, other: &Self) -> bool {
        self.version() == other.version()
    }

    fn may_own(&self, owner: &Owner, part: &KeyRange, group: &GroupName) -> bool {
        match owner {
            Owner::Group(name) => name == group,
            Owner::Hash(ring) => match self.hashed(ring, part) {
                Some(name) => name == group,
                None => ring.groups().any(|name| name == group),
            },
        }
    }

    fn surely_owns(&self, owner: &Owner, part: &KeyRange, group: &GroupName) -> bool {
        match owner {
            Owner::Group(name) => name == group,
            Owner::Hash(ring) => match self.hashed(ring, part) {
                Some(name) => name == group,
                None => ring.groups().all(|name| name == group),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(default: &str, rules: &[(&str, &str)]) -> Placement {
        let rules: Vec<_> = rules
            .iter()
            .map(|(prefix, group)| format!("  - {{ prefix: {prefix}, group: {group} }}\n"))
            .collect();
        let rules = if rules.is_empty() { String::new() } else { format!("kinds:\n{}", rules.concat()) };
        Placement::parse(&format!("home: a\n{default}\ngroups: {{ a: {{}}, b: {{}}, c: {{}} }}\n{rules}"))
            .expect("a placement")
    }

    #[test]
    fn what_a_group_loses_is_what_is_its_own_before_and_not_after() {
        let name = |name| GroupName::parse(name).expect("a name");
        let all = KeyRange::ALL;
        let before = table("default: a", &[("/registry/pods/", "b")]);
        let nested = table("default: a", &[("/registry/pods/", "b"), ("/registry/pods/x/", "a")]);
        let moved = table("default: a", &[("/registry/pods/", "c")]);
        for (old, new, losers) in [
            (&before, &before, ""),
            (&before, &nested, "b"),
            (&nested, &before, "a"),
            (&before, &moved, "b"),
            (&before, &table("default: c", &[("/registry/pods/", "b")]), "a"),
            (
                &table("default: hash\nhashGroups: [b, c]", &[]),
                &table("default: hash\nhashGroups: [b, c]", &[]),
                "",
            ),
            (
                &table("default: hash\nhashGroups: [b, c]", &[]),
                &table("default: hash\nhashGroups: [c]", &[]),
                "b",
            ),
            (&table("default: hash\nhashGroups: [b, c]", &[]), &table("default: a", &[]), "bc"),
            (&table("default: a", &[]), &table("default: hash\nhashGroups: [b, c]", &[]), "a"),
        ] {
            let found: String =
                ["a", "b", "c"].into_iter().filter(|group| old.loses(new, &name(group), &all)).collect();
            assert_eq!(found, losers, "{old:?}\n{new:?}");
        }
        let within = |prefix: &'static str| KeyRange::prefix(prefix.as_bytes().into());
        assert!(before.loses(&nested, &name("b"), &within("/registry/pods/x/y")));
        assert!(!before.loses(&nested, &name("b"), &within("/registry/pods/y/")));
        assert!(before.loses(&nested, &name("b"), &KeyRange::one("/registry/pods/x/y".into())));
        assert!(before.loses(&nested, &name("b"), &within("/registry/")));
        assert!(!before.loses(&nested, &name("a"), &within("/registry/")));
    }
}
