//! Which keys are this group's, and a new placement in two halves.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use tokio::sync::oneshot;

use super::Store;
use crate::decide::owned;
use crate::lead::command::{Command, PlaceError};

impl Store {
    /// First half of a new placement: from now on only keys that this group owns by both are written.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing changed.
    pub async fn prepare(&self, placement: Arc<Placement>) -> Result<(), PlaceError> {
        self.leads().map_err(|_| PlaceError::Slave)?;
        let (reply, done) = oneshot::channel();
        let sent = self.commands.send(Command::Prepare { placement, reply }).await;
        sent.map_err(|_| PlaceError::Stopped)?;
        done.await.unwrap_or(Err(PlaceError::Stopped))
    }

    /// Second half: the prepared placement holds.
    ///
    /// # Errors
    /// [`PlaceError`]; the old one holds.
    pub async fn commit_placement(&self) -> Result<(), PlaceError> {
        self.leads().map_err(|_| PlaceError::Slave)?;
        let (reply, done) = oneshot::channel();
        self.commands.send(Command::Commit { reply }).await.map_err(|_| PlaceError::Stopped)?;
        done.await.unwrap_or(Err(PlaceError::Stopped))
    }

    /// Instead of the second half.
    pub async fn abort_placement(&self) {
        if self.leads().is_ok() {
            let _stopped = self.commands.send(Command::Abort).await;
        }
    }

    /// Refuses ranges of keys that are not this group's.
    ///
    /// # Errors
    /// A sentence about what is not.
    pub fn owns(&self, ranges: &[KeyRange], part: Option<u64>) -> Result<(), String> {
        owned::check(&self.state.placement.load(), &self.state.group, ranges, part)
    }
}
