//! A disk that is lost, and a store that is of before: nothing is shown that would look like a cluster where everything was
//! deleted, nobody takes what is older, and what an operator then says is enough.

use std::path::Path;
use std::time::Duration;

use kit::client::{Client, keys};
use kit::groups::{Groups, apply};
use kit::http1::get;
use kit::process::{Place, Process, Start};
use kit::until;
use tokio::time::timeout;
use tonic::Status;

use crate::BINARY;

const POD: &str = "/registry/pods/a";
const SECRET: &str = "/registry/secrets/a";
const WIDGET: &str = "/registry/widgets/a";

fn table(at: &dyn Fn(&str) -> String) -> String {
    let (core, pods) = (at("core"), at("pods"));
    format!(
        "home: core\ndefault: core\ngroups: {{ core: {core}, pods: {pods} }}\nkinds:\n  - {{ kind: pods, group: pods }}\n"
    )
}

async fn cluster(place: &Place) -> (Groups, Process) {
    let groups = Groups::start(place, &["core", "pods"], &table, |start| start).await;
    let proxy = Start::proxy(place, "proxy", &groups.file).run().await;
    let client = Client::new(proxy.address());
    for key in [POD, SECRET] {
        client.put(key, "1").await.expect("a put");
    }
    (groups, proxy)
}

/// `kubebrain ctl placement`, at home's listener for peers.
fn ctl(groups: &Groups, arguments: &[&str]) -> Result<String, String> {
    let home = format!("--endpoints={}", groups.peer_url("core"));
    BINARY.ctl(["placement"].iter().chain(arguments).copied().chain([home.as_str()]))
}

/// A list that does not wait for long.
async fn listed(client: &Client, prefix: &str) -> Result<Vec<String>, Status> {
    let late = |_| Err(Status::deadline_exceeded("nobody answers"));
    timeout(Duration::from_secs(2), client.list(prefix)).await.unwrap_or_else(late).map(|list| keys(&list))
}

async fn note(groups: &Groups, words: &str) {
    until(words, async || ctl(groups, &["show"]).ok()?.contains(words).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_an_empty_disk_serves_nothing_until_its_loss_is_accepted() {
    let place = BINARY.place();
    let (mut groups, proxy) = cluster(&place).await;
    let client = Client::new(proxy.address());
    let last = client.put(POD, "2").await.expect("a put");
    let mut pods = groups.brains.remove("pods").expect("it runs");
    pods.kill().await;
    std::fs::remove_dir_all(place.join("pods")).expect("a directory of ours");
    let pods = pods.start().listening().await;
    note(&groups, "it has lost its data").await;
    until("that it says what would help", async || {
        let (status, said) = get(pods.address(), "/readyz").await;
        (status == 503 && said.contains("recover --accept-loss pods")).then_some(())
    })
    .await;
    let shown = listed(&client, "/registry/pods/").await;
    assert!(shown.is_err(), "what is lost is shown as deleted: {shown:?}");
    assert_eq!(listed(&client, "/registry/secrets/").await.expect("another group"), [SECRET]);
    let next = table(&|name| groups.at(name)) + "  - { kind: widgets, group: pods }\n";
    let refused = apply(&groups.channel("core"), &next).await.expect_err("a group is not there");
    assert!(refused.contains("recover --accept-loss pods"), "{refused}");

    ctl(&groups, &["recover", "--accept-loss=pods"]).expect("an operator may");
    until("it is ready", async || (get(pods.address(), "/readyz").await.0 == 200).then_some(())).await;
    let empty = until("a list", async || listed(&client, "/registry/pods/").await.ok()).await;
    assert!(empty.is_empty(), "{empty:?}");
    let again = client.put(POD, "3").await.expect("a put");
    assert!(again > last, "{again} after {last}");
    apply(&groups.channel("core"), &next).await.expect("all are there");
}

/// Saves all groups, moves an empty kind, and puts a home of before in home's place.
async fn home_of_before(place: &Place, groups: &mut Groups, proxy: &Process, next: &str) {
    let file = place.join("last-week");
    let file = file.to_str().expect("UTF-8");
    let endpoints = format!("--endpoints=http://{}", proxy.address());
    BINARY.ctl(["snapshot", "save", file, &endpoints]).expect("a snapshot");
    apply(&groups.channel("core"), next).await.expect("the kind is empty");
    let client = Client::new(proxy.address());
    client.put(WIDGET, "1").await.expect("a put");
    let mut core = groups.brains.remove("core").expect("it runs");
    core.kill().await;
    restore(file, &place.join("core"));
    groups.brains.insert("core".to_owned(), core.start().listening().await);
}

fn restore(file: &str, into: &Path) {
    std::fs::remove_dir_all(into).expect("a directory of ours");
    let into = format!("--data-dir={}", into.display());
    BINARY.ctl(["restore", file, "--group=core", &into]).expect("restores");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_was_restored_alone_changes_nothing_and_goes_on_by_what_groups_have() {
    let place = BINARY.place();
    let (mut groups, proxy) = cluster(&place).await;
    let client = Client::new(proxy.address());
    let next = table(&|name| groups.at(name)) + "  - { kind: widgets, group: pods }\n";
    home_of_before(&place, &mut groups, &proxy, &next).await;
    until("home says that it is refused", async || {
        groups.brains["core"].log().contains("the cluster's first placement is refused").then_some(())
    })
    .await;
    // Whoever has gone by a newer one goes on by it.
    assert_eq!(groups.goes_by("pods").await.expect("an answer").current.expect("one").number, 2);
    for key in [POD, WIDGET] {
        let kind = key.trim_end_matches('a');
        assert_eq!(until(key, async || listed(&client, kind).await.ok()).await, [key]);
        client.put(key, "2").await.expect("its group is there");
    }

    ctl(&groups, &["recover"]).expect("there is something to recover");
    for name in ["core", "pods"] {
        until(&format!("group {name} goes by number 3 or above"), async || {
            let held = groups.goes_by(name).await.ok()?;
            (held.current?.number >= 3 && held.adopted.is_none()).then_some(())
        })
        .await;
    }
    for key in [POD, SECRET, WIDGET] {
        let kind = key.trim_end_matches('a');
        assert_eq!(until(key, async || listed(&client, kind).await.ok()).await, [key]);
    }
    let later = next.replace("kind: widgets", "kind: gadgets");
    let refused = apply(&groups.channel("core"), &later).await.expect_err("widgets have keys");
    assert!(refused.contains("/registry/widgets/"), "{refused}");
    apply(&groups.channel("core"), &(next + "  - { kind: gadgets, group: pods }\n"))
        .await
        .expect("all are there");
}
