//! An operator's changes: what is asked before anything is prepared, and an abort.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use kubebrain_proto::admin::{PlacementApply, PlacementQuery, PlacementReport};
use kubebrain_proto::peer::place_request::Step;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement, TEXT_BYTES_MAX};
use tonic::Status;

use super::change::{self, Next};
use super::row::{Decided, owns_something, parts};
use super::{Authority, refused, wall_clock};

/// Groups that do not answer for so long are missing.
const ASK_WITHIN: Duration = Duration::from_secs(3);

impl Authority {
    /// Prepares a change; `file` is the hash of the file that it comes from, where that is watched.
    pub(super) async fn apply(
        &self,
        apply: PlacementApply,
        file: Option<u64>,
    ) -> Result<PlacementReport, Status> {
        let table = read(&apply.text)?;
        let decided = self.decided()?;
        let current = may_begin(&decided, apply.from)?.clone();
        if table.home() != current.table().home() {
            return Err(Status::invalid_argument(format!(
                "kubebrain: home: group {} is home, and stays it: leases and keys outside the kinds are there",
                current.table().home()
            )));
        }
        let without = dead(&current, &decided, &table, &apply.without)?;
        if apply.text == current.text() {
            if let Some(file) = file {
                self.read_file(file).await?;
            }
            let mut report = self.report_of(&PlacementQuery::default()).await?;
            (report.outcome_number, report.outcome_refused) = (current.number(), false);
            report.outcome = format!("number {} says this already: nothing changes", current.number());
            return Ok(report);
        }
        let next = Next {
            lineage: current.id().lineage,
            cluster: current.cluster(),
            text: apply.text,
            without,
            file,
        };
        let refusals = self.would_refuse(&decided, &current, &next).await?;
        still(&*self.decided()?, &current)?; // else what groups say may be of what was decided meanwhile
        if apply.dry_run {
            return self.report_of_trial(&decided, &current, &next.document(&decided), &refusals);
        }
        if let Some((group, why)) = refusals.iter().next() {
            let others = match refusals.len() - 1 {
                0 => String::new(),
                others => format!(" (and {others} more)"),
            };
            return Err(refused(format_args!("group {group} would not take it: {why}{others}")));
        }
        let begun = move |decided: &Decided| {
            still(decided, &current)?;
            Ok(Some(change::prepare(decided, &next)))
        };
        self.decide(begun).await?;
        self.report_of(&PlacementQuery::default()).await
    }

    /// Why groups would not take it, by name.
    async fn would_refuse(
        &self,
        decided: &Decided,
        current: &Document,
        next: &Next,
    ) -> Result<BTreeMap<GroupName, String>, Status> {
        let wire = next.document(decided);
        let document = Document::from_wire(&wire).map_err(refused)?;
        let parts = parts(Some(current), Some(&document));
        let asked = parts.iter().filter(|(group, _)| !next.without.contains(*group));
        let answers = join_all(asked.map(async |(group, part)| {
            let answer = self.ask_within(group, &part.brains, Step::Ask(wire.clone()), ASK_WITHIN).await;
            let refusal = match answer {
                Err(why) => Some(why),
                Ok(answer) if !answer.refusal.is_empty() => Some(answer.refusal),
                Ok(answer) if answer.number == 0 && part.in_current && decided.is_member(group) => Some(format!(
                    "it has lost its data: bring them back, or `kubebrain ctl placement recover --accept-loss {group}`"
                )),
                Ok(answer) => change::behind(group, current, &answer),
            };
            Some((group.clone(), refusal?))
        }));
        Ok(answers.await.into_iter().flatten().collect())
    }

    pub(super) async fn abort_by_command(&self) -> Result<(), Status> {
        let decision = |decided: &Decided| {
            let Some(prepared) = &decided.prepared else {
                return Err(refused("no change is under way"));
            };
            if decided.current.is_none() {
                return Err(refused(format_args!(
                    "number {} is the cluster's first placement: there is none to go back to; correct the home group's file, \
                     or let it go on without groups that never answer by `kubebrain ctl placement recover --without GROUP`",
                    prepared.number()
                )));
            }
            Ok(change::abort(decided, prepared.id(), "by command", wall_clock()))
        };
        self.decide(decision).await.map(drop)
    }
}

/// What a text says; all that is wrong with it in one report.
pub(super) fn read(text: &str) -> Result<Placement, Status> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "kubebrain: the placement has {} bytes, and may have {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    Placement::parse(text).map_err(|errors| Status::invalid_argument(format!("kubebrain: {errors}")))
}

/// The document that a change would begin from.
fn may_begin(decided: &Decided, from: u64) -> Result<&Document, Status> {
    if let Some(prepared) = &decided.prepared {
        return Err(refused(format_args!(
            "placement number {} is prepared: wait for it, or abort it by `kubebrain ctl placement abort`",
            prepared.number()
        )));
    }
    let Some(current) = &decided.current else {
        return Err(refused("the cluster has no placement yet: it begins by the file of its home group"));
    };
    if from != 0 && from != current.number() {
        return Err(refused(format_args!(
            "number {} is current, and the change is from number {from}: look at what has changed",
            current.number()
        )));
    }
    Ok(current)
}

/// A change may still begin from this one.
fn still(decided: &Decided, known: &Document) -> Result<(), Status> {
    match may_begin(decided, 0)? {
        current if current.id() == known.id() => Ok(()),
        current => {
            Err(refused(format_args!("number {} has become current meanwhile: try again", current.number())))
        }
    }
}

/// Groups that do not have to agree: nothing is theirs, and nothing will be.
fn dead(
    current: &Document,
    decided: &Decided,
    next: &Placement,
    without: &[String],
) -> Result<BTreeSet<GroupName>, Status> {
    let invalid = |why: String| Status::invalid_argument(format!("kubebrain: without: {why}"));
    let mut dead = BTreeSet::new();
    for name in without {
        let known = GroupName::parse(name)
            .filter(|group| current.names(group) || decided.removed().contains(group))
            .ok_or_else(|| invalid(format!("number {} has no group {name:?}", current.number())))?;
        if owns_something(current, &known) {
            return Err(refused(format_args!(
                "without: keys are group {known}'s by number {}, and would be gone: bring it back; if its data are lost, let \
                 it begin anew by `kubebrain ctl placement recover --accept-loss {known}`, and then move what it owns",
                current.number()
            )));
        }
        if next.groups().any(|(group, _)| *group == known) {
            return Err(invalid(format!("the new placement names group {known}: leave it out")));
        }
        dead.insert(known);
    }
    Ok(dead)
}
