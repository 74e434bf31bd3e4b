//! [`check`]: what a careful reader would say of a placement file before it is applied.
//!
//! What is wrong is an error: the file is no placement. What is right and probably not meant is a warning: a rule that
//! matches no key or says what holds without it, a group that nobody reaches or that owns nothing.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;

use super::file::{self, Lines};
use super::{Owner, Placement, TEXT_BYTES_MAX};
use crate::group::GroupName;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Brains and proxies as processes of their own.
    Cluster,
    /// `standalone`, which has all groups inside.
    Standalone,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be applied.
    Error,
    /// It can, and this is probably not meant.
    Warning,
}

/// One thing to be said of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands, from 1.
    pub line: usize,
    /// How much it weighs.
    pub severity: Severity,
    /// What it is, and what would be right.
    pub reason: String,
}

/// Everything that is to be said of a file, by line. Its time grows with the number of rules, not with its square.
pub fn check(text: &str, used: Use) -> Vec<Finding> {
    let error = |line, reason| Finding { line, severity: Severity::Error, reason };
    if text.len() > TEXT_BYTES_MAX {
        let reason = format!("{} bytes are more than a placement may have, {TEXT_BYTES_MAX}", text.len());
        return vec![error(1, reason)];
    }
    let (draft, lines) = match file::read_with_lines(text) {
        Ok(read) => read,
        Err(errors) => {
            return errors.0.into_iter().map(|problem| error(problem.line, problem.reason)).collect();
        }
    };
    let mut reader = Reader { table: Placement::new(draft), lines, found: Vec::new() };
    reader.default();
    reader.groups(used);
    reader.rules();
    reader.limits();
    reader.found.sort_by_key(|finding| finding.line);
    reader.found
}

struct Reader {
    table: Placement,
    lines: Lines,
    found: Vec<Finding>,
}

impl Reader {
    fn warn(&mut self, line: usize, reason: String) {
        self.found.push(Finding { line, severity: Severity::Warning, reason });
    }

    fn default(&mut self) {
        let Some(line) = self.lines.hash_groups else { return };
        if let Owner::Group(group) = &self.table.0.draft.default {
            let reason = format!(
                "hashGroups: has one group, so the hash gives it everything: write `default: {group}`"
            );
            self.warn(line, reason);
        }
    }

    fn groups(&mut self, used: Use) {
        let table = self.table.clone();
        let mut owners: BTreeSet<&GroupName> = BTreeSet::new();
        for segment in &table.0.segments {
            match &segment.owner {
                Owner::Group(group) => drop(owners.insert(group)),
                Owner::Hash(ring) => owners.extend(ring.groups()),
            }
        }
        for (group, brains) in table.groups() {
            let line = self.lines.groups.get(group).copied().unwrap_or(1);
            match used {
                Use::Cluster if brains.is_empty() => self.warn(
                    line,
                    format!("group {group} has no brains: nobody who knows this file alone finds it; name their peer URLs"),
                ),
                Use::Standalone if !brains.is_empty() => self.found.push(Finding {
                    line,
                    severity: Severity::Error,
                    reason: format!("group {group} has brains: standalone has all groups inside, take them out"),
                }),
                Use::Cluster | Use::Standalone => {}
            }
            if !owners.contains(group) {
                self.warn(line, format!("group {group} owns nothing: no rule, default or home leads to it"));
            }
        }
    }

    fn rules(&mut self) {
        let table = self.table.clone();
        let draft = &table.0.draft;
        for (kind, meant) in table.doubts() {
            let rule = [&draft.prefix[..], b"/", kind.as_bytes(), b"/"].concat();
            let line = self.line_of(&rule.into());
            self.warn(line, format!("Kubernetes stores nothing as kind {kind}: is `{meant}` meant?"));
        }
        for (rule, group) in &draft.rules {
            let line = self.line_of(rule);
            let shown = rule.escape_ascii();
            let behind = rule.get(draft.prefix.len()..).unwrap_or_default();
            if behind.windows(2).any(|pair| pair == b"//") {
                self.warn(
                    line,
                    format!("{shown} has two slashes in a row, and Kubernetes stores no such key"),
                );
            }
            if !rule.ends_with(b"/") {
                let reason = format!(
                    "{shown} does not end in a slash, so that everything falls under it that begins so: is `{shown}/` meant?"
                );
                self.warn(line, reason);
            }
            if behind == b"/" {
                self.warn(
                    line,
                    format!("{shown} is the prefix of all kinds: `default` owns nothing beside this rule"),
                );
            }
            let without = rule.len().checked_sub(1).and_then(|end| draft.rule(&rule[..end]));
            let why = match (without, &draft.default) {
                (Some(outer), _) if draft.rules.get(outer) == Some(group) => {
                    format!("the rule for {} on line {}", outer.escape_ascii(), self.line_of(outer))
                }
                (None, Owner::Group(default)) if default == group => {
                    format!("`default` on line {}", self.lines.default)
                }
                _ => continue,
            };
            self.warn(line, format!("{shown} belongs to group {group} without this rule, by {why}"));
        }
    }

    fn limits(&mut self) {
        let table = self.table.clone();
        for (kind, meant) in table.limit_doubts() {
            let line = self.lines.limits.get(kind).copied().unwrap_or(1);
            self.warn(line, limit_doubt(kind, &meant));
        }
    }

    fn line_of(&self, rule: &Bytes) -> usize {
        self.lines.rules.get(rule).copied().unwrap_or(1)
    }
}

/// What is said of a limit that probably matches no key.
pub fn limit_doubt(kind: &str, meant: &str) -> String {
    format!("limits: Kubernetes stores nothing as kind {kind}: is `kind: {meant}` meant?")
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Finding {
    /// As compilers write it, without the name of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, severity, reason } = self;
        write!(f, "{line}: {severity}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, used: Use) -> Vec<String> {
        check(text, used).iter().map(ToString::to_string).collect()
    }

    fn with_rules(rules: &str) -> String {
        format!(
            "home: core\ndefault: core\ngroups: {{ core: {{}}, pods: {{}} }}\nkinds:\n  - {{ kind: pods, group: pods }}\n{rules}"
        )
    }

    #[test]
    fn each_doubt_has_its_line_and_reason() {
        let cases: [(&str, &str, &[&str]); 12] = [
            ("a good one", "", &[]),
            (
                "an unknown kind",
                "  - { kind: pod, group: pods }\n",
                &["6: warning: Kubernetes stores nothing as kind pod: is `kind: pods` meant?"],
            ),
            (
                "a kind with its group",
                "  - { kind: rbac.authorization.k8s.io/roles, group: pods }\n",
                &[
                    "6: warning: Kubernetes stores nothing as kind rbac.authorization.k8s.io/roles: is `kind: roles` meant?",
                ],
            ),
            (
                "what the default says",
                "  - { kind: secrets, group: core }\n",
                &[
                    "6: warning: /registry/secrets/ belongs to group core without this rule, by `default` on line 2",
                ],
            ),
            (
                "what the rule around it says",
                "  - { prefix: /registry/pods/kube-system/, group: pods }\n",
                &[
                    "6: warning: /registry/pods/kube-system/ belongs to group pods without this rule, by the rule for \
                   /registry/pods/ on line 5",
                ],
            ),
            ("another one inside", "  - { prefix: /registry/pods/kube-system/, group: core }\n", &[]),
            (
                "no slash",
                "  - { prefix: /registry/pod, group: pods }\n",
                &[
                    "5: warning: /registry/pods/ belongs to group pods without this rule, by the rule for /registry/pod on line 6",
                    "6: warning: /registry/pod does not end in a slash, so that everything falls under it that begins so: is \
                     `/registry/pod/` meant?",
                ],
            ),
            (
                "two slashes",
                "  - { prefix: /registry//secrets/, group: pods }\n",
                &[
                    "6: warning: /registry//secrets/ has two slashes in a row, and Kubernetes stores no such key",
                ],
            ),
            (
                "all kinds",
                "  - { prefix: /registry/, group: pods }\n",
                &[
                    "5: warning: /registry/pods/ belongs to group pods without this rule, by the rule for /registry/ on line 6",
                    "6: warning: /registry/ is the prefix of all kinds: `default` owns nothing beside this rule",
                ],
            ),
            (
                "limits of what is stored elsewhere",
                "limits:\n  - { kind: event, inFlight: 1 }\n  - { kind: endpoints, inFlight: 1 }\n  - { kind: other, inFlight: 0 }\n",
                &[
                    "7: warning: limits: Kubernetes stores nothing as kind event: is `kind: events` meant?",
                    "8: warning: limits: Kubernetes stores nothing as kind endpoints: is `kind: services` meant?",
                ],
            ),
            (
                "limits that cannot be",
                "limits:\n  - { kind: events, burst: 1 }\n  - { kind: pods }\n  - { kind: pods, writesPerSecond: many, burst: 0 }\n  \
                 - { kind: events, bytesPerSecond: 16mb, inFlight: -1 }\n  - { writesPerSecond: 7, burst: 0, kind: nodes }\n",
                &[
                    "7: error: burst: means something only with writesPerSecond",
                    "8: error: a limit says at least one of writesPerSecond, burst, inFlight, bytesPerSecond",
                    "9: error: writesPerSecond: `many`: a whole number is expected, from 0",
                    "9: error: pods has a limit already on line 8",
                    "10: error: inFlight: `-1`: a whole number is expected, from 0",
                    "10: error: bytesPerSecond: `16mb`: a number of bytes is expected, such as 4096, 500kB or 16MiB",
                    "10: error: events has a limit already on line 7",
                    "11: error: burst: 0 would let nothing through: 1 is the least; writesPerSecond: 0 refuses all",
                ],
            ),
            (
                "a mistake",
                "  - { kind: secrets, group: nobody }\n",
                &["6: error: there is no group `nobody` under groups"],
            ),
        ];
        for (what, rules, wanted) in cases {
            assert_eq!(told(&with_rules(rules), Use::Standalone), wanted, "{what}");
        }
    }

    #[test]
    fn groups_are_reached_and_own_something() {
        let text = "home: a\ndefault: a\ngroups:\n  a: { brains: [http://h:1] }\n  b:\n";
        let idle = "5: warning: group b owns nothing: no rule, default or home leads to it";
        let lost = "5: warning: group b has no brains: nobody who knows this file alone finds it; name their peer URLs";
        assert_eq!(told(text, Use::Cluster), [lost, idle]);
        let inside = "4: error: group a has brains: standalone has all groups inside, take them out";
        assert_eq!(told(text, Use::Standalone), [inside, idle]);

        // All kinds are b's, and what lies outside is a's: c, the default, is left with nothing.
        let text = "home: a\ndefault: c\ngroups: { a: {}, b: {}, c: {} }\nkinds: [{ prefix: /registry/, group: b }]\n";
        let wanted = "3: warning: group c owns nothing: no rule, default or home leads to it";
        assert_eq!(told(text, Use::Standalone)[0], wanted);

        let text = "home: a\ndefault: hash\nhashGroups: [b]\ngroups: { a: {}, b: {} }\n";
        let wanted =
            ["3: warning: hashGroups: has one group, so the hash gives it everything: write `default: b`"];
        assert_eq!(told(text, Use::Standalone), wanted);
        let text = text.replace("[b]", "[a, b]") + "kinds: [{ kind: pods, group: a }]\n";
        assert_eq!(
            told(&text, Use::Standalone),
            [""; 0],
            "a rule that pins what a hash may move is no doubt"
        );
    }

    #[test]
    fn one_mistake_among_ten_thousand_rules_is_named() {
        let mut text = with_rules("");
        for number in 0..10_000 {
            let rule = match number {
                7_777 => "  - { kind: secret, group: pods }\n".to_owned(),
                _ if number % 2 == 0 => format!("  - {{ kind: kind{number}, group: pods }}\n"),
                _ => format!("  - {{ kind: g{number}.example.com/widgets, group: pods }}\n"),
            };
            text.push_str(&rule);
        }
        let wanted = ["7783: warning: Kubernetes stores nothing as kind secret: is `kind: secrets` meant?"];
        assert_eq!(told(&text, Use::Standalone), wanted);
        let wrong = text.replacen("kind: kind5000, group: pods", "kind: kind5000, group: pod", 1);
        assert_eq!(told(&wrong, Use::Standalone), ["5006: error: there is no group `pod` under groups"]);
        let large = text + &"# filler\n".repeat(TEXT_BYTES_MAX / 9);
        let told = told(&large, Use::Standalone);
        assert!(told[0].starts_with("1: error: ") && told[0].ends_with(" 1048576"), "{told:?}");
    }
}
