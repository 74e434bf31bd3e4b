//! A new placement, in two steps so that no key has two owners: every group prepares, then every group commits.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use thiserror::Error;

use super::Writer;
use crate::mvcc::ownership;

/// Why a placement was refused. The old one holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// It gives away keys that this group has, or has had since the last compaction.
    #[error(
        "group {group} has keys under {kind}, which the new placement gives to group {owner}; \
        a kind moves only while it is empty and its history is compacted"
    )]
    Stranded {
        /// This group.
        group: String,
        /// What would be stranded.
        kind: String,
        /// Who would own it.
        owner: String,
    },
    /// The storage did not say who owns what.
    #[error("group {group}: owners were not read: {reason}")]
    Storage {
        /// This group.
        group: String,
        /// What it said.
        reason: String,
    },
    /// It follows its master, whose placement counts.
    #[error("this brain is not the group's master")]
    Slave,
    /// The group is ending.
    #[error("the group has stopped")]
    Stopped,
}

impl Writer {
    pub(super) fn prepare(&mut self, placement: Arc<Placement>) -> Result<(), PlaceError> {
        self.keeps_its_keys(&placement)?;
        self.preparing = Some(placement);
        Ok(())
    }

    pub(super) async fn commit_placement(&mut self) -> Result<(), PlaceError> {
        let Some(placement) = self.preparing.take() else { return Ok(()) };
        let storage = |reason: String| PlaceError::Storage { group: self.shared.group.to_string(), reason };
        let snapshot = self.shared.engine.snapshot().await.map_err(|error| storage(error.to_string()))?;
        let owners = ownership::load(&*snapshot, &self.shared.layout).await;
        // What is on its way from this group is not in the snapshot yet.
        let own =
            std::mem::take(&mut self.owners).into_iter().filter(|(_, owner)| *owner == self.shared.group);
        let own: Vec<_> = own.collect();
        self.owners = owners.map_err(|error| storage(error.to_string()))?;
        self.owners.extend(own);
        self.shared.placement.store(placement);
        self.shared.hub.stir();
        Ok(())
    }

    fn keeps_its_keys(&self, placement: &Placement) -> Result<(), PlaceError> {
        let group = &self.shared.group;
        let stranded = |key: &[u8]| PlaceError::Stranded {
            group: group.to_string(),
            kind: placement.unit(key).start().escape_ascii().to_string(),
            owner: placement.owner(key).to_string(),
        };
        let index = self.shared.index.read();
        let pending = self.pending.keys();
        if let Some(key) = pending.into_iter().find(|key| placement.owner(key) != group) {
            return Err(stranded(&key));
        }
        match placement.partition(&KeyRange::ALL) {
            Some(parts) => {
                let mut strange = parts.iter().filter(|(_, owner)| owner != group);
                match strange.find_map(|(range, _)| index.first_of(range)) {
                    Some(key) => Err(stranded(&key)),
                    None => Ok(()),
                }
            }
            None => match index.all().find(|key| placement.owner(key) != group) {
                Some(key) => Err(stranded(key)),
                None => Ok(()),
            },
        }
    }
}
