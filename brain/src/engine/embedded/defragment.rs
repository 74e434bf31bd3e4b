//! [`Defragmenter`]: one major compaction at a time, however many ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::open::Store;
use crate::engine::error::{Cause, ReadError};

/// Each reads the keys of the whole store and writes them again. Two or three are enough where nobody writes, five were
/// in a flood.
const PASSES_MAX: usize = 8;

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
            // One pass learns which values are stale, the next one leaves them out, and what those leave is dropped.
            let mut before = u64::MAX;
            for _ in 0..PASSES_MAX {
                // What is in memory goes to the tables; and fjall looks which versions nobody reads any more only here.
                store.rows.rotate_memtable_and_wait()?;
                store.rows.major_compact()?;
                let bytes = store.rows.disk_space();
                let little = bytes / 64;
                if bytes >= before.saturating_sub(before / 64) && store.rows.fragmented_blob_bytes() <= little
                {
                    break;
                }
                before = bytes;
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
