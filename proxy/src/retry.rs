//! [`Retry`]: when a request that was surely not carried out is tried again, and until when.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use kubebrain_shared::fault::Fault;
use prometheus::IntCounter;
use tokio::time::Instant;
use tonic::Status;

use crate::failure::Failure;
use crate::topology::TopologyChanges;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// While keys go from one group to another: both know within milliseconds of each other.
const OWNER_PAUSE_MAX: Duration = Duration::from_millis(25);
/// What is left for the last try, so that the client hears how it ended.
const LAST_TRY: Duration = Duration::from_millis(20);

/// Growing pauses up to a bound, which is the smaller of our own and the client's. A change in who serves what ends a pause,
/// also one that came since the last try began, so that none falls between the two.
#[derive(Debug)]
pub(crate) struct Retry {
    until: Instant,
    pause: Duration,
    changes: Arc<TopologyChanges>,
    /// How many there were when the try began.
    seen: u64,
    counter: Option<IntCounter>,
}

impl Retry {
    pub(crate) fn new(time: Duration, changes: &Arc<TopologyChanges>) -> Self {
        let (changes, seen) = (Arc::clone(changes), changes.count());
        Self { until: Instant::now() + time, pause: FIRST_PAUSE, changes, seen, counter: None }
    }

    /// Each further try is counted.
    pub(crate) fn counted(mut self, counter: &IntCounter) -> Self {
        self.counter = Some(counter.clone());
        self
    }

    /// Bounded by the client's `grpc-timeout` too.
    pub(crate) fn of_request(time: Duration, headers: &HeaderMap, changes: &Arc<TopologyChanges>) -> Self {
        Self::new(timeout(headers).map_or(time, |asked| asked.min(time)), changes)
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// `Unavailable` "request timed out" when the time is over: never a code that makes a client apply it again.
    pub(crate) async fn pause(&mut self) -> Result<(), Status> {
        self.pause_within(PAUSE_MAX, Fault::Timeout).await
    }

    /// The same after a failure. Who was refused by a group that does not own the keys is tried again sooner: the next table
    /// is on its way, or the group that gains them is about to hear of it.
    ///
    /// # Errors
    /// As [`Retry::pause`]; "leader changed" where it was such a refusal: surely not applied.
    pub(crate) async fn pause_after(&mut self, failure: Failure) -> Result<(), Status> {
        match failure {
            Failure::NotOwner => self.pause_within(OWNER_PAUSE_MAX, Fault::LeaderChanged).await,
            Failure::NotSent | Failure::Unknown => self.pause().await,
        }
    }

    async fn pause_within(&mut self, longest: Duration, over: Fault) -> Result<(), Status> {
        let left = self.until.saturating_duration_since(Instant::now());
        let left = left.checked_sub(LAST_TRY).filter(|left| !left.is_zero()).ok_or(over)?;
        let heard = self.changes.pause(self.seen, self.pause.min(longest).min(left)).await;
        self.pause = if heard { FIRST_PAUSE } else { (self.pause * 2).min(PAUSE_MAX) };
        self.seen = self.changes.count();
        self.counter.iter().for_each(IntCounter::inc);
        Ok(())
    }

    pub(crate) fn until(&self) -> Instant {
        self.until
    }
}

/// The client's `grpc-timeout`: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5x", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("ascii"));
            assert_eq!(timeout(&headers), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retrying_ends_with_the_time() {
        let began = Instant::now();
        let mut retry = Retry::new(Duration::from_secs(5), &Arc::default());
        let mut tries = 0;
        let end = loop {
            match retry.pause().await {
                Ok(()) => tries += 1,
                Err(status) => break status,
            }
        };
        assert_eq!(Fault::of(&end), Some(Fault::Timeout));
        assert!(began.elapsed() <= Duration::from_secs(5) && tries > 10, "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_end_a_pause_and_make_the_next_one_short() {
        let changes = Arc::<TopologyChanges>::default();
        let mut retry = Retry::new(Duration::from_secs(5), &changes);
        for _ in 0..6 {
            retry.pause().await.expect("time is left");
        }
        let began = Instant::now();
        changes.announce(); // while the try was under way
        retry.pause().await.expect("time is left");
        assert!(began.elapsed() < Duration::from_millis(5), "{:?}", began.elapsed());
        retry.pause().await.expect("time is left");
        let elapsed = began.elapsed();
        assert!(elapsed < Duration::from_millis(20) && elapsed > Duration::from_millis(10), "{elapsed:?}");
    }
}
