//! Numbers out of many.

use std::time::Duration;

/// What one run of one kind of work gave.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Run {
    /// What was counted, per second: requests, objects of lists, deliveries.
    pub(crate) per_second: f64,
    /// Server CPU for each, microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The most memory that the server had, bytes.
    pub(crate) memory: u64,
    /// How busy the client was: from about 0.95 on it measures itself.
    pub(crate) client_busy: f64,
    /// Requests that lost a race for their key and were not counted.
    pub(crate) conflicts: u64,
}

/// The middle, and the ends, of several.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let Some((min, max)) = values.first().copied().zip(values.last().copied()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Self { median, min, max }
    }
}

/// Milliseconds below which so many percent are; sorts.
pub(crate) fn percentile(taken: &mut [Duration], percent: usize) -> f64 {
    taken.sort_unstable();
    let place = (taken.len() * percent / 100).min(taken.len().saturating_sub(1));
    taken.get(place).copied().unwrap_or_default().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_middle_and_its_ends() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([]).median, 0.0);
    }

    #[test]
    fn percentiles_stay_inside() {
        let mut taken: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut taken, 50), 51.0);
        assert_eq!(percentile(&mut taken, 99), 100.0);
        assert_eq!(percentile(&mut [], 99), 0.0);
    }
}
