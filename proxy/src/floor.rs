//! [`Floor`]: the highest revision seen. It only rises.

use std::sync::atomic::{AtomicU64, Ordering};

use kubebrain_shared::revision::Revision;
use tokio::sync::Notify;

/// The highest revision that was seen in an answer. It is raised *before* the answer goes on to the client: what a
/// client may know, the next request of anyone here carries.
#[derive(Debug)]
pub(crate) struct Floor {
    revision: AtomicU64,
    /// Whoever waits is told when it rises above.
    mark: AtomicU64,
    passed: Notify,
}

impl Default for Floor {
    fn default() -> Self {
        Self { revision: AtomicU64::new(0), mark: AtomicU64::new(u64::MAX), passed: Notify::new() }
    }
}

impl Floor {
    /// Raises to at least `revision`; an absurd one is dropped.
    pub(crate) fn raise(&self, revision: Revision) {
        if revision <= Revision::MAX {
            self.revision.fetch_max(revision.get(), Ordering::AcqRel);
            if revision.get() > self.mark.load(Ordering::Relaxed) {
                self.passed.notify_one();
            }
        }
    }

    pub(crate) fn get(&self) -> Revision {
        Revision::new(self.revision.load(Ordering::Acquire))
    }

    /// From now on [`Floor::passed`] returns where it is above `mark`.
    pub(crate) fn mark(&self, mark: Revision) {
        self.mark.store(mark.get(), Ordering::Relaxed);
        if self.get() > mark {
            self.passed.notify_one();
        }
    }

    /// Returns once it has risen above the mark. For one that waits; cancel safe.
    pub(crate) async fn passed(&self) {
        self.passed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_never_falls_and_ignores_absurd_numbers() {
        let floor = Floor::default();
        let raise = |revision: i64| Revision::checked_from(revision).into_iter().for_each(|r| floor.raise(r));
        raise(10);
        raise(3);
        raise(-1);
        raise(i64::MAX);
        assert_eq!(floor.get(), Revision::new(10));
        raise(10_000_000_000);
        assert_eq!(floor.get(), Revision::new(10_000_000_000), "a fresh proxy accepts any sane number");
    }
}
