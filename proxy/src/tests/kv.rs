use std::time::Duration;

use bytes::BytesMut;
use http::HeaderMap;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::wire;
use pb::request_op::Request;

use crate::config::{Config, Seams};
use crate::grpc::Framed;
use crate::testing::{Cluster, Planned, put, range, revision_of};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const ADVANCE: &str = "/kubebrain.peer.v1.Peer/Advance";

fn put_op(key: &str) -> pb::RequestOp {
    pb::RequestOp { request: Some(Request::RequestPut(put(key, "v"))) }
}

fn keys(answer: &pb::RangeResponse) -> Vec<String> {
    answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_sequential_client_sees_one_dense_clock_over_all_groups() {
    let cluster = Cluster::new().await;
    let mut revisions = Vec::new();
    for key in [
        "/registry/pods/a",
        "/registry/events/a",
        "/registry/nodes/a",
        "/registry/pods/b",
        "compact",
        "/registry/events/b",
    ] {
        revisions.push(cluster.client.put(key, "v").await);
    }
    assert_eq!(revisions, [2, 3, 4, 5, 6, 7]);
    let read = cluster.client.range(range("/registry/nodes/a")).await.expect("read");
    assert_eq!(revision_of(read.header), 7, "what was seen elsewhere is here too");
}

#[tokio::test(start_paused = true)]
async fn a_starting_proxy_is_behind_no_group() {
    let cluster = Cluster::not_started(Config::default());
    for number in 0..40 {
        cluster.brain("events").write("/registry/events/x", &number.to_string());
    }
    let refused = cluster.client.range(range("/registry/pods/a")).await.expect_err("not ready");
    assert_eq!((cluster.proxy.is_ready(), refused.code()), (false, tonic::Code::Unavailable));
    cluster.proxy.start().await;
    assert!(cluster.proxy.is_ready());
    let read = cluster.client.range(range("/registry/pods/a")).await.expect("read");
    assert_eq!(revision_of(read.header), 41);
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_metadata_never_reaches_a_brain_and_ours_never_a_client() {
    let cluster = Cluster::new().await;
    let mut headers = HeaderMap::new();
    headers.insert("kubebrain-floor", "1000000".parse().expect("ascii"));
    headers.insert("kubebrain-part", "beef".parse().expect("ascii"));
    let raw = cluster.client.raw(PUT, headers, Framed::of(&put("/registry/pods/a", "v"))).await;
    assert_eq!(raw.status.code(), tonic::Code::Ok);
    assert!(raw.headers.keys().all(|name| !name.as_str().starts_with("kubebrain-")), "{:?}", raw.headers);
    assert_eq!(cluster.brain("pods").revision(), 2, "the floor was not believed");
    assert!(cluster.brain("pods").state.lock().seen.iter().all(|(_, _, part)| part.is_none()));
}

#[tokio::test(start_paused = true)]
async fn answers_and_requests_pass_byte_for_byte() {
    let cluster = Cluster::new().await;
    let mut strange = BytesMut::new();
    wire::put_bytes_field(&mut strange, 900, b"a field of next year");
    wire::put_varint_field(&mut strange, 3, 1);
    wire::put_bytes_field(&mut strange, 1, b"\x18\x07");
    let answer = Framed::new(&strange);
    cluster.brain("pods").plan(RANGE, Planned::Raw(answer.frame()));
    let request =
        Framed::of(&range("/registry/pods/a")).with_fields(|fields| wire::put_varint_field(fields, 901, 5));
    let raw = cluster.client.raw(RANGE, HeaderMap::new(), request).await;
    assert_eq!(raw.messages, [answer.message()]);
}

#[tokio::test(start_paused = true)]
async fn an_oversized_request_is_refused_by_its_length() {
    let cluster = Cluster::new().await;
    let large = put("/registry/pods/a", &"x".repeat(2 * 1024 * 1024));
    let refused = cluster.client.call::<pb::PutResponse>(PUT, &large).await.expect_err("too large");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("received message larger than max"), "{refused}");
    let fits = put("/registry/pods/a", &"x".repeat(1536 * 1024));
    cluster.client.call::<pb::PutResponse>(PUT, &fits).await.expect("a brain's own bound is its own matter");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_protobuf_is_refused_with_a_sentence() {
    let cluster = Cluster::new().await;
    let raw = cluster.client.raw(TXN, HeaderMap::new(), Framed::new(b"\x0a\xff\xff\xff\xff\x01")).await;
    assert_eq!(raw.status.code(), tonic::Code::InvalidArgument);
    assert!(raw.status.message().contains("not valid protobuf"), "{}", raw.status);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_wrong_table_is_never_seen_by_a_client() {
    let cluster = Cluster::new().await;
    for path in [PUT, PUT, RANGE, TXN] {
        cluster.brain("pods").plan(path, Planned::NotOwner);
    }
    assert_eq!(cluster.client.put("/registry/pods/a", "v").await, 2);
    let read = cluster.client.range(range("/registry/pods/a")).await.expect("read");
    assert_eq!(read.kvs.len(), 1);
    let txn = pb::TxnRequest { success: vec![put_op("/registry/pods/b")], ..Default::default() };
    cluster.client.call::<pb::TxnResponse>(TXN, &txn).await.expect("written");
    for _ in 0..1000 {
        cluster.brain("pods").plan(PUT, Planned::NotOwner);
    }
    let end = cluster
        .client
        .call::<pb::PutResponse>(PUT, &put("/registry/pods/a", "v"))
        .await
        .expect_err("for ever");
    assert_eq!(Fault::of(&end), Some(Fault::LeaderChanged), "surely not applied");
    assert!(cluster.brain("pods").count(PUT) < 400, "with pauses");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_not_sent_again() {
    let cluster = Cluster::new().await;
    cluster.brain("pods").plan(PUT, Planned::Lost);
    let end = cluster
        .client
        .call::<pb::PutResponse>(PUT, &put("/registry/pods/a", "v"))
        .await
        .expect_err("unknown");
    assert_eq!(Fault::of(&end), Some(Fault::Timeout));
    assert_eq!(cluster.brain("pods").count(PUT), 1);
    cluster.brain("pods").plan(RANGE, Planned::Lost);
    cluster.client.range(range("/registry/pods/a")).await.expect("a read is");
    assert_eq!(cluster.brain("pods").count(RANGE), 2);
}

#[tokio::test(start_paused = true)]
async fn a_named_revision_is_looked_for_and_never_becomes_a_floor() {
    let cluster = Cluster::new().await;
    cluster.client.put("/registry/pods/a", "v").await;
    let (client, _other) = cluster.another().await;
    for _ in 0..10 {
        client.put("/registry/events/a", "v").await;
    }
    let shown = cluster.brain("events").revision();
    let at = |revision| pb::RangeRequest { revision, ..range("/registry/pods/a") };
    let read = cluster.client.range(at(shown)).await.expect("shown by another proxy");
    assert_eq!((read.kvs.len(), revision_of(read.header)), (1, shown));
    let refused = cluster.client.range(at(shown + 1)).await.expect_err("nobody has it");
    assert_eq!(Fault::of(&refused), Some(Fault::FutureRevision));
    let refused = cluster.client.range(at(1 << 40)).await.expect_err("nobody has it");
    assert_eq!(Fault::of(&refused), Some(Fault::FutureRevision));
    assert_eq!(cluster.client.put("/registry/nodes/a", "v").await, shown + 1, "the clock did not jump");
}

#[tokio::test(start_paused = true)]
async fn a_range_over_all_groups_is_one_snapshot() {
    let cluster = Cluster::new().await;
    for key in ["/registry/pods/a", "/registry/events/a", "/registry/nodes/a", "/registry/events/b"] {
        cluster.client.put(key, "1").await;
    }
    let all = cluster.client.range(range("/registry/")).await.expect("read");
    let sorted = ["/registry/events/a", "/registry/events/b", "/registry/nodes/a", "/registry/pods/a"];
    assert_eq!((keys(&all), all.count, all.more), (sorted.map(String::from).to_vec(), 4, false));
    let header = all.header.expect("one");
    assert_eq!((header.revision, header.cluster_id), (5, 77));
    let page =
        cluster.client.range(pb::RangeRequest { limit: 2, ..range("/registry/") }).await.expect("read");
    assert_eq!(
        (keys(&page), page.count, page.more),
        (sorted[..2].iter().map(ToString::to_string).collect(), 4, true)
    );
    let count = cluster
        .client
        .range(pb::RangeRequest { count_only: true, ..range("/registry/") })
        .await
        .expect("read");
    assert_eq!((count.kvs.len(), count.count, count.more), (0, 4, false));
    let backwards = pb::RangeRequest { sort_order: 2, limit: 1, ..range("/registry/") };
    assert_eq!(keys(&cluster.client.range(backwards).await.expect("read")), ["/registry/pods/a"]);
    let past =
        cluster.client.range(pb::RangeRequest { revision: 3, ..range("/registry/") }).await.expect("read");
    assert_eq!((keys(&past).len(), revision_of(past.header)), (2, 5));
    let streamed: pb::RangeStreamResponse =
        cluster.client.call("/etcdserverpb.KV/RangeStream", &range("/registry/")).await.expect("streams");
    let streamed = streamed.range_response.expect("never nil");
    assert_eq!((keys(&streamed), streamed.count, revision_of(streamed.header)), (keys(&all), 4, 5));
}

/// A range over all groups while each of them is written to between its fence and its part; true if it is one snapshot.
async fn reads_a_snapshot(seams: Seams) -> bool {
    let cluster = Cluster::with(Config { seams, ..Config::default() }).await;
    cluster.client.put("/registry/pods/a", "1").await;
    for (group, key) in
        [("pods", "/registry/pods/late"), ("events", "/registry/events/late"), ("core", "/registry/z/late")]
    {
        cluster.brain(group).plan(RANGE, Planned::WriteFirst(key));
    }
    let read = cluster.client.range(range("/registry/")).await.expect("read");
    let revision = revision_of(read.header);
    assert_eq!(revision, 2);
    keys(&read) == ["/registry/pods/a"] && read.kvs.iter().all(|kv| kv.mod_revision <= revision)
}

#[tokio::test(start_paused = true)]
async fn parts_are_read_at_one_revision() {
    assert!(reads_a_snapshot(Seams::default()).await);
    assert!(
        !reads_a_snapshot(Seams { read_parts_at_now: true, ..Seams::default() }).await,
        "the planted fault shows"
    );
}

#[tokio::test(start_paused = true)]
async fn a_range_over_groups_has_what_others_were_told_before_it() {
    let cluster = Cluster::new().await;
    for number in 0..5 {
        cluster.brain("events").write(&format!("/registry/events/{number}"), "1");
    }
    let read = cluster.client.range(range("/registry/")).await.expect("read");
    assert_eq!((read.kvs.len(), revision_of(read.header)), (5, 6));
}

#[tokio::test(start_paused = true)]
async fn a_compaction_under_a_read_at_now_is_read_again() {
    let cluster = Cluster::new().await;
    cluster.client.put("/registry/pods/a", "1").await;
    cluster.brain("pods").plan(RANGE, Planned::Fail(Fault::Compacted));
    assert_eq!(cluster.client.range(range("/registry/")).await.expect("again").kvs.len(), 1);
    cluster.brain("pods").plan(RANGE, Planned::Fail(Fault::Compacted));
    let named = pb::RangeRequest { revision: 1, ..range("/registry/") };
    assert_eq!(Fault::of(&cluster.client.range(named).await.expect_err("named")), Some(Fault::Compacted));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_several_groups_above_the_bound_names_the_way_out() {
    let cluster = Cluster::with(Config { merged_bytes_max: 1000, ..Config::default() }).await;
    cluster.client.put("/registry/pods/a", &"x".repeat(600)).await;
    cluster.client.put("/registry/events/a", &"x".repeat(600)).await;
    let refused = cluster.client.range(range("/registry/")).await.expect_err("too large");
    assert!(refused.message().contains("RangeStream"), "{refused}");
    cluster.client.range(range("/registry/pods/")).await.expect("one group's is not put together here");
}

#[tokio::test(start_paused = true)]
async fn a_delete_over_groups_adds_up() {
    let cluster = Cluster::new().await;
    for key in ["/registry/pods/a", "/registry/events/b", "/registry/nodes/c"] {
        cluster.client.put(key, "1").await;
    }
    cluster.brain("events").plan(DELETE, Planned::NotOwner);
    let all = range("/registry/");
    let request = pb::DeleteRangeRequest { key: all.key, range_end: all.range_end, prev_kv: true };
    let deleted: pb::DeleteRangeResponse = cluster.client.call(DELETE, &request).await.expect("deletes");
    let order: Vec<_> = deleted.prev_kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!(order, ["/registry/events/b", "/registry/nodes/c", "/registry/pods/a"]);
    assert_eq!(deleted.deleted, 3);
    let newest = cluster.brains.values().map(|brain| brain.revision()).max();
    assert_eq!(Some(revision_of(deleted.header)), newest);
    assert!(cluster.client.range(range("/registry/")).await.expect("read").kvs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_transaction_of_two_groups_is_refused_by_name() {
    let cluster = Cluster::new().await;
    let txn = pb::TxnRequest {
        success: vec![put_op("/registry/pods/a"), put_op("/registry/events/b")],
        ..Default::default()
    };
    let refused = cluster.client.call::<pb::TxnResponse>(TXN, &txn).await.expect_err("two groups");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    for word in ["/registry/pods/a", "pods", "/registry/events/b", "events"] {
        assert!(refused.message().contains(word), "{refused}");
    }
    let empty: pb::TxnResponse = cluster.client.call(TXN, &pb::TxnRequest::default()).await.expect("home's");
    assert!(empty.succeeded);
}

fn lock(version: i64) -> pb::TxnRequest {
    let key = bytes::Bytes::from_static(b"compact_rev_key");
    let target_union = Some(pb::compare::TargetUnion::Version(version));
    pb::TxnRequest {
        compare: vec![pb::Compare { key: key.clone(), target: 0, target_union, ..Default::default() }],
        success: vec![put_op("compact_rev_key")],
        failure: vec![pb::RequestOp {
            request: Some(Request::RequestRange(pb::RangeRequest { key, ..Default::default() })),
        }],
    }
}

#[tokio::test(start_paused = true)]
async fn the_compactors_txn_is_before_this_moment_in_every_group() {
    let cluster = Cluster::new().await;
    for version in [0, 7] {
        cluster.client.put("/registry/nodes/a", "1").await;
        let answer: pb::TxnResponse = cluster.client.call(TXN, &lock(version)).await.expect("home answers");
        assert_eq!(answer.succeeded, version == 0);
        let revision = revision_of(answer.header);
        for (group, brain) in &cluster.brains {
            assert!(brain.revision() >= revision, "{group} is at {} of {revision}", brain.revision());
        }
    }
    cluster.brain("events").stick(true);
    let end =
        cluster.client.call::<pb::TxnResponse>(TXN, &lock(0)).await.expect_err("events does not answer");
    assert_eq!(Fault::of(&end), Some(Fault::Timeout));
}

#[tokio::test(start_paused = true)]
async fn the_planted_fault_in_the_sync_point_shows() {
    let seams = Seams { skip_sync_point: true, ..Seams::default() };
    let cluster = Cluster::with(Config { seams, ..Config::default() }).await;
    cluster.client.put("/registry/nodes/a", "1").await;
    let answer: pb::TxnResponse = cluster.client.call(TXN, &lock(0)).await.expect("answers");
    assert!(cluster.brain("events").revision() < revision_of(answer.header));
}

#[tokio::test(start_paused = true)]
async fn compaction_is_of_all_groups() {
    let cluster = Cluster::new().await;
    for _ in 0..5 {
        cluster.client.put("/registry/pods/a", "1").await;
    }
    let compact = |revision| pb::CompactionRequest { revision, physical: false };
    let call =
        async |revision| cluster.client.call::<pb::CompactionResponse>(COMPACT, &compact(revision)).await;
    assert_eq!(Fault::of(&call(7).await.expect_err("above all")), Some(Fault::FutureRevision));
    cluster.brain("events").state.lock().compacted = 4;
    let answer = call(4).await.expect("two of three");
    assert_eq!(revision_of(answer.header), 6);
    assert!(cluster.brains.values().all(|brain| brain.state.lock().compacted == 4 && brain.revision() >= 4));
    assert_eq!(Fault::of(&call(4).await.expect_err("all of them")), Some(Fault::Compacted));
}

#[tokio::test(start_paused = true)]
async fn the_planted_fault_in_the_floor_shows() {
    let seams = Seams { ignore_floor: true, ..Seams::default() };
    let cluster = Cluster::with(Config { seams, ..Config::default() }).await;
    assert_eq!(cluster.client.put("/registry/pods/a", "v").await, 2);
    assert_eq!(cluster.client.put("/registry/events/a", "v").await, 2, "one clock no more");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_keeps_the_floor_and_quiet_groups_near_the_newest_write() {
    let cluster = Cluster::new().await;
    cluster.brain("pods").write("/registry/pods/a", "1");
    assert_eq!(cluster.proxy.floor().get(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.proxy.floor().get(), 2);
    assert!(cluster.brain("events").count(ADVANCE) >= 3);
    assert_eq!(cluster.brain("events").revision(), 2, "its watchers' progress follows");
    assert_eq!(cluster.client.put("/registry/events/a", "v").await, 3, "and no further");
}
