//! [`Beat`]: whether the one task that orders writes is at work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Written by the writer, read by whoever judges its health.
#[derive(Debug)]
pub(crate) struct Beat {
    began: Instant,
    /// When the writer was last seen at work, in milliseconds after `began`; `u64::MAX` where there is none.
    last: AtomicU64,
}

impl Beat {
    /// Before there is a writer.
    pub(crate) fn none() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(u64::MAX) }
    }

    /// The writer is at work.
    pub(crate) fn beat(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// The writer has ended in good order.
    pub(crate) fn stop(&self) {
        self.last.store(u64::MAX, Ordering::Relaxed);
    }

    /// False if there is a writer that was not at work for so long.
    pub(crate) fn is_beating(&self, within: Duration) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last == u64::MAX || self.began.elapsed().saturating_sub(Duration::from_millis(last)) < within
    }
}
