//! [`Tenure`]: until when this process holds the master lease, for whoever answers by it.
//!
//! The election writes it, the store reads it, and neither knows the other. A store is opened in one [`Term`] and asks that
//! one for ever: a process that lost the lease and won it again has another, and what happened between is in no memory of
//! the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Of one process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tenure(Arc<Mutex<Option<(u64, Term)>>>);

/// One time as holder of the master lease, in which nobody else was. Clones share it.
#[derive(Clone, Debug)]
pub struct Term {
    base: Instant,
    /// Nanoseconds after the base; it is held before then.
    until: Arc<AtomicU64>,
}

impl Tenure {
    /// Term `number` lasts until `until`, unless it is told otherwise.
    pub fn hold(&self, number: u64, until: Instant) {
        let current = &mut *self.0.lock();
        match current {
            Some((held, term)) if *held == number => term.set(until),
            other => {
                let term = Term { base: Instant::now(), until: Arc::default() };
                term.set(until);
                if let Some((_, before)) = other.replace((number, term)) {
                    before.end();
                }
            }
        }
    }

    /// The lease is not held, as far as is known.
    pub fn lose(&self) {
        if let Some((_, term)) = &*self.0.lock() {
            term.end();
        }
    }

    /// The one that runs, or ran last; `None` before the first.
    pub fn term(&self) -> Option<Term> {
        self.0.lock().as_ref().map(|(_, term)| term.clone())
    }
}

impl Term {
    /// True if nobody else can have been elected, on a clock that says `now`.
    pub fn is_held(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.base) < Duration::from_nanos(self.until.load(Ordering::SeqCst))
    }

    fn set(&self, until: Instant) {
        let nanos = until.saturating_duration_since(self.base).as_nanos();
        self.until.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_term_is_held_until_it_ends_and_never_again_in_the_next() {
        let (tenure, start) = (Tenure::default(), Instant::now());
        assert!(tenure.term().is_none());
        tenure.hold(3, start + SECOND);
        let first = tenure.term().expect("held");
        assert!(first.is_held(start) && !first.is_held(start + SECOND));
        tenure.hold(3, start + SECOND * 2);
        assert!(first.is_held(start + SECOND), "renewed");
        tenure.lose();
        assert!(!first.is_held(start));
        tenure.hold(3, start + SECOND * 3);
        assert!(first.is_held(start + SECOND * 2), "a renewal was found to have landed: nobody came between");
        tenure.hold(5, start + SECOND * 9);
        assert!(!first.is_held(start), "somebody did");
        tenure.hold(5, start + SECOND * 10);
        assert!(!first.is_held(start));
        assert!(tenure.term().expect("held").is_held(start + SECOND * 9));
    }
}
