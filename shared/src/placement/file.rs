//! Reads the placement file: everything that is wrong goes into one report.
//!
//! ```yaml
//! prefix: /registry            # of all kinds, /registry unless said; may be ""
//! home: core                   # owns the keys outside the prefix
//! default: core                # owns the kinds without a rule; or `hash`, over:
//! hashGroups: [core, pods-0]
//! groups:
//!   core: { brains: [https://10.0.0.1:2380] }  # peer URLs; none where the brains run inside
//!   pods-0: {}
//! kinds:
//!   - { kind: pods, group: pods-0 }                               # <prefix>/pods/
//!   - { kind: example.com/widgets, group: core }                  # <prefix>/example.com/widgets/
//!   - { prefix: /registry/services/endpoints/, group: core }      # as it is
//! limits:
//!   - { kind: events, writesPerSecond: 2000, burst: 4000, inFlight: 64, bytesPerSecond: 16MiB }
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use super::limits::{self, Limit, Limits};
use super::ring::Ring;
use super::spelling::{check_kind, url};
use super::yaml::{self, Kind, Node};
use super::{Draft, Owner, PlacementError, PlacementErrors};
use crate::group::GroupName;

/// The fields of the file, of a group and of a rule, in the order in which they are read; docs/placement.md has them all.
pub(super) const PLACEMENT: [&str; 7] =
    ["prefix", "home", "default", "hashGroups", "groups", "kinds", "limits"];
pub(super) const GROUP: [&str; 1] = ["brains"];
pub(super) const RULE: [&str; 4] = ["kind", "prefix", "group", "split"];
pub(super) const LIMIT: [&str; 5] = ["kind", "writesPerSecond", "burst", "inFlight", "bytesPerSecond"];

/// Names the default that is no group.
const HASH: &str = "hash";

/// Reads and checks.
///
/// # Errors
/// Everything that is wrong, by line.
pub(super) fn read(text: &str) -> Result<Draft, PlacementErrors> {
    read_with_lines(text).map(|(draft, _)| draft)
}

/// The same, with the lines that say it.
///
/// # Errors
/// As [`read`].
pub(super) fn read_with_lines(text: &str) -> Result<(Draft, Lines), PlacementErrors> {
    let document = yaml::read(text).map_err(|error| PlacementErrors(vec![error]))?;
    let mut report = Report::default();
    let draft = report.draft(&document);
    report.problems.sort_by_key(|problem| problem.line);
    match draft {
        Some(draft) if report.problems.is_empty() => Ok((draft, report.lines)),
        _ => Err(PlacementErrors(report.problems)),
    }
}

/// Where things stand in a file, from 1.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) default: usize,
    /// Of `hashGroups`, where there is one.
    pub(super) hash_groups: Option<usize>,
    pub(super) groups: BTreeMap<GroupName, usize>,
    /// By the rule's prefix.
    pub(super) rules: BTreeMap<Bytes, usize>,
    /// By the kind.
    pub(super) limits: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Report {
    problems: Vec<PlacementError>,
    lines: Lines,
}

/// The fields of a mapping by name, each with its value.
struct Fields<'a, const N: usize> {
    line: usize,
    values: [Option<&'a Node>; N],
}

/// A group and where it is written.
struct Written {
    line: usize,
    brains: Vec<String>,
}

impl Report {
    fn add(&mut self, line: usize, reason: impl Into<String>) {
        self.problems.push(PlacementError { line, reason: reason.into() });
    }

    /// `None` only if something was reported.
    fn draft(&mut self, document: &Node) -> Option<Draft> {
        let fields = self.fields(document, "a placement", PLACEMENT)?;
        let [prefix, home, default, hash_groups, groups, kinds, limits] = fields.values;

        let groups = self.groups(fields.line, groups);
        let prefix = self.prefix(prefix);
        let home = self.required(fields.line, "home", home).and_then(|node| self.group(node, &groups));
        let default = self.default_owner(fields.line, default, hash_groups, &groups);
        let rules = self.rules(kinds, prefix.as_deref(), &groups);
        let limits = self.limits(limits);
        self.lines.groups = groups.iter().map(|(name, written)| (name.clone(), written.line)).collect();
        let groups = groups.into_iter().map(|(name, written)| (name, written.brains)).collect();
        Some(Draft { prefix: prefix?.into(), home: home?, default: default?, groups, rules, limits })
    }

    fn groups(&mut self, line: usize, node: Option<&Node>) -> BTreeMap<GroupName, Written> {
        let mut groups = BTreeMap::new();
        let mut urls = BTreeMap::new();
        let Some(node) = self.required(line, "groups", node) else { return groups };
        let Kind::Mapping(fields) = &node.kind else {
            self.add(node.line, "groups: a name and a colon for each group is expected");
            return groups;
        };
        if fields.is_empty() {
            self.add(node.line, "groups: at least one is needed");
        }
        for (key, value) in fields {
            let brains = self.brains(value, &mut urls);
            let Some(text) = self.text(key, "the name of a group") else { continue };
            let name = match GroupName::parse(text) {
                Some(name) if text != HASH => name,
                Some(_) => {
                    self.add(key.line, "a group cannot be named hash: `default: hash` means something else");
                    continue;
                }
                None => {
                    self.add(
                        key.line,
                        format!("`{text}` is not the name of a group: 1 to 63 of a-z, 0-9 and -"),
                    );
                    continue;
                }
            };
            match groups.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(Written { line: key.line, brains });
                }
                Entry::Occupied(entry) => {
                    let first: &Written = entry.get();
                    self.add(key.line, format!("group {text} stands already on line {}", first.line));
                }
            }
        }
        groups
    }

    fn brains(&mut self, group: &Node, urls: &mut BTreeMap<String, usize>) -> Vec<String> {
        if matches!(group.kind, Kind::Null) {
            return Vec::new();
        }
        let Some(Fields { values: [Some(brains)], .. }) = self.fields(group, "a group", GROUP) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for node in self.items(brains, "brains") {
            let Some(text) = self.text(node, "the URL of a brain") else { continue };
            match url(text) {
                Ok(url) => match urls.insert(url.clone(), node.line) {
                    None => found.push(url),
                    Some(line) => self.add(node.line, format!("brain {url} stands already on line {line}")),
                },
                Err(reason) => self.add(node.line, format!("`{text}` is not the URL of a brain: {reason}")),
            }
        }
        found
    }

    /// Without the slash at its end.
    fn prefix(&mut self, node: Option<&Node>) -> Option<String> {
        let Some(node) = node else { return Some("/registry".into()) };
        let text = match &node.kind {
            Kind::Null => "",
            _ => self.text(node, "prefix")?,
        };
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        if !trimmed.is_empty() && !trimmed.starts_with('/') {
            self.add(node.line, format!("prefix: `{text}` does not begin with a slash"));
            return None;
        }
        Some(trimmed.into())
    }

    fn default_owner(
        &mut self,
        line: usize,
        default: Option<&Node>,
        hash_groups: Option<&Node>,
        groups: &BTreeMap<GroupName, Written>,
    ) -> Option<Owner> {
        let default = self.required(line, "default", default);
        self.lines.default = default.map_or(line, |node| node.line);
        self.lines.hash_groups = hash_groups.map(|node| node.line);
        let hashed = matches!(default.map(|node| &node.kind), Some(Kind::Scalar(text)) if text == HASH);
        match hash_groups {
            Some(node) if hashed => {
                let mut members: Vec<GroupName> = Vec::new();
                for item in self.items(node, "hashGroups") {
                    match self.group(item, groups) {
                        Some(group) if members.contains(&group) => {
                            self.add(item.line, format!("hashGroups: {group} is named twice"));
                        }
                        group => members.extend(group),
                    }
                }
                match &members[..] {
                    [] => {
                        self.add(node.line, "hashGroups: at least one group is needed");
                        None
                    }
                    [group] => Some(Owner::Group(group.clone())),
                    _ => Some(Owner::Hash(Ring::new(members))),
                }
            }
            Some(node) => {
                self.add(node.line, "hashGroups: means something only with `default: hash`");
                None
            }
            None if hashed => {
                self.add(default?.line, "default: hash needs hashGroups, the groups to choose from");
                None
            }
            None => self.group(default?, groups).map(Owner::Group),
        }
    }

    fn rules(
        &mut self,
        node: Option<&Node>,
        prefix: Option<&str>,
        groups: &BTreeMap<GroupName, Written>,
    ) -> BTreeMap<Bytes, GroupName> {
        let mut rules = BTreeMap::new();
        let mut lines: BTreeMap<Bytes, usize> = BTreeMap::new();
        let Some(node) = node.filter(|node| !matches!(node.kind, Kind::Null)) else { return rules };
        for item in self.items(node, "kinds") {
            let Some(fields) = self.fields(item, "a rule", RULE) else {
                continue;
            };
            let [kind, raw, group, split] = fields.values;
            if let Some(split) = split {
                self.add(
                    split.line,
                    "split: kinds that are split over groups are not built yet; name one group",
                );
            }
            let group = match group {
                Some(group) => self.group(group, groups),
                None if split.is_some() => None,
                None => self.required(fields.line, "group", None).and(None),
            };
            let Some((line, rule)) = self.rule_prefix(fields.line, kind, raw, prefix) else { continue };
            let key = Bytes::from(rule);
            match lines.entry(key.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(line);
                }
                Entry::Occupied(entry) => {
                    let rule = key.escape_ascii();
                    self.add(line, format!("{rule} has a rule already on line {}", entry.get()));
                    continue;
                }
            }
            if let Some(group) = group {
                rules.insert(key, group);
            }
        }
        self.lines.rules = lines;
        rules
    }

    /// What a rule's keys begin with, and the line that says it; `None` only if something was reported.
    fn rule_prefix(
        &mut self,
        line: usize,
        kind: Option<&Node>,
        raw: Option<&Node>,
        prefix: Option<&str>,
    ) -> Option<(usize, String)> {
        match (kind, raw) {
            (Some(node), None) => {
                let text = self.text(node, "kind")?;
                match check_kind(text) {
                    Ok(()) => Some((node.line, format!("{}/{text}/", prefix?))),
                    Err(reason) => {
                        self.add(node.line, format!("kind: `{text}` {reason}"));
                        None
                    }
                }
            }
            (None, Some(node)) => {
                let text = match &node.kind {
                    Kind::Null => "",
                    _ => self.text(node, "prefix")?,
                };
                let under = prefix?;
                if text.is_empty() {
                    self.add(node.line, "prefix: is empty; what has no rule belongs to `default` and `home`");
                    return None;
                }
                if !under.is_empty() && !text.strip_prefix(under).is_some_and(|rest| rest.starts_with('/')) {
                    self.add(
                        node.line,
                        format!("prefix: {text} does not begin with {under}/, the table's prefix"),
                    );
                    return None;
                }
                Some((node.line, text.into()))
            }
            (Some(_), Some(node)) => {
                self.add(node.line, "a rule has a kind or a prefix, not both");
                None
            }
            (None, None) => {
                self.add(line, "a rule needs a kind or a prefix");
                None
            }
        }
    }

    fn limits(&mut self, node: Option<&Node>) -> Limits {
        let mut limits = Limits::new();
        let Some(node) = node.filter(|node| !matches!(node.kind, Kind::Null)) else { return limits };
        for item in self.items(node, "limits") {
            let Some(fields) = self.fields(item, "a limit", LIMIT) else { continue };
            let [kind, writes, burst, in_flight, bytes] = fields.values;
            let line = kind.map_or(fields.line, |kind| kind.line);
            let kind = self.required(fields.line, "kind", kind).and_then(|node| self.limited(node));
            let limit = Limit {
                writes_per_second: self.number("writesPerSecond", writes, decimal),
                burst: self.number("burst", burst, decimal),
                in_flight: self.number("inFlight", in_flight, decimal),
                bytes_per_second: self.number("bytesPerSecond", bytes, limits::bytes),
            };
            if limit == Limit::default() && [writes, burst, in_flight, bytes].iter().all(Option::is_none) {
                self.add(line, format!("a limit says at least one of {}", LIMIT[1..].join(", ")));
            }
            match (burst, limit.burst, limit.writes_per_second) {
                (Some(node), Some(0), Some(1..)) => {
                    self.add(
                        node.line,
                        "burst: 0 would let nothing through: 1 is the least; writesPerSecond: 0 refuses all",
                    );
                }
                (Some(node), Some(_), None) if writes.is_none() => {
                    self.add(node.line, "burst: means something only with writesPerSecond");
                }
                _ => {}
            }
            let Some(kind) = kind else { continue };
            if let Some(first) = self.lines.limits.get(&kind) {
                let reason = format!("{kind} has a limit already on line {first}");
                self.add(line, reason);
                continue;
            }
            self.lines.limits.insert(kind.clone(), line);
            limits.insert(kind, limit);
        }
        limits
    }

    /// The kind that a limit is for.
    fn limited(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "kind")?;
        match check_kind(text) {
            Ok(()) => Some(text.to_owned()),
            Err(reason) => {
                self.add(node.line, format!("kind: `{text}` {reason}"));
                None
            }
        }
    }

    fn number(
        &mut self,
        name: &str,
        node: Option<&Node>,
        read: impl Fn(&str) -> Result<u64, &'static str>,
    ) -> Option<u64> {
        let node = node?;
        let text = self.text(node, name)?;
        let number = read(text);
        if let Err(reason) = &number {
            self.add(node.line, format!("{name}: `{text}`: {reason}"));
        }
        number.ok()
    }

    fn group(&mut self, node: &Node, groups: &BTreeMap<GroupName, Written>) -> Option<GroupName> {
        let text = self.text(node, "the name of a group")?;
        let group = GroupName::parse(text).filter(|name| groups.contains_key(name));
        if group.is_none() {
            self.add(node.line, format!("there is no group `{text}` under groups"));
        }
        group
    }

    fn fields<'a, const N: usize>(
        &mut self,
        node: &'a Node,
        what: &str,
        names: [&str; N],
    ) -> Option<Fields<'a, N>> {
        let Kind::Mapping(written) = &node.kind else {
            self.add(node.line, format!("{what} has fields: {}", names.join(", ")));
            return None;
        };
        let mut values = [None; N];
        for (key, value) in written {
            let Some(text) = self.text(key, "the name of a field") else { continue };
            match names.iter().position(|name| *name == text) {
                Some(index) if values[index].is_some() => {
                    self.add(key.line, format!("{text}: is here twice"))
                }
                Some(index) => values[index] = Some(value),
                None => {
                    self.add(key.line, format!("`{text}` is not a field of {what}: {}", names.join(", ")))
                }
            }
        }
        Some(Fields { line: node.line, values })
    }

    fn items<'a>(&mut self, node: &'a Node, what: &str) -> &'a [Node] {
        match &node.kind {
            Kind::Sequence(items) => items,
            _ => {
                self.add(node.line, format!("{what}: a list is expected"));
                &[]
            }
        }
    }

    fn text<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a str> {
        match &node.kind {
            Kind::Scalar(text) => Some(text),
            _ => {
                self.add(node.line, format!("{what} is expected to be text"));
                None
            }
        }
    }

    fn required<'a>(&mut self, line: usize, name: &str, node: Option<&'a Node>) -> Option<&'a Node> {
        if node.is_none() {
            self.add(line, format!("{name}: is missing"));
        }
        node
    }
}

fn decimal(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_no_number| "a whole number is expected, from 0")
}
