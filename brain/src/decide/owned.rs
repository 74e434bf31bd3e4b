//! Ownership of keys: by the placement, enforced here, not trusted to proxies.

use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;

use crate::request::Op;

/// Refuses ranges that are not wholly this group's. With `part`, the version of the placement by which the group is
/// asked for its part of a range, the rest may be others', but the placement must be the same one.
///
/// # Errors
/// A sentence about what is not owned.
pub(crate) fn check(
    placement: &Placement,
    group: &GroupName,
    ranges: &[KeyRange],
    part: Option<u64>,
) -> Result<(), String> {
    if let Some(version) = part {
        return match version == placement.version() {
            true => Ok(()),
            false => {
                Err(format!("group {group} has placement {:x}, asked by {version:x}", placement.version()))
            }
        };
    }
    for range in ranges {
        let strange = match range.as_one() {
            Some(key) => Some(placement.owner(key)).filter(|owner| *owner != group).cloned(),
            None => placement.owners(range).into_iter().find(|owner| owner != group),
        };
        if let Some(owner) = strange {
            return Err(format!("group {group} does not own {range:?}, group {owner} does"));
        }
    }
    Ok(())
}

impl Op {
    /// All ranges that it reads or changes.
    pub(crate) fn ranges(&self) -> Vec<KeyRange> {
        match self {
            Self::Range(range) => vec![range.keys.clone()],
            Self::Put(put) => vec![KeyRange::one(put.key.clone())],
            Self::Delete(delete) => vec![delete.keys.clone()],
            Self::Txn(txn) => txn.ranges(),
        }
    }
}
