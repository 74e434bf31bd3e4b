//! By which number of the placement brains go, and who goes by another one than the others.

use std::collections::BTreeMap;

use kubebrain_proto::admin::{Brain, Group};
use kubebrain_proto::peer::StandingResponse;

/// What most of the brains go by that are heard: lineage and number; zeros where none goes by a placement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OfMost {
    lineage: u64,
    number: u64,
}

/// Of as many for the one as for the other the newer one counts, and a placement before none.
pub(super) fn of_most<'a>(brains: impl IntoIterator<Item = &'a Brain>) -> OfMost {
    let mut counts = BTreeMap::new();
    for standing in brains.into_iter().filter_map(heard).filter(|standing| standing.placement_number > 0) {
        *counts.entry((standing.placement_number, standing.placement_lineage)).or_insert(0) += 1;
    }
    let most = counts.into_iter().max_by_key(|(id, count)| (*count, *id));
    most.map_or_else(OfMost::default, |((number, lineage), _)| OfMost { lineage, number })
}

fn heard(brain: &Brain) -> Option<&StandingResponse> {
    brain.standing.as_ref().filter(|_| !brain.gone)
}

impl OfMost {
    /// What is to be said of a brain that goes by something else.
    pub(super) fn note(&self, brain: &Brain) -> Option<String> {
        let Self { lineage, number } = *self;
        let standing = heard(brain).filter(|_| number > 0)?;
        let own = standing.placement_number;
        if own == 0 {
            return Some(format!("goes by no placement, most go by number {number}"));
        }
        if standing.placement_lineage != lineage {
            let other = standing.placement_lineage;
            return Some(format!(
                "goes by placement number {own} of another lineage, {other:x}, most go by {number} of {lineage:x}"
            ));
        }
        (own != number).then(|| format!("goes by placement number {own}, most go by {number}"))
    }
}

/// `17`, `17, 18 adopted`, or a dash.
pub(super) fn shown(standing: &StandingResponse) -> String {
    match (standing.placement_number, standing.placement_adopted) {
        (0, 0) => "-".to_owned(),
        (number, 0) => number.to_string(),
        (number, adopted) => format!("{number}, {adopted} adopted"),
    }
}

/// The numbers that brains go by who are heard, each once.
pub(super) fn numbers(groups: &[Group]) -> Vec<u64> {
    let standings = groups.iter().flat_map(|group| &group.brains).filter_map(heard);
    let mut numbers: Vec<_> =
        standings.map(|standing| standing.placement_number).filter(|n| *n > 0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brain(lineage: u64, number: u64, gone: bool) -> Brain {
        let standing = StandingResponse {
            placement_lineage: lineage,
            placement_number: number,
            ..StandingResponse::default()
        };
        Brain { standing: Some(standing), gone, ..Brain::default() }
    }

    #[test]
    fn most_decide_and_the_newer_of_two() {
        let of = |brains: &[Brain]| of_most(brains);
        assert_eq!(of(&[brain(0, 0, false)]), OfMost::default());
        assert_eq!(OfMost::default().note(&brain(0, 0, false)), None, "nobody has one");
        let equal = of(&[brain(7, 3, false), brain(7, 4, false), brain(0, 0, false)]);
        assert_eq!(equal, OfMost { lineage: 7, number: 4 });
        let most = of(&[brain(7, 3, false), brain(7, 3, false), brain(7, 4, false), brain(7, 5, true)]);
        assert_eq!(most, OfMost { lineage: 7, number: 3 });
        assert_eq!(most.note(&brain(7, 3, false)), None);
        assert_eq!(most.note(&brain(7, 5, true)), None, "one that is gone says nothing any more");
        let other = most.note(&brain(255, 3, false)).expect("another lineage");
        assert!(other.contains("another lineage, ff"), "{other}");
    }
}
