//! Snapshots that are whole, cut, flipped, or nonsense.

use bytes::{Bytes, BytesMut};
use kubebrain_proto::etcdserverpb::ResponseHeader;
use kubebrain_proto::mvccpb::KeyValue;
use proptest::prelude::*;
use prost::Message as _;

use super::{
    Change, Content, GroupEnd, Header, Lease, Messages, Owner, ReadError, Reader, Record, Write, put_record,
};

fn row(key: &str, revision: i64) -> Bytes {
    let value = vec![b'v'; 40].into();
    let kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, value, ..KeyValue::default() };
    kv.encode_to_vec().into()
}

fn header(groups: &[&str]) -> Header {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Header { revision: 9, compacted: 2, groups, ..Header::default() }
}

/// A group's section with these rows: key, revision, deleted.
fn section(name: &str, rows: &[(&str, i64, bool)]) -> (Vec<Record>, GroupEnd) {
    let mut records = vec![
        Record::Group(super::Group { name: name.to_owned() }),
        Record::Owner(Owner { unit: Bytes::from_static(b"/r/m/") }),
    ];
    let mut content = Content::default();
    let mut end = GroupEnd { owners: 1, leases: 1, writes: 1, ..GroupEnd::default() };
    for (key, revision, deleted) in rows {
        let kv = row(key, *revision);
        content.add(*deleted, &kv);
        match deleted {
            true => end.tombstones += 1,
            false => end.puts += 1,
        }
        records.push(if *deleted { Record::Tombstone(kv) } else { Record::Put(kv) });
    }
    end.hash = content.hash();
    records.push(Record::Lease(Lease { id: 7, ttl: 60, remaining_ms: 1500, holders: vec!["b".to_owned()] }));
    let change = Change { key: Bytes::from_static(b"/r/m/a"), deleted: false };
    records.push(Record::Write(Write { revision: 5, changes: vec![change] }));
    records.push(Record::GroupEnd(end));
    (records, end)
}

/// The file of sections, in messages as they are sent.
fn file(header: Header, sections: &[(Vec<Record>, GroupEnd)]) -> Vec<u8> {
    let mut messages = Messages::new(header, ResponseHeader::default(), "3.7.0".to_owned(), 4);
    let mut sent = Vec::new();
    for (records, end) in sections {
        let mut buffer = BytesMut::new();
        records.iter().for_each(|record| put_record(&mut buffer, record));
        sent.extend(messages.records(&buffer, end.puts + end.tombstones));
        messages.end_group(end.puts + end.tombstones, end.hash);
    }
    sent.extend(messages.finish());
    let (last, before) = sent.split_last().expect("there is a sum");
    assert!(last.remaining_bytes == 0 && before.iter().all(|message| message.remaining_bytes > 0));
    sent.iter().flat_map(|message| message.blob.to_vec()).collect()
}

fn whole() -> (Vec<Record>, Vec<u8>) {
    let sections = [
        section("a", &[("/r/m/a", 5, false), ("/r/m/a", 3, true), ("/r/m/b", 4, false)]),
        section("b", &[("/r/n/a", 9, false)]),
    ];
    let records = sections.iter().flat_map(|(records, _)| records.clone()).collect();
    (records, file(header(&["a", "b"]), &sections))
}

fn read(bytes: &[u8], check_sum: bool) -> Result<Vec<Record>, ReadError> {
    let mut reader = Reader::new(bytes, check_sum)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        records.push(record);
    }
    Ok(records)
}

#[test]
fn a_snapshot_gives_back_what_was_put_into_it_and_ends_as_etcds_client_wants_it() {
    let (records, file) = whole();
    assert_eq!(file.len() % 512, 32);
    let read = read(&file, true).expect("it is whole");
    assert!(matches!(read.first(), Some(Record::Header(found)) if *found == header(&["a", "b"])));
    assert_eq!(read[1..read.len() - 1], records);
}

#[test]
fn a_snapshot_that_ends_early_is_cut_off_wherever_that_is() {
    let (_, file) = whole();
    for length in 0..file.len() {
        let error = read(&file[..length], true).expect_err("it is not whole");
        match error {
            ReadError::Foreign if length < 8 => {}
            ReadError::Truncated { offset } => assert_eq!(offset, length as u64),
            error => panic!("cut at {length}: {error}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (_, file) = whole();
    for bit in 0..file.len() * 8 {
        let mut file = file.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&file, true).is_err(), "bit {bit} was flipped");
    }
}

#[test]
fn without_its_sum_records_and_counts_are_checked_still() {
    let (_, mut file) = whole();
    let sum = file.len() - 32;
    file[sum] ^= 1;
    assert!(matches!(read(&file, true), Err(ReadError::Sum)));
    assert!(read(&file, false).is_ok() && read(&file[..sum], false).is_ok());
    for bit in 0..sum * 8 {
        let mut file = file.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&file, false).is_err(), "bit {bit} was flipped");
    }
}

#[test]
fn what_is_no_snapshot_is_called_what_it_is() {
    let mut etcd = vec![0; 4096];
    etcd[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    assert!(matches!(read(&etcd, true), Err(ReadError::Etcd)));
    for foreign in [&b""[..], b"short", &[0; 4096], b"apiVersion: v1\nkind: List\n"] {
        assert!(matches!(read(foreign, true), Err(ReadError::Foreign)));
    }
    let (_, mut newer) = whole();
    newer[11] = 2;
    let sum = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&sum.to_be_bytes());
    assert!(matches!(read(&newer, true), Err(ReadError::Version { found: 2 })));
    let (_, mut longer) = whole();
    longer.push(0);
    assert!(matches!(read(&longer, true), Err(ReadError::Damaged { .. })));
}

/// Whole by all sums, and wrong: only a program that errs writes these.
#[test]
fn records_that_contradict_each_other_are_refused() {
    let good = || section("a", &[("/r/m/a", 5, false), ("/r/m/a", 3, true), ("/r/m/b", 4, false)]);
    assert!(read(&file(header(&["a"]), &[good()]), true).is_ok());
    type Change = fn(&mut Vec<Record>);
    let cases: [(&str, Change); 9] = [
        ("a row is missing", |records| drop(records.remove(2))),
        ("an owner is missing", |records| drop(records.remove(1))),
        ("a lease is missing", |records| records.retain(|record| !matches!(record, Record::Lease(_)))),
        ("a record is there twice", |records| records.insert(2, records[2].clone())),
        ("rows are in another order", |records| records.swap(3, 4)),
        ("an owner comes late", |records| records.swap(1, 2)),
        ("the section does not end", |records| drop(records.pop())),
        ("the section does not begin", |records| drop(records.remove(0))),
        ("a row is newer than the snapshot", |records| records[2] = Record::Put(row("/r/m/a", 10))),
    ];
    for (name, change) in cases {
        let (mut records, end) = good();
        change(&mut records);
        let error = read(&file(header(&["a"]), &[(records, end)]), true).expect_err(name);
        assert!(matches!(error, ReadError::Damaged { .. }), "{name}: {error}");
    }
    let headers = [header(&["a", "b"]), header(&["b"]), Header { compacted: 10, ..header(&["a"]) }];
    for header in headers {
        let error = read(&file(header.clone(), &[good()]), true).expect_err("another header");
        assert!(matches!(error, ReadError::Damaged { .. }), "{header:?}: {error}");
    }
}

#[test]
fn a_hash_is_of_the_rows_and_not_of_their_order_or_place() {
    let hash = |rows: &[(bool, &[u8])]| {
        let mut content = Content::default();
        rows.iter().for_each(|(deleted, kv)| content.add(*deleted, kv));
        content.hash()
    };
    let (one, other) = ((false, &b"one"[..]), (false, &b"other"[..]));
    assert_eq!(hash(&[one, other]), hash(&[other, one]));
    let mut apart = Content::default();
    apart.merge(hash(&[one]));
    apart.merge(hash(&[other]));
    assert_eq!(apart.hash(), hash(&[one, other]));
    assert_eq!(hash(&[]), 0);
    let all = [hash(&[one]), hash(&[other]), hash(&[(true, b"one")]), hash(&[one, one]), hash(&[one, other])];
    assert!((1..all.len()).all(|this| !all[..this].contains(&all[this])), "{all:x?}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_pass(bytes in prop::collection::vec(any::<u8>(), 0..300), begun in any::<bool>()) {
        let mut file = whole().1;
        file.truncate(16);
        let bytes = if begun { [file, bytes].concat() } else { bytes };
        prop_assert!(read(&bytes, false).is_err());
    }

    #[test]
    fn changed_bytes_never_pass(at in 0usize..2000, new in prop::collection::vec(any::<u8>(), 1..40)) {
        let (_, file) = whole();
        let at = at % file.len();
        let mut changed = file.clone();
        let end = (at + new.len()).min(file.len());
        changed[at..end].copy_from_slice(&new[..end - at]);
        prop_assert_eq!(read(&changed, true).is_ok(), changed == file);
    }
}
