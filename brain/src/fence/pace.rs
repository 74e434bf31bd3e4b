//! [`Pace`]: how soon the next question is asked.

use std::time::Duration;

/// After a read that failed; doubled up to a second, on a slave to less.
const RETRY: Duration = Duration::from_millis(10);

/// How the last questions went.
pub(super) struct Pace {
    /// Before the next one, where this one fails.
    delay: Duration,
    /// Of a slave: how many have shared a question lately.
    pub(super) shared_by: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { delay: RETRY, shared_by: 0 }
    }
}

impl Pace {
    /// A question was answered.
    pub(super) fn answered(&mut self) {
        self.delay = RETRY;
    }

    /// How long to wait after one that failed, up to `max`.
    pub(super) fn failed(&mut self, max: Duration) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(max);
        delay
    }
}
