//! [`Pace`]: how long the parts of one range take, and when one is so late that another brain is asked for it.

use std::collections::VecDeque;
use std::time::Duration;

/// So many of the last parts say what is usual.
const SEEN_MAX: usize = 15;
/// Before so many were seen nothing is known to be usual.
const SEEN_MIN: usize = 3;
const UNUSUAL_AT_FIRST: Duration = Duration::from_secs(1);
/// Below this a scheduler's pause would count as a slow brain.
const UNUSUAL_MIN: Duration = Duration::from_millis(50);

/// See the module. Only the time is counted in which a brain was waited for: a client that reads slowly makes nobody slow.
#[derive(Debug, Default)]
pub(super) struct Pace {
    seen: VecDeque<Duration>,
}

impl Pace {
    /// A part has come after this time.
    pub(super) fn took(&mut self, time: Duration) {
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(time);
    }

    /// Whoever has not answered by then is late: twice the median.
    pub(super) fn patience(&self) -> Duration {
        let mut seen: Vec<_> = self.seen.iter().copied().collect();
        seen.sort_unstable();
        match seen.get(seen.len() / 2) {
            Some(median) if seen.len() >= SEEN_MIN => (*median * 2).max(UNUSUAL_MIN),
            _ => UNUSUAL_AT_FIRST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_twice_what_is_usual() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), UNUSUAL_AT_FIRST);
        (0..3).for_each(|_| pace.took(Duration::from_millis(1)));
        assert_eq!(pace.patience(), UNUSUAL_MIN);
        (0..8).for_each(|_| pace.took(Duration::from_millis(80)));
        assert_eq!(pace.patience(), Duration::from_millis(160));
        pace.took(Duration::from_secs(60));
        assert_eq!(pace.patience(), Duration::from_millis(160), "one late part is not what is usual");
    }
}
