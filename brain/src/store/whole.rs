//! What concerns everything in a group: compaction, its hash, its section of a snapshot.

use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;

use super::Store;
use crate::copy::export::Export;
use crate::copy::kept::{ContentAt, Kept};
use crate::lead::command::Command;

impl Store {
    /// Refuses reads below `revision` from now on. With `physical`, returns when their space is free.
    ///
    /// # Errors
    /// [`Fault::Compacted`] at or below the compacted revision, [`Fault::FutureRevision`] above the current one.
    pub async fn compact(&self, revision: i64, physical: bool, floor: Revision) -> Result<Revision, Fault> {
        self.state.alarms.trusted()?;
        let header = self.ask(|reply| Command::Compact { revision, floor, reply }).await?;
        if physical {
            let revision = u64::try_from(revision).unwrap_or(0);
            let mut swept = self.swept.clone();
            tokio::select! {
                _closed = swept.wait_for(|swept| *swept >= revision) => {}
                // Who has taken over sweeps on.
                _ = self.state.ended() => return Err(Fault::LeaderChanged),
            }
        }
        Ok(header)
    }

    /// The hash of what is there at a revision: see [`ContentAt`]. `at` 0 is now. It is refused below `compacted`, where
    /// that is above the own compacted revision.
    ///
    /// # Errors
    /// [`Fault::Compacted`] below either of them, [`Fault::FutureRevision`] above the current revision,
    /// [`Fault::TooManyRequests`] beside too many like it.
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn content(&self, at: Revision, compacted: i64, floor: Revision) -> Result<ContentAt, Fault> {
        self.leads()?;
        let _permit = self.scans.try_acquire().map_err(|_| Fault::TooManyRequests)?;
        self.advance(floor).await?;
        let content = Kept::begin(&self.state, at, compacted)?.content().await?;
        // Nobody else has swept what was read.
        self.fence(self.ticket()).await?;
        Ok(content)
    }

    /// The hash of everything: what is kept now, and the leases.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub async fn content_of_all(&self) -> Result<ContentAt, Fault> {
        let mut all = self.content(Revision::ZERO, -1, Revision::ZERO).await?;
        all.add_leases(&self.state.leases.lock().all());
        Ok(all)
    }

    /// Begins to export the group's section of a snapshot, as of `at` (0 is now) and as compacted as
    /// [`Self::content`] says. What it reads stays as it is until the export is dropped.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub async fn export(&self, at: Revision, compacted: i64, floor: Revision) -> Result<Export, Fault> {
        self.leads()?;
        let permit = self.scans.clone().try_acquire_owned().map_err(|_| Fault::TooManyRequests)?;
        self.advance(floor).await?;
        Export::begin(self.state.clone(), at, compacted, permit).await
    }
}
