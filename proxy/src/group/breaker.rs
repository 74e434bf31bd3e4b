//! [`Breaker`]: a node that fails again and again rests, and is then tried with one request at a time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A breaker opens after so many failures in a row.
const FAILURES: u32 = 3;
/// The first rest; doubled with each try that follows it.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(5);

/// The breaker of one node; only what another node can do as well looks at it.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// Failures in a row, counted up to the opening.
    failures: AtomicU32,
    /// Tries since the opening.
    tries: AtomicU32,
    /// Microseconds after `began`; 0 while it is closed.
    rests_until: AtomicU64,
    began: Instant,
}

impl Breaker {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            failures: AtomicU32::new(0),
            tries: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
            began: now,
        }
    }

    /// True if a request may go here: it is closed, or a rest is over.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until == 0 || self.micros(now) >= until
    }

    /// Takes the right to go here. After a rest one gets it, and the next rest begins.
    pub(crate) fn admit(&self, now: Instant) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        if self.micros(now) < until {
            return false;
        }
        let tries = self.tries.load(Ordering::Relaxed) + 1;
        let next = self.micros(now + rest(tries));
        let won =
            self.rests_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if won {
            self.tries.store(tries, Ordering::Relaxed);
        }
        won
    }

    /// Whatever it was, it has answered.
    pub(crate) fn answered(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.tries.store(0, Ordering::Relaxed);
            self.rests_until.store(0, Ordering::Relaxed);
        }
    }

    /// The connection has failed, or there was none. True if that has opened it.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        if self.rests_until.load(Ordering::Relaxed) != 0 {
            return false; // of before it opened, or the try that the next rest follows already
        }
        let opens = self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES;
        if opens {
            self.rests_until.store(self.micros(now + rest(0)), Ordering::Relaxed);
        }
        opens
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from((now - self.began).as_micros()).unwrap_or(u64::MAX)
    }
}

fn rest(tries: u32) -> Duration {
    REST_MIN.saturating_mul(1 << tries.min(16)).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_try_after_growing_rests() {
        let mut now = Instant::now();
        let breaker = Breaker::new(now);
        for _ in 0..5 {
            assert!(!breaker.failed(now) && !breaker.failed(now), "two are none yet");
            breaker.answered();
        }
        assert_eq!([breaker.failed(now), breaker.failed(now)], [false, false]);
        assert!(breaker.admit(now));
        assert_eq!([breaker.failed(now), breaker.failed(now)], [true, false], "opened once");
        for rest in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert!(!breaker.allows(now) && !breaker.admit(now));
            now += Duration::from_millis(rest - 1);
            assert!(!breaker.admit(now), "{rest}");
            now += Duration::from_millis(1);
            assert!(breaker.allows(now) && breaker.admit(now), "one after {rest} ms");
            assert!(!breaker.admit(now), "and no other");
            assert!(!breaker.failed(now), "open it was");
        }
        breaker.answered();
        assert!(breaker.admit(now) && breaker.admit(now), "proven");
        assert_eq!([(); 3].map(|()| breaker.failed(now)), [false, false, true], "it begins anew");
        assert!(breaker.admit(now + REST_MIN), "with the shortest rest");
    }
}
