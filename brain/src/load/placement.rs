//! What is stored under a placement: no key of this group's may lie where the placement names another one.

use std::collections::HashMap;

use bytes::Bytes;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;

use super::error::OpenError;
use crate::engine::Snapshot;
use crate::rows::codec::Layout;
use crate::rows::ownership;

/// Every stored key belongs to the group that is recorded for it; the placement must agree.
pub(crate) async fn check_placement(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    placement: &Placement,
    owners: &HashMap<Bytes, GroupName>,
) -> Result<(), OpenError> {
    // Owners change only at beginnings that are recorded or named by the placement: between two of these all keys
    // have one recorded and one new owner, so one stored key of each stretch tells.
    let mut cuts: Vec<Bytes> = vec![Bytes::new()];
    let beginnings = owners.keys().chain(placement.boundaries()).cloned();
    for beginning in beginnings {
        let range = KeyRange::prefix(beginning);
        cuts.extend(range.end().cloned());
        cuts.push(range.start().clone());
    }
    cuts.sort();
    cuts.dedup();
    for (position, start) in cuts.iter().enumerate() {
        let stretch = KeyRange::new(start.clone(), cuts.get(position + 1).cloned());
        let first = snapshot.scan(layout.data_span(&stretch), 1).await?.rows.pop();
        let Some((row, value)) = first else { continue };
        let key = layout.read_data(&row, &value)?.key;
        let (recorded, group) = (ownership::recorded(owners, &key), placement.owner(&key));
        if let Some(owner) = recorded.filter(|owner| *owner != group) {
            let kind = placement.unit(&key).start().escape_ascii().to_string();
            return Err(OpenError::Stranded { kind, owner: owner.clone(), group: group.clone() });
        }
    }
    Ok(())
}
