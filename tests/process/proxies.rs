//! Two proxies over three brains, each a process.

use crate::BINARY;
use kit::client::{Client, keys, revision};
use kit::process::{Place, Process, Start};
use kit::watch::{key, mod_revision};

pub(crate) const GROUPS: [&str; 3] = ["core", "events", "pods"];
/// A kind of each group, without the slash.
const KINDS: [&str; 3] = ["/registry/leases", "/registry/events", "/registry/pods"];

pub(crate) fn table(brain: impl Fn(&str) -> String) -> String {
    let groups: Vec<_> = GROUPS.iter().map(|group| format!("  {group}: {}\n", brain(group))).collect();
    let groups = groups.concat();
    format!(
        "home: core\ndefault: core\ngroups:\n{groups}kinds:\n  - {{ kind: events, group: events }}\n  - {{ kind: pods, group: pods }}\n"
    )
}

/// Brains, and two proxies of them.
pub(crate) async fn cluster(place: &Place) -> (Vec<Process>, [Process; 2]) {
    // Where they are is known once they are there: the file is read again then.
    let owners = place.file("placement.yaml", &table(|_| "{}".to_owned()));
    let mut brains = Vec::new();
    for group in GROUPS {
        brains.push(Start::brain(place, group).placement(&owners).listening().await);
    }
    let at = |name: &str| {
        let found = GROUPS.iter().position(|group| *group == name).expect("a group");
        format!("{{ brains: [\"http://{}\"] }}", brains[found].peer_address())
    };
    let placement = place.file("placement.yaml", &table(at));
    let first = Start::proxy(place, "first", &placement).run().await;
    let second = Start::proxy(place, "second", &placement).run().await;
    (brains, [first, second])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_proxy_has_written_the_other_shows_at_once() {
    let place = BINARY.place();
    let (_brains, proxies) = cluster(&place).await;
    let clients = [Client::new(proxies[0].address()), Client::new(proxies[1].address())];
    let mut watches = Vec::new();
    for client in &clients {
        for kind in KINDS {
            watches.push((kind, client.watch(&format!("{kind}/"), 1).await));
        }
    }
    let mut written: Vec<(&str, i64, String)> = Vec::new();
    let mut newest = [0; 3];
    for number in 0..90 {
        // Not in step: each proxy writes each kind.
        let (writes, reads) = (&clients[number % 2], &clients[(number + 1) % 2]);
        let of = (number / 2) % 3;
        let kind = KINDS[of];
        let key = format!("{kind}/ns/{number:03}");
        let wrote = writes.put(&key, "x").await.expect("a put");
        assert!(wrote > newest[of], "{kind} goes back from {} to {wrote}", newest[of]);
        newest[of] = wrote;
        written.push((kind, wrote, key.clone()));

        // As an API server does: what is the revision, and then a list that is at least as new.
        let probe = reads.get(kind).await.expect("a probe");
        assert!(revision(&probe) >= wrote, "a probe of {kind} shows {} after {wrote}", revision(&probe));
        let list = reads.list(&format!("{kind}/")).await.expect("a list");
        assert!(revision(&list) >= revision(&probe));
        let mut expected: Vec<_> =
            written.iter().filter(|(other, ..)| *other == kind).map(|(.., key)| key.clone()).collect();
        expected.sort();
        assert_eq!(keys(&list), expected);
        let all = reads.list("/").await.expect("a list");
        assert_eq!(all.kvs.len(), written.len());
        assert!(
            all.kvs.iter().all(|kv| kv.mod_revision <= revision(&all)),
            "nothing is newer than the header"
        );
    }
    for (kind, watch) in &mut watches {
        let expected: Vec<_> = written
            .iter()
            .filter(|(other, ..)| other == kind)
            .map(|(_, at, key)| (*at, key.clone()))
            .collect();
        let events = watch.events_to(expected.last().expect("some").0).await;
        let seen: Vec<_> = events.iter().map(|event| (mod_revision(event), key(event))).collect();
        assert_eq!(seen, expected, "{kind}");
    }
}

/// A brain that is killed and started again: its proxies' watches go on without a gap, other groups do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_outlive_a_brain_that_was_killed() {
    let place = BINARY.place();
    let (mut brains, proxies) = cluster(&place).await;
    let client = Client::new(proxies[0].address());
    let mut watches = Vec::new();
    for prefix in ["/", "/registry/pods/", "/registry/events/"] {
        watches.push((prefix, client.watch(prefix, 1).await));
    }
    let mut written: Vec<(i64, String)> = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            let key = format!("{}/{round}/{number:02}", KINDS[number % 3]);
            written.push((client.put(&key, "x").await.expect("a put"), key));
        }
        let pods = brains.pop().expect("the last one has the pods");
        let start = pods.start();
        drop(pods);
        let other = format!("/registry/events/{round}/meanwhile");
        written.push((client.put(&other, "x").await.expect("another group goes on"), other));
        brains.push(start.run().await);
        let key = format!("/registry/pods/{round}/after");
        written.push((client.put(&key, "x").await.expect("a put after the restart"), key));
    }
    written.sort();
    for (prefix, watch) in &mut watches {
        let expected: Vec<_> = written.iter().filter(|(_, key)| key.starts_with(*prefix)).cloned().collect();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let events = kit::in_time("events", watch.next()).await;
            let events = events.expect("the client's stream goes on").expect("it goes on");
            seen.extend(events.iter().map(|event| (mod_revision(event), key(event))));
        }
        let mut sorted = seen.clone();
        sorted.sort_by_key(|(revision, _)| *revision);
        assert_eq!(seen, sorted, "in order on {prefix}");
        // Two groups may use one number.
        sorted.sort();
        assert_eq!(sorted, expected, "{prefix}");
    }
}

/// The URL of a brain for its peers.
fn url(brain: &Process) -> String {
    format!("http://{}", brain.peer_address())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_needs_an_address_and_no_more() {
    let place = BINARY.place();
    let failure = Start::joining(&place, "nobody", &[]).fails().await;
    assert!(failure.message.contains("--join=PEER-URL"), "{failure:?}");
    let failure = Start::joining(&place, "nobody", &["ftp://127.0.0.1:1".to_owned()]).fails().await;
    assert!(failure.message.contains("brains have http://"), "{failure:?}");
    let (brains, proxies) = cluster(&place).await;
    let urls: Vec<String> = brains.iter().map(url).collect();
    let third = Start::joining(&place, "third", &urls).run().await;
    let wrote = Client::new(proxies[0].address()).put("/registry/pods/a", "x").await.expect("a put");
    let read = Client::new(third.address()).get("/registry/pods/a").await.expect("a get");
    assert!(revision(&read) >= wrote && read.kvs.len() == 1, "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_means_something_else_is_said_once_and_changes_nothing() {
    let place = BINARY.place();
    let (brains, proxies) = cluster(&place).await;
    let at = |name: &str| {
        let found = GROUPS.iter().position(|group| *group == name).expect("a group");
        format!("{{ brains: [\"{}\"] }}", url(&brains[found]))
    };
    let other = table(at).replace("kind: pods, group: pods", "kind: pods, group: events");
    let path = place.file("other.yaml", &other);
    let third = Start::proxy(&place, "third", &path).run().await;
    let client = Client::new(third.address());
    Client::new(proxies[0].address()).put("/registry/pods/a", "x").await.expect("a put");
    client.put("/registry/pods/b", "x").await.expect("a put where the cluster has them");
    let list = client.list("/registry/pods/").await.expect("a list");
    assert_eq!(keys(&list), ["/registry/pods/a", "/registry/pods/b"]);
    let said = format!("kubebrain ctl placement apply {}", path.display());
    assert_eq!(third.log().matches(&said).count(), 1, "{}", third.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_keeps_what_it_knows_starts_without_home() {
    let place = BINARY.place();
    let (mut brains, _proxies) = cluster(&place).await;
    let urls: Vec<String> = brains.iter().map(url).collect();
    let kept = place.join("kept");
    let third = Start::joining(&place, "third", &urls).data_dir(&kept).umask("0").run().await;
    let client = Client::new(third.address());
    let wrote = client.put("/registry/pods/a", "x").await.expect("a put");
    kit::until("it is kept", async || kept.join("floor").exists().then_some(())).await;
    for (path, mode) in [(kept.clone(), 0o700), (kept.join("placement"), 0o600), (kept.join("floor"), 0o600)]
    {
        let found = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("it is there"));
        assert_eq!(found & 0o777, mode, "{}", path.display());
    }
    let start = third.start();
    drop(third);
    let home = brains.remove(0);
    let home_start = home.start();
    drop(home);
    // who asks for a page waits for all groups, so what is served is asked for
    let third = start.run().await;
    let client = Client::new(third.address());
    let again = client.put("/registry/pods/b", "x").await.expect("pods are there");
    assert!(again > wrote, "{again} after {wrote}");
    assert!(third.log().contains("all groups answer but core"), "{}", third.log());
    brains.insert(0, home_start.run().await);
}
