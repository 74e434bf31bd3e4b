//! [`Embedded`]: an engine on disk for one process: a write-ahead log of our own, and a log-structured merge tree
//! (`lsm-tree`, the tree inside fjall).
//!
//! ```text
//! commit ─▶ queue ─▶ committer thread: take all that wait ─▶ judge conditions in order ─▶ one record ─▶ one sync
//!                                                                                              │
//! snapshot ◀── published moment ◀── rows into the tree's memtable ◀────────────────────────────┤
//! commit   ◀── answers, conflicts too ◀────────────────────────────────────────────────────────┘
//!                    memtable is full ─▶ flush thread: tables, then the log's segments are free
//! ```
//!
//! Invariants:
//! * Only the committer thread writes rows. What it writes in one go is one record of the log: all of it survives a
//!   crash, or none of it.
//! * All rows of a record bear its stamp, and a memtable begins and ends between records. So tables hold a prefix of
//!   the log, and the stamps in them say which: the rest is applied again at the next open, with the same stamps.
//! * Readers see the *published* moment, which follows each applied record. The tree's own visible number would not
//!   do: a flush moves it past a record that is still being applied.
//! * A segment of the log is used again when its records are in tables, and the tables and the manifest that names
//!   them are synced.
//! * After the first failed write or sync nothing is written again: see [`Embedded::poisoned`]. Only want of room for a
//!   *new* file is no such failure: that file is given up, and made anew when there is room. See `room`.
//! * One process holds a data directory, by a lock on a file in it that the system drops with the process.
//!
//! On disk: `DIR/lock`; `DIR/store/format`, the number of the layout; `DIR/store/wal/`, the log;
//! `DIR/store/tree/`, the tree's; `DIR/store/reserve`, room that is kept back. A store is made under
//! another name and renamed when it is whole, so a crash while making it leaves nothing that is later taken for one.

mod blobs;
mod cause;
mod commit;
mod defragment;
mod exhaustion;
mod manifest;
mod metrics;
mod moment;
mod open;
mod orphans;
mod private;
mod room;
mod rows;
mod scan;
mod staged;
mod upkeep;
mod wal;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::batch::Batch;
use crate::engine::error::{CommitError, OpenError, Poison, ReadError, Refusal};
use crate::engine::scan::Span;
use crate::engine::{Bounds, Engine, Snapshot};
use commit::{Committer, Order, Writer};
use defragment::Defragmenter;
pub use metrics::Metrics;
use open::{Opened, STORE, Store};
use room::Room;
pub use staged::{StageError, Staged};
use upkeep::Upkeep;

/// A larger batch is refused. One record of the log is read whole at recovery, and in memory while it is written, some
/// three times with all that goes with it. Nearly all batches are a few writes of a Kubernetes cluster (1.5 MiB each at
/// etcd's default) or one step of a compaction; the largest are deletions of a range in one revision, of which this holds
/// 1.1 million keys of 100 bytes.
const BATCH_BYTES_MAX: usize = 256 << 20;
/// Batches that wait for the committer; more callers wait in [`Engine::commit`]. A group has one at a time.
const QUEUE_BATCHES_MAX: usize = 128;

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
    /// Default 128 MiB. With more, bulk writes stall less and are rewritten less often; memory rises (up to three of
    /// these in a flood), and so does the log, which holds what is in memory, and thus the time to open.
    pub memtable_bytes: u64,
    /// Files of tables that are kept open. Default 900. With fewer, reads of a large store open files again and again;
    /// with more than the process has descriptors for, it waits for them.
    pub open_files_max: usize,
    /// Bytes of the log that were read to open the store, so far.
    pub replayed: Arc<AtomicU64>,
    /// Where it counts. Default: nowhere to be seen.
    pub metrics: Metrics,
}

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

impl Config {
    /// Defaults for a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cache_bytes: 64 << 20,
            memtable_bytes: 128 << 20,
            open_files_max: 900,
            replayed: Arc::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Embedded {
    /// Opens the store in a directory, or makes it. Blocks on the disk: about as long as the log takes to read.
    ///
    /// # Errors
    /// See [`OpenError`]. Whatever it is, the next open starts from the same state.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let Opened { store, log, full } = Store::open(config)?;
        let room = Arc::new(Room::new(&config.directory.join(STORE), log.ring().wanted()));
        let (inbox, orders) = mpsc::channel(QUEUE_BATCHES_MAX);
        let poison = watch::Sender::new(None);
        let upkeep = Upkeep::start(&store, log.ring(), &room, poison.clone(), full)?;
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
