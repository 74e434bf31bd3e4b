//! What seeds have found, by itself.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kubebrain_brain::config::{Config, Planted};
use kubebrain_brain::engine::memory::Memory;
use kubebrain_brain::request::{Delete, Put};
use kubebrain_brain::store::{PlaceStep, Placed, Store};
use kubebrain_brain::watch::{StreamConfig, WatchStream};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use prost::Message as _;
use tokio::time::sleep;

use super::world::name;

async fn open(group: &str) -> Store {
    opened(group, Planted::default()).await
}

pub(super) async fn opened(group: &str, planted: Planted) -> Store {
    let config = Config { awaits_placement: true, planted, ..Config::new(name(group), group) };
    let table = Arc::new(Placement::single(name("a")));
    Store::open(config, Arc::new(Memory::new()), table).await.expect("opens")
}

/// Its kind is the owner's, everything else is group a's.
pub(super) fn document(number: u64, owner: &str, (revision, compacted): (i64, i64)) -> Document {
    let text = format!(
        "home: a\ndefault: a\ngroups: {{ a: {{}}, b: {{}} }}\nkinds:\n  - {{ kind: u, group: {owner} }}\n"
    );
    let wire = PlacementDocument {
        lineage: 7,
        number,
        revision,
        compacted,
        cluster_id: 1,
        text,
        replaces: 0,
        after: number - 1,
    };
    Document::from_wire(&wire).expect("a document")
}

/// As a home decided it that had this number then.
pub(super) fn decided_after(document: Document, after: u64) -> Document {
    let wire = PlacementDocument { after, ..document.to_wire() };
    Document::from_wire(&wire).expect("a document")
}

/// Both steps, at both groups.
pub(super) async fn change(stores: [&Store; 2], base: Option<Document>, number: u64, owner: &str) {
    let mut revisions = (0, -1);
    for store in stores {
        let (base, next) = (base.clone(), document(number, owner, (0, -1)));
        let step = PlaceStep::Prepare { base, next, known: number > 1 };
        let Placed { refusal, revision, compacted, .. } = store.place(step).await.expect("an answer");
        assert_eq!(refusal, "");
        revisions = (revisions.0.max(revision.to_wire()), revisions.1.max(compacted));
    }
    for store in stores {
        let document = document(number, owner, revisions);
        let taken = store.place(PlaceStep::Take { document, accept_loss: false }).await.expect("an answer");
        assert_eq!((taken.refusal.as_str(), taken.id.number, taken.adopted), ("", number, 0));
    }
}

/// The compacted revision that a watch from here is refused with; 0 where it begins.
async fn watch_from(store: &Store, start_revision: i64) -> i64 {
    let create = pb::WatchCreateRequest { key: "/registry/u/x".into(), start_revision, ..<_>::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let inbound = futures_util::stream::iter([Ok(pb::WatchRequest { request_union: Some(create) })]);
    let config = StreamConfig { progress_interval: Duration::from_millis(100), part: None, tells_all: true };
    let stopper = Stopper::default();
    let stream = WatchStream::new(
        store.clone(),
        inbound.chain(futures_util::stream::pending()),
        config,
        stopper.handle(),
    );
    let mut messages = std::pin::pin!(stream.into_messages());
    for _ in 0..2 {
        let Ok(next) = tokio::time::timeout(Duration::from_secs(1), messages.next()).await else { break };
        let message = next.expect("no end").expect("no error");
        let response = pb::WatchResponse::decode(message).expect("a message");
        if response.canceled {
            return response.compact_revision;
        }
    }
    0
}

/// Its own group has the deletion in its log; a group that gained the kind has nothing of it.
#[tokio::test(start_paused = true)]
async fn a_deletion_at_the_compacted_revision_is_not_passed_over_where_its_kind_has_gone() {
    let (a, b) = (open("a").await, open("b").await);
    change([&a, &b], None, 1, "a").await;
    let put = pb::PutRequest { key: "/registry/u/x".into(), value: "v".into(), ..<_>::default() };
    a.put(Put::try_from(put).expect("legal"), Revision::ZERO).await.expect("put");
    let delete = Delete { keys: KeyRange::one("/registry/u/x".into()), prev_kv: false };
    let deleted = a.delete(delete, Revision::ZERO, None).await.expect("deleted").revision.to_wire();
    a.compact(deleted, true, Revision::ZERO).await.expect("compacted");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(watch_from(&a, deleted).await, 0, "the log has it");
    change([&a, &b], Some(document(1, "a", (0, -1))), 2, "b").await;
    assert_eq!(watch_from(&b, deleted).await, deleted);
    assert_eq!(watch_from(&b, deleted + 1).await, 0);
}

/// A home that has lost its last records gives a number out again.
#[tokio::test(start_paused = true)]
async fn a_number_that_is_known_with_another_content_is_refused() {
    let (a, b) = (open("a").await, open("b").await);
    change([&a, &b], None, 1, "a").await;
    let base = Some(document(1, "a", (0, -1)));
    for (owner, refused) in [("a", false), ("a", false), ("b", true)] {
        let next = document(2, owner, (0, -1));
        let step = PlaceStep::Prepare { base: base.clone(), next, known: true };
        let placed = a.place(step).await.expect("an answer");
        assert_eq!((placed.refusal.contains("another content"), placed.adopted), (refused, 2), "{placed:?}");
    }
    for (number, owner, refused) in [(2, "b", true), (1, "b", true), (1, "a", false), (2, "a", false)] {
        let document = document(number, owner, (0, -1));
        let placed = a.place(PlaceStep::Take { document, accept_loss: false }).await.expect("an answer");
        assert_eq!(placed.refusal.contains("another content"), refused, "{number} {owner}: {placed:?}");
    }
}
