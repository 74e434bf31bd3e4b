//! Locks whose primary key was never written, and which the client therefore never removes.
//!
//! All messages of a transaction's first phase are sent at once. If the writer dies when the one with the primary key
//! has not arrived, the other keys are locked for a transaction that the primary's store has never heard of. A reader
//! that asks there is told so, and has to ask again in a way that leaves "it was rolled back" behind, by which a late
//! arrival fails. The client's code for that is never reached: it looks for the answer under another kind of error than
//! the one that it has wrapped it in. Its sweep before garbage collection asks in that way from the beginning, so that is
//! used, on the keys in question and on transactions that are no younger.
//!
//! Invariant: nothing is removed before the transaction is older than any lock of a living writer that is not renewed
//! may be; were it still alive, it would fail, and say so.

use bytes::Bytes;
use kubebrain_brain::engine::scan::successor;
use tikv_client::transaction::ResolveLocksOptions;
use tikv_client::{BoundRange, Error, Timestamp, TimestampExt as _, TransactionClient};

use crate::outcome;

/// The shortest life of a lock, ms.
const LIFE_MIN_MS: i64 = 3000;

/// Keys that an operation was about.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    start: Bytes,
    end: Option<Bytes>,
}

impl Keys {
    pub(crate) fn between(start: Bytes, end: Option<Bytes>) -> Self {
        Self { start, end }
    }

    /// From the first to the last of them; `None` if there are none.
    pub(crate) fn spanning<'a>(keys: impl Iterator<Item = &'a Bytes> + Clone) -> Option<Self> {
        let (first, last) = (keys.clone().min()?, keys.max()?);
        Some(Self { start: first.clone(), end: Some(successor(last)) })
    }

    fn range(self) -> BoundRange {
        match self.end {
            Some(end) => (self.start.to_vec()..end.to_vec()).into(),
            None => (self.start.to_vec()..).into(),
        }
    }
}

/// Removes what stands in the way among `keys`, if an error says that it is such a lock, and that one is old enough at
/// `now`. What goes wrong shows when the operation is tried again.
pub(crate) async fn remove(client: &TransactionClient, error: &Error, keys: Keys, now: &Timestamp) {
    let Some(start) = outcome::orphan(error) else { return };
    let start = Timestamp::from_version(start);
    if now.physical - start.physical < LIFE_MIN_MS {
        return;
    }
    let options = ResolveLocksOptions { async_commit_only: false, batch_size: 1024 };
    match client.cleanup_locks(keys.range(), &start, options).await {
        Ok(done) => tracing::info!(locks = done.resolved_locks, "removed what a writer left behind half way"),
        Err(error) => tracing::warn!("a lock without an owner stays: {}", outcome::describe(&error)),
    }
}
