//! Ownership of keys: by the placement, enforced here, not trusted to proxies.

use std::collections::HashMap;

use bytes::Bytes;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;

use super::codec::Layout;
use super::open::OpenError;
use crate::engine::{Snapshot, Span};

/// Refuses ranges that are not wholly this group's. With `part`, the version of the placement by which the group is
/// asked for its part of a range, the rest may be others', but the placement must be the same one.
///
/// # Errors
/// A sentence about what is not owned.
pub fn check(
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

/// All recorded owners, of every group in the store.
pub(super) async fn load(
    snapshot: &dyn Snapshot,
    layout: &Layout,
) -> Result<HashMap<Bytes, GroupName>, OpenError> {
    let mut owners = HashMap::new();
    let mut span: Span = layout.owner_span();
    loop {
        let page = snapshot.scan(span.clone(), 1024).await?;
        for (row, value) in page.rows {
            let (unit, group) = layout.read_owner(&row, &value)?;
            owners.insert(unit, group);
        }
        match page.next {
            Some(next) => span.start = next,
            None => return Ok(owners),
        }
    }
}

/// The recorded owner of a key: the longest recorded beginning of it wins.
pub fn recorded<'a>(owners: &'a HashMap<Bytes, GroupName>, key: &[u8]) -> Option<&'a GroupName> {
    (0..=key.len()).rev().find_map(|length| owners.get(&key[..length]))
}
