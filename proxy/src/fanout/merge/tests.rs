use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn rows(entries: &BTreeMap<Vec<u8>, KeyValue>) -> Vec<Row> {
    entries.values().map(|kv| row(kv.encode_to_vec().into()).expect("readable")).collect()
}

fn entry() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, i64, i64, i64)> {
    (
        prop::collection::vec(any::<u8>(), 1..4),
        prop::collection::vec(0_u8..3, 0..2),
        0_i64..4,
        0_i64..4,
        0_i64..4,
    )
}

proptest! {
    #[test]
    fn merging_parts_is_sorting_the_whole(
        entries in prop::collection::vec((entry(), 0_usize..3), 0..40),
        limit in 0_usize..50,
    ) {
        let mut whole = BTreeMap::new();
        for ((key, value, create_revision, mod_revision, version), part) in entries {
            let kv = KeyValue { key: key.clone().into(), value: value.into(), create_revision, mod_revision, version, lease: 0 };
            whole.insert(key, (kv, part));
        }
        let parts: Vec<_> = (0..3)
            .map(|index| whole.iter().filter(|(_, (_, part))| *part == index).map(|(k, (kv, _))| (k.clone(), kv.clone())).collect())
            .map(|entries: BTreeMap<_, _>| rows(&entries))
            .collect();
        let wanted = if limit == 0 { usize::MAX } else { limit };
        let expected: Vec<Bytes> = whole.values().take(wanted).map(|(kv, _)| kv.encode_to_vec().into()).collect();
        let merged = merge(parts.clone(), Order::Key, limit).expect("merges");
        prop_assert_eq!(merged.into_iter().map(|row| row.raw).collect::<Vec<_>>(), expected);

        for target in [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value] {
            for descending in [false, true] {
                let mut sorted: Vec<_> = whole.values().map(|(kv, _)| kv.clone()).collect();
                sorted.sort_by(|a, b| { let o = compare(target, a, b); if descending { o.reverse() } else { o } });
                let merged = merge(parts.clone(), Order::By { target, descending }, limit).expect("merges");
                let merged: Vec<_> = merged.into_iter().map(|row| KeyValue::decode(row.raw).expect("decodes")).collect();
                prop_assert_eq!(merged, sorted.into_iter().take(wanted).collect::<Vec<_>>());
            }
        }
    }
}
