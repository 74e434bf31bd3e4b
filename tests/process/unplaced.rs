//! A brain of a group that no placement names serves nothing: it is not ready, and says for whom it waits.

use kit::groups::{Groups, apply, goes_by};
use kit::http1::get;
use kit::process::{Beginning, Place, Process, Start};
use kit::until;
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::health::HealthCheckRequest;
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::health_client::HealthClient;

use crate::BINARY;

const READY: &str = "INFO ready: ";

/// Where a brain that may not serve yet listens for clients.
async fn address(brain: &Beginning) -> String {
    until("its first line", async || {
        let log = brain.log();
        let urls = log.split("clients=http://").nth(1)?;
        Some(urls.split([' ', ',']).next()?.to_owned())
    })
    .await
}

/// Waits until the brain says this of why it is not ready.
async fn waits(what: &str, address: &str, words: &[&str]) -> String {
    until(what, async || {
        let (status, said) = get(address, "/readyz").await;
        (status == 503 && words.iter().all(|word| said.contains(word))).then_some(said)
    })
    .await
}

async fn health(address: &str) -> ServingStatus {
    let channel = Channel::new(Connector::Tcp(address.to_owned()), DialConfig::default());
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    answer.expect("an answer").into_inner().status()
}

fn joining(place: &Place, groups: &mut Groups, urls: &[String]) -> Beginning {
    groups.add("widgets");
    groups.brain(place, "widgets").flag("join", &urls.join(",")).begins()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_without_a_placement_is_not_ready_and_says_for_whom_it_waits() {
    let place = BINARY.place();
    let mut groups = Groups::absent(&place, &["core", "pods"], &|at| {
        format!("home: core\ndefault: core\ngroups: {{ core: {}, pods: {} }}\n", at("core"), at("pods"))
    });
    // Nobody of the home group's file but itself.
    let core = groups.brain(&place, "core").placement(&groups.file).begins();
    let at = address(&core).await;
    waits("home", &at, &["group core has no placement yet", "no master of group pods answers"]).await;
    assert_eq!(health(&at).await, ServingStatus::NotServing);
    assert_eq!(get(&at, "/livez").await.0, 200, "a restart would not help");
    assert!(!core.log().contains(READY), "{}", core.log());
    assert!(core.log().contains("not ready yet: group core has no placement yet"), "{}", core.log());

    // A new group, by the addresses of one that has none either, and of nobody.
    let joins = [groups.peer_url("core"), "http://127.0.0.1:9".to_owned()];
    let widgets = joining(&place, &mut groups, &joins);
    let new = address(&widgets).await;
    waits("a new group", &new, &["the brain of group core that --join names has none either"]).await;

    let pods = groups.brain(&place, "pods").placement(&groups.file).begins();
    let (core, pods) = (serves(core).await, serves(pods).await);
    assert_eq!((get(core.address(), "/readyz").await.0, get(pods.address(), "/readyz").await.0), (200, 200));
    assert_eq!(health(core.address()).await, ServingStatus::Serving);
    let url = groups.peer_url("widgets");
    let said = waits("a new group", &new, &["number 1 does not name it", &url]).await;
    assert!(said.contains("kubebrain ctl placement apply"), "{said}");
    assert!(!widgets.log().contains(READY), "{}", widgets.log());

    // It is named, and named no more.
    let text = std::fs::read_to_string(&groups.file).expect("a file");
    let next = text.replace(" } }\n", &format!(" }}, widgets: {} }}\n", groups.at("widgets")));
    assert_eq!(apply(&groups.channel("core"), &next).await, Ok(2));
    let widgets = serves(widgets).await;
    assert_eq!(get(widgets.address(), "/readyz").await.0, 200);
    assert_eq!(apply(&groups.channel("core"), &text).await, Ok(3));
    waits("a group that is gone", widgets.address(), &["placement number 3 does not name group widgets"])
        .await;

    // What a group goes by it has by itself.
    drop(core);
    let pods = pods.restart().await;
    assert_eq!(get(pods.address(), "/readyz").await.0, 200, "home is away");
    assert_eq!(goes_by(groups.channel("pods")).await.expect("an answer").current.expect("one").number, 3);
}

async fn serves(brain: Beginning) -> Process {
    brain.serves().await.unwrap_or_else(|failure| panic!("it has ended: {}", failure.message))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_are_all_wrong_are_named() {
    let place = BINARY.place();
    let mut groups = Groups::absent(&place, &["pods"], &|at| {
        let nobody = "{ brains: [\"http://127.0.0.1:9\"] }";
        format!("home: core\ndefault: core\ngroups: {{ core: {nobody}, pods: {} }}\n", at("pods"))
    });
    let wrong = ["http://127.0.0.1:7".to_owned(), "http://127.0.0.1:9".to_owned()];
    let widgets = joining(&place, &mut groups, &wrong);
    let pods = groups.brain(&place, "pods").placement(&groups.file).begins();
    let (new, at) = (address(&widgets).await, address(&pods).await);
    waits("a new group", &new, &["group widgets has no placement yet", &wrong[0], &wrong[1]]).await;
    waits("a group of a file", &at, &["no master of the home group core", &wrong[1]]).await;
    let proxy = Start::joining(&place, "proxy", &wrong).begins();
    let at = address(&proxy).await;
    waits("a proxy", &at, &["no brain has told the cluster's placement yet", &wrong[0], &wrong[1]]).await;
}
