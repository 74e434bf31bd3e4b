//! The storage behind brains: ordered byte keys, consistent snapshots, atomic conditional commits. Nothing else is
//! asked of a database.
//!
//! ```text
//! writer ──Batch──▶ commit ──▶ conditions hold? ──▶ writes made durable ──▶ visible to snapshots ──▶ Ok
//! reader ◀──rows── Snapshot ◀── snapshot: all that was answered before it was asked for, nothing later
//! ```
//!
//! What every engine promises, and `contract` tries on each:
//! * **Order.** Keys are byte strings of 1 to [`Bounds::key_bytes_max`] bytes, ordered bytewise. Values are never empty.
//! * **All or nothing.** A batch's writes happen together or not at all, for every reader and after every crash.
//! * **Conditions.** They are judged against the state that the batch's writes are applied to: two batches under the
//!   same condition never both commit if the first one made it false.
//! * **Durable, then visible, then answered.** No snapshot shows what a crash could still take away, and a snapshot
//!   that is asked for after a commit was answered shows it.
//! * **Honest outcomes.** [`CommitError::Conflict`] and [`CommitError::Refused`] wrote nothing and never will;
//!   whatever may have happened is [`CommitError::Unknown`].
//!
//! Deliberately absent: groups, revisions, time to live, reads in reverse. Several groups share one engine by keys
//! that differ.

pub mod batch;
pub mod bounds;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
pub mod error;
#[cfg(any(test, feature = "faults"))]
pub mod faulty;
pub mod memory;
pub mod scan;

use async_trait::async_trait;
use bytes::Bytes;

pub use batch::{Batch, Condition, Write};
pub use bounds::{Bounds, KEY_BYTES_MAX};
pub use error::{CommitError, OpenError, ReadError, Refusal};
pub use scan::{PAGE_BYTES_MAX, Page, Span};

/// A database under one or more groups.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// A consistent view: everything whose commit was answered before the call, nothing that commits after the return.
    /// Long-lived snapshots keep deleted rows on disk: hold one for a request, not for a watch.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the storage does not answer, [`ReadError::Failed`] if it never will.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError>;

    /// Applies the batch if all its conditions hold: atomic, and durable on `Ok`. An empty batch is `Ok` at once.
    ///
    /// # Errors
    /// Each says whether the writes may have happened: see [`CommitError`].
    ///
    /// # Cancel safety
    /// A dropped call is an unknown outcome: the batch commits whole or not at all, sooner or later. Whoever needs the
    /// outcome holds the call to its end, or reads back.
    async fn commit(&self, batch: Batch) -> Result<(), CommitError>;

    /// Keys at which a scan of `range` is well cut into parts for parallel reading: ascending, each inside the range
    /// and not its start. A hint: it may be empty, and keys need not exist.
    ///
    /// # Errors
    /// As [`Engine::snapshot`].
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError>;

    /// Rewrites what is stored without what was deleted or overwritten, so that the disk gets it back. Reads and commits
    /// go on meanwhile. One at a time: a call while one runs is answered when that, or one more, has ended. Without a
    /// disk there is nothing to do.
    ///
    /// # Errors
    /// [`ReadError`]; what is stored is as before.
    ///
    /// # Cancel safety
    /// A dropped call leaves the work to go on to its end.
    async fn defragment(&self) -> Result<(), ReadError> {
        Ok(())
    }

    /// What it is called where somebody is told of its commits.
    fn name(&self) -> &'static str {
        "unnamed"
    }

    /// What it holds at once. The same for as long as it is open.
    fn bounds(&self) -> Bounds {
        Bounds::default()
    }

    /// True if other processes can write it too: then a master has to ask whether it still is one.
    fn is_shared(&self) -> bool {
        false
    }

    /// What it waits for, as a sentence for an operator; `None` while it answers. No I/O.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// True while it is short of space: who builds batches adds nothing then, and takes away what it likes. Cheap, no I/O.
    fn is_short(&self) -> bool {
        false
    }

    /// Bytes on disk as far as known here, logs included; 0 for memory. Cheap enough to ask once a second.
    fn size(&self) -> u64;
}

/// A view of an [`Engine`] that does not change while commits go on. It is freed by dropping it.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// The values under `keys`, in their order.
    ///
    /// # Errors
    /// See [`ReadError`]. One key that cannot be read fails the call.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError>;

    /// The first rows of the span in key order: at most `limit`, and at most one row past [`PAGE_BYTES_MAX`]. A page
    /// of a non-zero limit has at least one row unless the span has none. See [`Page::next`] for the rest.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: a read. Work that has begun for a dropped call ends with its page.
    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError>;
}
