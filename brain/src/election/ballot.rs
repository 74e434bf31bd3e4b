//! [`Ballot`]: where the record stands, changed only by whoever names what it replaces.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;

use super::record::MasterRecord;
use crate::engine::error::Cause;
use crate::engine::{Batch, CommitError, Engine};

/// A record as it stands there.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What it says.
    pub record: MasterRecord,
    /// What [`Ballot::replace`] wants to hear of it.
    pub version: Bytes,
}

/// What became of a replacement.
#[derive(Debug)]
pub enum Replaced {
    /// It stands there; its version.
    Yes(Bytes),
    /// Something else did; it never will.
    No,
    /// It may, now or a little later.
    Unknown(Cause),
}

/// One record that all candidates of a group see.
#[async_trait]
pub trait Ballot: Send + Sync + 'static {
    /// What stands there, if anything: no older than the call.
    ///
    /// # Errors
    /// The cause, where it cannot be read. What cannot be understood is an error too: nobody takes over what it cannot read.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn look(&self) -> Result<Option<Found>, Cause>;

    /// Puts `record` in place of `before`, `None` where nothing was.
    ///
    /// # Cancel safety
    /// A dropped call is an unknown outcome.
    async fn replace(&self, before: Option<&Found>, record: &MasterRecord) -> Replaced;
}

/// A row of the group's own engine.
pub struct EngineBallot {
    engine: Arc<dyn Engine>,
    key: Bytes,
}

impl EngineBallot {
    /// A ballot that is the row under `key`.
    pub fn new(engine: Arc<dyn Engine>, key: Bytes) -> Self {
        Self { engine, key }
    }
}

#[async_trait]
impl Ballot for EngineBallot {
    async fn look(&self) -> Result<Option<Found>, Cause> {
        // A task of its own: an engine whose calls are given up early by everybody never learns, nor says, what is
        // wrong. There are a few at most, since whoever looks waits a while for each.
        let (engine, key) = (self.engine.clone(), self.key.clone());
        let value = tokio::spawn(async move { engine.snapshot().await?.get(&key).await }).await??;
        let found = value
            .map(|version| MasterRecord::decode(version.clone()).map(|record| Found { record, version }));
        Ok(found.transpose()?)
    }

    async fn replace(&self, before: Option<&Found>, record: &MasterRecord) -> Replaced {
        let version = Bytes::from(record.encode_to_vec());
        let mut batch = Batch::new();
        match before {
            Some(before) => batch.equals(self.key.clone(), before.version.clone()),
            None => batch.absent(self.key.clone()),
        };
        batch.put(self.key.clone(), version.clone());
        match self.engine.commit(batch).await {
            Ok(()) => Replaced::Yes(version),
            Err(CommitError::Conflict { .. }) => Replaced::No,
            // Surely not done, and as good as not known: it is looked at again.
            Err(error) => Replaced::Unknown(Box::new(error)),
        }
    }
}
