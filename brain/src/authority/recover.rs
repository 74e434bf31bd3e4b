//! What an operator decides where groups cannot agree by themselves: somebody is gone, or has lost its data, or the home
//! group's store is from before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use kubebrain_proto::admin::PlacementRecover;
use kubebrain_proto::peer::place_request::Step;
use kubebrain_proto::peer::{PlaceResponse, PlacementDocument, PlacementResponse};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentId};
use kubebrain_shared::range::KeyRange;
use tokio::time::timeout;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use super::change::{self, AHEAD_OF_THE_LOST};
use super::row::{Decided, Part, parts};
use super::{Authority, refused, wall_clock};

/// Groups that do not answer for so long are gone on without.
const ASK_WITHIN: Duration = Duration::from_secs(3);

impl Authority {
    pub(super) async fn recover(&self, recover: PlacementRecover) -> Result<(), Status> {
        let PlacementRecover { without, accept_loss } = recover;
        match (without.is_empty(), accept_loss.as_str()) {
            (true, "") => self.recover_home().await,
            (true, group) => self.accept_loss(group).await,
            (false, "") => self.go_without(&without).await,
            (false, _) => {
                Err(Status::invalid_argument("kubebrain: without and accept_loss are two commands"))
            }
        }
    }

    async fn go_without(&self, names: &[String]) -> Result<(), Status> {
        let names = names.to_vec();
        let decision = move |decided: &Decided| {
            let parts = decided.parts();
            let mut dead = BTreeSet::new();
            for name in names {
                let group = GroupName::parse(&name).filter(|group| parts.contains_key(group));
                let unknown = || Status::invalid_argument(format!("kubebrain: there is no group {name:?}"));
                dead.insert(group.ok_or_else(unknown)?);
            }
            if let Some(group) = dead.iter().find(|group| decided.prepared.is_none() && decided.names(group))
            {
                return Err(refused(format_args!(
                    "no change is under way that could wait for group {group}; a placement without it is applied by \
                     `kubebrain ctl placement apply FILE --without {group}`"
                )));
            }
            Ok(Some(change::without(decided, &dead)))
        };
        self.decide(decision).await.map(drop)
    }

    async fn accept_loss(&self, name: &str) -> Result<(), Status> {
        let decided = self.decided()?;
        let current = lost(&decided, name)?.0.clone();
        let answers = self.ask_for_revisions(&decided.parts(), &current.to_wire()).await;
        let (name, id) = (name.to_owned(), current.id());
        let decision = move |decided: &Decided| {
            let (current, group) = lost(decided, &name)?;
            if current.id() != id {
                return Err(refused("another placement has become current meanwhile: try again"));
            }
            let highest = answers.values().map(|answer| answer.revision);
            let document = PlacementDocument {
                number: decided.next_number(),
                revision: highest
                    .fold(current.revision().to_wire(), i64::max)
                    .saturating_add(AHEAD_OF_THE_LOST),
                after: current.number(),
                ..current.to_wire()
            };
            let members = decided.row.members.iter().filter(|member| **member != name).cloned().collect();
            let why = format!("group {group} begins anew");
            Ok(Some(change::recover(decided, document, &groups(current), members, wall_clock(), &why)))
        };
        self.decide(decision).await.map(drop)
    }

    /// Goes on by the newest document that any group has, in a lineage of its own: what the home group has is from before.
    async fn recover_home(&self) -> Result<(), Status> {
        let decided = self.decided()?;
        let seed = self.0.seed.borrow().clone();
        let seed = seed.and_then(|seed| {
            Document::from_wire(&PlacementDocument { text: seed.text, ..<_>::default() }).ok()
        });
        let mut asked: BTreeMap<GroupName, PlacementResponse> = BTreeMap::new();
        let mut parts = decided.parts();
        parts.extend(row_parts(seed.as_ref()));
        // What has become current by this log, and who has agreed to what is prepared: all else was decided by another one.
        let kept = self.kept().await?;
        let mut ours: BTreeSet<DocumentId> =
            kept.iter().filter_map(|entry| entry.document.as_ref()).map(id_of).collect();
        ours.extend(decided.current.as_ref().map(Document::id));
        // What is found may name groups that nobody has known of.
        let newest = loop {
            let unasked: Vec<_> = parts.iter().filter(|(group, _)| !asked.contains_key(*group)).collect();
            let answers = join_all(unasked.into_iter().map(async |(group, part)| {
                let held = timeout(ASK_WITHIN, self.0.reach.held(group, &part.brains)).await;
                (group.clone(), held.ok().and_then(Result::ok).unwrap_or_default())
            }));
            asked.extend(answers.await);
            if documents(&asked).next().is_none() {
                return Err(refused(
                    "no group that answers has gone by a placement: there is nothing to recover",
                ));
            }
            let newest = unknown(&asked, &ours, decided.prepared.as_ref()).max_by_key(|document| document.number).ok_or_else(|| {
                refused("the home group knows every placement that a group goes by: there is nothing to recover")
            })?;
            let newest = Document::from_wire(newest).map_err(refused)?;
            let before = parts.len();
            for (group, part) in row_parts(Some(&newest)) {
                parts.entry(group).or_insert(part);
            }
            if parts.len() == before {
                break newest;
            }
        };
        let answers = self.ask_for_revisions(&parts, &newest.to_wire()).await;
        let held = documents(&asked);
        let floor = held.clone().map(|document| document.revision);
        let compacted = held.clone().map(|document| document.compacted);
        let revision = answers.values().map(|answer| answer.revision).chain(floor).fold(0, i64::max);
        let compacted = answers.values().map(|answer| answer.compacted).chain(compacted).fold(-1, i64::max);
        let numbers = answers.values().map(|answer| answer.number.max(answer.adopted));
        let number = numbers.chain(held.map(|document| document.number)).fold(0, u64::max);
        let replaces = newest.id();
        let (epoch, home) = (self.0.store.state().identity().epoch, self.0.store.state().group.clone());
        let cluster = match newest.cluster() {
            0 => self.0.store.state().identity().cluster,
            cluster => cluster,
        };
        let is_restored = self.0.store.state().index.read().first_of(&KeyRange::ALL).is_some();
        let decision = move |decided: &Decided| {
            let number = number.max(decided.next_number() - 1) + 1;
            let document = PlacementDocument {
                lineage: lineage_after(replaces, number, epoch),
                number,
                revision,
                compacted,
                cluster_id: cluster,
                text: newest.text().to_owned(),
                replaces: replaces.lineage,
                after: replaces.number,
            };
            let groups = groups(&newest);
            // Home itself takes it as it is where it has keys, as a store does that was restored; that an empty one may stand
            // in place of a full one is said by `--accept-loss`.
            let others = groups.iter().filter(|group| !is_restored || **group != home);
            let members = others.map(ToString::to_string).collect();
            let why = format!("number {} was the newest that any group had", replaces.number);
            Ok(Some(change::recover(decided, document, &groups, members, wall_clock(), &why)))
        };
        self.decide(decision).await.map(drop)
    }

    /// What groups that answer have shown.
    async fn ask_for_revisions(
        &self,
        parts: &BTreeMap<GroupName, Part>,
        document: &PlacementDocument,
    ) -> BTreeMap<GroupName, PlaceResponse> {
        let answers = join_all(parts.iter().map(async |(group, part)| {
            let answer = self.ask_within(group, &part.brains, Step::Ask(document.clone()), ASK_WITHIN).await;
            Some((group.clone(), answer.ok()?))
        }));
        answers.await.into_iter().flatten().collect()
    }
}

/// What groups go by and have adopted. What a group has adopted that goes by nothing is a first placement, perhaps one that a
/// home group without data has tried.
fn documents(
    held: &BTreeMap<GroupName, PlacementResponse>,
) -> impl Iterator<Item = &PlacementDocument> + Clone {
    let held = held.values().filter(|held| held.current.is_some());
    held.flat_map(|held| [&held.current, &held.adopted]).flatten()
}

/// Those that this home group's log has not decided.
fn unknown<'a>(
    held: &'a BTreeMap<GroupName, PlacementResponse>,
    ours: &'a BTreeSet<DocumentId>,
    prepared: Option<&Document>,
) -> impl Iterator<Item = &'a PlacementDocument> {
    let prepared = prepared.map(Document::id);
    held.values().filter(|held| held.current.is_some()).flat_map(move |held| {
        let current = held.current.as_ref().filter(|current| !ours.contains(&id_of(current)));
        let adopted = held.adopted.as_ref().filter(|adopted| {
            let id = id_of(adopted);
            !ours.contains(&id) && prepared != Some(id)
        });
        current.into_iter().chain(adopted)
    })
}

fn id_of(wire: &PlacementDocument) -> DocumentId {
    DocumentId { lineage: wire.lineage, number: wire.number }
}

/// The document that holds, and a group of it.
fn lost<'a>(decided: &'a Decided, name: &str) -> Result<(&'a Document, GroupName), Status> {
    if let Some(prepared) = &decided.prepared {
        return Err(refused(format_args!(
            "placement number {} is prepared: abort it first, by `kubebrain ctl placement abort`",
            prepared.number()
        )));
    }
    let current = decided.current.as_ref().ok_or_else(|| refused("the cluster has no placement yet"))?;
    let group = GroupName::parse(name).filter(|group| current.names(group));
    let unknown =
        || Status::invalid_argument(format!("kubebrain: number {} has no group {name:?}", current.number()));
    Ok((current, group.ok_or_else(unknown)?))
}

fn groups(document: &Document) -> BTreeSet<GroupName> {
    document.table().groups().map(|(group, _)| group.clone()).collect()
}

fn row_parts(document: Option<&Document>) -> BTreeMap<GroupName, Part> {
    parts(document, None)
}

/// Another number for each recovery of each store.
fn lineage_after(replaces: DocumentId, number: u64, epoch: u64) -> u64 {
    let mut bytes = Vec::with_capacity(32);
    for part in [replaces.lineage, replaces.number, number, epoch] {
        bytes.extend_from_slice(&part.to_be_bytes());
    }
    xxh3_64(&bytes).max(1)
}
