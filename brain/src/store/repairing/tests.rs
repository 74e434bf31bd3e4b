use std::sync::Arc;

use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;

use super::*;
use crate::config::Config;
use crate::engine::memory::Memory;

const ALONE: &str = "{home: a, default: a, groups: {a: {}}}";
const GIVEN: &str = "{home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: m, group: b}]}";
const HASHED: &str = "{home: a, default: hash, hashGroups: [b], groups: {a: {}, b: {}}}";

fn file(text: &str) -> Document {
    let wire = PlacementDocument { text: text.to_owned(), ..PlacementDocument::default() };
    Document::from_wire(&wire).expect("a placement")
}

async fn open(engine: &Arc<Memory>, group: &str, awaits_placement: bool) -> Store {
    let group = GroupName::parse(group).expect("a name");
    let config = Config { awaits_placement, ..Config::new(group, "test") };
    let table = Arc::new(Placement::parse(ALONE).expect("a placement"));
    Store::open(config, engine.clone(), table).await.expect("it opens")
}

/// Of a time when group a had everything, and went by no placement.
async fn filled(engine: &Arc<Memory>, keys: &[&str]) -> Store {
    let store = open(engine, "a", false).await;
    for key in keys {
        let put = Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Given::New(Bytes::from_static(b"v")),
            lease: Given::New(0),
            prev_kv: false,
        };
        store.put(put, Revision::ZERO).await.expect("a put");
    }
    store.close().await;
    open(engine, "a", true).await
}

async fn found(store: &Store, by: &Document, range: &KeyRange, keys_max: usize) -> Vec<(String, bool)> {
    let keys_max = NonZeroUsize::new(keys_max).expect("some");
    let (mut range, mut all) = (range.clone(), Vec::new());
    loop {
        let found = store.strays(by, &range, keys_max, true).await.expect("an answer");
        assert!(found.strays.len() <= keys_max.get(), "{found:?}");
        all.extend(found.strays.into_iter().map(|stray| {
            assert_eq!(stray.value.is_empty(), stray.is_deleted, "{stray:?}");
            (stray.key.escape_ascii().to_string(), stray.is_deleted)
        }));
        let Some(next) = found.next else { return all };
        range = KeyRange::new(next, range.end().cloned());
    }
}

#[tokio::test(start_paused = true)]
async fn strays_are_found_page_by_page_in_their_range_deleted_ones_too() {
    let keys = ["/registry/m/a", "/registry/m/b", "/registry/m/c", "/registry/n/a", "x"];
    let store = filled(&Arc::new(Memory::new()), &keys).await;
    let deleted = Delete { keys: KeyRange::one(Bytes::from_static(b"/registry/m/b")), prev_kv: false };
    store.delete(deleted, Revision::ZERO, None).await.expect("a deletion");
    let of = |keys: &[(&str, bool)]| {
        keys.iter().map(|(key, is_deleted)| ((*key).to_owned(), *is_deleted)).collect::<Vec<_>>()
    };
    let in_m = [("/registry/m/a", false), ("/registry/m/b", true), ("/registry/m/c", false)];
    for keys_max in [1, 2, 100] {
        assert_eq!(found(&store, &file(GIVEN), &KeyRange::ALL, keys_max).await, of(&in_m));
        let one = KeyRange::one(Bytes::from_static(b"/registry/m/c"));
        assert_eq!(found(&store, &file(GIVEN), &one, keys_max).await, of(&in_m[2..]));
        // A table that cannot say in ranges who owns what.
        let hashed = found(&store, &file(HASHED), &KeyRange::ALL, keys_max).await;
        assert_eq!(hashed, of(&[&in_m[..], &[("/registry/n/a", false)]].concat()));
        assert_eq!(found(&store, &file(ALONE), &KeyRange::ALL, keys_max).await, []);
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_unchanged_goes_out_and_only_what_is_not_there_comes_in() {
    let store = filled(&Arc::new(Memory::new()), &["/registry/m/a", "/registry/n/a"]).await;
    let (m, n) = (Bytes::from_static(b"/registry/m/a"), Bytes::from_static(b"/registry/n/a"));
    let by = file(GIVEN);
    assert!(matches!(store.take_out(&by, n.clone(), 3).await, Err(WriteError::Unserved(_))), "its own");
    assert_eq!(store.take_out(&by, m.clone(), 9).await, Ok(Done::Other));
    assert_eq!(store.take_out(&by, m.clone(), 2).await, Ok(Done::Done));
    assert_eq!(store.take_out(&by, m.clone(), 2).await, Ok(Done::Other), "it is gone");
    let stray = |key: &Bytes, value: &'static str| Stray {
        key: key.clone(),
        revision: 0,
        is_deleted: false,
        lease: 0,
        value: Bytes::from_static(value.as_bytes()),
    };
    assert!(matches!(store.take_in(&by, stray(&m, "v"), false, false).await, Err(WriteError::Unserved(_))));
    assert_eq!(store.take_in(&by, stray(&n, "v"), false, false).await, Ok(Done::Same));
    assert_eq!(store.take_in(&by, stray(&n, "w"), false, false).await, Ok(Done::Other));
    assert_eq!(store.take_in(&by, stray(&n, "w"), true, true).await, Ok(Done::Done), "it would");
    assert_eq!(store.take_in(&by, stray(&n, "v"), true, false).await, Ok(Done::Same), "and was not");
    assert_eq!(store.take_in(&by, stray(&n, "w"), true, false).await, Ok(Done::Done));
    let missing = Stray { lease: 5, ..stray(&Bytes::from_static(b"/registry/n/b"), "v") };
    let refused = store.take_in(&by, missing, false, false).await;
    assert_eq!(refused, Err(WriteError::Fault(kubebrain_shared::fault::Fault::LeaseNotFound)));
}

/// What the one deletes later would stand above what the other one has written.
#[tokio::test(start_paused = true)]
async fn nothing_is_taken_in_beside_the_group_that_has_it_in_the_same_storage() {
    let engine = Arc::new(Memory::new());
    let b = open(&engine, "b", true).await; // it opens before there is anything to be recorded
    let a = filled(&engine, &["/registry/m/a"]).await;
    let by = file(GIVEN);
    let key = Bytes::from_static(b"/registry/m/a");
    let mut strays = a.strays(&by, &KeyRange::ALL, NonZeroUsize::MIN, true).await.expect("an answer").strays;
    let stray = strays.pop().expect("one");
    let refused = b.take_in(&by, stray.clone(), true, false).await;
    let Err(WriteError::Unserved(why)) = &refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("groups a and b have one storage"), "{why}");
    assert_eq!(a.take_out(&by, key.clone(), stray.revision).await, Ok(Done::Done));
    let a = open(&engine, "a", true).await;
    assert_eq!(found(&a, &by, &KeyRange::ALL, 9).await, [(key.escape_ascii().to_string(), true)]);
}
