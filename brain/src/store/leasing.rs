//! What is asked of a store about leases: changes go to its writer, reads are of what is durable.

use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use tokio::time::Instant;

use super::Store;
use crate::lead::command::{Adoption, Command, Granted, Renewed};
use crate::state::lease::{Leases, Renewal};

impl Store {
    /// Grants a lease; id 0 lets the store choose one.
    ///
    /// # Errors
    /// What etcd answers.
    pub async fn grant(&self, id: i64, ttl: i64, floor: Revision) -> Result<Granted, Fault> {
        self.state.alarms.trusted()?;
        self.ask(|reply| Command::Grant { id, ttl, adoption: None, floor, reply }).await
    }

    /// Takes over a lease that another group granted. Repeating it is harmless, and gives it the time that it lacks.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn adopt(&self, id: i64, ttl: i64, adoption: Adoption) -> Result<Granted, Fault> {
        let (adoption, floor) = (Some(adoption), Revision::ZERO);
        self.ask(|reply| Command::Grant { id, ttl, adoption, floor, reply }).await
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`Fault::LeaseNotFound`].
    pub async fn revoke(&self, id: i64, floor: Revision) -> Result<Revision, Fault> {
        self.state.alarms.trusted()?;
        self.ask(|reply| Command::Revoke { id, floor, reply }).await
    }

    /// Records durably that `group` is about to hold a lease of this one. Gives its whole and its remaining time.
    ///
    /// # Errors
    /// [`Fault::LeaseNotFound`].
    pub async fn share(&self, id: i64, group: GroupName) -> Result<(i64, Duration), Fault> {
        self.ask(|reply| Command::Share { id, group, reply }).await
    }

    /// Starts a lease's time again, also in the eyes of a later master. `None` if it is not granted.
    ///
    /// # Errors
    /// [`Fault::Timeout`] if its row has a checkpoint and is not written in time.
    pub async fn renew(&self, id: i64) -> Result<Option<Renewed>, Fault> {
        let ticket = self.ticket();
        let renewed = match self.state.leases.lock().renew(id) {
            Some(Renewal::Done(lease)) => Some((lease.row.ttl, lease.row.holders.clone())),
            // What is gone, or not there yet, may be on its way only: the writer knows.
            None | Some(Renewal::NeedsWrite) => None,
        };
        if renewed.is_some() {
            self.fence(ticket).await?;
            self.state.metrics.all.leases_renewed.inc();
            return Ok(renewed);
        }
        let renewed = self.ask(|reply| Command::Renew { id, reply }).await;
        if matches!(renewed, Ok(Some(_))) {
            self.state.metrics.all.leases_renewed.inc();
        }
        renewed
    }

    /// What the leases say, once everything that they say is durable and known to be fresh; and the revision of that.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn of_leases<T>(
        &self,
        floor: Revision,
        read: impl FnOnce(&Leases) -> T,
    ) -> Result<(Revision, T), Fault> {
        let mut revision = self.state.committed();
        if floor > revision {
            revision = self.advance(floor).await?;
        }
        let found = read(&self.state.leases.lock());
        self.settle().await?;
        Ok((revision, found))
    }

    /// A lease: seconds granted, and what is left. `None` if it is not granted.
    pub fn remaining(&self, id: i64) -> Option<(i64, Duration)> {
        let leases = self.state.leases.lock();
        let lease = leases.get(id)?;
        Some((lease.row.ttl, lease.deadline.saturating_duration_since(Instant::now())))
    }

    /// The keys of a lease, in order.
    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let leases = self.state.leases.lock();
        leases.get(id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// The groups that hold a lease too.
    pub fn holders(&self, id: i64) -> Option<Vec<String>> {
        self.state.leases.lock().get(id).map(|lease| lease.row.holders.clone())
    }

    /// All granted leases.
    pub fn leases(&self) -> Vec<i64> {
        self.state.leases.lock().ids()
    }
}
