//! What the corpus begins with: one of everything, as real programs write it.

use bytes::Bytes;
use kubebrain_brain::rows::{self, Change, Layout, LeaseRow, Record, Small, Write};
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot as file;
use kubebrain_shared::wire::frame;
use prost::Message;
use wire::request_op::Request;

type Seeds = Vec<(&'static str, Vec<u8>)>;

pub(crate) fn all() -> Vec<(&'static str, Seeds)> {
    vec![
        ("fields", fields()),
        ("classify", classify()),
        ("rows", rows()),
        ("placement", placement()),
        ("requests", requests()),
        ("snapshot", snapshot()),
    ]
}

fn range() -> wire::RangeRequest {
    wire::RangeRequest {
        key: Bytes::from_static(b"/registry/pods/"),
        range_end: Bytes::from_static(b"/registry/pods0"),
        limit: 500,
        revision: 1234,
        ..Default::default()
    }
}

fn put() -> wire::PutRequest {
    wire::PutRequest {
        key: Bytes::from_static(b"/registry/pods/default/web"),
        value: Bytes::from_static(b"k8s\0\n\x09\n\x02v1\x12\x03Pod"),
        lease: 77,
        ..Default::default()
    }
}

fn delete() -> wire::DeleteRangeRequest {
    wire::DeleteRangeRequest { key: Bytes::from_static(b"/registry/events/a"), ..Default::default() }
}

fn txn() -> wire::TxnRequest {
    let compare = wire::Compare {
        key: put().key,
        target: wire::compare::CompareTarget::Mod as i32,
        target_union: Some(wire::compare::TargetUnion::ModRevision(9)),
        ..Default::default()
    };
    let op = |request| wire::RequestOp { request: Some(request) };
    let inner =
        wire::TxnRequest { success: vec![op(Request::RequestDeleteRange(delete()))], ..Default::default() };
    wire::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put())), op(Request::RequestTxn(inner))],
        failure: vec![op(Request::RequestRange(range()))],
    }
}

fn watch() -> wire::WatchRequest {
    let create = wire::WatchCreateRequest {
        key: range().key,
        range_end: range().range_end,
        start_revision: 1235,
        prev_kv: true,
        progress_notify: true,
        filters: vec![1],
        ..Default::default()
    };
    wire::WatchRequest { request_union: Some(wire::watch_request::RequestUnion::CreateRequest(create)) }
}

fn fields() -> Seeds {
    let two = [frame(&range().encode_to_vec()), frame(&put().encode_to_vec())].concat();
    vec![
        ("txn", txn().encode_to_vec()),
        ("watch", watch().encode_to_vec()),
        ("frames", two),
        ("cut-off", frame(&put().encode_to_vec())[..20].to_vec()),
        ("compressed", vec![1, 0, 0, 0, 1, 0]),
        ("padded-varint", vec![0x08, 0x80, 0x80, 0x80, 0x00]),
        ("longest-varint", vec![0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("fixed", vec![0x0d, 1, 2, 3, 4, 0x11, 1, 2, 3, 4, 5, 6, 7, 8]),
    ]
}

fn chosen(which: u8, message: &impl Message) -> Vec<u8> {
    let mut data = vec![which];
    data.extend(message.encode_to_vec());
    data
}

fn classify() -> Seeds {
    vec![
        ("range", chosen(0, &range())),
        ("put", chosen(1, &put())),
        ("delete", chosen(2, &delete())),
        ("txn", chosen(3, &txn())),
        ("oneof-twice", [&[3][..], &[0x12, 8, 0x0a, 2, 0x0a, 0, 0x12, 2, 0x0a, 0]].concat()),
    ]
}

fn requests() -> Seeds {
    vec![
        ("range", chosen(0, &range())),
        ("from-key", chosen(0, &wire::RangeRequest { range_end: Bytes::from_static(b"\0"), ..range() })),
        ("put", chosen(1, &put())),
        ("delete", chosen(2, &delete())),
        ("watch", chosen(3, &watch())),
        ("txn", chosen(4, &txn())),
    ]
}

fn row(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&[u8::try_from(key.len()).expect("a short key")], key, value].concat()
}

fn rows() -> Seeds {
    let layout = Layout::new(b"p", &GroupName::parse("core").expect("a legal name"));
    let record = Record {
        epoch: 3,
        nonce: 0x0123_4567_89ab_cdef,
        top: 1235,
        takeover: "node-1".to_owned(),
        writes: vec![Write {
            revision: 1235,
            changes: vec![
                Change { key: put().key, deleted: false },
                Change { key: delete().key, deleted: true },
            ],
        }],
        ..Default::default()
    };
    let lease = LeaseRow { ttl: 3660, holders: vec!["events".to_owned()], ..Default::default() };
    let key = layout.data(b"/registry/\0/a", Revision::new(7));
    vec![
        ("put", row(&key, &rows::data_value(Some(&put().value)))),
        ("tombstone", row(&key, &rows::data_value(None))),
        ("record", row(&layout.log(42), &record.encode_to_vec())),
        ("lease", row(&layout.lease(77), &lease.encode_to_vec())),
        ("small", row(&layout.small(Small::Compacted), &rows::small_value(1000))),
        ("owner", row(&layout.owner(b"/registry/pods/"), b"pods")),
        ("short", row(b"p", b"")),
    ]
}

fn placement() -> Seeds {
    let text = "\
prefix: /registry
home: core
default: core
groups:
  core: { brains: [http://10.0.0.1:2380] }
  pods: {}
  events: {}
kinds:
  - { kind: pods, group: pods }
  - { kind: example.com/widgets, group: pods }
  - { prefix: /registry/services/endpoints/, group: events }
";
    let hash = "home: a\ndefault: hash\nhashGroups: [a, b]\nprefix: /registry\ngroups: { a: {}, b: {} }\n";
    let keys = "\0/registry/pods\0/registry/pods/x\0/registry/services/specs/y\0zzz\0compact_rev_key";
    vec![
        ("table", format!("{text}{keys}").into_bytes()),
        ("hash", format!("{hash}{keys}").into_bytes()),
        ("empty-prefix", b"prefix: ''\nhome: a\ndefault: a\ngroups: {a: {}}\n\0k\0".to_vec()),
        ("wrong", b"prefix: [1\nhome: {}".to_vec()),
    ]
}

fn snapshot() -> Seeds {
    let header =
        file::Header { revision: 9, compacted: 2, groups: vec!["a".to_owned()], ..Default::default() };
    let kv = KeyValue { key: put().key, mod_revision: 5, value: put().value, ..Default::default() };
    let change = file::Change { key: put().key, deleted: false };
    let mut content = file::Content::default();
    content.add(false, &kv.encode_to_vec());
    let (puts, hash) = (1, content.hash());
    let records: [(u8, Vec<u8>); 8] = [
        (1, header.encode_to_vec()),
        (2, file::Group { name: "a".to_owned() }.encode_to_vec()),
        (3, file::Owner { unit: Bytes::from_static(b"/registry/pods/") }.encode_to_vec()),
        (4, kv.encode_to_vec()),
        (6, file::Lease { id: 7, ttl: 60, remaining_ms: 1500, holders: Vec::new() }.encode_to_vec()),
        (7, file::Write { revision: 5, changes: vec![change] }.encode_to_vec()),
        (
            8,
            file::GroupEnd { owners: 1, puts, leases: 1, writes: 1, hash, ..Default::default() }
                .encode_to_vec(),
        ),
        (9, file::End { groups: 1, rows: 1, hash }.encode_to_vec()),
    ];
    let whole = records.iter().flat_map(|(kind, payload)| {
        let length = u8::try_from(payload.len()).expect("a short record");
        [&[*kind, length], &payload[..]].concat()
    });
    vec![("whole", whole.collect()), ("foreign", b"not a snapshot".to_vec())]
}
