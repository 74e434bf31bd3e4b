//! [`Defragmenter`]: one major compaction at a time, however many ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::exhaustion::read_error;
use super::upkeep::Upkeep;
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
    pub(super) async fn run(&self, upkeep: &Arc<Upkeep>) -> Result<(), ReadError> {
        let before = self.ended.load(Ordering::Acquire);
        let turn = Arc::clone(&self.one).lock_owned().await;
        if self.ended.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let (upkeep, ended) = (Arc::clone(upkeep), Arc::clone(&self.ended));
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // One pass learns which values are stale, the next one leaves them out, and what those leave is dropped.
            let mut before = u64::MAX;
            for _ in 0..PASSES_MAX {
                let rewritten = upkeep.rewrite()?;
                let bytes = rewritten.bytes;
                let little = bytes / 64;
                if bytes >= before.saturating_sub(before / 64) && rewritten.stale <= little {
                    break;
                }
                before = bytes;
            }
            ended.fetch_add(1, Ordering::Release);
            Ok(())
        });
        match work.await {
            Ok(done) => done.map_err(read_error),
            Err(panic) => Err(ReadError::Failed(Cause::from(panic))),
        }
    }

    #[cfg(test)]
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }
}
