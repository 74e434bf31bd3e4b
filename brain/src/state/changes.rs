//! [`RevisionChanges`]: what becomes visible at once, on a master and on its slaves.

use super::values::Values;
use crate::decide::evaluate::Change;
use crate::events::event::{Event, Prior, RevisionEvents};

/// The changes of one revision.
#[derive(Debug)]
pub(crate) struct RevisionChanges {
    pub revision: u64,
    pub changes: Vec<Change>,
}

impl RevisionChanges {
    /// As watchers see it.
    pub(crate) fn into_events(self, values: &Values) -> RevisionEvents {
        let events = self.changes.into_iter().map(|change| {
            let prior = match change.before {
                None => Prior::None,
                Some(before) => {
                    match before.kv.or_else(|| values.cached(&change.key, before.version.revision)) {
                        Some(kv) => Prior::Known(kv),
                        None => Prior::At(before.version.revision),
                    }
                }
            };
            Event { deleted: change.version.is_tombstone(), key: change.key, kv: change.kv, prior }
        });
        RevisionEvents { revision: self.revision, events: events.collect() }
    }
}
