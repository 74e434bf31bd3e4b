//! What people are told.

use std::collections::BTreeMap;

use kubebrain_proto::admin::{PlacementEntry, PlacementGroup, PlacementQuery, PlacementReport};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use tonic::Status;

use super::row::{Decided, Part, parts};
use super::{Authority, number_of, refused};

/// Texts in an answer with the history, of the newest documents; older ones are asked for by their numbers.
const TEXTS_BYTES_MAX: usize = 1 << 20;

impl Authority {
    pub(super) async fn report_of(&self, query: &PlacementQuery) -> Result<PlacementReport, Status> {
        let decided = self.decided()?;
        let mut report = PlacementReport {
            document: decided.row.current.clone(),
            prepared: decided.row.prepared.clone(),
            groups: self.groups_of(decided.parts(), &BTreeMap::new()),
            outcome: decided.row.outcome.clone(),
            outcome_number: decided.row.outcome_number,
            outcome_refused: decided.row.outcome_refused,
            history: Vec::new(),
            repaired: None,
        };
        let is_current = decided.current.as_ref().is_some_and(|current| current.number() == query.number);
        let wants_another = query.number != 0 && !is_current;
        if !query.history && !wants_another {
            return Ok(report);
        }
        let kept = self.kept().await?;
        if wants_another {
            let found = kept.iter().find(|entry| number_of(entry) == Some(query.number));
            let missing =
                || Status::not_found(format!("kubebrain: placement number {} is not kept", query.number));
            report.document.clone_from(&found.ok_or_else(missing)?.document);
        }
        if query.history {
            let mut room = TEXTS_BYTES_MAX;
            for mut entry in kept.into_iter().rev() {
                if let Some(document) = &mut entry.document {
                    room = room.saturating_sub(document.text.len());
                    if room == 0 {
                        document.text.clear();
                    }
                }
                let entry = PlacementEntry { document: entry.document, at: entry.at, reason: entry.reason };
                report.history.push(entry);
            }
            report.history.reverse();
        }
        Ok(report)
    }

    /// What groups would answer to a change.
    pub(super) fn report_of_trial(
        &self,
        decided: &Decided,
        current: &Document,
        next: &PlacementDocument,
        refusals: &BTreeMap<GroupName, String>,
    ) -> Result<PlacementReport, Status> {
        let document = Document::from_wire(next).map_err(refused)?;
        let outcome = match refusals.iter().next() {
            None => format!("all groups would take it, as number {}", next.number),
            Some((group, why)) => format!("group {group} would not take it: {why}"),
        };
        Ok(PlacementReport {
            document: decided.row.current.clone(),
            prepared: None,
            groups: self.groups_of(parts(Some(current), Some(&document)), refusals),
            outcome,
            outcome_number: next.number,
            outcome_refused: !refusals.is_empty(),
            history: Vec::new(),
            repaired: None,
        })
    }

    fn groups_of(
        &self,
        parts: BTreeMap<GroupName, Part>,
        refusals: &BTreeMap<GroupName, String>,
    ) -> Vec<PlacementGroup> {
        let told = |(group, part): (GroupName, Part)| {
            let seen = self.0.groups.of(&group);
            let troubles = [refusals.get(&group), Some(&seen.unreached), Some(&seen.trouble)];
            let trouble = troubles.into_iter().flatten().find(|trouble| !trouble.is_empty());
            PlacementGroup {
                answers: seen.answers(),
                number: seen.number,
                adopted: seen.adopted,
                trouble: trouble.cloned().unwrap_or_default(),
                in_current: part.in_current,
                in_prepared: part.in_prepared,
                name: group.to_string(),
            }
        };
        parts.into_iter().map(told).collect()
    }
}
