//! What is decided next, without I/O: each function gives the row that is written, and what comes with it.

use std::collections::{BTreeMap, BTreeSet};

use kubebrain_proto::peer::{PlaceResponse, PlacementDocument};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentId};

use super::row::{Decided, owns_something};
use crate::lead::command::Decision;
use crate::rows::codec::{DecidedRow, HistoryRow};

/// So many documents are kept.
pub(super) const HISTORY_MAX: usize = 100;
/// What was shown by a group that does not answer any more is not known: whoever gets its keys begins so far above
/// everything else.
pub(super) const AHEAD_OF_THE_LOST: i64 = 1_000_000;

/// What a group said when it adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub revision: i64,
    pub compacted: i64,
}

impl From<&PlaceResponse> for Agreed {
    fn from(response: &PlaceResponse) -> Self {
        Self { revision: response.revision, compacted: response.compacted }
    }
}

/// A document that is to be prepared.
#[derive(Clone, Debug)]
pub(super) struct Next {
    pub lineage: u64,
    pub cluster: u64,
    pub text: String,
    pub without: BTreeSet<GroupName>,
    /// A hash of the file that it comes from, where that is watched.
    pub file: Option<u64>,
}

impl Next {
    /// As it is prepared: its revisions are not known yet.
    pub(super) fn document(&self, decided: &Decided) -> PlacementDocument {
        PlacementDocument {
            lineage: self.lineage,
            number: decided.next_number(),
            revision: 0,
            compacted: -1,
            cluster_id: self.cluster,
            text: self.text.clone(),
            replaces: 0,
            after: number_of(&decided.current),
        }
    }
}

/// The first step: it is prepared.
pub(super) fn prepare(decided: &Decided, next: &Next) -> Decision {
    let document = next.document(decided);
    let mut row = DecidedRow::clone(&decided.row);
    row.last = document.number;
    row.without = strings(&next.without);
    row.file = next.file.unwrap_or(row.file);
    row.prepared = Some(document);
    Decision { row, ..Decision::default() }
}

/// Everybody has adopted: it holds. `None` where that is not so, or where another one is prepared.
pub(super) fn commit(
    decided: &Decided,
    id: DocumentId,
    agreed: &BTreeMap<GroupName, Agreed>,
    at: i64,
) -> Option<Decision> {
    let prepared = decided.prepared.as_ref().filter(|prepared| prepared.id() == id)?;
    let (without, parts) = (decided.without(), decided.parts());
    let asked: Vec<&GroupName> = parts
        .iter()
        .filter(|(group, part)| (part.in_current || part.in_prepared) && !without.contains(*group))
        .map(|(group, _)| group)
        .collect();
    let answers: Vec<&Agreed> = asked.iter().map(|group| agreed.get(*group)).collect::<Option<_>>()?;
    let before = decided.current.as_ref();
    let mut document = prepared.to_wire();
    let floor = before.map_or((0, -1), |before| (before.revision().to_wire(), before.compacted()));
    document.revision = answers.iter().map(|answer| answer.revision).fold(floor.0, i64::max);
    document.compacted = answers.iter().map(|answer| answer.compacted).fold(floor.1, i64::max);
    if before.is_some_and(|before| without.iter().any(|group| owns_something(before, group))) {
        document.revision = document.revision.saturating_add(AHEAD_OF_THE_LOST);
    }
    let mut row = DecidedRow::clone(&decided.row);
    let gone = parts.keys().filter(|group| !prepared.names(group) && !without.contains(*group));
    row.removed = gone.map(ToString::to_string).collect();
    let mut members: BTreeSet<String> = row.members.drain(..).collect();
    // One that is gone is a member until it has heard so; one that is dead and may come back finds that it has lost all.
    members.retain(|member| !without.iter().any(|dead| dead.as_str() == member && !prepared.names(dead)));
    members.extend(prepared.table().groups().map(|(group, _)| group.to_string()));
    row.members = members.into_iter().collect();
    let reason = if before.is_some() { "applied" } else { "seeded" };
    Some(becomes_current(
        row,
        document,
        at,
        reason,
        Outcome::of(id.number, format!("number {} holds", id.number)),
    ))
}

/// It is taken back: what held before holds under a number above it. Where nothing held, nothing does.
pub(super) fn abort(decided: &Decided, id: DocumentId, why: &str, at: i64) -> Option<Decision> {
    let prepared = decided.prepared.as_ref().filter(|prepared| prepared.id() == id)?;
    let mut row = DecidedRow::clone(&decided.row);
    if row.file == super::hash_of(prepared.text()) {
        row.file = 0; // it was not applied: it is tried again when it is read again
    }
    let outcome = Outcome { number: id.number, refused: true, sentence: why.to_owned() };
    let Some(before) = &decided.current else {
        row.prepared = None;
        row.without.clear();
        return Some(Decision { row: outcome.told_by(row), ..Decision::default() });
    };
    // Those that would have come have perhaps adopted: they are told, as those that go are.
    let without = decided.without();
    let mut told = decided.removed();
    told.extend(prepared.table().groups().map(|(group, _)| group.clone()));
    told.retain(|group| !before.names(group) && !without.contains(group));
    row.removed = strings(&told);
    let document =
        PlacementDocument { number: decided.next_number(), after: before.number(), ..before.to_wire() };
    Some(becomes_current(row, document, at, &format!("aborted: {why}"), outcome))
}

/// Another one, of these groups, that they are not asked about: an operator has said so. `members` are those that must have
/// gone by a placement before; another one of the groups takes it whatever it has.
pub(super) fn recover(
    decided: &Decided,
    document: PlacementDocument,
    groups: &BTreeSet<GroupName>,
    members: BTreeSet<String>,
    at: i64,
    why: &str,
) -> Decision {
    let mut row = DecidedRow::clone(&decided.row);
    row.members = members.into_iter().collect();
    let mut told = decided.parts();
    told.retain(|group, _| !groups.contains(group));
    row.removed = told.keys().map(ToString::to_string).collect();
    let outcome = Outcome::of(document.number, format!("number {} holds: {why}", document.number));
    becomes_current(row, document, at, &format!("recovered: {why}"), outcome)
}

/// What is under way goes on without these too; of those that are in no document nobody asks any more.
pub(super) fn without(decided: &Decided, dead: &BTreeSet<GroupName>) -> Decision {
    let mut row = DecidedRow::clone(&decided.row);
    if decided.prepared.is_some() {
        row.without = strings(&decided.without().union(dead).cloned().collect());
    }
    let is_dead = |name: &String| dead.iter().any(|group| group.as_str() == name);
    let struck: Vec<String> = row.removed.extract_if(.., |name| is_dead(name)).collect();
    row.members.retain(|member| !struck.contains(member));
    Decision { row, ..Decision::default() }
}

/// A group goes by what holds: one that is gone is forgotten, another one is a member.
pub(super) fn taken(decided: &Decided, group: &GroupName) -> Decision {
    let mut row = DecidedRow::clone(&decided.row);
    let name = group.to_string();
    row.removed.retain(|removed| *removed != name);
    row.members.retain(|member| *member != name);
    if decided.current.as_ref().is_some_and(|current| current.names(group)) {
        row.members.push(name);
        row.members.sort_unstable();
    }
    Decision { row, ..Decision::default() }
}

/// The numbers of a history that are not kept once one more is in it; `numbers` ascend.
pub(super) fn forgotten(numbers: &[u64]) -> &[u64] {
    let kept = numbers.len().min(HISTORY_MAX - 1);
    numbers.split_at(numbers.len() - kept).0
}

/// How a change has ended.
struct Outcome {
    number: u64,
    refused: bool,
    sentence: String,
}

impl Outcome {
    const fn of(number: u64, sentence: String) -> Self {
        Self { number, refused: false, sentence }
    }

    fn told_by(self, mut row: DecidedRow) -> DecidedRow {
        (row.outcome, row.outcome_number, row.outcome_refused) = (self.sentence, self.number, self.refused);
        row
    }
}

fn becomes_current(
    mut row: DecidedRow,
    document: PlacementDocument,
    at: i64,
    reason: &str,
    outcome: Outcome,
) -> Decision {
    row.prepared = None;
    row.without.clear();
    row.last = row.last.max(document.number);
    row.current = Some(document.clone());
    let entry = HistoryRow { document: Some(document), at, reason: reason.to_owned() };
    Decision { row: outcome.told_by(row), entry: Some(entry), forget: Vec::new() }
}

/// What a group's answer to a document that holds comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// It goes by it.
    By,
    /// It does not: why, for people.
    Apart(String),
}

/// How a group stands to the document that holds.
pub(super) fn stands(group: &GroupName, current: &Document, answer: &PlaceResponse) -> Stands {
    let id = current.id();
    if answer.lineage == id.lineage && answer.number == id.number && answer.adopted == 0 {
        return Stands::By;
    }
    if !answer.refusal.is_empty() {
        return Stands::Apart(answer.refusal.clone());
    }
    let still = || format!("group {group} goes by placement number {} still", answer.number);
    Stands::Apart(behind(group, current, answer).unwrap_or_else(still))
}

/// A group that has gone by, or adopted, what the home group does not know of.
pub(super) fn behind(group: &GroupName, current: &Document, answer: &PlaceResponse) -> Option<String> {
    let (home, number) = (current.id(), answer.number.max(answer.adopted));
    let is_other = answer.lineage != 0 && !current.continues(answer.lineage);
    (is_other || number > home.number).then(|| {
        format!(
            "the home group is behind: group {group} has gone by placement number {number} ({:x}), home by number {} ({:x}), \
             as a store does that was restored; `kubebrain ctl placement recover` goes on from the newest",
            answer.lineage, home.number, home.lineage
        )
    })
}

fn number_of(document: &Option<Document>) -> u64 {
    document.as_ref().map_or(0, Document::number)
}

fn strings(groups: &BTreeSet<GroupName>) -> Vec<String> {
    groups.iter().map(ToString::to_string).collect()
}
