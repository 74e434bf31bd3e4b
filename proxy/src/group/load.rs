//! [`Load`]: how busy a node is, as far as this proxy can see.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// After so long a latency that was not seen again counts for a third: a slow node that nobody asks any more is tried
/// again after some such times. Higher is steadier and slower to see a change.
const DECAY: Duration = Duration::from_secs(2);
/// Differences below are the scheduler's.
const LATENCY_MIN: Duration = Duration::from_micros(100);
const TICK_MICROS: u128 = 16;
const TICKS_PER_SECOND: u32 = 62_500;

/// Requests in flight, and the decayed mean of how long answers took to begin.
#[derive(Debug)]
pub(crate) struct Load {
    in_flight: AtomicU32,
    /// Seconds as `f32`, and when that was, in ticks of 16 µs that wrap: one word, so that both are of one moment. 0
    /// before the first answer. Of two answers at once one may be lost.
    latency: AtomicU64,
    began: Instant,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { in_flight: AtomicU32::new(0), latency: AtomicU64::new(0), began: now }
    }

    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// An answer has begun after this time. What came before counts the less the longer it is ago.
    pub(crate) fn took(&self, now: Instant, time: Duration) {
        let ticks = self.ticks(now);
        let seconds = match self.read() {
            None => time.as_secs_f64(),
            Some((before, at)) => {
                let keep = kept(at, ticks);
                before * keep + time.as_secs_f64() * (1.0 - keep)
            }
        };
        let word = u64::from((seconds as f32).to_bits()) << 32 | u64::from(ticks);
        self.latency.store(word, Ordering::Relaxed);
    }

    /// The mean as of now; `None` before the first answer. It does not fade while an answer is waited for.
    pub(crate) fn latency(&self, now: Instant) -> Option<Duration> {
        let (seconds, at) = self.read()?;
        let keep = if self.in_flight() == 0 { kept(at, self.ticks(now)) } else { 1.0 };
        Some(Duration::from_secs_f64((seconds * keep).max(0.0)))
    }

    /// What one more request would meet here: latency times requests in flight, it included.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        let latency = self.latency(now).unwrap_or_default().max(LATENCY_MIN);
        latency.as_secs_f64() * (f64::from(self.in_flight()) + 1.0)
    }

    fn read(&self) -> Option<(f64, u32)> {
        let word = self.latency.load(Ordering::Relaxed);
        (word != 0).then(|| (f32::from_bits((word >> 32) as u32).into(), word as u32))
    }

    fn ticks(&self, now: Instant) -> u32 {
        ((now - self.began).as_micros() / TICK_MICROS) as u32
    }
}

/// What is left after the time between the two.
fn kept(from: u32, to: u32) -> f64 {
    let ticks = to.wrapping_sub(from);
    // of two answers that are counted in the wrong order, no time lies between them
    let ticks = if ticks > u32::MAX - TICKS_PER_SECOND { 0 } else { ticks };
    (-f64::from(ticks) / f64::from(TICKS_PER_SECOND) / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn millis(load: &Load, now: Instant) -> f64 {
        load.latency(now).expect("an answer").as_secs_f64() * 1000.0
    }

    #[tokio::test(start_paused = true)]
    async fn latency_follows_what_is_seen_and_fades_when_nothing_is() {
        let began = Instant::now();
        let load = Load::new(began);
        assert_eq!(load.latency(began), None);
        load.took(began + MILLI, MILLI);
        assert!((millis(&load, began + MILLI) - 1.0).abs() < 0.01, "the first answer counts whole");
        let mut now = began + MILLI;
        for _ in 0..10 {
            now += MILLI;
            load.took(now, MILLI);
        }
        load.took(now + MILLI, MILLI * 100);
        assert!(millis(&load, now + MILLI) < 1.2, "one late answer of many is no slow node");
        for _ in 0..6000 {
            now += MILLI;
            load.took(now, MILLI * 100);
        }
        assert!(millis(&load, now) > 90.0, "but many are: {}", millis(&load, now));
        let later = now + DECAY;
        assert!((millis(&load, later) / millis(&load, now) - 0.3679).abs() < 0.01, "it fades");
        load.enter();
        assert!(millis(&load, later) > 90.0, "not while one is waited for");
        load.leave();
        load.took(now + DECAY * 5, MILLI);
        assert!(millis(&load, now + DECAY * 5) < 2.0, "a lone answer after a while counts nearly whole");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cost_grows_with_what_is_in_flight() {
        let now = Instant::now();
        let load = Load::new(now);
        assert!((load.cost(now) - LATENCY_MIN.as_secs_f64()).abs() < 1e-9, "unknown is fast");
        load.took(now + MILLI, MILLI * 2);
        (0..4).for_each(|_| load.enter());
        assert!((load.cost(now + MILLI) - 0.010).abs() < 1e-5, "{}", load.cost(now + MILLI));
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_may_wrap_and_answers_may_be_counted_in_the_wrong_order() {
        let began = Instant::now();
        let load = Load::new(began);
        let day = Duration::from_secs(24 * 3600);
        load.took(began + MILLI, MILLI * 100);
        load.took(began + day, MILLI);
        assert!(millis(&load, began + day) < 2.0, "a day later nothing of it is left");
        load.took(began + day - MILLI, MILLI * 100);
        assert!(millis(&load, began + day) < 2.0, "an answer out of its order is not taken for a lone one");
    }
}
