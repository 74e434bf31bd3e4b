//! Addresses that stand for all of a machine's.

use kubebrain_proto::etcdserverpb::MemberListRequest;
use kubebrain_proto::etcdserverpb::cluster_client::ClusterClient;

use crate::BINARY;
use kit::client::Client;
use kit::http1::get;
use kit::process::{Process, Start};

/// Whether this machine has IPv6 at all.
fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("a port").1
}

async fn members(address: &str) -> Vec<String> {
    let mut cluster = ClusterClient::new(Client::new(address).channel());
    let answer = cluster.member_list(MemberListRequest::default()).await.expect("an answer").into_inner();
    answer.members.into_iter().flat_map(|member| member.client_ur_ls).collect()
}

async fn is_reached_by_both(what: &str, address: &str) {
    let port = port(address);
    let hosts: &[&str] = if has_ipv6() { &["127.0.0.1", "[::1]"] } else { &["127.0.0.1"] };
    for host in hosts {
        let (status, _) = get(&format!("{host}:{port}"), "/livez").await;
        assert_eq!(status, 200, "{what} by {host}");
    }
}

fn log_tells(server: &Process) -> bool {
    server.log().contains("--advertise-client-urls")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_addresses_are_those_of_both_families_and_are_not_advertised() {
    let place = BINARY.place();
    let everywhere = if has_ipv6() { &["0.0.0.0:0", "[::]:0"][..] } else { &["0.0.0.0:0"] };
    for (number, all) in everywhere.iter().enumerate() {
        for (program, start) in [
            ("standalone", Start::standalone(&place).data_dir(&place.join(&format!("standalone-{number}")))),
            ("brain", Start::brain(&place, "default").data_dir(&place.join(&format!("brain-{number}")))),
        ] {
            let what = format!("{program} at {all}");
            let start = start.clients("http", all).flag("listen-metrics-urls", &format!("http://{all}"));
            let server = start.clone().run().await;
            let shown = all.trim_end_matches('0');
            assert!(server.address().starts_with(shown), "{what}: as it was given, {}", server.address());
            is_reached_by_both(&what, server.address()).await;
            is_reached_by_both(&what, server.probe_address()).await;
            let here = format!("127.0.0.1:{}", port(server.address()));
            assert_eq!(members(&here).await, [""; 0], "{what}");
            assert!(log_tells(&server), "{what}: {}", server.log());
            drop(server);
            let told = start.flag("advertise-client-urls", "http://kubebrain:2379").run().await;
            let here = format!("127.0.0.1:{}", port(told.address()));
            assert_eq!(members(&here).await, ["http://kubebrain:2379"], "{what}");
        }
    }
}
