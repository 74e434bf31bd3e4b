//! Every error of etcd's list that can be met, by its code and its very text, from the client's side; and the bounds.

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::wire::frame;
use pb::request_op::Request;
use prost::Message;

use crate::BINARY;
use kit::client::Client;
use kit::in_time;
use kit::process::{Process, Start};
use kit::raw::Raw;

const GRPC: &str = "application/grpc";
const PUT: &str = "KV/Put";
const RANGE: &str = "KV/Range";
const TXN: &str = "KV/Txn";
const COMPACT: &str = "KV/Compact";
const GRANT: &str = "Lease/LeaseGrant";
const REVOKE: &str = "Lease/LeaseRevoke";
const ALARM: &str = "Maintenance/Alarm";

/// Asks by hand; code and message, and the answer if there is one.
async fn ask(raw: &mut Raw, method: &str, request: &impl Message) -> (i32, String, Bytes) {
    let path = format!("/etcdserverpb.{method}");
    let call = raw.call(&path, GRPC, frame(&request.encode_to_vec()));
    let answer = in_time(method, call).await.expect("an answer");
    let (code, message) = answer.grpc.unwrap_or_else(|| panic!("{method} ends without a status"));
    (code, message, answer.data)
}

async fn is_refused(raw: &mut Raw, method: &str, request: &impl Message, fault: Fault) {
    let (code, message, data) = ask(raw, method, request).await;
    let (wanted, text) = fault.wire();
    assert_eq!((code, message.as_str()), (wanted as i32, text), "{method}: {fault:?}");
    assert!(data.is_empty(), "{method}: {fault:?}");
}

async fn is_done(raw: &mut Raw, method: &str, request: &impl Message) -> Bytes {
    let (code, message, data) = ask(raw, method, request).await;
    assert_eq!(code, 0, "{method}: {message}");
    data
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

fn range(key: &str, revision: i64) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), revision, ..Default::default() }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn grant(id: i64, ttl: i64) -> pb::LeaseGrantRequest {
    pb::LeaseGrantRequest { id, ttl }
}

fn alarm(action: pb::alarm_request::AlarmAction, alarm: pb::AlarmType) -> pb::AlarmRequest {
    pb::AlarmRequest { action: action.into(), member_id: 5, alarm: alarm.into() }
}

/// Everything about keys, for a key of any group.
async fn keys_and_revisions(raw: &mut Raw, client: &Client, key: &str) {
    let missing = &format!("{key}/missing");
    is_refused(raw, RANGE, &pb::RangeRequest::default(), Fault::EmptyKey).await;
    is_refused(raw, PUT, &pb::PutRequest::default(), Fault::EmptyKey).await;
    is_refused(raw, "KV/DeleteRange", &pb::DeleteRangeRequest::default(), Fault::EmptyKey).await;
    let kept = pb::PutRequest { ignore_value: true, value: Bytes::new(), ..put(missing) };
    is_refused(raw, PUT, &kept, Fault::KeyNotFound).await;
    is_refused(raw, TXN, &txn(vec![pb::RequestOp { request: None }]), Fault::KeyNotFound).await;
    is_refused(raw, PUT, &pb::PutRequest { ignore_value: true, ..put(key) }, Fault::ValueProvided).await;
    let both = pb::PutRequest { ignore_lease: true, lease: 3, ..put(key) };
    is_refused(raw, PUT, &both, Fault::LeaseProvided).await;
    let read = || op(Request::RequestRange(range(key, 0)));
    is_refused(raw, TXN, &txn(vec![read(); 129]), Fault::TooManyOps).await;
    is_done(raw, TXN, &txn(vec![read(); 128])).await;
    let twice = vec![op(Request::RequestPut(put(key))); 2];
    is_refused(raw, TXN, &txn(twice), Fault::DuplicateKey).await;
    let sorted = pb::RangeRequest { sort_order: 9, ..range(key, 0) };
    is_refused(raw, RANGE, &sorted, Fault::InvalidSortOption).await;
    let large = pb::PutRequest { value: vec![b'x'; 3 << 19].into(), ..put(key) };
    is_refused(raw, PUT, &large, Fault::RequestTooLarge).await;
    let txn_too = txn(vec![op(Request::RequestPut(large))]);
    is_refused(raw, TXN, &txn_too, Fault::RequestTooLarge).await;
    let first = client.put(key, "1").await.expect("a put");
    let now = client.put(key, "2").await.expect("a put");
    is_refused(raw, RANGE, &range(key, now + 1), Fault::FutureRevision).await;
    let compact = |revision| pb::CompactionRequest { revision, physical: false };
    is_refused(raw, COMPACT, &compact(now + 1), Fault::FutureRevision).await;
    is_done(raw, COMPACT, &compact(now)).await;
    is_refused(raw, COMPACT, &compact(first), Fault::Compacted).await;
    is_refused(raw, RANGE, &range(key, first), Fault::Compacted).await;
    is_done(raw, RANGE, &range(key, now)).await;
}

async fn leases(raw: &mut Raw, key: &str) {
    is_refused(raw, PUT, &pb::PutRequest { lease: 77, ..put(key) }, Fault::LeaseNotFound).await;
    is_refused(raw, REVOKE, &pb::LeaseRevokeRequest { id: 77 }, Fault::LeaseNotFound).await;
    is_refused(raw, GRANT, &grant(5, 9_000_000_001), Fault::LeaseTtlTooLarge).await;
    for (id, asked, given) in [(5, 9_000_000_000, 9_000_000_000), (6, 1, 2), (7, -3, 2)] {
        let granted = is_done(raw, GRANT, &grant(id, asked)).await;
        let granted = pb::LeaseGrantResponse::decode(granted.slice(5..)).expect("an answer");
        assert_eq!((granted.id, granted.ttl), (id, given), "as long as asked for, two seconds at least");
    }
    is_refused(raw, GRANT, &grant(5, 60), Fault::LeaseExists).await;
    is_done(raw, REVOKE, &pb::LeaseRevokeRequest { id: 5 }).await;
}

async fn members_and_users(raw: &mut Raw) {
    is_refused(raw, "Cluster/MemberRemove", &pb::MemberRemoveRequest { id: 5 }, Fault::MemberNotFound).await;
    let update = pb::MemberUpdateRequest { id: 5, ..Default::default() };
    is_refused(raw, "Cluster/MemberUpdate", &update, Fault::MemberNotFound).await;
    is_refused(raw, "Cluster/MemberPromote", &pb::MemberPromoteRequest { id: 5 }, Fault::MemberNotFound)
        .await;
    let list = is_done(raw, "Cluster/MemberList", &pb::MemberListRequest::default()).await;
    let list = pb::MemberListResponse::decode(list.slice(5..)).expect("an answer");
    let own = list.members[0].id;
    is_refused(raw, "Cluster/MemberPromote", &pb::MemberPromoteRequest { id: own }, Fault::MemberNotLearner)
        .await;
    let moved = |target_id| pb::MoveLeaderRequest { target_id };
    is_refused(raw, "Maintenance/MoveLeader", &moved(5), Fault::BadLeaderTransferee).await;
    is_done(raw, "Maintenance/MoveLeader", &moved(own)).await;
    is_refused(raw, "Auth/Authenticate", &pb::AuthenticateRequest::default(), Fault::AuthNotEnabled).await;
    let status = is_done(raw, "Auth/AuthStatus", &pb::AuthStatusRequest {}).await;
    let status = pb::AuthStatusResponse::decode(status.slice(5..)).expect("an answer");
    assert!(!status.enabled && status.auth_revision == 1 && status.header.is_some());
    let removed = pb::MemberRemoveRequest { id: own };
    for (method, words) in
        [("Cluster/MemberRemove", "placement file"), ("Auth/UserAdd", "--client-cert-auth")]
    {
        let (code, message, _) = ask(raw, method, &removed).await;
        assert!(code == 12 && message.contains(words), "{method}: {code} {message}");
    }
}

async fn alarms(raw: &mut Raw, key: &str) {
    use pb::alarm_request::AlarmAction::{Activate, Deactivate};
    is_done(raw, ALARM, &alarm(Activate, pb::AlarmType::Nospace)).await;
    is_refused(raw, PUT, &put(key), Fault::NoSpace).await;
    is_refused(raw, TXN, &txn(vec![op(Request::RequestPut(put(key)))]), Fault::NoSpace).await;
    is_refused(raw, GRANT, &grant(0, 60), Fault::NoSpace).await;
    is_done(raw, RANGE, &range(key, 0)).await;
    is_done(raw, ALARM, &alarm(Activate, pb::AlarmType::Corrupt)).await;
    is_done(raw, RANGE, &range(key, 0)).await;
    is_refused(raw, PUT, &put(key), Fault::Corrupt).await;
    for kind in [pb::AlarmType::Nospace, pb::AlarmType::Corrupt] {
        is_done(raw, ALARM, &alarm(Deactivate, kind)).await;
    }
    is_done(raw, PUT, &put(key)).await;
}

async fn all(server: &Process, keys: &[&str]) {
    let mut raw = Raw::connect(server.address()).await;
    let client = Client::new(server.address());
    for key in keys {
        keys_and_revisions(&mut raw, &client, key).await;
        alarms(&mut raw, key).await;
    }
    leases(&mut raw, keys[0]).await;
    members_and_users(&mut raw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brains_errors_have_etcds_codes_and_texts() {
    let place = BINARY.place();
    all(&Start::brain(&place, "default").run().await, &["/registry/pods/a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_several_groups_have_etcds_codes_and_texts() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    all(&server, &["/registry/leases/a", "/registry/pods/a", "/registry/events/a", "compact_rev_key"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_are_where_the_flags_put_them() {
    let place = BINARY.place();
    for start in [Start::standalone(&place), Start::brain(&place, "default")] {
        let server = start.flag("max-txn-ops", "3").flag("max-request-bytes", "1000").run().await;
        let mut raw = Raw::connect(server.address()).await;
        let read = || op(Request::RequestRange(range("/registry/pods/a", 0)));
        is_done(&mut raw, TXN, &txn(vec![read(); 3])).await;
        is_refused(&mut raw, TXN, &txn(vec![read(); 4]), Fault::TooManyOps).await;
        let sized = |bytes| pb::PutRequest { value: vec![b'x'; bytes].into(), ..put("/registry/pods/a") };
        is_done(&mut raw, PUT, &sized(900)).await;
        is_refused(&mut raw, PUT, &sized(1000), Fault::RequestTooLarge).await;
        is_refused(&mut raw, PUT, &sized(500 << 10), Fault::RequestTooLarge).await;
        // Above the bound and gRPC's own on top of it, the transport refuses.
        let (code, message, _) = ask(&mut raw, PUT, &sized(600 << 10)).await;
        assert!(code == 8 && message.contains("received message larger than max"), "{code} {message}");
    }
}
