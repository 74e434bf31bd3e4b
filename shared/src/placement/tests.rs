use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const EXAMPLE: &str = r#"
prefix: /registry            # of all kinds
home: core
default: core
groups:
  core:   { brains: [http://10.0.0.1:2380, "http://10.0.0.2:2380/"] }
  pods-0: {}
  events:
kinds:
  - { kind: pods, group: pods-0 }
  - { kind: events, group: events }
  - { kind: example.com/widgets, group: pods-0 }
  - { prefix: /registry/services/, group: pods-0 }
  - { prefix: /registry/services/endpoints/, group: events }
"#;

const HASHED: &str = r"
home: core
default: hash
hashGroups: [crd-0, crd-1, crd-2]
groups: { core: {}, crd-0: {}, crd-1: {}, crd-2: {} }
kinds: [ { kind: pods, group: core } ]
";

fn placement(text: &str) -> Placement {
    Placement::parse(text).expect("a legal placement")
}

fn range(start: &'static str, end: &'static str) -> KeyRange {
    KeyRange::from_wire(Bytes::from_static(start.as_bytes()), Bytes::from_static(end.as_bytes()))
}

fn names(groups: &[GroupName]) -> Vec<&str> {
    groups.iter().map(GroupName::as_str).collect()
}

#[test]
fn every_key_has_the_owner_that_the_file_says() {
    let table = placement(EXAMPLE);
    let rows = [
        ("/registry/pods/ns/a", "pods-0"),
        ("/registry/pods", "pods-0"),
        ("/registry/pods-of-others/a", "core"),
        ("/registry/pod", "core"),
        ("/registry/pods0", "core"),
        ("/registry/events/ns/a", "events"),
        ("/registry/example.com/widgets/a", "pods-0"),
        ("/registry/example.com/widgets", "pods-0"),
        ("/registry/example.com/gadgets/a", "core"),
        ("/registry/services/specs/a", "pods-0"),
        ("/registry/services/endpoints/a", "events"),
        ("/registry/services/endpoints", "events"),
        ("/registry/services", "pods-0"),
        ("/registry/leases/a", "core"),
        ("compact_rev_key", "core"),
        ("health", "core"),
        ("", "core"),
        ("\u{10ffff}", "core"),
    ];
    for (key, owner) in rows {
        assert_eq!(table.owner(key.as_bytes()).as_str(), owner, "{key:?}");
    }
}

#[test]
fn home_owns_what_is_outside_the_prefix_and_default_what_is_inside() {
    let table = placement("{home: h, default: d, groups: {h: , d: }, kinds: []}");
    for (key, owner) in
        [("/registry/x/y", "d"), ("/registry/", "d"), ("/registry", "h"), ("/registry0", "h"), ("a", "h")]
    {
        assert_eq!(table.owner(key.as_bytes()).as_str(), owner, "{key:?}");
    }
    assert_eq!(names(&table.owners(&KeyRange::ALL)), ["d", "h"]);
}

#[test]
fn a_table_without_a_prefix_may_have_any_rule() {
    let table = placement(
        "{prefix: '', home: h, default: d, groups: {h: , d: , a: }, kinds: [{prefix: b, group: a}, {kind: pods, group: a}]}",
    );
    let rows = [("/pods/x", "a"), ("/pods", "a"), ("/leases/x", "d"), ("b", "a"), ("bcd", "a"), ("c", "h")];
    for (key, owner) in rows {
        assert_eq!(table.owner(key.as_bytes()).as_str(), owner, "{key:?}");
    }
}

#[test]
fn brains_and_groups_are_listed() {
    let table = placement(EXAMPLE);
    let groups: Vec<(&str, usize)> =
        table.groups().map(|(group, brains)| (group.as_str(), brains.len())).collect();
    assert_eq!(groups, [("core", 2), ("events", 0), ("pods-0", 0)]);
    let (_, brains) = table.groups().next().expect("a group");
    assert_eq!(brains, ["http://10.0.0.1:2380", "http://10.0.0.2:2380"], "without a slash at the end");
    assert_eq!((table.home().as_str(), &table.prefix()[..]), ("core", &b"/registry"[..]));
    assert_eq!(table.boundaries().count(), 5);
}

#[test]
fn ranges_are_cut_where_owners_change() {
    let table = placement(EXAMPLE);
    let cut = |range: &KeyRange| -> Vec<String> {
        let parts = table.partition(range).expect("no hash");
        parts.iter().map(|(part, group)| format!("{part:?} {group}")).collect()
    };
    assert_eq!(
        cut(&range("/registry/pods/", "/registry/pods0")),
        ["[/registry/pods/, /registry/pods0) pods-0"]
    );
    assert_eq!(
        cut(&range("/registry/p", "/registry/q")),
        [
            "[/registry/p, /registry/pods) core",
            "/registry/pods pods-0",
            "[/registry/pods\\x00, /registry/pods/) core",
            "[/registry/pods/, /registry/pods0) pods-0",
            "[/registry/pods0, /registry/q) core",
        ]
    );
    assert_eq!(
        cut(&range("/registry/services/a", "/registry/services/f")),
        [
            "[/registry/services/a, /registry/services/endpoints) pods-0",
            "/registry/services/endpoints events",
            "[/registry/services/endpoints\\x00, /registry/services/endpoints/) pods-0",
            "[/registry/services/endpoints/, /registry/services/endpoints0) events",
            "[/registry/services/endpoints0, /registry/services/f) pods-0",
        ]
    );
    assert_eq!(cut(&range("b", "a")), Vec::<String>::new());
    assert_eq!(table.owners(&range("b", "a")), []);
    assert_eq!(names(&table.owners(&KeyRange::ALL)), ["core", "events", "pods-0"]);
}

#[test]
fn ownership_is_recorded_by_rule_or_natural_kind_or_key() {
    let table = placement(EXAMPLE);
    let rows = [
        ("/registry/pods/ns/a", "[/registry/pods/, /registry/pods0)"),
        ("/registry/services/specs/a", "[/registry/services/, /registry/services0)"),
        ("/registry/services/endpoints/a", "[/registry/services/endpoints/, /registry/services/endpoints0)"),
        ("/registry/leases/ns/a", "[/registry/leases/, /registry/leases0)"),
        (
            "/registry/example.com/gadgets/ns/a",
            "[/registry/example.com/gadgets/, /registry/example.com/gadgets0)",
        ),
        ("/registry/pods", "/registry/pods"),
        ("/registry/example.com/gadgets", "/registry/example.com/gadgets"),
        ("compact_rev_key", "[, ∞)"),
        ("/registry", "[, ∞)"),
    ];
    for (key, unit) in rows {
        assert_eq!(format!("{:?}", table.unit(key.as_bytes())), unit, "{key}");
    }
}

#[test]
fn kinds_without_a_rule_are_hashed_whole() {
    let table = placement(HASHED);
    let mut used = std::collections::BTreeSet::new();
    for kind in ["leases", "a.example.com/as", "b.example.com/bs", "b.example.com/cs", "d", "e", "f", "g"] {
        let owner = table.owner(format!("/registry/{kind}/ns/a").as_bytes()).clone();
        let probe = format!("/registry/{kind}");
        assert_eq!(table.owner(probe.as_bytes()), &owner, "{kind}");
        let inside = KeyRange::prefix(format!("/registry/{kind}/ns/").into());
        assert_eq!(table.owners(&inside), std::slice::from_ref(&owner));
        assert_eq!(table.partition(&inside), Some(vec![(inside, owner.clone())]));
        used.insert(owner);
    }
    assert!(used.len() > 1, "more than one of the groups: {used:?}");
    assert_eq!(names(&table.owners(&KeyRange::ALL)), ["core", "crd-0", "crd-1", "crd-2"]);
    assert_eq!(table.partition(&range("/registry/l", "/registry/m")), None);
    assert_eq!(names(&table.owners(&range("/registry/pods/", "/registry/pods0"))), ["core"]);
}

#[test]
fn the_version_is_of_the_meaning() {
    let version = |text: &str| placement(text).version();
    let base = "{home: a, default: a, groups: {a: , b: }, kinds: [{kind: pods, group: b}, {kind: events, group: a}]}";
    let same = [
        "{prefix: /registry/, home: a, default: a, groups: {b: {}, a: {brains: ['http://h:1']}, c: }, \
         kinds: [{kind: events, group: a}, {prefix: /registry/pods/, group: b}]}",
        "{home: a, default: hash, hashGroups: [a], groups: {a: , b: }, \
         kinds: [{kind: pods, group: b}, {kind: events, group: a}]}",
    ];
    for text in same {
        assert_eq!(version(text), version(base), "{text}");
    }
    let other = [
        base.replace("pods, group: b", "pods, group: a"),
        base.replace("pods, group: b", "leases, group: b"),
        base.replace("home: a", "home: b"),
        base.replace("default: a", "default: b"),
        base.replace("default: a", "default: hash, hashGroups: [a, b]"),
        base.replace("{home", "{prefix: /other, home"),
    ];
    for text in other {
        assert_ne!(version(&text), version(base), "{text}");
    }
}

#[test]
fn versions_are_the_same_in_every_release() {
    let versions = [Placement::builtin().version(), placement(HASHED).version()];
    assert_eq!(versions.map(|version| format!("{version:016x}")), ["21a004b3481079ca", "d67dfb70c78ffc5f"]);
}

#[test]
fn the_table_of_standalone_is_what_its_file_would_be() {
    let text = "{prefix: /registry, home: core, default: core, groups: {core: , pods: , events: }, \
                kinds: [{kind: pods, group: pods}, {kind: events, group: events}]}";
    assert_eq!(placement(text), Placement::builtin());
    let alone = Placement::single(GroupName::parse("default").expect("a legal name"));
    assert_eq!(names(&alone.owners(&KeyRange::ALL)), ["default"]);
    assert_eq!(alone.unit(b"/registry/pods/ns/a"), Placement::builtin().unit(b"/registry/pods/ns/a"));
}

#[test]
fn all_that_is_wrong_is_reported_with_its_line() {
    let text = r"
prefix: registry
home: nobody
default: core
hashGroups: [core]
colour: blue
groups:
  core: { brains: ['http://h:1', 'ftp://h:1', 'http://h', 'http://h:1/path', 'http://h:1'] }
  Upper: {}
  hash: {}
  core: {}
kinds:
  - { kind: pods, split: { by: namespace, groups: [core], slots: 256 } }
  - { kind: events, group: core }
  - { kind: events, group: nobody }
  - { kind: apps/deployments, group: core }
  - { kind: widgets.example.com, group: core }
  - { kind: leases }
  - { group: core }
  - { kind: jobs, prefix: /registry/jobs/, group: core }
";
    let report = Placement::parse(text).expect_err("much is wrong").to_string();
    let expected = "\
line 2: prefix: `registry` does not begin with a slash
line 3: there is no group `nobody` under groups
line 5: hashGroups: means something only with `default: hash`
line 6: `colour` is not a field of a placement: prefix, home, default, hashGroups, groups, kinds, limits
line 8: `ftp://h:1` is not the URL of a brain: it begins with none of http://, https:// and unix://
line 8: `http://h` is not the URL of a brain: it has no port
line 8: `http://h:1/path` is not the URL of a brain: something stands after the port
line 8: brain http://h:1 stands already on line 8
line 9: `Upper` is not the name of a group: 1 to 63 of a-z, 0-9 and -
line 10: a group cannot be named hash: `default: hash` means something else
line 11: group core stands already on line 8
line 13: split: kinds that are split over groups are not built yet; name one group
line 15: there is no group `nobody` under groups
line 16: kind: `apps/deployments` has a slash, but no group with a dot before it; for other keys write `prefix:`
line 17: kind: `widgets.example.com` is a custom resource, which is written `group/resource`
line 18: group: is missing
line 19: a rule needs a kind or a prefix
line 20: a rule has a kind or a prefix, not both";
    assert_eq!(report, expected);
}

#[test]
fn each_fault_alone_is_reported() {
    let table = |kinds: &str| format!("home: a\ndefault: a\ngroups: {{a: {{}}}}\nkinds:\n{kinds}");
    let rows: [(String, &str); 15] = [
        (
            String::new(),
            "line 1: a placement has fields: prefix, home, default, hashGroups, groups, kinds, limits",
        ),
        ("{}".into(), "line 1: groups: is missing\nline 1: home: is missing\nline 1: default: is missing"),
        ("home: a\ndefault: }".into(), "line 2: not YAML"),
        ("home: [a\n".into(), "not YAML"),
        ("home: &x a\ndefault: *x\ngroups: {a: {}}".into(), "line 2: references"),
        ("home: a\nhome: a\ndefault: a\ngroups: {a: {}}".into(), "line 2: home: is here twice"),
        ("home: a\ndefault: a\ngroups: {a: {}}\n---\nhome: a".into(), "line 5: a second document begins"),
        ("home: a\ndefault: a\ngroups: {}".into(), "line 3: groups: at least one is needed"),
        ("home: a\ndefault: hash\ngroups: {a: {}}".into(), "line 2: default: hash needs hashGroups"),
        ("home: a\ndefault: hash\nhashGroups: []\ngroups: {a: }".into(), "line 3: hashGroups: at least one"),
        (
            "home: a\ndefault: hash\nhashGroups: [a, a]\ngroups: {a: }".into(),
            "line 3: hashGroups: a is named twice",
        ),
        (
            table("  - {kind: b, group: a}\n  - {prefix: /registry/b/, group: a}"),
            "line 6: /registry/b/ has a rule already on line 5",
        ),
        (table("  - {prefix: '', group: a}"), "line 5: prefix: is empty"),
        (
            table("  - {prefix: /registryx/b, group: a}"),
            "line 5: prefix: /registryx/b does not begin with /registry/",
        ),
        (table("  pods: a"), "line 5: kinds: a list is expected"),
    ];
    for (text, expected) in rows {
        let report = Placement::parse(&text).expect_err(&text).to_string();
        assert!(report.contains(expected), "{text}\n-> {report}");
    }
}

/// Keys that are near each other and near the rules: few letters, slashes and dots.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(select(&["/", "/r/", "a", "b", "a.b", ".", "a/", "\0", "0", "\u{7f}"][..]), 0..7)
        .prop_map(|parts| parts.concat().into())
}

fn table() -> impl Strategy<Value = Placement> {
    let group =
        || select(&["a", "b", "c"][..]).prop_map(|name| GroupName::parse(name).expect("a legal name"));
    let default = prop_oneof![
        group().prop_map(Owner::Group),
        Just(Owner::Hash(Ring::new(
            ["a", "b"].map(|name| GroupName::parse(name).expect("a legal name")).to_vec()
        ))),
    ];
    let prefix = select(&["", "/r"][..]);
    (prefix, group(), default, btree_map(key(), group(), 0..8)).prop_map(|(prefix, home, default, rules)| {
        let rules = rules
            .into_iter()
            .map(|(rule, group)| (Bytes::from([prefix.as_bytes(), b"/", &rule].concat()), group));
        Placement::new(Draft {
            prefix: Bytes::from_static(prefix.as_bytes()),
            groups: [(home.clone(), Vec::new())].into(),
            home,
            default,
            rules: rules.collect(),
            limits: Limits::new(),
        })
    })
}

/// The rules as the module's text says them, one after the other.
fn owner_by_the_book(table: &Placement, key: &[u8]) -> GroupName {
    let draft = &table.0.draft;
    let inside = key.strip_prefix(&draft.prefix[..]).is_some_and(|rest| rest.starts_with(b"/"));
    let probe = [key, b"/"].concat();
    if let (true, Some(group)) = (inside, draft.rules.get(&probe[..])) {
        return group.clone();
    }
    let best =
        draft.rules.iter().filter(|(rule, _)| key.starts_with(rule)).max_by_key(|(rule, _)| rule.len());
    match (best, &draft.default) {
        (Some((_, group)), _) => group.clone(),
        (None, _) if !inside => draft.home.clone(),
        (None, Owner::Group(group)) => group.clone(),
        (None, Owner::Hash(ring)) => {
            let rest = &key[draft.prefix.len() + 1..];
            let mut segments = rest.split(|byte| *byte == b'/');
            let first = segments.next().unwrap_or_default();
            let kind = match segments.next() {
                Some(second) if first.contains(&b'.') => [first, b"/", second].concat(),
                _ => first.to_vec(),
            };
            ring.group(&kind).clone()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_owner_is_the_one_by_the_book(table in table(), keys in vec(key(), 1..20)) {
        for key in keys {
            prop_assert_eq!(table.owner(&key), &owner_by_the_book(&table, &key), "{}", key.escape_ascii());
        }
    }

    #[test]
    fn owners_and_partitions_agree_with_the_owner_of_each_key(
        table in table(), start in key(), end in key(), unbounded in any::<bool>(), keys in vec(key(), 1..20),
    ) {
        let range = KeyRange::new(start.into(), (!unbounded).then(|| end.into()));
        let owners = table.owners(&range);
        let parts = table.partition(&range);
        for key in keys.iter().filter(|key| range.contains(key)) {
            let owner = table.owner(key);
            prop_assert!(owners.contains(owner), "{owner} of {}", key.escape_ascii());
            if let Some(parts) = &parts {
                let holds: Vec<_> = parts.iter().filter(|(part, _)| part.contains(key)).collect();
                prop_assert_eq!(holds.len(), 1);
                prop_assert_eq!(&holds[0].1, owner);
            }
        }
        if let Some(parts) = parts {
            prop_assert_eq!(parts.is_empty(), range.is_empty());
            if let (Some((first, _)), Some((last, _))) = (parts.first(), parts.last()) {
                prop_assert_eq!((first.start(), last.end()), (range.start(), range.end()));
            }
            for pair in parts.windows(2) {
                prop_assert_eq!(pair[0].0.end(), Some(pair[1].0.start()));
                prop_assert_ne!(&pair[0].1, &pair[1].1);
            }
            let mut named: Vec<GroupName> = parts.into_iter().map(|(_, group)| group).collect();
            named.sort();
            named.dedup();
            prop_assert_eq!(named, owners);
        }
    }

    #[test]
    fn the_unit_of_a_key_contains_it_and_is_the_unit_of_its_keys(table in table(), key in key(), other in key()) {
        let unit = table.unit(&key);
        prop_assert!(unit.contains(&key));
        let rules = table.boundaries().filter(|rule| key.starts_with(rule));
        if let Some(rule) = rules.max_by_key(|rule| rule.len()) {
            prop_assert_eq!(&unit, &KeyRange::prefix(rule.clone()));
        }
        if unit.contains(&other) {
            let same = table.unit(&other);
            prop_assert!(same == unit || unit.covers(&same) || same.covers(&unit));
        }
    }
}

#[test]
fn brains_have_http_https_and_unix_urls() {
    let brains = |urls: &str| {
        let text = format!("home: a\ndefault: a\ngroups: {{ a: {{ brains: [{urls}] }} }}\n");
        Placement::parse(&text).map(|table| table.groups().next().expect("a group").1.to_vec())
    };
    let good = r#"http://h:1/, "https://10.0.0.1:2380", "https://[::1]:1", unix:///run/brain"#;
    let kept = ["http://h:1", "https://10.0.0.1:2380", "https://[::1]:1", "unix:///run/brain"];
    assert_eq!(brains(good).expect("all are good"), kept);
    for bad in ["unix://brain", "unix://", "unix:///run/", "unixs:///run/brain"] {
        assert!(brains(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_page_on_the_file_has_every_field_and_its_examples_can_be_read() {
    let page = include_str!("../../../docs/placement.md");
    let mut sections = page.split("\n## ").skip(1);
    for (title, fields) in [
        ("The file", &file::PLACEMENT[..]),
        ("A group", &file::GROUP),
        ("A rule", &file::RULE),
        ("A limit", &file::LIMIT),
    ] {
        let section = sections.find(|section| section.starts_with(title));
        let section = section.unwrap_or_else(|| panic!("the page has no section {title}"));
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let (mut rows, mut fields): (Vec<_>, Vec<_>) = (rows.collect(), fields.to_vec());
        rows.sort_unstable();
        fields.sort_unstable();
        assert_eq!(rows, fields, "{title}");
    }
    let examples: Vec<_> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() > 1);
    for example in examples {
        let table = Placement::parse(example).unwrap_or_else(|error| panic!("{error}\n{example}"));
        assert_eq!(table.doubts().count(), 0, "{example}");
    }
}

#[test]
fn rules_that_match_nothing_are_doubted() {
    let table = placement(
        "{ home: core, default: core, groups: { core: {} }, kinds: [ { kind: pod, group: core }, \
         { kind: example.com/pod, group: core }, { kind: events, group: core }, { prefix: /registry/job/, group: core } ] }",
    );
    let doubts: Vec<_> = table.doubts().collect();
    assert_eq!(doubts, [("job", "kind: jobs".to_owned()), ("pod", "kind: pods".to_owned())]);
}
