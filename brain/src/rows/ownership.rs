//! Recorded owners: which group the keys of a kind have belonged to since their first write.

use std::collections::HashMap;

use bytes::Bytes;
use kubebrain_shared::group::GroupName;

use super::codec::Layout;
use super::log::LogError;
use crate::engine::{Snapshot, Span};

/// All recorded owners, of every group in the store.
///
/// # Errors
/// See [`LogError`].
pub(crate) async fn load(
    snapshot: &dyn Snapshot,
    layout: &Layout,
) -> Result<HashMap<Bytes, GroupName>, LogError> {
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
pub(crate) fn recorded<'a>(owners: &'a HashMap<Bytes, GroupName>, key: &[u8]) -> Option<&'a GroupName> {
    (0..=key.len()).rev().find_map(|length| owners.get(&key[..length]))
}
