use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;

use crate::grpc::Framed;
use crate::testing::{Cluster, Planned, put};

const PUT: &str = "/etcdserverpb.KV/Put";

async fn granted(cluster: &Cluster) {
    let grant = pb::LeaseGrantRequest { id: 5, ttl: 60 };
    let answer: pb::LeaseGrantResponse =
        cluster.client.call("/etcdserverpb.Lease/LeaseGrant", &grant).await.expect("granted");
    assert_eq!((answer.id, answer.ttl), (5, 60));
}

fn leased(key: &str) -> pb::PutRequest {
    pb::PutRequest { lease: 5, ..put(key, "v") }
}

#[tokio::test(start_paused = true)]
async fn a_lease_follows_its_keys_to_other_groups() {
    let cluster = Cluster::new().await;
    granted(&cluster).await;
    for key in ["/registry/events/b", "/registry/pods/a", "/registry/nodes/c"] {
        cluster.client.call::<pb::PutResponse>(PUT, &leased(key)).await.expect("put");
    }
    assert_eq!(cluster.brain("events").count(PUT), 2, "refused, then put");
    let ask = pb::LeaseTimeToLiveRequest { id: 5, keys: true };
    let answer: pb::LeaseTimeToLiveResponse =
        cluster.client.call("/etcdserverpb.Lease/LeaseTimeToLive", &ask).await.expect("known");
    assert_eq!(answer.keys, ["/registry/events/b", "/registry/nodes/c", "/registry/pods/a"]);
    let revoke = pb::LeaseRevokeRequest { id: 5 };
    let _: pb::LeaseRevokeResponse =
        cluster.client.call("/etcdserverpb.Lease/LeaseRevoke", &revoke).await.expect("revoked");
    let left = cluster.client.range(crate::testing::range("/registry/")).await.expect("read");
    assert!(left.kvs.is_empty(), "{left:?}");
    let again =
        cluster.client.call::<pb::LeaseRevokeResponse>("/etcdserverpb.Lease/LeaseRevoke", &revoke).await;
    assert_eq!(again.err().as_ref().and_then(Fault::of), Some(Fault::LeaseNotFound));
}

/// Home is asked, the lease is adopted, and then home is gone before it has recorded that: the next put begins anew.
#[tokio::test(start_paused = true)]
async fn a_holder_that_home_does_not_list_hangs_no_key_on_a_lease() {
    let cluster = Cluster::new().await;
    granted(&cluster).await;
    let (home, holder) = (cluster.brain("core"), cluster.brain("events"));
    const SHARE: &str = "/kubebrain.peer.v1.Peer/ShareLease";
    home.plan(SHARE, Planned::WriteFirst("/registry/nodes/other"));
    home.plan(SHARE, Planned::Fail(Fault::Timeout));
    let failed = cluster.client.call::<pb::PutResponse>(PUT, &leased("/registry/events/b")).await;
    assert_eq!(failed.err().as_ref().and_then(Fault::of), Some(Fault::Timeout));
    assert!(holder.state.lock().leases.contains_key(&5), "adopted");
    assert!(home.state.lock().holders.is_empty(), "and not recorded");
    cluster.client.call::<pb::PutResponse>(PUT, &leased("/registry/events/b")).await.expect("put");
    assert!(home.state.lock().holders[&5].contains("events"), "whoever has a key of it is renewed");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_has_is_refused_as_by_etcd() {
    let cluster = Cluster::new().await;
    for key in ["/registry/events/b", "/registry/nodes/c"] {
        let refused = cluster.client.call::<pb::PutResponse>(PUT, &leased(key)).await.expect_err("unknown");
        assert_eq!(
            (refused.code(), Fault::of(&refused)),
            (tonic::Code::NotFound, Some(Fault::LeaseNotFound))
        );
    }
    assert!(cluster.brain("events").state.lock().leases.is_empty());
}

async fn keep_alive(cluster: &Cluster, count: usize) -> (Vec<i64>, Option<Status>) {
    let (requests, body) = mpsc::channel::<Result<Frame<Bytes>, Status>>(8);
    let body = Body::new(StreamBody::new(ReceiverStream::new(body)));
    for _ in 0..count {
        let request = Framed::of(&pb::LeaseKeepAliveRequest { id: 5 });
        requests.send(Ok(Frame::data(request.frame()))).await.expect("open");
    }
    drop(requests);
    let response =
        cluster.client.send("/etcdserverpb.Lease/LeaseKeepAlive", http::HeaderMap::new(), body).await;
    let collected = response.into_body().collect().await.expect("no reset");
    let end = collected.trailers().and_then(Status::from_header_map);
    let mut buffer = bytes::BytesMut::from(collected.to_bytes());
    let mut ttls = Vec::new();
    while let Some(message) = crate::grpc::split(&mut buffer, 1000).expect("frames") {
        let answer: pb::LeaseKeepAliveResponse = prost::Message::decode(message).expect("decodes");
        assert!(answer.id == 5 && answer.header.is_some());
        ttls.push(answer.ttl);
    }
    (ttls, end)
}

#[tokio::test(start_paused = true)]
async fn keeping_alive_means_every_holder_renewed() {
    let cluster = Cluster::new().await;
    assert_eq!(keep_alive(&cluster, 1).await.0, [0], "nobody knows it");
    granted(&cluster).await;
    cluster.client.call::<pb::PutResponse>(PUT, &leased("/registry/events/b")).await.expect("put");
    let (ttls, end) = keep_alive(&cluster, 2).await;
    assert_eq!((ttls, end.expect("ends").code()), (vec![60, 60], tonic::Code::Ok));
    for holder in ["core", "events"] {
        let changes = crate::testing::Planned::Fail(Fault::LeaderChanged);
        cluster.brain(holder).plan("/kubebrain.peer.v1.Peer/RenewLease", changes);
        let (ttls, end) = keep_alive(&cluster, 1).await;
        assert_eq!(
            (ttls, end.expect("ends").code()),
            (vec![60], tonic::Code::Ok),
            "the next master renews it"
        );
    }
    cluster.brain("events").state.lock().leases.clear();
    assert_eq!(keep_alive(&cluster, 1).await.0, [0], "a holder has lost it");
}
