use kubebrain_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse, compare, request_op,
    watch_request,
};
use kubebrain_proto::mvccpb::{Event, KeyValue};
use kubebrain_proto::peer::AdoptLeaseResponse;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// Writes a message again from its fields; one that is made of such fields comes out as prost wrote it.
fn rewritten(message: &[u8]) -> Result<BytesMut, Malformed> {
    let mut copy = BytesMut::new();
    for field in Fields::new(message) {
        let Field { number, value } = field?;
        match value {
            Value::Varint(value) => put_varint_field(&mut copy, number, value),
            Value::Bytes(value) => {
                let before = copy.len();
                put_bytes_field(&mut copy, number, value);
                assert_eq!(copy.len() - before, bytes_field_len(number, value.len()));
            }
            Value::Fixed64(value) => {
                put_varint(&mut copy, u64::from(number) << 3 | 1);
                copy.put_u64_le(value);
            }
            Value::Fixed32(value) => {
                put_varint(&mut copy, u64::from(number) << 3 | 5);
                copy.put_u32_le(value);
            }
        }
    }
    Ok(copy)
}

fn is_kept(message: &impl prost::Message) {
    let encoded = message.encode_to_vec();
    assert_eq!(rewritten(&encoded).expect("prost writes proto3"), encoded);
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

prop_compose! {
    fn key_value()(
        key in bytes(), value in bytes(), lease in any::<i64>(), version in any::<i64>(),
        create_revision in any::<i64>(), mod_revision in any::<i64>(),
    ) -> KeyValue {
        KeyValue { key, value, lease, version, create_revision, mod_revision }
    }
}

prop_compose! {
    fn header()(cluster_id in any::<u64>(), member_id in any::<u64>(), revision in any::<i64>(), raft_term in any::<u64>())
        -> ResponseHeader {
        ResponseHeader { cluster_id, member_id, revision, raft_term }
    }
}

prop_compose! {
    fn range_request()(
        key in bytes(), range_end in bytes(), limit in any::<i64>(), revision in any::<i64>(),
        serializable in any::<bool>(), keys_only in any::<bool>(), sort_order in 0..3,
    ) -> RangeRequest {
        RangeRequest { key, range_end, limit, revision, serializable, keys_only, sort_order, ..Default::default() }
    }
}

prop_compose! {
    fn put_request()(key in bytes(), value in bytes(), lease in any::<i64>(), prev_kv in any::<bool>()) -> PutRequest {
        PutRequest { key, value, lease, prev_kv, ..Default::default() }
    }
}

fn operation() -> impl Strategy<Value = RequestOp> {
    prop_oneof![
        range_request().prop_map(request_op::Request::RequestRange),
        put_request().prop_map(request_op::Request::RequestPut),
        (bytes(), bytes()).prop_map(|(key, range_end)| {
            request_op::Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: true })
        }),
    ]
    .prop_map(|request| RequestOp { request: Some(request) })
}

prop_compose! {
    fn txn_request()(
        keys in vec((bytes(), any::<i64>()), 0..4), success in vec(operation(), 0..4), failure in vec(operation(), 0..4),
    ) -> TxnRequest {
        let compare = keys
            .into_iter()
            .map(|(key, revision)| Compare {
                key,
                target_union: Some(compare::TargetUnion::ModRevision(revision)),
                ..Default::default()
            })
            .collect();
        TxnRequest { compare, success, failure }
    }
}

proptest! {
    #[test]
    fn messages_of_etcd_are_written_back_as_they_were_read(
        range in range_request(), put in put_request(), txn in txn_request(), header in option::of(header()),
        kvs in vec(key_value(), 0..5), count in any::<i64>(), watch_id in any::<i64>(), more in any::<bool>(),
    ) {
        is_kept(&range);
        is_kept(&put);
        is_kept(&txn);
        let create = WatchCreateRequest {
            key: range.key.clone(), range_end: range.range_end.clone(), start_revision: count, ..Default::default()
        };
        is_kept(&WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) });
        is_kept(&LeaseGrantRequest { ttl: count, id: watch_id });
        let events = kvs.iter().map(|kv| Event { kv: Some(kv.clone()), ..Default::default() }).collect();
        is_kept(&WatchResponse { header, watch_id, events, ..Default::default() });
        is_kept(&RangeResponse { header, kvs, more, count });
    }

    #[test]
    fn operations_of_a_txn_are_found_by_field(txn in txn_request()) {
        let encoded = txn.encode_to_vec();
        let mut success = txn.success.iter();
        for field in Fields::new(&encoded) {
            let field = field.expect("prost writes proto3");
            if field.number == 2 {
                let operation = RequestOp::decode(field.value.as_bytes().expect("a message")).expect("an operation");
                prop_assert_eq!(Some(&operation), success.next());
            }
        }
        prop_assert_eq!(success.next(), None);
    }

    /// `AdoptLeaseResponse` has no fields: prost skips them all, checking only what we check.
    #[test]
    fn foreign_bytes_are_judged_as_prost_judges_them(message in vec(prop_oneof![any::<u8>(), 0..40u8], 0..60)) {
        let ours = rewritten(&message);
        let theirs = AdoptLeaseResponse::decode(&message[..]);
        match ours {
            Ok(_) => prop_assert!(theirs.is_ok(), "{theirs:?}"),
            Err(Malformed::WireType(_)) => {}
            Err(error) => prop_assert!(theirs.is_err(), "{error:?}"),
        }
    }

    #[test]
    fn varints_have_the_length_that_is_announced(value in any::<u64>(), shift in 0..64) {
        let value = value >> shift;
        let mut buffer = BytesMut::new();
        put_varint(&mut buffer, value);
        prop_assert_eq!(buffer.len(), varint_len(value));
        prop_assert_eq!(buffer.len(), prost::length_delimiter_len(value as usize));
    }

    #[test]
    fn messages_are_split_where_they_were_framed(messages in vec(bytes(), 0..6), cuts in vec(1..50usize, 0..80)) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
        let (mut buffer, mut found, mut rest) = (BytesMut::new(), Vec::new(), &stream[..]);
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            buffer.extend_from_slice(piece);
            while let Some(message) = Message::split(&mut buffer).expect("our own frames") {
                found.push(message);
            }
        }
        prop_assert_eq!(found, messages);
        prop_assert!(buffer.is_empty());
    }
}

#[test]
fn a_bad_message_ends_at_its_first_fault() {
    let cases: [(&str, &[u8], Malformed); 10] = [
        ("cut in the tag", &[0x80], Malformed::Truncated),
        ("cut in the bytes", &[0x0a, 3, 1, 2], Malformed::Truncated),
        ("cut in a fixed32", &[0x0d, 1, 2, 3], Malformed::Truncated),
        ("field number 0", &[0x02, 0], Malformed::Number),
        ("the end of a group", &[0x0c], Malformed::WireType(4)),
        ("a group without an end", &[0x0b, 0x10, 0x01], Malformed::Truncated),
        ("a group with the end of another", &[0x0b, 0x14], Malformed::WireType(4)),
        ("groups in groups without end", &[0x0b; 200], Malformed::WireType(3)),
        ("eleven bytes", &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], Malformed::Overlong),
        ("65 bits", &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], Malformed::Overlong),
    ];
    for (name, message, expected) in cases {
        let read: Vec<_> = Fields::new(message).collect();
        assert_eq!(read, [Err(expected)], "{name}");
    }
    let length_of_2_to_64 = [0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    assert_eq!(Fields::new(&length_of_2_to_64).next(), Some(Err(Malformed::Truncated)));
}

#[test]
fn frames_that_cannot_be_forwarded_are_refused() {
    let split = |bytes: &[u8]| Message::split_within(&mut BytesMut::from(bytes), 4);
    assert_eq!(split(&[1, 0, 0, 0, 0]), Err(FrameError::Compressed));
    assert_eq!(split(&[2, 0, 0, 0, 0]), Err(FrameError::Flag(2)));
    assert_eq!(split(&[0, 0, 0, 0, 5]), Err(FrameError::TooLong { bytes: 5, bytes_max: 4 }));
    assert_eq!(split(&[0, 0, 0, 0]), Ok(None));
    assert_eq!(split(&[0, 0, 0, 0, 0]), Ok(Some(Bytes::new())));
}

#[test]
fn groups_are_passed_over() {
    let message = [0x08, 0x01, 0x0b, 0x13, 0x14, 0x12, 0x01, 0x0c, 0x0c, 0x10, 0x02];
    let read: Vec<_> = Fields::new(&message).map(|field| field.expect("valid")).collect();
    let field = |number, value| Field { number, value: Value::Varint(value) };
    assert_eq!(read, [field(1, 1), field(2, 2)]);
}
