//! The checks, one for each decoder.

use bytes::{BufMut, Bytes, BytesMut};
use kubebrain_brain::request::{Delete, Limits, Put, Range, Txn};
use kubebrain_brain::rows::{self, Layout, LeaseRow, Record as LogRecord};
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::snapshot::{Reader, Record, put_preamble, put_record};
use kubebrain_shared::wire::{
    FRAME_PREFIX_BYTES, Fields, Malformed, Message as Frame, Value, frame, put_bytes_field, put_varint_field,
};
use prost::Message;

/// Protobuf fields and gRPC frames.
pub fn fields(data: &[u8]) {
    let read: Result<Vec<_>, Malformed> = Fields::new(data).collect();
    if let Ok(read) = read {
        // Written again they are the same fields, though not always the same bytes: varints may be padded.
        let mut again = BytesMut::new();
        for field in &read {
            match field.value {
                Value::Varint(value) => put_varint_field(&mut again, field.number, value),
                Value::Bytes(bytes) => put_bytes_field(&mut again, field.number, bytes),
                Value::Fixed32(_) | Value::Fixed64(_) => return,
            }
        }
        let again: Vec<_> = Fields::new(&again).map(|field| field.expect("just written")).collect();
        assert_eq!(again, read);
    }
    let mut buffer = BytesMut::from(data);
    let mut taken = 0;
    while let Ok(Some(message)) = Frame::split(&mut buffer) {
        let framed = frame(&message);
        assert_eq!(framed, data[taken..taken + framed.len()]);
        taken += FRAME_PREFIX_BYTES + message.len();
    }
    assert_eq!(buffer, data[taken..], "nothing is lost behind the frames");
}

/// The proxy's shallow reading of requests: the first byte chooses which.
pub fn classify(data: &[u8]) {
    if let Some((shape, message)) = data.split_first() {
        kubebrain_proxy::check_shallow_reading(*shape, &Bytes::copy_from_slice(message));
    }
}

/// Stored rows: the first byte is the length of the row's key.
pub fn rows(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (key, value) = rest.split_at(rest.len().min(usize::from(*length)));
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    let layout = Layout::new(b"p", &GroupName::parse("core").expect("a legal name"));
    if let Ok(row) = layout.read_data(&key, &value) {
        // The two bytes before are the reader's choice of what to read.
        assert_eq!(layout.data(&row.key, row.revision)[2..], key[2..]);
        let written = rows::data_value(row.kv.as_deref());
        assert!(if row.kv.is_some() { written == value } else { value.starts_with(&written) });
    }
    let _number = layout.read_log_number(&key);
    let _id = layout.read_lease_id(&key);
    if let Ok((unit, group)) = layout.read_owner(&key, &value) {
        assert_eq!(layout.owner(&unit)[2..], key[2..]);
        assert_eq!(group.as_str().as_bytes(), value);
    }
    if let Ok(number) = rows::read_small(&key, &value) {
        assert_eq!(rows::small_value(number), value);
    }
    if let Ok(record) = rows::read_message::<LogRecord>(&key, value.clone()) {
        assert_eq!(LogRecord::decode(&record.encode_to_vec()[..]).expect("just written"), record);
    }
    if let Ok(lease) = rows::read_message::<LeaseRow>(&key, value) {
        assert_eq!(LeaseRow::decode(&lease.encode_to_vec()[..]).expect("just written"), lease);
    }
}

/// A placement: text, and behind a zero byte keys to place.
pub fn placement(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let Some(text) = parts.next().and_then(|text| std::str::from_utf8(text).ok()) else { return };
    let Ok(table) = Placement::parse(text) else { return };
    let again = Placement::parse(&format!("{text}\n# a remark\n")).expect("a remark changes nothing");
    assert_eq!(again.version(), table.version());

    let keys: Vec<&[u8]> = parts.chain(table.boundaries().map(|boundary| &boundary[..])).collect();
    let known: Vec<_> = table.groups().map(|(group, _)| group.clone()).collect();
    for key in &keys {
        let owner = table.owner(key);
        assert!(known.contains(owner), "{owner} is not in the table");
        let one = KeyRange::one(Bytes::copy_from_slice(key));
        assert_eq!(table.owners(&one), std::slice::from_ref(owner));
        assert!(table.unit(key).contains(key));
        for end in &keys {
            let range = KeyRange::new(Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(end)));
            agree(&table, &range, &keys);
        }
        agree(&table, &KeyRange::new(Bytes::copy_from_slice(key), None), &keys);
    }
}

/// Parts, owners and owner say the same of a range and the keys in it.
fn agree(table: &Placement, range: &KeyRange, keys: &[&[u8]]) {
    let owners = table.owners(range);
    let parts = table.partition(range);
    assert_eq!(owners.is_empty(), range.is_empty());
    for key in keys.iter().filter(|key| range.contains(key)) {
        assert!(owners.contains(table.owner(key)));
        if let Some(parts) = &parts {
            let within: Vec<_> = parts.iter().filter(|(part, _)| part.contains(key)).collect();
            assert!(
                matches!(within[..], [(_, group)] if group == table.owner(key)),
                "one part, and its owner's"
            );
        }
    }
    if let Some(parts) = parts.filter(|parts| !parts.is_empty()) {
        assert_eq!(parts[0].0.start(), range.start());
        assert_eq!(parts[parts.len() - 1].0.end(), range.end());
        for pair in parts.windows(2) {
            assert_eq!(pair[0].0.end(), Some(pair[1].0.start()), "no gap and no overlap");
            assert_ne!(pair[0].1, pair[1].1, "neighbours of one group are one part");
        }
    }
}

/// Requests, once decoded: the first byte chooses which.
pub fn requests(data: &[u8]) {
    let Some((which, message)) = data.split_first() else { return };
    let limits = Limits::default();
    match which % 5 {
        0 => {
            let Ok(request) = wire::RangeRequest::decode(message) else { return };
            let key = request.key.clone();
            if let Ok(range) = Range::try_from(request) {
                assert_eq!(*range.keys.start(), key);
                let again = KeyRange::from_wire(range.keys.start().clone(), range.keys.wire_end());
                assert_eq!(again, range.keys, "what is forwarded is what came");
            }
        }
        1 => {
            let Ok(request) = wire::PutRequest::decode(message) else { return };
            let _put = Put::try_from(request);
        }
        2 => {
            let Ok(request) = wire::DeleteRangeRequest::decode(message) else { return };
            let _delete = Delete::try_from(request);
        }
        3 => {
            let Ok(request) = wire::WatchRequest::decode(message) else { return };
            assert_eq!(
                wire::WatchRequest::decode(&request.encode_to_vec()[..]).expect("just written"),
                request
            );
        }
        _ => {
            let Ok(request) = wire::TxnRequest::decode(message) else { return };
            if let Ok(txn) = Txn::from_wire(request, &limits) {
                let _ranges = txn.ranges();
            }
        }
    }
}

/// Snapshots: as they are, and as records (kind, length, payload) that get the checksums they lack.
pub fn snapshot(data: &[u8]) {
    let _any = records(data);
    let mut file = BytesMut::new();
    put_preamble(&mut file);
    let mut rest = data;
    while let [kind, length, tail @ ..] = rest {
        let payload;
        (payload, rest) = tail.split_at(tail.len().min(usize::from(*length)));
        let start = file.len();
        file.put_u32(payload.len() as u32);
        file.put_u8(*kind);
        file.put_slice(payload);
        file.put_u32(crc32c::crc32c(&file[start..]));
    }
    // What was read is what stands there, as far as it was taken.
    let mut again = BytesMut::new();
    put_preamble(&mut again);
    for record in records(&file) {
        let start = again.len();
        put_record(&mut again, &record);
        if again[start..] != file[start..again.len().min(file.len())] {
            return; // protobuf may be written in other ways than ours
        }
    }
    assert!(again.len() <= file.len());
}

fn records(file: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    if let Ok(mut reader) = Reader::new(file, false) {
        while let Ok(Some(record)) = reader.next_record() {
            records.push(record);
        }
    }
    records
}

/// A check, by name.
pub type Check = (&'static str, fn(&[u8]));

/// All of them; each has a directory of that name in `corpus/`.
pub const ALL: &[Check] = &[
    ("fields", fields),
    ("classify", classify),
    ("rows", rows),
    ("placement", placement),
    ("requests", requests),
    ("snapshot", snapshot),
];
