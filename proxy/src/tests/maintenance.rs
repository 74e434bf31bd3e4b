use std::num::NonZeroU64;
use std::time::Duration;

use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::{HealthCheckRequest, HealthCheckResponse};
use kubebrain_shared::compaction::Policy;
use kubebrain_shared::fault::Fault;
use pb::alarm_request::AlarmAction;
use tonic::{Code, Status};

use crate::config::Config;
use crate::testing::{Cluster, Planned};

const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";
const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
const NOSPACE: i32 = pb::AlarmType::Nospace as i32;

async fn alarm(cluster: &Cluster, action: AlarmAction, member_id: u64) -> Result<Vec<u64>, Status> {
    let alarm = if action == AlarmAction::Get { 0 } else { NOSPACE };
    let request = pb::AlarmRequest { action: action.into(), member_id, alarm };
    let answer: pb::AlarmResponse = cluster.client.call(ALARM, &request).await?;
    assert!(answer.header.is_some());
    Ok(answer.alarms.into_iter().map(|alarm| alarm.member_id).collect())
}

#[tokio::test(start_paused = true)]
async fn alarms_of_all_groups_are_one_list_and_a_disarm_is_complete_or_an_error() {
    let cluster = Cluster::new().await;
    for (group, members) in [("core", &[1][..]), ("pods", &[1, 2])] {
        let alarms = members.iter().map(|member| (*member, NOSPACE)).collect();
        cluster.brain(group).state.lock().alarms = alarms;
    }
    assert_eq!(alarm(&cluster, AlarmAction::Get, 0).await.expect("list"), [1, 2]);
    cluster.brain("pods").plan(ALARM, Planned::Fail(Fault::Timeout));
    let failed = alarm(&cluster, AlarmAction::Deactivate, 1).await.expect_err("pods did not");
    assert_eq!(Fault::of(&failed), Some(Fault::Timeout));
    assert!(cluster.brain("core").state.lock().alarms.is_empty(), "the others did");
    assert_eq!(alarm(&cluster, AlarmAction::Deactivate, 1).await.expect("done"), [1]);
    assert_eq!(alarm(&cluster, AlarmAction::Get, 0).await.expect("list"), [2]);
    assert_eq!(alarm(&cluster, AlarmAction::Activate, 9).await.expect("raised"), [9]);
    assert!(cluster.brains.values().all(|brain| brain.state.lock().alarms.contains(&(9, NOSPACE))));
}

async fn status(cluster: &Cluster) -> pb::StatusResponse {
    cluster.client.call("/etcdserverpb.Maintenance/Status", &pb::StatusRequest {}).await.expect("status")
}

#[tokio::test(start_paused = true)]
async fn each_store_is_counted_once_and_a_group_that_is_silent_is_named() {
    let cluster = Cluster::new().await;
    assert_eq!(status(&cluster).await.db_size, 42, "three groups of one store");
    cluster.brain("events").state.lock().store = 8;
    cluster.brain("events").state.lock().alarms = [(5, NOSPACE)].into();
    let two = status(&cluster).await;
    assert_eq!((two.db_size, two.errors), (84, vec!["memberID:5".to_owned()]));
    cluster.brain("pods").plan("/etcdserverpb.Maintenance/Status", Planned::Fail(Fault::Stopped));
    assert!(status(&cluster).await.errors.contains(&"kubebrain: group pods does not answer".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_defragmentation_is_of_all_groups_or_an_error() {
    let cluster = Cluster::new().await;
    let defragment =
        async || cluster.client.call::<pb::DefragmentResponse>(DEFRAGMENT, &pb::DefragmentRequest {}).await;
    defragment().await.expect("done");
    assert!(cluster.brains.values().all(|brain| brain.count(DEFRAGMENT) == 1));
    cluster.brain("events").plan(DEFRAGMENT, Planned::Fail(Fault::Timeout));
    assert_eq!(defragment().await.err().as_ref().and_then(Fault::of), Some(Fault::Timeout));
}

#[tokio::test(start_paused = true)]
async fn all_groups_are_compacted_automatically_at_one_revision() {
    let cluster = Cluster::new().await;
    for _ in 0..9 {
        cluster.brain("events").write("/registry/events/a", "v");
    }
    cluster.brain("pods").write("/registry/pods/a", "v");
    let kept = NonZeroU64::new(4).map(Policy::Revision).expect("not zero");
    cluster.proxy.compact_automatically(kept);
    tokio::time::sleep(Duration::from_secs(301)).await;
    let compacted: Vec<_> = cluster.brains.values().map(|brain| brain.state.lock().compacted).collect();
    assert_eq!(compacted, [6, 6, 6], "events is at 10, and so are the others now");
}

#[tokio::test(start_paused = true)]
async fn what_is_written_after_a_look_is_above_it_in_every_group() {
    // Nothing else raises the groups meanwhile.
    let refresh_every = Duration::from_secs(86_400);
    let cluster = Cluster::with(Config { refresh_every, ..Config::default() }).await;
    for _ in 0..9 {
        cluster.brain("events").write("/registry/events/a", "v");
    }
    cluster.proxy.compact_automatically(Policy::Periodic(Duration::from_secs(600)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // As through another proxy, which has not seen the events.
    let later = cluster.brain("pods").write("/registry/pods/a", "v");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let compacted = cluster.brain("pods").state.lock().compacted;
    assert!(compacted == 10 && later > compacted, "r{later} is no older than ten minutes, r{compacted} went");
}

#[tokio::test(start_paused = true)]
async fn a_compaction_of_one_group_that_fails_is_done_again_for_all() {
    let cluster = Cluster::new().await;
    for _ in 0..9 {
        cluster.brain("events").write("/registry/events/a", "v");
    }
    cluster.brain("pods").plan("/etcdserverpb.KV/Compact", Planned::Fail(Fault::Timeout));
    cluster.proxy.compact_automatically(Policy::Periodic(Duration::from_secs(600)));
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(cluster.brain("pods").state.lock().compacted, -1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(cluster.brains.values().all(|brain| brain.state.lock().compacted == 10));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_meaning_here_is_refused_as_by_etcd_or_with_a_sentence() {
    let cluster = Cluster::new().await;
    let leader = status(&cluster).await.leader;
    let call = async |path: &str, request: &dyn Refused| request.refused(&cluster, path).await;
    let cases: [(&str, &dyn Refused, Code, &str); 10] = [
        ("Cluster/MemberAdd", &pb::MemberAddRequest::default(), Code::Unimplemented, "placement file"),
        ("Cluster/MemberRemove", &pb::MemberRemoveRequest { id: 5 }, Code::NotFound, "member not found"),
        ("Cluster/MemberRemove", &pb::MemberRemoveRequest { id: leader }, Code::Unimplemented, "placement"),
        (
            "Cluster/MemberUpdate",
            &pb::MemberUpdateRequest { id: 5, ..Default::default() },
            Code::NotFound,
            "member not found",
        ),
        ("Cluster/MemberPromote", &pb::MemberPromoteRequest { id: 5 }, Code::NotFound, "member not found"),
        (
            "Cluster/MemberPromote",
            &pb::MemberPromoteRequest { id: leader },
            Code::FailedPrecondition,
            "can only promote a learner",
        ),
        (
            "Maintenance/MoveLeader",
            &pb::MoveLeaderRequest { target_id: 5 },
            Code::FailedPrecondition,
            "bad leader transferee",
        ),
        ("Maintenance/Downgrade", &pb::DowngradeRequest::default(), Code::Unimplemented, "other version"),
        (
            "Auth/Authenticate",
            &pb::AuthenticateRequest::default(),
            Code::FailedPrecondition,
            "authentication is not enabled",
        ),
        ("Auth/UserList", &pb::AuthUserListRequest::default(), Code::Unimplemented, "no users"),
    ];
    for (method, request, code, words) in cases {
        let refused = call(&format!("/etcdserverpb.{method}"), request).await;
        assert_eq!(refused.code(), code, "{method}: {refused}");
        assert!(refused.message().contains(words), "{method}: {refused}");
    }
    let moved = pb::MoveLeaderRequest { target_id: leader };
    let done = cluster.client.call::<pb::MoveLeaderResponse>("/etcdserverpb.Maintenance/MoveLeader", &moved);
    done.await.expect("it leads already");
    let auth: pb::AuthStatusResponse = cluster
        .client
        .call("/etcdserverpb.Auth/AuthStatus", &pb::AuthStatusRequest {})
        .await
        .expect("status");
    assert_eq!((auth.enabled, auth.auth_revision), (false, 1));
}

/// A request of any type.
trait Refused {
    fn refused<'a>(
        &'a self,
        cluster: &'a Cluster,
        path: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Status> + 'a>>;
}

impl<M: prost::Message> Refused for M {
    fn refused<'a>(
        &'a self,
        cluster: &'a Cluster,
        path: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Status> + 'a>> {
        Box::pin(async move {
            let answer = cluster.client.call::<pb::StatusResponse>(path, self).await;
            answer.expect_err("refused")
        })
    }
}

#[tokio::test(start_paused = true)]
async fn health_is_of_the_server_as_a_whole() {
    let cluster = Cluster::with(Config::default()).await;
    let request = HealthCheckRequest { service: "etcdserverpb.KV".into() };
    let check = cluster.client.call::<HealthCheckResponse>("/grpc.health.v1.Health/Check", &request).await;
    assert_eq!(check.expect_err("unknown").code(), Code::NotFound);
    let watch = async |service: &str| {
        let message = crate::grpc::Framed::of(&HealthCheckRequest { service: service.into() });
        cluster.client.raw("/grpc.health.v1.Health/Watch", http::HeaderMap::new(), message).await
    };
    let (known, unknown, ()) = tokio::join!(watch(""), watch("frob"), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.proxy.stop().await;
    });
    for (stream, status) in [(known, ServingStatus::Serving), (unknown, ServingStatus::ServiceUnknown)] {
        let first: HealthCheckResponse = prost::Message::decode(stream.messages[0].clone()).expect("decodes");
        assert_eq!(first.status(), status);
        assert_eq!(Fault::of(&stream.status), Some(Fault::Stopped), "it lasts until the stop");
    }
}
