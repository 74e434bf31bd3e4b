//! [`Whose`]: why a key is whose it is.

use std::fmt;

use super::{Owner, Placement};
use crate::group::GroupName;

/// What in a placement gives a key to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The rule for everything that begins so.
    Rule(String),
    /// `default`, for the kinds without a rule.
    Default,
    /// `default: hash`, by this kind's name.
    Hash(String),
    /// `home`, for what lies outside the prefix of the kinds.
    Home,
}

impl Placement {
    /// Why [`Placement::owner`] owns the key.
    pub fn whose(&self, key: &[u8]) -> Whose {
        let draft = &self.0.draft;
        let inside = key.strip_prefix(&draft.prefix[..]).is_some_and(|rest| rest.starts_with(b"/"));
        // The key that names a rule's prefix without its slash is the rule's too.
        let probe = [key, b"/"].concat();
        let named = inside.then(|| draft.rules.get_key_value(&probe[..]).map(|(rule, _)| rule)).flatten();
        if let Some(rule) = named.or_else(|| draft.rule(key)) {
            return Whose::Rule(rule.escape_ascii().to_string());
        }
        match (draft.natural(key), &draft.default) {
            (None, _) => Whose::Home,
            (Some(_), Owner::Group(_)) => Whose::Default,
            (Some(natural), Owner::Hash(_)) => Whose::Hash(natural.name.escape_ascii().to_string()),
        }
    }

    /// The groups of the kinds without a rule: one, or all among which a hash chooses.
    pub fn defaults(&self) -> Vec<&GroupName> {
        match &self.0.draft.default {
            Owner::Group(group) => vec![group],
            Owner::Hash(ring) => ring.groups().collect(),
        }
    }

    /// What ownership of the key is recorded by, for people: `kind pods`, `prefix /registry/services/endpoints/`.
    pub fn unit_name(&self, key: &[u8]) -> String {
        let unit = self.unit(key);
        match unit.as_one() {
            Some(key) => format!("key {}", key.escape_ascii()),
            None if unit.end().is_none() => format!("everything outside {}/", self.prefix().escape_ascii()),
            None => self.prefix_name(unit.start()),
        }
    }

    /// What begins so, for people.
    pub(super) fn prefix_name(&self, prefix: &[u8]) -> String {
        match self.0.draft.natural(prefix) {
            Some(natural) if natural.inside && natural.prefix == prefix => {
                format!("kind {}", natural.name.escape_ascii())
            }
            _ => format!("prefix {}", prefix.escape_ascii()),
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(prefix) => write!(f, "the rule for {prefix}"),
            Self::Default => f.write_str("default, which has the kinds without a rule"),
            Self::Hash(kind) => write!(f, "the hash of kind {kind}, as default says"),
            Self::Home => f.write_str("home, which has what lies outside the kinds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_reason_and_a_unit() {
        let text = "home: a\ndefault: b\ngroups: { a: {}, b: {}, c: {} }\nkinds:\n  - { kind: pods, group: c }\n  \
                    - { prefix: /registry/pods/x/, group: a }\n";
        let table = Placement::parse(text).expect("a placement");
        for (key, owner, whose, unit) in [
            ("/registry/pods/ns/a", "c", "the rule for /registry/pods/", "kind pods"),
            ("/registry/pods", "c", "the rule for /registry/pods/", "key /registry/pods"),
            ("/registry/pods/x/a", "a", "the rule for /registry/pods/x/", "prefix /registry/pods/x/"),
            ("/registry/secrets/a", "b", "default, which has the kinds without a rule", "kind secrets"),
            (
                "compact_rev_key",
                "a",
                "home, which has what lies outside the kinds",
                "everything outside /registry/",
            ),
        ] {
            assert_eq!(table.owner(key.as_bytes()).as_str(), owner, "{key}");
            assert_eq!(table.whose(key.as_bytes()).to_string(), whose, "{key}");
            assert_eq!(table.unit_name(key.as_bytes()), unit, "{key}");
        }
        let hashed = "home: a\ndefault: hash\nhashGroups: [a, b]\ngroups: { a: {}, b: {} }\n";
        let hashed = Placement::parse(hashed).expect("a placement");
        assert_eq!(
            hashed.whose(b"/registry/example.com/widgets/a"),
            Whose::Hash("example.com/widgets".to_owned())
        );
    }
}
