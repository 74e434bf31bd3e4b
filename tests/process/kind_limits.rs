//! Limits of kinds, by the command that an operator has: at the group, early at the proxy, in metrics, and taken back.

use kit::client::Client;
use kit::exposition::scrape;
use kit::groups::Groups;
use kit::process::Start;
use tonic::Code;

use crate::BINARY;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_applied_met_counted_and_taken_back() {
    let place = BINARY.place();
    let table = |at: &dyn Fn(&str) -> String| {
        format!("home: core\ndefault: core\ngroups: {{ core: {} }}\n", at("core"))
    };
    let groups = Groups::start(&place, &["core"], &table, |start| start).await;
    let proxy = Start::joining(&place, "proxy", &[groups.peer_url("core")]).run().await;
    let at = format!("--endpoints={}", groups.peer_url("core"));
    let ctl =
        |arguments: &[&str]| BINARY.ctl(["placement"].iter().chain(arguments).copied().chain([at.as_str()]));
    let (through, at_brain) = (Client::new(proxy.address()), Client::new(groups.brains["core"].address()));
    let (event, lease) = ("/registry/events/ns/a", "/registry/leases/ns/a");
    through.put(event, "x").await.expect("no limit yet");

    let first = std::fs::read_to_string(&groups.file).expect("a file");
    let limits = |limits: &str| place.file("next.yaml", &format!("{first}limits:\n{limits}"));
    let apply = |file: &std::path::Path| ctl(&["apply", file.to_str().expect("UTF-8"), "--from=0", "--wait"]);
    let wrong = limits("  - { kind: events, writesPerSecond: lots }\n");
    let said = apply(&wrong).expect_err("not a number");
    assert!(said.contains("writesPerSecond: `lots`: a whole number is expected"), "{said}");
    let right = limits("  - { kind: events, writesPerSecond: 0 }\n  - { kind: pod, inFlight: 1 }\n");
    let said = apply(&right).expect("it is applied");
    assert!(said.contains("limit of kind events: from no limit to writesPerSecond 0"), "{said}");
    assert!(said.contains("warning: limits: Kubernetes stores nothing as kind pod"), "{said}");
    let log = groups.brains["core"].log();
    assert!(log.contains("limits: Kubernetes stores nothing as kind pod: is `kind: pods` meant?"), "{log}");

    for (who, client) in [("the proxy", &through), ("the group", &at_brain)] {
        let refused =
            kit::until(&format!("a refusal by {who}"), async || client.put(event, "x").await.err()).await;
        let told = (refused.code(), refused.message());
        assert_eq!(told, (Code::ResourceExhausted, "etcdserver: too many requests"), "{who}");
        client.get(event).await.expect("reads have no limit");
        client.put(lease, "x").await.expect("nor has another kind");
    }
    let page = scrape(proxy.address()).await;
    assert!(page.value("kubebrain_proxy_kind_refused_total", &[("kind", "events")]) >= 1.0);
    let page = scrape(groups.brains["core"].address()).await;
    let of = |name: &str, kind: &str| page.value(name, &[("group", "core"), ("kind", kind)]);
    assert!(of("kubebrain_kind_refused_total", "events") >= 1.0);
    assert!(
        of("kubebrain_kind_writes_total", "events") >= 1.0
            && of("kubebrain_kind_writes_total", "leases") >= 2.0
    );
    assert!(of("kubebrain_kind_put_bytes_total", "leases") >= 2.0 * (lease.len() + 1) as f64);

    apply(&place.file("last.yaml", &first)).expect("it is taken back");
    for client in [&through, &at_brain] {
        kit::until("no limit", async || client.put(event, "x").await.ok()).await;
    }
}
