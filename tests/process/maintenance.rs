//! Quota and alarms, what is left of leases, automatic compaction and defragmentation, on a disk and through restarts.

use std::time::Duration;

use kubebrain_net::dial::Channel;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kubebrain_proto::health::HealthCheckRequest;
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::health_client::HealthClient;
use kubebrain_shared::fault::Fault;
use pb::alarm_request::AlarmAction;
use rand::SeedableRng as _;
use tonic::Status;

use crate::BINARY;
use kit::client::{Client, revision};
use kit::process::{Process, Start};
use kit::{in_time, until};

const PODS: &str = "home: a\ndefault: a\ngroups: { a: {}, b: {} }\nkinds:\n  - { kind: pods, group: b }\n";

fn maintenance(server: &Process) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(Client::new(server.address()).channel())
}

fn leases(server: &Process) -> LeaseClient<Channel> {
    LeaseClient::new(Client::new(server.address()).channel())
}

async fn status(server: &Process) -> pb::StatusResponse {
    maintenance(server).status(pb::StatusRequest {}).await.expect("a status").into_inner()
}

async fn alarms(server: &Process, request: pb::AlarmRequest) -> Vec<pb::AlarmMember> {
    maintenance(server).alarm(request).await.expect("alarms").into_inner().alarms
}

/// `etcdctl alarm disarm`.
async fn disarm(server: &Process) {
    for standing in alarms(server, pb::AlarmRequest::default()).await {
        let action = AlarmAction::Deactivate.into();
        let request = pb::AlarmRequest { action, member_id: standing.member_id, alarm: standing.alarm };
        assert_eq!(alarms(server, request).await, [standing]);
    }
    assert!(alarms(server, pb::AlarmRequest::default()).await.is_empty());
}

fn fault<T>(answer: Result<T, Status>) -> Option<Fault> {
    answer.err().as_ref().and_then(Fault::of)
}

const QUOTA: usize = 1 << 20;
const VALUE: usize = 50_000;

/// Fills a server until it refuses; keys in all groups, and what was written.
async fn fill(client: &Client) -> usize {
    for number in 0.. {
        let kind = ["pods", "events", "nodes"][number % 3];
        match client.put(&format!("/registry/{kind}/{number}"), vec![b'x'; VALUE]).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(Fault::of(&status), Some(Fault::NoSpace), "{status}");
                return number;
            }
        }
    }
    unreachable!("numbers do not end")
}

async fn quota(start: Start) {
    let server = start.flag("quota-backend-bytes", &QUOTA.to_string()).run().await;
    let client = Client::new(server.address());
    let written = fill(&client).await;
    assert_eq!(written, QUOTA / VALUE, "all groups of a store share one quota");
    let full = status(&server).await;
    assert!(full.db_size_in_use > 900_000 && full.db_size_in_use <= QUOTA as i64, "{full:?}");
    assert_eq!(full.db_size_quota, QUOTA as i64);
    assert!(full.errors.iter().any(|error| error.contains("NOSPACE")), "{full:?}");
    assert_eq!(alarms(&server, pb::AlarmRequest::default()).await.len(), 1);
    let server = server.restart().await;
    let client = Client::new(server.address());
    assert_eq!(alarms(&server, pb::AlarmRequest::default()).await.len(), 1, "through a restart");
    assert_eq!(status(&server).await.db_size_in_use, full.db_size_in_use);
    for kind in ["pods", "events", "nodes"] {
        assert_eq!(fault(client.put(&format!("/registry/{kind}/x"), "x").await), Some(Fault::NoSpace));
    }
    for number in 0..written {
        let kind = ["pods", "events", "nodes"][number % 3];
        client.delete(&format!("/registry/{kind}/{number}")).await.expect("a deletion needs no room");
    }
    let now = revision(&client.list("/").await.expect("a read"));
    client.compact(now).await.expect("a compaction needs no room");
    until("room without a defragmentation", async || {
        (status(&server).await.db_size_in_use < 1000).then_some(())
    })
    .await;
    assert_eq!(fault(client.put("/registry/pods/x", "x").await), Some(Fault::NoSpace), "until disarmed");
    disarm(&server).await;
    client.put("/registry/pods/x", "x").await.expect("room");
    assert_eq!(fill(&client).await, written, "and as much as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_for_all_groups_of_a_process() {
    let place = BINARY.place();
    quota(Start::standalone(&place)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_for_a_brain() {
    let place = BINARY.place();
    quota(Start::brain(&place, "default")).await;
}

async fn left(server: &Process, id: i64) -> i64 {
    let request = pb::LeaseTimeToLiveRequest { id, keys: false };
    leases(server).lease_time_to_live(request).await.expect("an answer").into_inner().ttl
}

async fn keep_alive(server: &Process, id: i64) -> i64 {
    let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
    let mut answers = leases(server).lease_keep_alive(requests).await.expect("a stream").into_inner();
    in_time("a renewal", answers.message()).await.expect("an answer").expect("an answer").ttl
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_does_not_begin_again_with_a_crash() {
    let place = BINARY.place();
    let mut server = Start::standalone(&place).flag("lease-checkpoint-interval", "1s").run().await;
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 60 };
    leases(&server).lease_grant(grant).await.expect("granted");
    // On a key of another group too, which then has the lease as well.
    let key = "/registry/events/leased";
    let put = pb::PutRequest { key: key.into(), lease: 7, ..Default::default() };
    let request = pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }],
        ..Default::default()
    };
    Client::new(server.address()).txn(request).await.expect("written");
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.signal("KILL");
    server.ended().await;
    let mut server = server.start().run().await;
    let after = left(&server, 7).await;
    assert!((40..=56).contains(&after), "{after} of 60 seconds are left after 6");
    assert_eq!(keep_alive(&server, 7).await, 60);
    server.signal("KILL");
    server.ended().await;
    let server = server.start().run().await;
    let renewed = left(&server, 7).await;
    assert!(renewed >= 57, "a renewal that was answered holds: {renewed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_goes_by_itself_in_all_groups_at_once() {
    let place = BINARY.place();
    for start in [Start::standalone(&place), Start::brain(&place, "default")] {
        let server = start.flag("auto-compaction-retention", "1s").run().await;
        let client = Client::new(server.address());
        let keys = ["/registry/pods/a", "/registry/events/a", "/registry/nodes/a"];
        for key in keys {
            client.put(key, "x").await.expect("a put");
        }
        let old = client.put(keys[0], "x").await.expect("a put") - 1;
        let range = |key: &str, revision| pb::RangeRequest {
            key: key.to_owned().into(),
            revision,
            ..Default::default()
        };
        for key in keys {
            client.range(range(key, old)).await.expect("history is there");
        }
        // Of each group by itself: while one compaction goes to all of them, one may have it before another.
        for key in keys {
            until("the compaction", async || {
                // Only what is old goes: something new has to follow.
                client.put(keys[1], "x").await.expect("a put");
                (fault(client.range(range(key, old)).await) == Some(Fault::Compacted)).then_some(())
            })
            .await;
            client.get(key).await.expect("what is now stays");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_compaction_that_make_no_sense_are_refused() {
    let place = BINARY.place();
    let table = place.file("placement.yaml", PODS);
    let brain = Start::brain(&place, "a").placement(&table).flag("auto-compaction-retention", "1h");
    let refused = brain.fails().await;
    assert!(refused.message.contains("set it on the proxy instead"), "{refused:?}");
    for (mode, retention, words) in [
        ("revision", "5m", "a number of revisions is wanted"),
        ("periodic", "often", "a number of hours or a duration is wanted"),
        ("weekly", "1", "periodic or revision is wanted"),
    ] {
        let start = Start::standalone(&place);
        let start = start.flag("auto-compaction-mode", mode).flag("auto-compaction-retention", retention);
        let refused = start.fails().await;
        assert!(refused.message.contains(words), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defragmentation_gives_the_disk_back_while_others_go_on() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());
    let mut value = vec![0; 100_000];
    for number in 0..400_u32 {
        // Nothing that shrinks when it is compressed.
        rand::RngCore::fill_bytes(&mut rand::rngs::StdRng::seed_from_u64(number.into()), &mut value);
        client.put("/registry/pods/a", value.clone()).await.expect("a put");
    }
    let now = revision(&client.get("/registry/pods/a").await.expect("a read"));
    client.compact(now).await.expect("compacted");
    until("the sweep", async || (status(&server).await.db_size_in_use < 200_000).then_some(())).await;
    let others = tokio::spawn({
        let client = client.clone();
        async move {
            for number in 0..50 {
                client.put("/registry/events/a", number.to_string()).await.expect("a put");
                client.get("/registry/events/a").await.expect("a read");
            }
        }
    });
    let done = maintenance(&server).defragment(pb::DefragmentRequest {}).await.expect("done").into_inner();
    assert_eq!(done, pb::DefragmentResponse::default(), "as from etcd");
    others.await.expect("nobody waits for it");
    let kept = client.get("/registry/pods/a").await.expect("a read");
    assert_eq!(kept.kvs[0].value, value);
    let server = server.restart().await;
    let kept = Client::new(server.address()).get("/registry/pods/a").await.expect("a read");
    assert_eq!(kept.kvs[0].value, value);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_until_the_end() {
    let place = BINARY.place();
    for start in [Start::standalone(&place), Start::brain(&place, "default")] {
        let mut server = start.run().await;
        let mut health = HealthClient::new(Client::new(server.address()).channel());
        let other = HealthCheckRequest { service: "etcdserverpb.KV".to_owned() };
        assert_eq!(health.check(other).await.expect_err("unknown").code(), tonic::Code::NotFound);
        let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a stream").into_inner();
        let first = in_time("the first word", watch.message()).await.expect("an answer").expect("an answer");
        assert_eq!(first.status(), ServingStatus::Serving);
        server.signal("TERM");
        let end = in_time("the end", async {
            loop {
                match watch.message().await {
                    Ok(Some(said)) => assert_eq!(said.status(), ServingStatus::NotServing),
                    end => break end,
                }
            }
        });
        assert_eq!(fault(end.await), Some(Fault::Stopped));
        server.ended().await;
    }
}
