//! The ballot on a lease of a real kube-apiserver: see `tests/kubernetes`.

use std::sync::Arc;
use std::time::Duration;

use kit::apiserver::ApiServer;
use kubebrain_brain::election::contract;
use kubebrain_brain::election::{Ballot as _, MasterRecord, Replaced};
use kubebrain_brain_kubernetes::{Config, LeaseBallot, connect};

const PATIENCE: Duration = Duration::from_secs(20);

async fn ballot(server: &ApiServer, user: &str, name: &str) -> LeaseBallot {
    let config = Config { kubeconfig: Some(server.kubeconfig(user)), patience: PATIENCE };
    let client = connect(&config).await.expect("a client");
    LeaseBallot::new(client, "default", name, PATIENCE)
}

fn record(renewals: u64) -> MasterRecord {
    let (holder, name) = ("core-1_00ff".to_owned(), "core-1".to_owned());
    let peer_urls = vec!["https://10.0.0.1:2380".to_owned()];
    MasterRecord { holder, name, lease_ms: 15_000, transitions: 3, renewals, peer_urls, ..Default::default() }
}

/// The example of the documentation: the role that brains need, and no more.
fn role() -> String {
    let text = include_str!("../../../../docs/operations.md");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
    let role = blocks.into_iter().find(|block| block.contains("kind: RoleBinding"));
    role.expect("docs/operations.md has a role for elections").to_owned()
}

/// One server for all: to start it takes longer than to ask it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_a_real_cluster_keeps_what_every_ballot_keeps() {
    let Some(server) = ApiServer::start().await else { return };
    macro_rules! checks {
        ($($check:ident),*) => { $({
            let name = stringify!($check).replace('_', "-");
            let (one, other) = (ballot(&server, "admin", &name).await, ballot(&server, "admin", &name).await);
            contract::$check(Arc::new(one), Arc::new(other)).await;
        })* };
    }
    checks!(
        a_record_is_read_as_it_was_put,
        whoever_saw_something_older_replaces_nothing,
        a_holder_goes_on_from_its_own_answers,
        of_many_at_once_one_replaces
    );

    // Who may nothing is told what is missing; with the role of the documentation everything works.
    let name = "kubebrain-core";
    let brain = ballot(&server, "brain", name).await;
    let refused = brain.look().await.expect_err("nobody has allowed it").to_string();
    assert!(refused.contains("403 Forbidden") && refused.contains("cannot get resource"), "{refused}");
    let (account, user) = (
        "{ kind: ServiceAccount, name: kubebrain-brain, namespace: kubebrain }",
        "{ kind: User, name: brain, apiGroup: rbac.authorization.k8s.io }",
    );
    let role = role().replace(account, user);
    assert!(role.contains(user), "{role}");
    server.kubectl(&["apply", "--namespace=default", "--filename=-"], &role).expect("it is admitted");
    let mut found = brain.look().await;
    for _ in 0..50 {
        if found.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            found = brain.look().await;
        }
    }
    assert!(found.expect("allowed by now").is_none());
    assert!(matches!(brain.replace(None, &record(1)).await, Replaced::Yes(_)), "created");
    let seen = brain.look().await.expect("it can be read").expect("it is there");
    assert!(matches!(brain.replace(Some(&seen), &record(2)).await, Replaced::Yes(_)), "updated");

    // What people see.
    let said = server.kubectl(&["get", "lease", name, "--namespace=default"], "").expect("a lease");
    println!("{said}");
    assert!(said.contains("core-1_00ff"), "{said}");
    let path = "jsonpath={.spec.leaseDurationSeconds} {.spec.leaseTransitions} {.spec.acquireTime} {.spec.renewTime}";
    let said =
        server.kubectl(&["get", "lease", name, "--namespace=default", "-o", path], "").expect("a lease");
    let words: Vec<_> = said.split(' ').collect();
    assert_eq!(words[..2], ["15", "3"], "{said}");
    assert!(words[2] < words[3] && words[3].ends_with('Z'), "{said}");

    // By hand: whoever empties the holder releases it, and what was seen before is stale.
    let seen = brain.look().await.expect("it can be read").expect("it is there");
    let patch = r#"--patch={"spec":{"holderIdentity":""}}"#;
    server.kubectl(&["patch", "lease", name, "--namespace=default", patch], "").expect("patched");
    assert!(matches!(brain.replace(Some(&seen), &record(3)).await, Replaced::No));
    let seen = brain.look().await.expect("it can be read").expect("it is there");
    assert!(seen.record.is_released());
    server.kubectl(&["delete", "lease", name, "--namespace=default"], "").expect("deleted");
    assert!(matches!(brain.replace(Some(&seen), &record(3)).await, Replaced::No), "there is none any more");
    assert!(matches!(brain.look().await, Ok(None)));
    assert!(matches!(brain.replace(None, &record(0)).await, Replaced::Yes(_)));

    // A namespace that is missing is said.
    let config = Config { kubeconfig: Some(server.kubeconfig("admin")), patience: PATIENCE };
    let nowhere = LeaseBallot::new(connect(&config).await.expect("a client"), "nowhere", name, PATIENCE);
    match nowhere.replace(None, &record(0)).await {
        Replaced::Unknown(cause) => assert!(cause.to_string().contains("nowhere"), "{cause}"),
        other => panic!("{other:?}"),
    }
}
