use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::metrics::Metrics as Registry;
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_proto::etcdserverpb::request_op::Request as Operation;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;

use super::Metrics;
use crate::config::Config;
use crate::engine::memory::Memory;
use crate::request::{Delete, Limits, Put, Range, Txn};
use crate::store::Store;

const PLACEMENT: &str =
    "{prefix: /r, home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: m, group: b}]}";

struct Process {
    registry: Registry,
    metrics: Metrics,
    engine: Arc<Memory>,
}

impl Process {
    fn new() -> Self {
        let registry = Registry::new();
        Self { metrics: Metrics::new(&registry), registry, engine: Arc::new(Memory::new()) }
    }

    async fn open(&self, name: &str) -> Store {
        let group = GroupName::parse(name).expect("a legal name");
        let config = Config { metrics: self.metrics.clone(), ..Config::new(group, "test") };
        let placement = Arc::new(Placement::parse(PLACEMENT).expect("a legal placement"));
        Store::open(config, self.engine.clone(), placement).await.expect("the store opens")
    }

    /// The values of the lines that begin so.
    fn lines(&self, begin: &str) -> Vec<String> {
        let page = self.registry.page();
        page.lines().filter_map(|line| Some(line.strip_prefix(begin)?.trim().to_owned())).collect()
    }

    fn value(&self, row: &str) -> f64 {
        let found = self.lines(&format!("{row} "));
        assert_eq!(found.len(), 1, "{row}: {found:?}");
        found[0].parse().expect("a number")
    }

    fn values(&self, expected: &[(&str, f64)]) {
        for (row, expected) in expected {
            assert_eq!(self.value(row), *expected, "{row}");
        }
    }
}

fn put(key: &str) -> wire::PutRequest {
    wire::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

async fn write(store: &Store, key: &str) {
    let put = Put::try_from(put(key)).expect("a legal put");
    store.put(put, Revision::ZERO).await.expect("a put");
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_counted_once_and_by_kind() {
    let process = Process::new();
    let store = process.open("a").await;
    write(&store, "k").await;
    write(&store, "k").await;
    let range = wire::RangeRequest { key: "k".into(), ..Default::default() };
    let delete = wire::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    let op = |request| wire::RequestOp { request: Some(request) };
    let txn = |failure: Vec<wire::RequestOp>| {
        // What does not run does not count.
        let never = op(Operation::RequestPut(put("never")));
        let compare = wire::Compare { key: "k".into(), target_union: None, ..Default::default() };
        let compare =
            wire::Compare { target_union: Some(wire::compare::TargetUnion::Version(77)), ..compare };
        let txn = wire::TxnRequest { compare: vec![compare], success: vec![never], failure };
        Txn::from_wire(txn, &Limits::default()).expect("a legal transaction")
    };
    store.txn(txn(vec![op(Operation::RequestRange(range.clone()))]), Revision::ZERO).await.expect("a txn");
    let two =
        vec![op(Operation::RequestRange(range.clone())), op(Operation::RequestDeleteRange(delete.clone()))];
    store.txn(txn(two), Revision::ZERO).await.expect("a txn");
    let read = Range::try_from(range).expect("a legal range");
    store.range(&read, Revision::ZERO).await.expect("a range");
    store.delete(Delete::try_from(delete).expect("legal"), Revision::ZERO, None).await.expect("a deletion");
    process.values(&[
        ("etcd_mvcc_put_total", 2.0),
        ("etcd_mvcc_range_total", 3.0),
        ("etcd_mvcc_delete_total", 2.0),
        ("etcd_mvcc_txn_total", 1.0),
        ("etcd_server_proposals_committed_total", 5.0),
        ("etcd_server_proposals_applied_total", 5.0),
        ("etcd_server_proposals_pending", 0.0),
        ("etcd_server_proposals_failed_total", 0.0),
        ("etcd_debugging_mvcc_current_revision", 4.0),
        ("etcd_debugging_mvcc_keys_total", 1.0),
        ("kubebrain_mvcc_versions{group=\"a\"}", 3.0),
        ("kubebrain_mvcc_commits_total{group=\"a\",outcome=\"ok\"}", 3.0),
    ]);
    store.close().await;
    let put = Put::try_from(put("late")).expect("a legal put");
    store.put(put, Revision::ZERO).await.expect_err("it is closed");
    assert_eq!(process.value("etcd_server_proposals_failed_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_closed_group_leaves_the_page_and_one_opened_again_is_there_once() {
    let process = Process::new();
    let (a, b) = (process.open("a").await, process.open("b").await);
    write(&b, "/r/m/k").await;
    let revisions = "kubebrain_mvcc_committed_revision";
    assert_eq!(process.lines(revisions), ["{group=\"a\"} 1", "{group=\"b\"} 2"]);
    process.values(&[
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_leader_changes_seen_total", 1.0),
        ("etcd_debugging_mvcc_current_revision", 2.0),
    ]);
    b.close().await;
    drop(b);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(process.lines(revisions), ["{group=\"a\"} 1"]);
    // The older one is still held by somebody and is not the master any more.
    let again = process.open("a").await;
    write(&again, "k").await;
    assert_eq!(process.lines(revisions), ["{group=\"a\"} 2"]);
    process.values(&[("etcd_server_has_leader", 1.0), ("etcd_server_leader_changes_seen_total", 2.0)]);
    drop((a, again));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(process.lines(revisions), [""; 0]);
    assert_eq!(process.value("etcd_server_has_leader"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_deposed_master_does_not_pretend_to_lead() {
    let (older, newer) = (Process::new(), Process::new());
    let newer = Process { engine: older.engine.clone(), ..newer };
    let deposed = older.open("a").await;
    let _master = newer.open("a").await;
    let put = Put::try_from(put("k")).expect("a legal put");
    deposed.put(put, Revision::ZERO).await.expect_err("another master has taken over");
    older.values(&[
        ("etcd_server_has_leader", 0.0),
        ("etcd_server_is_leader", 0.0),
        ("etcd_server_proposals_failed_total", 1.0),
        ("kubebrain_mvcc_commits_total{group=\"a\",outcome=\"conflict\"}", 1.0),
    ]);
    assert_eq!(newer.value("etcd_server_is_leader"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn compactions_and_leases_are_counted() {
    let process = Process::new();
    let store = process.open("a").await;
    for _ in 0..4 {
        write(&store, "k").await;
    }
    process.values(&[
        ("etcd_debugging_mvcc_compact_revision", -1.0),
        ("etcd_debugging_mvcc_db_compaction_last", 0.0),
    ]);
    store.compact(4, true, Revision::ZERO).await.expect("a compaction");
    process.values(&[
        ("etcd_debugging_mvcc_compact_revision", 4.0),
        ("etcd_debugging_mvcc_db_compaction_keys_total", 2.0),
        ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", 1.0),
        ("kubebrain_mvcc_swept_revision{group=\"a\"}", 4.0),
        ("kubebrain_mvcc_versions{group=\"a\"}", 2.0),
    ]);
    assert!(process.value("etcd_debugging_mvcc_db_compaction_last") > 1.7e9, "it is a time of day");
    for id in [1, 2] {
        store.grant(id, 10, Revision::ZERO).await.expect("a lease");
    }
    store.renew(1).await.expect("a renewal");
    store.renew(77).await.expect("an answer");
    store.revoke(2, Revision::ZERO).await.expect("a revocation");
    assert_eq!(process.value("kubebrain_mvcc_leases{group=\"a\"}"), 1.0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    process.values(&[
        ("etcd_debugging_lease_granted_total", 2.0),
        ("etcd_debugging_lease_ttl_total_sum", 20.0),
        ("etcd_debugging_lease_renewed_total", 1.0),
        ("etcd_debugging_lease_revoked_total", 2.0),
        ("etcd_debugging_server_lease_expired_total", 1.0),
        ("kubebrain_mvcc_leases{group=\"a\"}", 0.0),
    ]);
}

#[tokio::test(start_paused = true)]
async fn the_cache_of_values_shows_what_it_did() {
    let process = Process::new();
    let store = process.open("a").await;
    write(&store, "k").await;
    let read = wire::RangeRequest { key: Bytes::from_static(b"k"), ..Default::default() };
    let read = Range::try_from(read).expect("a legal range");
    store.range(&read, Revision::ZERO).await.expect("a range");
    assert_eq!(process.value("kubebrain_mvcc_value_cache_hits_total{group=\"a\"}"), 1.0);
    assert_eq!(process.value("kubebrain_mvcc_value_cache_misses_total{group=\"a\"}"), 0.0);
    assert!(process.value("kubebrain_mvcc_value_cache_bytes{group=\"a\"}") > 0.0);
}
