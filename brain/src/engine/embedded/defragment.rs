//! [`Defragmenter`]: one major compaction at a time, however many ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::open::Store;
use crate::engine::error::{Cause, ReadError};

/// Each reads and writes the whole store; three were enough wherever this was tried.
const PASSES_MAX: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Defragmenter {
    one: Arc<Mutex<()>>,
    /// How many have ended well.
    ended: Arc<AtomicU64>,
}

impl Defragmenter {
    /// Whoever waited while another ran has what it wanted: groups of one store are asked all at once.
    pub(super) async fn run(&self, store: &Arc<Store>) -> Result<(), ReadError> {
        let before = self.ended.load(Ordering::Acquire);
        let turn = Arc::clone(&self.one).lock_owned().await;
        if self.ended.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let (store, ended) = (Arc::clone(store), Arc::clone(&self.ended));
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // First what is still in memory: of old versions there, too, the tables keep only what is needed.
            store.rows.rotate_memtable_and_wait()?;
            // One pass learns which values are stale, the next one leaves them out, and what those leave is dropped.
            let mut bytes = u64::MAX;
            for _ in 0..PASSES_MAX {
                store.rows.major_compact()?;
                let now = store.rows.disk_space();
                if now >= bytes.saturating_sub(bytes / 64) {
                    break;
                }
                bytes = now;
            }
            ended.fetch_add(1, Ordering::Release);
            Ok(())
        });
        match work.await {
            Ok(done) => done.map_err(|error: fjall::Error| ReadError::Failed(error.into())),
            Err(panic) => Err(ReadError::Failed(Cause::from(panic))),
        }
    }

    #[cfg(test)]
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }
}
