use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::body::Body;

use crate::config::Config;
use crate::testing::{Cluster, revision_of};

async fn get(cluster: &Cluster, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let Ok(response) = cluster.proxy.service().answer(request).await;
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(start_paused = true)]
async fn probes_are_answered_as_etcd_does() {
    let cluster = Cluster::not_started(Config::default());
    let (status, body) = get(&cluster, "/health").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains(r#""health":"false""#), "{body}");
    assert_eq!(get(&cluster, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&cluster, "/livez").await.0, StatusCode::OK);
    cluster.proxy.start().await;
    assert_eq!(get(&cluster, "/health").await, (StatusCode::OK, r#"{"health":"true","reason":""}"#.into()));
    assert_eq!(get(&cluster, "/readyz").await.0, StatusCode::OK);
    let version = r#"{"etcdserver":"3.7.0","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    assert_eq!(get(&cluster, "/version").await, (StatusCode::OK, version.into()));
    assert_eq!(get(&cluster, "/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_answer_is_not_ready_and_keeps_nothing_from_being_alive() {
    let cluster = Cluster::new().await;
    assert_eq!(get(&cluster, "/readyz").await, (StatusCode::OK, "ok\n".into()));
    cluster.brain("events").stick(true);
    let (status, said) = get(&cluster, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let failed: Vec<_> = said.lines().filter(|line| line.starts_with("[-]")).collect();
    assert!(failed.len() == 1 && failed[0].starts_with("[-]group-events failed: "), "{said}");
    assert_eq!(get(&cluster, "/readyz/group-events").await.0, StatusCode::SERVICE_UNAVAILABLE);
    for path in ["/readyz?exclude=group-events", "/readyz/group-core", "/readyz/linearizable_read"] {
        assert_eq!(get(&cluster, path).await, (StatusCode::OK, "ok\n".into()), "{path}");
    }
    assert_eq!(get(&cluster, "/health").await.0, StatusCode::SERVICE_UNAVAILABLE);
    for path in ["/livez", "/health?exclude=NOSPACE&serializable=true", "/readyz?exclude=linearizable_read"] {
        assert_eq!(get(&cluster, path).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_sees_a_cluster_of_one() {
    let cluster = Cluster::new().await;
    cluster.client.put("/registry/events/a", "v").await;
    let members: pb::MemberListResponse = cluster
        .client
        .call("/etcdserverpb.Cluster/MemberList", &pb::MemberListRequest::default())
        .await
        .expect("list");
    let status: pb::StatusResponse =
        cluster.client.call("/etcdserverpb.Maintenance/Status", &pb::StatusRequest {}).await.expect("status");
    let header = members.header.expect("one");
    assert_eq!((header.revision, header.cluster_id), (0, 77));
    assert_eq!(members.members.len(), 1);
    let member = &members.members[0];
    assert_eq!((member.id, &member.client_ur_ls[0][..]), (status.leader, "http://127.0.0.1:2379"));
    assert_eq!((status.version.as_str(), status.db_size, revision_of(status.header)), ("3.6.11", 42, 2));
    let alarms: pb::AlarmResponse = cluster
        .client
        .call("/etcdserverpb.Maintenance/Alarm", &pb::AlarmRequest::default())
        .await
        .expect("list");
    assert!(alarms.alarms.is_empty());
    let other =
        cluster.client.call::<pb::HashResponse>("/etcdserverpb.Maintenance/Hash", &pb::HashRequest {}).await;
    let other = other.expect_err("not served");
    assert!(
        other.code() == tonic::Code::Unimplemented && other.message().contains("Maintenance/Hash"),
        "{other}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_health_service_follows_readiness() {
    let cluster = Cluster::not_started(Config::default());
    let check = async || {
        let request = HealthCheckRequest::default();
        let answer: HealthCheckResponse =
            cluster.client.call("/grpc.health.v1.Health/Check", &request).await.expect("answers");
        answer.status()
    };
    assert_eq!(check().await, ServingStatus::NotServing);
    cluster.proxy.start().await;
    assert_eq!(check().await, ServingStatus::Serving);
    cluster.proxy.stop().await;
    assert_eq!(check().await, ServingStatus::NotServing);
    let refused = cluster.client.range(crate::testing::range("/registry/pods/a")).await.expect_err("stopped");
    assert_eq!(refused.message(), "etcdserver: server stopped");
}
