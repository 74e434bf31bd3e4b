//! Placement files: mistakes are named, mistakes while running change nothing, and what is right needs no restart.

use std::path::Path;

use crate::BINARY;
use kit::client::{Client, keys};
use kit::groups::{Groups, apply, report};
use kit::process::{Process, Start};
use kit::until;
use kit::watch::{key, mod_revision};

const KEPT: &str = "the old placement stays";
const TAKEN: &str = "a new placement is in use";

/// A table with pods in a group of their own.
const PODS_APART: &str = "\
home: core
default: core
groups: { core: {}, pods: {} }
kinds:
  - { kind: pods, group: pods }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_a_placement_are_named_by_line_and_reason() {
    let cases: [(&str, &str, &[&str]); 14] = [
        (
            "a kind twice",
            "home: core\ndefault: core\ngroups: { core: {}, b: {} }\nkinds:\n  - { kind: pods, group: core }\n  - { kind: pods, group: b }\n",
            &["line 6: /registry/pods/ has a rule already on line 5"],
        ),
        (
            "a group twice",
            "home: core\ndefault: core\ngroups:\n  core: {}\n  core: {}\n",
            &["line 5: group core stands already on line 4"],
        ),
        (
            "an unknown group",
            "home: core\ndefault: core\ngroups: { core: {} }\nkinds:\n  - { kind: pods, group: nobody }\n",
            &["line 5: there is no group `nobody`"],
        ),
        (
            "an unknown field",
            "home: core\ndefault: core\ngroups: { core: {} }\nreplicas: 3\n",
            &["line 4: `replicas` is not a field"],
        ),
        (
            "an unknown field of a rule",
            "home: core\ndefault: core\ngroups: { core: {} }\nkinds:\n  - { kind: pods, group: core, weight: 2 }\n",
            &["line 5: `weight` is not a field"],
        ),
        (
            "a prefix outside",
            "home: core\ndefault: core\ngroups: { core: {} }\nkinds:\n  - { prefix: /elsewhere/, group: core }\n",
            &["line 5: prefix: /elsewhere/ does not begin with /registry/"],
        ),
        (
            "a prefix without its slash",
            "prefix: registry\nhome: core\ndefault: core\ngroups: { core: {} }\n",
            &["line 1: prefix: `registry`"],
        ),
        (
            "a split",
            "home: core\ndefault: core\ngroups: { core: {}, b: {} }\nkinds:\n  - { kind: pods, split: { groups: [core, b] } }\n",
            &["line 5: split: kinds that are split over groups are not built yet"],
        ),
        ("no home", "default: core\ngroups: { core: {} }\n", &["line 1: home: is missing"]),
        ("no groups", "home: core\ndefault: core\n", &["groups: is missing"]),
        ("no YAML", "home: core\n  default: [core\n", &["line 2"]),
        ("nothing", "", &["a placement"]),
        (
            "two mistakes",
            "home: nobody\ndefault: core\ngroups: { core: {} }\nkinds: [{ kind: Pods, group: core }]\n",
            &["line 1: there is no group `nobody`", "line 4: kind: `Pods`"],
        ),
        (
            "brains in standalone",
            "home: core\ndefault: core\ngroups: { core: { brains: [\"http://127.0.0.1:1\"] } }\n",
            &["the placement names brains of group core"],
        ),
    ];
    let place = BINARY.place();
    for (what, text, words) in cases {
        let path = place.file("bad.yaml", text);
        let failure = Start::standalone(&place).placement(&path).fails().await;
        assert_eq!(failure.code, Some(1), "{what}: {failure:?}");
        for word in words {
            assert!(failure.message.contains(word), "{what}: {word:?} is not in {:?}", failure.message);
        }
        let named = what == "brains in standalone" || failure.message.contains("bad.yaml");
        assert!(named, "{what}: the file is not named: {failure:?}");
    }
    let failure = Start::standalone(&place).placement(Path::new("/nowhere.yaml")).fails().await;
    assert!(failure.message.contains("placement /nowhere.yaml"), "{failure:?}");
    let path = place.file("bad.yaml", PODS_APART);
    let passive = Start::brain(&place, "nobody").placement(&path).begins();
    until("a word of the group", async || {
        passive.log().contains("--group nobody: the file has no such group").then_some(())
    })
    .await;
    let failure = Start::proxy(&place, "proxy", &path).fails().await;
    assert!(failure.message.contains("group core has no brains"), "{failure:?}");
}

/// Writes another table and asks for it; returns when the log has an answer, with what was logged since.
async fn reload(server: &mut Process, path: &Path, text: &str, answer: &str) -> String {
    let before = server.log().len();
    std::fs::write(path, text).expect("a file");
    server.signal("HUP");
    until(answer, async || {
        server.must_run();
        let log = server.log().split_off(before);
        log.contains(answer).then_some(log)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_is_wrong_changes_nothing() {
    let place = BINARY.place();
    let path = place.file("placement.yaml", PODS_APART);
    let mut server = Start::standalone(&place).placement(&path).run().await;
    let client = Client::new(server.address());
    let mut watch = client.watch("/", 0).await;
    let mut revision = client.put("/registry/pods/a", "1").await.expect("a put");
    watch.events_to(revision).await;

    let cases = [
        ("no YAML", "home: core\n  default: [", "line 2"),
        (
            "a mistake",
            "home: core\ndefault: core\ngroups: { core: {} }\nkinds: [{ kind: pods, group: pods }]\n",
            "line 4",
        ),
        (
            "pods would be stranded",
            "home: core\ndefault: core\ngroups: { core: {}, pods: {}, new: {} }\nkinds: [{ kind: pods, group: new }]\n",
            "/registry/pods/",
        ),
        (
            "pods would be stranded, their group too",
            "home: core\ndefault: core\ngroups: { core: {} }\n",
            "/registry/pods/",
        ),
        // Whoever is asked first agrees: nobody else has keys of that kind.
        (
            "pods would be stranded, secrets would not",
            "home: core\ndefault: core\ngroups: { core: {}, pods: {}, new: {} }\nkinds: [{ kind: pods, group: new }, { kind: secrets, group: pods }]\n",
            "/registry/pods/",
        ),
    ];
    for (what, text, reason) in cases {
        let log = reload(&mut server, &path, text, KEPT).await;
        assert!(log.contains(reason), "{what}: the log does not say {reason:?}:\n{log}");
        assert!(!log.contains(TAKEN), "{what}: {log}");
        // As before, in order, and what was there is there.
        let mut keys = vec!["/registry/pods/a", "/registry/nodes/a"];
        keys.extend(text.contains("secrets").then_some("/registry/secrets/a"));
        for key in keys {
            let next =
                client.put(key, what).await.unwrap_or_else(|status| panic!("{what}: {key}: {status:?}"));
            assert_eq!(next, revision + 1, "{what}");
            revision = next;
            assert_eq!(watch.events_to(revision).await.len(), 1, "{what}");
        }
        assert_eq!(client.list("/registry/pods/").await.expect("a list").kvs[0].value, what.as_bytes());
    }
    // And the old one still is the one that counts after a restart.
    std::fs::write(&path, PODS_APART).expect("a file");
    let server = server.restart().await;
    let client = Client::new(server.address());
    assert_eq!(client.put("/registry/pods/a", "again").await.expect("a put"), revision + 1);

    // A start goes by what the cluster goes by, and says so.
    let start = server.start();
    drop(server);
    std::fs::write(&path, cases[2].1).expect("a file");
    let server = start.run().await;
    let log = server.log();
    assert!(log.contains(KEPT) && log.contains("/registry/pods/"), "{log}");
    let client = Client::new(server.address());
    assert_eq!(client.put("/registry/pods/a", "still").await.expect("a put"), revision + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_kind_moves_to_a_new_group_without_a_restart() {
    let place = BINARY.place();
    let path = place.file("placement.yaml", PODS_APART);
    let mut server = Start::standalone(&place).placement(&path).run().await;
    let client = Client::new(server.address());
    let widget = "/registry/example.com/widgets/ns/a";
    let mut watches = Vec::new();
    for prefix in ["/", "/registry/", "/registry/example.com/widgets/", "/registry/pods/"] {
        watches.push((prefix, client.watch(prefix, 0).await));
    }
    let mut written = Vec::new();
    for key in ["/registry/pods/a", "/registry/nodes/a"] {
        written.push((client.put(key, "before").await.expect("a put"), key));
    }

    let mut table = PODS_APART.replace("pods: {} }", "pods: {}, widgets: {} }");
    table.push_str("  - { kind: example.com/widgets, group: widgets }\n");
    reload(&mut server, &path, &table, TAKEN).await;
    for number in 0..30 {
        let key = [widget, "/registry/pods/a", "/registry/nodes/a"][number % 3];
        // The proxy has said so after its own table is replaced: nothing fails, and the clock goes on.
        written.push((client.put(key, "after").await.expect("a put"), key));
    }
    let revisions: Vec<_> = written.iter().map(|(revision, _)| *revision).collect();
    let first = revisions[0];
    assert!(revisions.iter().copied().eq(first..first + written.len() as i64), "dense: {revisions:?}");

    for (prefix, watch) in &mut watches {
        let wanted: Vec<_> = written.iter().filter(|(_, key)| key.starts_with(*prefix)).cloned().collect();
        let last = wanted.last().expect("some").0;
        let events = watch.events_to(last).await;
        let seen: Vec<_> = events.iter().map(|event| (mod_revision(event), key(event))).collect();
        let wanted: Vec<_> = wanted.into_iter().map(|(revision, key)| (revision, key.to_owned())).collect();
        assert_eq!(seen, wanted, "on {prefix}");
    }
    let all = ["/registry/example.com/widgets/ns/a", "/registry/nodes/a", "/registry/pods/a"];
    assert_eq!(keys(&client.list("/").await.expect("a list")), all);

    // A restart by the new table has it all; one with the old one in its file says that it is from before.
    let server = server.restart().await;
    let client = Client::new(server.address());
    assert_eq!(keys(&client.list("/").await.expect("a list")), all);
    assert_eq!(client.put(widget, "again").await.expect("a put"), first + written.len() as i64);
    let start = server.start();
    drop(server);
    std::fs::write(&path, PODS_APART).expect("a file");
    let server = start.run().await;
    let log = server.log();
    assert!(log.contains(KEPT) && log.contains("/registry/example.com/widgets/"), "{log}");
    let client = Client::new(server.address());
    assert_eq!(keys(&client.list("/").await.expect("a list")), all);
}

/// Every brain goes by this number, and nothing is under way.
async fn all_go_by(groups: &Groups, names: &[&str], number: u64) {
    for name in names {
        until(&format!("number {number} at {name}"), async || {
            let held = groups.goes_by(name).await.ok()?;
            (held.current?.number == number && held.adopted.is_none()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brains_of_a_cluster_go_by_one_placement_also_where_home_is_killed_during_a_change() {
    let place = BINARY.place();
    let table = |at: &dyn Fn(&str) -> String| {
        format!(
            "home: core\ndefault: core\ngroups: {{ core: {}, pods: {}, events: {} }}\n\
             kinds:\n  - {{ kind: pods, group: pods }}\n  - {{ kind: events, group: events }}\n",
            at("core"),
            at("pods"),
            at("events")
        )
    };
    let names = ["core", "pods", "events"];
    let mut groups = Groups::start(&place, &names, &table, |start| start).await;
    all_go_by(&groups, &names, 1).await;
    // Any brain says how it stands, by home's word.
    let first = std::fs::read_to_string(&groups.file).expect("a file");
    for name in names {
        let report = report(groups.channel(name)).await.expect("a report");
        assert_eq!(report.document.expect("one").text, first, "{name}");
    }
    // A file that changes is adopted by nobody, and is said to differ.
    let next = format!("{first}  - {{ kind: jobs, group: pods }}\n");
    std::fs::write(&groups.file, &next).expect("a file");
    until("a line in the log", async || {
        let log = groups.brains["events"].log();
        log.contains("kubebrain ctl placement apply").then_some(())
    })
    .await;
    assert_eq!(groups.goes_by("pods").await.expect("it answers").current.expect("one").number, 1);

    // Home is killed once it has prepared; the next one carries it out, or takes it back.
    let pods = groups.channel("pods");
    let events = groups.brains.remove("events").expect("it runs");
    let sent = apply(&pods, &next);
    events.signal("STOP");
    let killed = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        events.signal("CONT");
        let core = groups.brains.get_mut("core").expect("it runs");
        core.kill().await;
        let again = core.start().run().await;
        groups.brains.insert("core".to_owned(), again);
    };
    let (_outcome, ()) = tokio::join!(sent, killed);
    groups.brains.insert("events".to_owned(), events);
    let after = until("an end of the change", async || {
        let report = report(groups.channel("pods")).await.ok()?;
        report.document.filter(|_| report.prepared.is_none())
    })
    .await;
    all_go_by(&groups, &names, after.number).await;
    if after.text != next {
        apply(&pods, &next).await.expect("nobody has keys of that kind");
    }
    let report = report(groups.channel("events")).await.expect("a report").document.expect("one");
    assert_eq!(report.text, next);
    all_go_by(&groups, &names, report.number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_there_stay_where_they_are_whatever_a_file_says() {
    kit::newcomer::run(&BINARY.place(), BINARY, &|start| start).await;
}

/// Where brains are is no part of a table's version; whoever has to reach them reads it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_that_has_moved_is_found_by_a_reload() {
    let place = BINARY.place();
    let brain = Start::brain(&place, "core").run().await;
    let table = |address: &str| {
        format!("home: core\ndefault: core\ngroups: {{ core: {{ brains: [\"http://{address}\"] }} }}\n")
    };
    let path = place.file("table.yaml", &table(brain.peer_address()));
    let mut proxy = Start::proxy(&place, "proxy", &path).run().await;
    let client = Client::new(proxy.address());
    let mut watch = client.watch("/", 1).await;
    client.put("/registry/pods/a", "1").await.expect("a put");
    let start = brain.start().peers("http", "127.0.0.1:0");
    let before = brain.peer_address().to_owned();
    drop(brain);
    let brain = start.run().await;
    assert_ne!(brain.peer_address(), before, "the kernel gave the same port");
    reload(&mut proxy, &path, &table(brain.peer_address()), "the contact addresses were read again").await;
    let last = client.put("/registry/pods/b", "1").await.expect("a put");
    let seen: Vec<_> = watch.events_to(last).await.iter().map(key).collect();
    assert_eq!(seen, ["/registry/pods/a", "/registry/pods/b"]);
}
