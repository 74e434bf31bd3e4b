use kubebrain_proto::etcdserverpb as pb;
use pb::request_op::Request;
use proptest::prelude::*;
use prost::Message as _;

use super::agreement::expected;
use super::*;

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from),
        1 => Just(Bytes::from_static(API_SERVERS_KEY)),
    ]
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    (key(), key(), any::<i64>(), any::<i64>(), any::<bool>()).prop_map(
        |(key, range_end, revision, limit, keys_only)| pb::RangeRequest {
            key,
            range_end,
            revision,
            limit,
            keys_only,
            ..Default::default()
        },
    )
}

fn put() -> impl Strategy<Value = pb::PutRequest> {
    (key(), key(), -2_i64..3, any::<bool>()).prop_map(|(key, value, lease, prev_kv)| pb::PutRequest {
        key,
        value,
        lease,
        prev_kv,
        ..Default::default()
    })
}

fn delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), key(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = pb::Compare> {
    (key(), key(), any::<i64>()).prop_map(|(key, range_end, lease)| pb::Compare {
        key,
        range_end,
        target: 4,
        target_union: Some(pb::compare::TargetUnion::Lease(lease)),
        ..Default::default()
    })
}

fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    let flat = prop_oneof![
        range().prop_map(Request::RequestRange),
        put().prop_map(Request::RequestPut),
        delete().prop_map(Request::RequestDeleteRange),
    ];
    let op = |request: BoxedStrategy<Request>| {
        prop::option::of(request).prop_map(|request| pb::RequestOp { request })
    };
    let of = move |request: BoxedStrategy<Request>| {
        (
            prop::collection::vec(compare(), 0..3),
            prop::collection::vec(op(request.clone()), 0..4),
            prop::collection::vec(op(request), 0..3),
        )
            .prop_map(|(compare, success, failure)| pb::TxnRequest { compare, success, failure })
    };
    let inner = of(flat.clone().boxed());
    of(prop_oneof![4 => flat, 1 => inner.prop_map(Request::RequestTxn)].boxed())
}

fn sorted(mut footprint: Footprint) -> Footprint {
    footprint.spans.sort();
    footprint.leases.sort_unstable();
    footprint
}

/// Bytes that are legal protobuf and in any order, with unknown fields and repeated singular ones.
fn shuffled(message: &[u8], seed: u64) -> Vec<u8> {
    let mut fields: Vec<Vec<u8>> = Fields::new(message)
        .map(|field| {
            let field = field.expect("valid");
            let mut raw = bytes::BytesMut::new();
            match field.value {
                Value::Bytes(bytes) => kubebrain_shared::wire::put_bytes_field(&mut raw, field.number, bytes),
                Value::Varint(value) => {
                    kubebrain_shared::wire::put_varint_field(&mut raw, field.number, value)
                }
                _ => unreachable!("etcd has no fixed fields"),
            }
            raw.to_vec()
        })
        .collect();
    let mut unknown = bytes::BytesMut::new();
    kubebrain_shared::wire::put_bytes_field(&mut unknown, 1000, b"unknown");
    kubebrain_shared::wire::put_varint_field(&mut unknown, 999, 7);
    fields.push(unknown.to_vec());
    let turn = seed as usize % fields.len();
    fields.rotate_left(turn);
    if seed.is_multiple_of(3) {
        fields.push(fields[0].clone());
    }
    fields.concat()
}

proptest! {
    #[test]
    fn a_shallow_reading_finds_what_the_decoder_finds(txn in txn(), seed in any::<u64>()) {
        let bytes: Bytes = shuffled(&txn.encode_to_vec(), seed).into();
        let decoded = pb::TxnRequest::decode(bytes.clone()).expect("valid");
        let mut full = Footprint::default();
        expected(&decoded, &mut full);
        prop_assert_eq!(sorted(footprint(Shape::Txn, &bytes).expect("valid")), sorted(full));
    }

    #[test]
    fn unary_requests_are_read_as_the_decoder_reads_them(range in range(), put in put(), delete in delete(), seed in any::<u64>()) {
        let bytes: Bytes = shuffled(&range.encode_to_vec(), seed).into();
        let found = footprint(Shape::Range, &bytes).expect("valid");
        let again = pb::RangeRequest::decode(bytes.clone()).expect("valid");
        prop_assert_eq!(found.revision, again.revision.max(0));
        prop_assert_eq!(found.spans.first().cloned().unwrap_or_default().key, again.key);
        let found = footprint(Shape::Put, &put.encode_to_vec().into()).expect("valid");
        prop_assert_eq!(found.leases.first().copied().unwrap_or(0), put.lease);
        let found = footprint(Shape::DeleteRange, &delete.encode_to_vec().into()).expect("valid");
        prop_assert_eq!(found.spans.len(), usize::from(!delete.key.is_empty()));
    }

    #[test]
    fn a_oneof_that_stands_twice_is_read_as_the_decoder_reads_it(a in range(), b in range(), put in put(), order in 0..3) {
        let arm = |number, message: Vec<u8>| {
            let mut raw = bytes::BytesMut::new();
            kubebrain_shared::wire::put_bytes_field(&mut raw, number, &message);
            raw.to_vec()
        };
        let (a, b, put) = (arm(1, a.encode_to_vec()), arm(1, b.encode_to_vec()), arm(2, put.encode_to_vec()));
        let op = match order { 0 => [a, put, b], 1 => [a, b, put], _ => [put, a, b] }.concat();
        let bytes: Bytes = arm(2, op).into();
        let mut full = Footprint::default();
        expected(&pb::TxnRequest::decode(bytes.clone()).expect("valid"), &mut full);
        prop_assert_eq!(footprint(Shape::Txn, &bytes).expect("valid"), full);
    }

    #[test]
    fn bytes_that_are_not_protobuf_never_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let noise = Bytes::from(noise);
        for shape in [Shape::Range, Shape::Put, Shape::DeleteRange, Shape::Txn] {
            let _any = footprint(shape, &noise);
        }
    }
}

#[test]
fn deep_nesting_is_refused_and_not_a_crash() {
    let mut message = Vec::new();
    for _ in 0..2_000 {
        let mut op = bytes::BytesMut::new();
        kubebrain_shared::wire::put_bytes_field(&mut op, 4, &message);
        let mut txn = bytes::BytesMut::new();
        kubebrain_shared::wire::put_bytes_field(&mut txn, 2, &op);
        message = txn.to_vec();
    }
    let refused = footprint(Shape::Txn, &message.into()).expect_err("too deep");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[test]
fn the_compactors_key_is_seen_in_any_compare_or_operation() {
    let key = Bytes::from_static(API_SERVERS_KEY);
    let compare = pb::TxnRequest {
        compare: vec![pb::Compare { key: key.clone(), ..Default::default() }],
        ..Default::default()
    };
    let put = pb::PutRequest { key: key.clone(), ..Default::default() };
    let wider = pb::DeleteRangeRequest { key: key.clone(), range_end: "d".into(), ..Default::default() };
    assert!(footprint(Shape::Txn, &compare.encode_to_vec().into()).expect("valid").touches_compact_key());
    assert!(footprint(Shape::Put, &put.encode_to_vec().into()).expect("valid").touches_compact_key());
    assert!(
        !footprint(Shape::DeleteRange, &wider.encode_to_vec().into()).expect("valid").touches_compact_key()
    );
}
