//! [`Embedded`]: an engine on disk for one process, on fjall (a log-structured merge tree with a journal).
//!
//! ```text
//! commit ─▶ queue ─▶ committer thread: take all that wait ─▶ judge conditions in order ─▶ one write ─▶ one sync
//!                                                                                             │
//! snapshot ◀── published view ◀──────────────────────────────────────────────────────────────┤
//! commit   ◀── answers, conflicts too ◀───────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! * Only the committer thread writes. What it writes in one go is one journal record: all of it survives a crash,
//!   or none of it.
//! * Readers see the *published* view, which the committer takes after each sync. A view taken at any other moment
//!   would not do: a background flush moves fjall's visible number past a batch that is still being applied, and a
//!   snapshot opened then shows half of it.
//! * After the first failed write or sync nothing is written again: see [`Embedded::poisoned`].
//! * One process holds a data directory, by a lock on a file in it that the system drops with the process.
//!
//! On disk: `DIR/lock`; `DIR/store/format`, the number of the layout; `DIR/store/db/`, fjall's. A store is made under
//! another name and renamed when it is whole, so a crash while making it leaves nothing that is later taken for one.

mod commit;
mod defragment;
mod metrics;
mod open;
mod scan;
mod staged;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::batch::Batch;
use crate::engine::error::{CommitError, OpenError, Poison, ReadError, Refusal};
use crate::engine::scan::Span;
use crate::engine::{Engine, Snapshot};
use commit::{Committer, Order};
use defragment::Defragmenter;
pub use metrics::Metrics;
use open::Store;
pub use staged::{StageError, Staged};

/// A larger batch is refused. One journal record is read whole at recovery, and a batch is a few writes of a
/// Kubernetes cluster (1.5 MiB each at etcd's default) or one step of a compaction.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Batches that wait for the committer; more callers wait in [`Engine::commit`]. A group has one at a time.
const QUEUE_BATCHES_MAX: usize = 128;

/// How often [`Embedded::poisoned`] asks after fjall's threads: far below what an operator waits, and it costs a lock.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// What an embedded store is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; made if it is missing. No default.
    pub directory: PathBuf,
    /// Memory for blocks read from disk, in bytes; filled as reads need it. Default 64 MiB:
    /// what is read often is in the store's own cache of values. With more, reads of old
    /// versions rise in speed (9 against 23 us a get where the block is there) and so does memory.
    pub cache_bytes: u64,
    /// Rows kept in memory before they are written out sorted, in bytes; an idle store holds only what it was given.
    /// Default 128 MiB. With more, bulk writes stall less and are rewritten less often; memory rises (up to four of
    /// these wait for the disk in a flood), and so does the journal, thus the time to open after a crash (about 3 ms
    /// a MiB). Taken when the store is made and kept with it.
    pub memtable_bytes: u64,
    /// Where it counts. Default: nowhere to be seen.
    pub metrics: Metrics,
}

/// An engine in a directory. Dropping it waits for the batches in its queue, unless it is poisoned; its directory is
/// free for another when the last snapshot is dropped, too.
#[derive(Debug)]
pub struct Embedded {
    store: Arc<Store>,
    /// Taken to end the committer: it runs until its queue is empty and this is gone.
    inbox: Option<mpsc::Sender<Order>>,
    poison: watch::Sender<Option<Poison>>,
    committer: Option<JoinHandle<()>>,
    defragmenter: Defragmenter,
}

impl Config {
    /// Defaults for a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cache_bytes: 64 << 20,
            memtable_bytes: 128 << 20,
            metrics: Metrics::default(),
        }
    }
}

impl Embedded {
    /// Opens the store in a directory, or makes it. Blocks on the disk: about as long as the journal takes to read.
    ///
    /// # Errors
    /// See [`OpenError`]. Whatever it is, the next open starts from the same state.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let store = Arc::new(Store::open(config)?);
        let (inbox, orders) = mpsc::channel(QUEUE_BATCHES_MAX);
        let poison = watch::Sender::new(None);
        let committer = Committer::new(Arc::clone(&store), orders, poison.clone());
        let committer = std::thread::Builder::new()
            .name("engine-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(|source| OpenError::Io { directory: config.directory.clone(), source })?;
        Ok(Self {
            store,
            inbox: Some(inbox),
            poison,
            committer: Some(committer),
            defragmenter: Defragmenter::default(),
        })
    }

    /// Returns when a write or sync has failed, with the reason for people; never otherwise. The owner waits here all
    /// the time and ends the process then: what the disk holds is learned by opening again, not by trying again.
    ///
    /// fjall's own threads tell nobody when they fail, and a committer that waits for them would wait for ever; so
    /// this call asks, once a second, as long as it is awaited.
    ///
    /// # Cancel safety
    /// Safe: nothing is consumed.
    pub async fn poisoned(&self) -> Poison {
        let mut poison = self.poison.subscribe();
        loop {
            tokio::select! {
                found = poison.wait_for(Option::is_some) => {
                    let found = found.expect("this engine holds a sender");
                    return found.clone().expect("waited for it");
                }
                () = tokio::time::sleep(ASK_INTERVAL) => {}
            }
            let store = Arc::clone(&self.store);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.health()).await {
                commit::poison(&self.poison, "a background write to the disk failed", &error);
            }
        }
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
        batch.check().map_err(CommitError::Refused)?;
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
        self.defragmenter.run(&self.store).await
    }

    fn size(&self) -> u64 {
        self.store.size()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.inbox = None;
        // A committer of a poisoned engine may wait for fjall's threads for ever: it ends with the process.
        if let Some(committer) = self.committer.take().filter(|_| self.poison.borrow().is_none()) {
            let _panicked = committer.join(); // then it has poisoned the engine, and was heard
        }
    }
}

#[cfg(test)]
mod tests;
