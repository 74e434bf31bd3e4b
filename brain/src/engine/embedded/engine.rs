//! [`Embedded`]: the parts of the engine put together.

use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::commit::{Committer, Order, Writer};
use super::config::Config;
use super::defragment::Defragmenter;
use super::open::{Opened, open};
use super::place::STORE;
use super::room::Room;
use super::scan;
use super::store::Store;
use super::upkeep::Upkeep;
use crate::engine::batch::Batch;
use crate::engine::error::{CommitError, OpenError, Poison, ReadError, Refusal};
use crate::engine::scan::Span;
use crate::engine::{Bounds, Engine, Snapshot};

/// A larger batch is refused. One record of the log is read whole at recovery, and in memory while it is written, some
/// three times with all that goes with it. Nearly all batches are a few writes of a Kubernetes cluster (1.5 MiB each at
/// etcd's default) or one step of a compaction; the largest are deletions of a range in one revision, of which this holds
/// 1.1 million keys of 100 bytes.
const BATCH_BYTES_MAX: usize = 256 << 20;
/// Batches that wait for the committer; more callers wait in [`Engine::commit`]. A group has one at a time.
const QUEUE_BATCHES_MAX: usize = 128;

/// An engine in a directory. Dropping it waits for the batches in its queue, and for a merge that goes on; its
/// directory is free for another when the last snapshot is dropped, too.
#[derive(Debug)]
pub struct Embedded {
    store: Arc<Store>,
    upkeep: Arc<Upkeep>,
    room: Arc<Room>,
    /// Taken to end the committer: it runs until its queue is empty and this is gone.
    inbox: Option<mpsc::Sender<Order>>,
    poison: watch::Sender<Option<Poison>>,
    committer: Option<JoinHandle<()>>,
    defragmenter: Defragmenter,
}

impl Embedded {
    /// Opens the store in a directory, or makes it. Blocks on the disk: about as long as the log takes to read.
    ///
    /// # Errors
    /// See [`OpenError`]. Whatever it is, the next open starts from the same state.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let Opened { store, log, full } = open(config)?;
        let room = Arc::new(Room::new(&config.directory.join(STORE), log.pool().wanted()));
        let (inbox, orders) = mpsc::channel(QUEUE_BATCHES_MAX);
        let poison = watch::Sender::new(None);
        let upkeep = Upkeep::start(&store, log.pool(), &room, poison.clone(), full)?;
        let writer = Writer::new(Arc::clone(&store), log, Arc::clone(&upkeep), Arc::clone(&room), config);
        let committer = Committer::new(writer, orders, poison.clone());
        let committer = std::thread::Builder::new()
            .name("engine-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(|source| OpenError::Io { directory: config.directory.clone(), source })?;
        Ok(Self {
            store,
            upkeep,
            room,
            inbox: Some(inbox),
            poison,
            committer: Some(committer),
            defragmenter: Defragmenter::default(),
        })
    }

    /// Returns when a write or sync has failed, with the reason for people; never otherwise. The owner waits here all
    /// the time and ends the process then: what the disk holds is learned by opening again, not by trying again.
    ///
    /// # Cancel safety
    /// Safe: nothing is consumed.
    pub async fn poisoned(&self) -> Poison {
        let mut poison = self.poison.subscribe();
        let found = poison.wait_for(Option::is_some).await.expect("this engine holds a sender");
        found.clone().expect("waited for it")
    }

    /// Writes what is in memory out, and waits for it.
    #[cfg(test)]
    fn flush(&self) {
        self.upkeep.flush(&mut self.store.applied().lock());
        self.upkeep.settle().expect("there is room");
    }

    /// Why nothing more is committed.
    fn stopped(&self) -> CommitError {
        let poison = self.poison.borrow().clone();
        CommitError::Refused(Refusal::Stopped(
            poison.unwrap_or_else(|| Poison::new("its committer has ended")),
        ))
    }
}

#[async_trait]
impl Engine for Embedded {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        Ok(Box::new(scan::View::new(Arc::clone(&self.store))))
    }

    /// # Cancel safety
    /// A call dropped while the queue is full was never made. Later the batch commits whole or conflicts, as if
    /// somebody had listened.
    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        batch.check(&self.bounds()).map_err(CommitError::Refused)?;
        let bytes = batch.size();
        if bytes > BATCH_BYTES_MAX {
            return Err(CommitError::Refused(Refusal::TooLarge { bytes, max: BATCH_BYTES_MAX }));
        }
        let (answer, outcome) = oneshot::channel();
        let inbox = self.inbox.as_ref().expect("taken only in drop");
        if inbox.send(Order { batch, bytes, answer }).await.is_err() {
            return Err(self.stopped());
        }
        match outcome.await {
            Ok(outcome) => outcome,
            Err(_) => Err(CommitError::Unknown("the committer ended while it had the batch".into())),
        }
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        Ok(scan::cuts(&self.store, range))
    }

    async fn defragment(&self) -> Result<(), ReadError> {
        self.defragmenter.run(&self.upkeep).await
    }

    fn bounds(&self) -> Bounds {
        Bounds { batch_bytes_max: BATCH_BYTES_MAX, ..Bounds::default() }
    }

    fn is_short(&self) -> bool {
        self.room.is_short()
    }

    fn name(&self) -> &'static str {
        "embedded"
    }

    fn size(&self) -> u64 {
        self.store.size()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(committer) = self.committer.take() {
            let _panicked = committer.join(); // then it has poisoned the engine, and was heard
        }
    }
}

#[cfg(test)]
mod tests;
