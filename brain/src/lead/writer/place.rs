//! A new placement, in two steps so that no key has two owners: every group prepares, then every group commits.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;

use super::task::Writer;
use crate::lead::command::PlaceError;
use crate::load::error::OpenError;
use crate::rows::ownership;

impl Writer {
    pub(super) fn prepare(&mut self, placement: Arc<Placement>) -> Result<(), PlaceError> {
        self.keeps_its_keys(&placement)?;
        self.preparing = Some(placement);
        Ok(())
    }

    pub(super) async fn commit_placement(&mut self) -> Result<(), PlaceError> {
        let Some(placement) = self.preparing.take() else { return Ok(()) };
        let storage = |reason: String| PlaceError::Storage { group: self.state.group.to_string(), reason };
        let snapshot = self.state.engine.snapshot().await.map_err(|error| storage(error.to_string()))?;
        let owners = ownership::load(&*snapshot, &self.state.layout).await;
        // What is on its way from this group is not in the snapshot yet.
        let own =
            std::mem::take(&mut self.owners).into_iter().filter(|(_, owner)| *owner == self.state.group);
        let own: Vec<_> = own.collect();
        self.owners = owners.map_err(|error| storage(OpenError::from(error).to_string()))?;
        self.owners.extend(own);
        self.state.placement.store(placement);
        self.state.hub.stir();
        Ok(())
    }

    fn keeps_its_keys(&self, placement: &Placement) -> Result<(), PlaceError> {
        let group = &self.state.group;
        let stranded = |key: &[u8]| PlaceError::Stranded {
            group: group.to_string(),
            kind: placement.unit(key).start().escape_ascii().to_string(),
            owner: placement.owner(key).to_string(),
        };
        let index = self.state.index.read();
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
