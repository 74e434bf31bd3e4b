//! A small home: what the home group's master does for a change of the placement, one act at a time, with whatever may be
//! wrong with that. What it has decided is in home's log; what groups have answered is its master's, and asked for again by
//! the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kubebrain_brain::rows::{DecidedRow, HistoryRow};
use kubebrain_brain::store::Decision;
use kubebrain_proto::peer::{
    PlacePrepare, PlaceRequest, PlaceResponse, PlaceTake, PlacementDocument, place_request,
};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::authority;
use super::site::Brain;
use super::world::{GROUPS, PATIENCE, Plan, World, name};

const LINEAGE: u64 = 0x51;
/// Who never hears of an abort, where one does not.
const DEAF: &str = "b";

/// What groups have answered to the change that is prepared.
#[derive(Default)]
struct Answers {
    /// By the asking master, of which number.
    of: (String, u64),
    /// With the revisions that they named.
    adopted: BTreeMap<GroupName, (i64, i64)>,
    refused: Option<String>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Home {
    answers: Mutex<Answers>,
    /// Numbers that took a change back.
    aborts: Mutex<BTreeSet<u64>>,
    /// What an operator would like next.
    pub(super) wanted: Mutex<Option<Plan>>,
    pub(super) abort: Mutex<bool>,
}

/// Numbered, as it goes to groups.
fn document(text: String, number: u64, after: u64, revisions: (i64, i64)) -> PlacementDocument {
    let (revision, compacted) = revisions;
    PlacementDocument {
        lineage: LINEAGE,
        number,
        revision,
        compacted,
        cluster_id: 7,
        text,
        replaces: 0,
        after,
    }
}

fn current_number(row: &DecidedRow) -> u64 {
    row.current.as_ref().map_or(0, |current| current.number)
}

fn groups_of(wire: &PlacementDocument) -> BTreeSet<GroupName> {
    let document = Document::from_wire(wire).expect("a document");
    document.table().groups().map(|(group, _)| group.clone()).collect()
}

impl Home {
    /// One act. Whoever is home's master may have decided otherwise meanwhile: then nothing comes of it.
    pub(super) async fn act(self: &Arc<Self>, world: &Arc<World>) {
        if world.broken().by_authority {
            authority::count(world);
            return authority::act(world, self).await;
        }
        let master = match world.troubled() {
            true => world.home().some_master(world),
            false => world.home().master(),
        };
        let Some(master) = master else { return };
        let row = master.store.state().decided();
        match &row.prepared {
            None => self.begin_or_tell(world, &master, &row).await,
            Some(prepared) => self.go_on(world, &master, &row, prepared).await,
        }
    }

    async fn begin_or_tell(self: &Arc<Self>, world: &Arc<World>, master: &Brain, row: &DecidedRow) {
        let wanted = if row.current.is_none() {
            Some(world.plan.lock().clone())
        } else {
            self.wanted.lock().take().filter(|_| world.troubled())
        };
        if let Some(plan) = wanted {
            let number = row.last + 1;
            let prepared = document(plan.text(), number, current_number(row), (0, -1));
            world.truth.note(&format!("home prepares {number}: {:?} {:?}", plan.groups, plan.rules));
            *world.plan.lock() = plan;
            let row = DecidedRow { prepared: Some(prepared), last: number, ..row.clone() };
            self.decide(world, master, row, None).await;
        } else if let Some(current) = &row.current {
            self.tell(world, row, current);
        }
    }

    /// Tells somebody what is current.
    fn tell(&self, world: &Arc<World>, row: &DecidedRow, current: &PlacementDocument) {
        let mut all: Vec<_> = groups_of(current).into_iter().collect();
        all.extend(row.removed.iter().map(|group| name(group)));
        let group = world.pick(&all);
        let deaf =
            world.broken().deaf && group.as_str() == DEAF && self.aborts.lock().contains(&current.number);
        if deaf {
            return;
        }
        // Whoever has lost all that it had begins anew where an operator says so.
        let take = PlaceTake { document: Some(current.clone()), accept_loss: !world.troubled() };
        let request = PlaceRequest { step: Some(place_request::Step::Take(take)) };
        let world = Arc::clone(world);
        tokio::spawn(async move { world.carry(&group, request).await });
    }

    async fn go_on(
        self: &Arc<Self>,
        world: &Arc<World>,
        master: &Arc<Brain>,
        row: &DecidedRow,
        prepared: &PlacementDocument,
    ) {
        let mut all = groups_of(prepared);
        if !world.broken().forgets_removed {
            all.extend(row.current.iter().flat_map(groups_of));
        }
        let missing: Vec<_> = {
            let mut answers = self.answers.lock();
            let of = (master.name.clone(), prepared.number);
            if answers.of != of {
                *answers = Answers { of, ..Answers::default() };
            }
            all.iter().filter(|group| !answers.adopted.contains_key(group)).cloned().collect()
        };
        let refused = self.answers.lock().refused.take();
        let aborts = refused.is_some() || std::mem::take(&mut *self.abort.lock());
        if aborts && (world.troubled() || refused.is_some()) {
            let why = refused.unwrap_or_else(|| "an operator wants so".to_owned());
            self.take_back(world, master, row, prepared, &why).await;
        } else if missing.len() <= usize::from(world.broken().one_missing) {
            self.commit(world, master, row, prepared).await;
        } else if let (Some(current), true) = (&row.current, world.chance(0.3)) {
            self.tell(world, row, current);
        } else {
            self.prepare(world, &world.pick(&missing), master, row, prepared);
        }
    }

    fn prepare(
        self: &Arc<Self>,
        world: &Arc<World>,
        group: &GroupName,
        master: &Arc<Brain>,
        row: &DecidedRow,
        prepared: &PlacementDocument,
    ) {
        let prepare = PlacePrepare {
            base: row.current.clone(),
            next: Some(prepared.clone()),
            known: row.members.iter().any(|member| member == group.as_str()),
        };
        let request = PlaceRequest { step: Some(place_request::Step::Prepare(prepare)) };
        let (home, world, group, number) =
            (Arc::clone(self), Arc::clone(world), group.clone(), prepared.number);
        let of = (master.name.clone(), number);
        tokio::spawn(async move {
            if let Some(response) = world.carry(&group, request).await {
                home.hear(&of, group, response);
            }
        });
    }

    fn hear(&self, of: &(String, u64), group: GroupName, response: PlaceResponse) {
        let mut answers = self.answers.lock();
        if answers.of != *of {
            return;
        }
        if !response.refusal.is_empty() {
            answers.refused = Some(format!("{group}: {}", response.refusal));
        } else if response.adopted == of.1 || (response.number == of.1 && response.adopted == 0) {
            // A repeated answer names what the first one did.
            answers.adopted.insert(group, (response.revision, response.compacted));
        }
    }

    async fn take_back(
        &self,
        world: &World,
        master: &Brain,
        row: &DecidedRow,
        prepared: &PlacementDocument,
        why: &str,
    ) {
        let number = row.last + 1;
        world.truth.count("aborts");
        world.truth.note(&format!("home takes {} back by {number}: {why}", prepared.number));
        self.aborts.lock().insert(number);
        let current = row.current.as_ref().map(|current| {
            let revisions = (current.revision, current.compacted);
            document(current.text.clone(), number, current.number, revisions)
        });
        // Whoever was asked and is not of the cluster has to hear so too.
        let mut removed: BTreeSet<_> = row.removed.iter().cloned().collect();
        let named = current.as_ref().map(groups_of).unwrap_or_default();
        removed.extend(groups_of(prepared).difference(&named).map(ToString::to_string));
        let entry = current.clone();
        let removed = removed.into_iter().collect();
        let next = DecidedRow { current, prepared: None, last: number, removed, ..row.clone() };
        self.decide(world, master, next, entry).await;
    }

    async fn commit(&self, world: &World, master: &Brain, row: &DecidedRow, prepared: &PlacementDocument) {
        let (revision, compacted) = {
            let answers = self.answers.lock();
            let before =
                row.current.as_ref().map_or((0, -1), |current| (current.revision, current.compacted));
            answers
                .adopted
                .values()
                .fold(before, |(r, k), (revision, compacted)| (r.max(*revision), k.max(*compacted)))
        };
        world.truth.count("commits");
        world.truth.note(&format!("home commits {} at {revision}, compacted {compacted}", prepared.number));
        let current = document(prepared.text.clone(), prepared.number, prepared.after, (revision, compacted));
        let named: BTreeSet<_> = groups_of(&current).iter().map(ToString::to_string).collect();
        let mut removed: BTreeSet<_> = row.removed.iter().cloned().collect();
        removed.extend(row.current.iter().flat_map(groups_of).map(|group| group.to_string()));
        removed.retain(|group| !named.contains(group));
        let mut members: BTreeSet<_> = row.members.iter().cloned().collect();
        members.extend(named);
        let next = DecidedRow {
            current: Some(current.clone()),
            prepared: None,
            members: members.into_iter().collect(),
            removed: removed.into_iter().collect(),
            ..row.clone()
        };
        self.decide(world, master, next, Some(current)).await;
    }

    async fn decide(&self, world: &World, master: &Brain, row: DecidedRow, entry: Option<PlacementDocument>) {
        let entry =
            entry.map(|document| HistoryRow { document: Some(document), at: 0, reason: "a test".to_owned() });
        let decision = Decision { row, entry, forget: Vec::new() };
        match timeout(PATIENCE, master.store.decide(decision)).await {
            Ok(Ok(())) => {}
            other => world.truth.note(&format!("{} did not decide: {other:?}", master.name)),
        }
    }

    /// What is not level yet with what home has decided, once there is no more trouble; `None` if all is.
    pub(super) fn lacks(&self, world: &World) -> Option<String> {
        let Some(master) = world.home().master() else { return Some("home has no master".to_owned()) };
        let row = master.store.state().decided();
        let Some(current) = &row.current else { return Some("there is no placement".to_owned()) };
        if row.prepared.is_some() {
            return Some("a change is prepared".to_owned());
        }
        let mut due = groups_of(current);
        due.extend(row.removed.iter().map(|group| name(group)));
        for group in GROUPS.map(name).iter().filter(|group| due.contains(group)) {
            for brain in world.site(group).into_iter().flat_map(|site| site.brains()) {
                let held = brain.store.state().held.load_full();
                let (id, pair) = (held.document().id(), held.pair());
                let level = id.lineage == current.lineage && id.number == current.number && pair.adopted == 0;
                if !level || !held.is_settled() || held.document().text() != current.text {
                    return Some(format!("{} goes by {id} {pair:?}, home by {}", brain.name, current.number));
                }
            }
        }
        None
    }
}
