//! [`Bucket`]: how much may pass, at a rate, after a pause at once.
//!
//! Our own, since a transaction is judged by several of them as one, a request larger than the bucket has to pass some time,
//! and tests pause the clock.

use tokio::time::Instant;

/// Begins full. What costs more than it holds passes when it is full, and leaves it in debt.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    most: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// `rate` a second, and `most` at once. With a rate or a most of 0 nothing passes.
    pub(super) fn new(rate: u64, most: u64) -> Self {
        let (rate, most) = (rate as f64, if rate == 0 { 0.0 } else { most as f64 });
        Self { rate, most, level: most, at: Instant::now() }
    }

    /// True if `cost` may pass now.
    pub(super) fn has(&mut self, cost: u64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * self.rate).min(self.most);
        self.at = now;
        // A little less is enough: sums of fractions are not exact.
        self.most > 0.0 && self.level + 1e-6 >= (cost as f64).min(self.most)
    }

    /// It has passed; or was taken back, where this is negative.
    pub(super) fn pay(&mut self, cost: f64) {
        self.level -= cost;
    }
}
