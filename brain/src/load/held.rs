//! What a group goes by, from the store.

use std::collections::HashMap;

use bytes::Bytes;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;

use super::error::OpenError;
use crate::config::Config;
use crate::decide::held::Held;
use crate::rows::codec::PlacementRow;

/// By its row. Where it has none, by `table`, or where it awaits a placement by what is recorded as its own.
///
/// # Errors
/// [`OpenError::Placement`].
pub(crate) fn held(
    config: &Config,
    row: Option<&PlacementRow>,
    table: &Placement,
    owners: &HashMap<Bytes, GroupName>,
) -> Result<Held, OpenError> {
    let unnumbered = match config.awaits_placement {
        true => Placement::recorded(table, owners.iter().map(|(unit, owner)| (unit.clone(), owner.clone()))),
        false => table.clone(),
    };
    let Some(row) = row else { return Ok(Held::unnumbered(unnumbered)) };
    let unread = |error| OpenError::Placement { group: config.group.clone(), error };
    Held::read(row, &unnumbered).map_err(unread)
}
