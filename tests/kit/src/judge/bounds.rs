//! When revisions were committed, where nobody saw that: not after the moment at which somebody was shown one.

use std::collections::BTreeMap;

use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;

use super::record::{Ask, Committed, Heard, Moment, Records};

/// Gives each revision without a moment the first at which a client was shown it, or a later one of its group. One
/// that nobody was shown keeps none.
pub fn settle(committed: &mut [Committed], records: &Records, placement: &Placement) {
    let mut shown = shown(records, placement);
    let mut order: Vec<&mut Committed> =
        committed.iter_mut().filter(|committed| committed.tick == u64::MAX).collect();
    order.sort_by_key(|committed| std::cmp::Reverse(committed.revision));
    let mut first: BTreeMap<GroupName, Moment> = BTreeMap::new();
    for committed in order {
        let of_group = shown.entry(committed.group.clone()).or_default();
        while let Some((_, moment)) = of_group.pop_if(|(revision, _)| *revision >= committed.revision) {
            let first = first.entry(committed.group.clone()).or_insert(moment);
            if moment.tick < first.tick {
                *first = moment;
            }
        }
        if let Some(first) = first.get(&committed.group) {
            (committed.tick, committed.at) = (first.tick, first.at);
        }
    }
}

/// Of each group what clients were shown, and when; the highest revision last.
fn shown(records: &Records, placement: &Placement) -> BTreeMap<GroupName, Vec<(i64, Moment)>> {
    let mut shown: BTreeMap<GroupName, Vec<(i64, Moment)>> = BTreeMap::new();
    for op in &records.ops {
        let Some(Ok(answer)) = &op.outcome else { continue };
        let owners = op.ask.owners(placement);
        match &op.ask {
            Ask::Range(_) | Ask::Stream(_) | Ask::Put(_) | Ask::Txn(_) => {}
            Ask::Delete(_) if owners.len() == 1 => {}
            // Each group deletes at a revision of its own, and of leases and compactions the header says little.
            _ => continue,
        }
        for group in owners {
            shown.entry(group).or_default().push((answer.revision(), op.end));
        }
    }
    for (moment, heard) in records.watches.iter().flat_map(|watch| &watch.heard) {
        let Heard::Events(response) = heard else { continue };
        for kv in response.events.iter().filter_map(|event| event.kv.as_ref()) {
            let group = placement.owner(&kv.key).clone();
            shown.entry(group).or_default().push((kv.mod_revision, *moment));
        }
    }
    for of_group in shown.values_mut() {
        of_group.sort_unstable_by_key(|(revision, _)| *revision);
    }
    shown
}
