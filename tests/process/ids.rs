//! The ids in every header: one of the cluster for as long as a store lives, one of the member by its name.

use std::path::Path;

use kubebrain_proto::etcdserverpb::ResponseHeader;

use crate::BINARY;
use crate::proxies::cluster;
use kit::client::Client;
use kit::process::{Process, Start};

/// A kind of each group of `standalone`, and of the cluster of processes.
const KINDS: [&str; 3] = ["/registry/leases", "/registry/events", "/registry/pods"];

/// The ids in answers of all groups: cluster and member.
async fn ids(server: &Process) -> Vec<(u64, u64)> {
    let client = Client::new(server.address());
    let mut found = Vec::new();
    let mut note = |header: Option<ResponseHeader>| {
        let header = header.expect("every answer has a header");
        found.push((header.cluster_id, header.member_id));
    };
    for kind in KINDS {
        note(client.get(&format!("{kind}/ns/a")).await.expect("an answer").header);
    }
    note(client.list("/registry/").await.expect("an answer").header);
    note(client.hash_kv(0).await.expect("an answer").header);
    found
}

/// The one pair that all answers have.
async fn one(server: &Process) -> (u64, u64) {
    let mut found = ids(server).await;
    found.dedup();
    let [ids] = found[..] else { panic!("one pair is wanted: {found:x?}") };
    assert!(ids.0 != 0 && ids.1 != 0);
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_store_has_a_cluster_id_of_its_own_and_keeps_it() {
    let place = BINARY.place();
    let data = |name: &str| place.join(name);
    let first = Start::standalone(&place).data_dir(&data("first")).run().await;
    let ids = one(&first).await;
    let first = first.restart().await;
    assert_eq!(one(&first).await, ids, "it keeps it");
    let second = Start::standalone(&place).data_dir(&data("second")).run().await;
    assert_ne!(one(&second).await.0, ids.0, "another store");

    let file = place.join("snapshot");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    BINARY
        .ctl(["snapshot", "save", &text(&file), &format!("--endpoint=http://{}", first.address())])
        .expect("saved");
    let start = first.start();
    drop(first);
    let start = start.flag("initial-cluster-token", "another").flag("name", "other");
    let first = start.run().await;
    let renamed = one(&first).await;
    assert_eq!(renamed.0, ids.0, "a store that is there keeps its cluster");
    assert_ne!(renamed.1, ids.1, "a member is one of a name");

    let restore = |into: &Path, flags: &[&str]| {
        let into = format!("--data-dir={}", into.display());
        let given = ["restore", file.to_str().expect("UTF-8"), &into];
        BINARY.ctl(given.iter().chain(flags)).expect("restored");
    };
    restore(&data("again"), &[]);
    restore(&data("by token"), &["--initial-cluster-token=token"]);
    let again = one(&Start::standalone(&place).data_dir(&data("again")).run().await).await;
    assert!(again.0 != ids.0 && again.1 != ids.1, "a restored cluster is another one");
    let token = one(&Start::standalone(&place).data_dir(&data("by token")).run().await).await;
    let new = Start::standalone(&place).data_dir(&data("new")).flag("initial-cluster-token", "token");
    assert_eq!(one(&new.run().await).await, token, "the token makes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_are_given_one_token_have_one_id_and_those_of_one_placement_never_two() {
    let place = BINARY.place();
    let brain = |group: &str, token: &str| {
        Start::brain(&place, group)
            .flag("initial-cluster-token", token)
            .data_dir(&place.join(&format!("{group}{token}")))
    };
    let cluster_of = async |start: Start| ids(&start.run().await).await[0].0;
    let one = cluster_of(brain("one", "t")).await;
    assert_eq!(cluster_of(brain("two", "t")).await, one);
    assert_ne!(cluster_of(brain("one", "u")).await, one);

    let (_brains, proxies) = cluster(&place).await;
    for proxy in &proxies {
        let found = ids(proxy).await;
        assert!(found.iter().all(|(cluster, _)| *cluster == found[0].0), "{found:x?}");
    }
}
