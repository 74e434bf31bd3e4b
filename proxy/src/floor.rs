//! [`Floor`]: the highest revision seen. It only rises.

use std::sync::atomic::{AtomicU64, Ordering};

use kubebrain_shared::revision::Revision;

/// The highest revision that was seen in an answer. It is raised *before* the answer goes on to the client: what a
/// client may know, the next request of anyone here carries.
#[derive(Debug, Default)]
pub(crate) struct Floor(AtomicU64);

impl Floor {
    /// Raises to at least `revision`; an absurd one is dropped.
    pub(crate) fn raise(&self, revision: Revision) {
        if revision <= Revision::MAX {
            self.0.fetch_max(revision.get(), Ordering::AcqRel);
        }
    }

    pub(crate) fn get(&self) -> Revision {
        Revision::new(self.0.load(Ordering::Acquire))
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
