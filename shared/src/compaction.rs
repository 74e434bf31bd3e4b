//! Automatic compaction, by etcd's two policies: *periodic* keeps the history of a time, *revision* keeps a number of
//! revisions. Whoever serves clients runs one: a brain that is alone, or the proxy of several groups, for all of them at
//! one revision.
//!
//! Invariant: a revision is compacted only after it was current for everybody whose history it is, see
//! [`Compactable::current`].

use std::collections::VecDeque;
use std::num::{NonZeroU64, NonZeroU128};
use std::time::Duration;

use tonic::Status;

use crate::fault::Fault;
use crate::stop::Stop;

/// Where the API servers of a cluster agree which of them compacts, and up to where.
pub const API_SERVERS_KEY: &[u8] = b"compact_rev_key";

/// A period is looked at this many times, up to an hour of it; as in etcd.
const LOOKS: u32 = 10;
const HOUR: Duration = Duration::from_secs(3600);
/// Between two looks of [`Policy::Revision`]; as in etcd.
const REVISION_EVERY: Duration = Duration::from_secs(300);

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// What was written in this time.
    Periodic(Duration),
    /// The last so many revisions.
    Revision(NonZeroU64),
}

/// What is compacted.
pub trait Compactable {
    /// A revision that is current now: whatever is written after the call is above it, wherever it is written.
    fn current(&self) -> impl Future<Output = Result<i64, Status>> + Send;
    /// As a client's `Compact`.
    fn compact(&self, revision: i64) -> impl Future<Output = Result<(), Status>> + Send;
}

impl Policy {
    /// As etcd's `--auto-compaction-mode` and `--auto-compaction-retention`: hours or a duration, or a number of
    /// revisions. `None` is off.
    ///
    /// # Errors
    /// A sentence that says what is taken.
    pub fn parse(
        mode: &str,
        retention: &str,
        duration: impl Fn(&str) -> Result<Duration, String>,
    ) -> Result<Option<Self>, String> {
        let number: Option<u64> = retention.parse().ok();
        match mode {
            "periodic" => {
                let period = match number {
                    Some(hours) => Duration::from_secs(hours.saturating_mul(3600)),
                    None => duration(retention).map_err(|error| {
                        format!(
                            "--auto-compaction-retention: a number of hours or a duration is wanted: {error}"
                        )
                    })?,
                };
                if !period.is_zero() && period < Duration::from_millis(10) {
                    return Err("--auto-compaction-retention: less than 10ms keeps nothing".to_owned());
                }
                Ok((!period.is_zero()).then_some(Self::Periodic(period)))
            }
            "revision" => match number {
                Some(kept) => Ok(NonZeroU64::new(kept).map(Self::Revision)),
                None => Err(format!(
                    "--auto-compaction-retention {retention}: with --auto-compaction-mode=revision a number of \
                     revisions is wanted, such as 1000"
                )),
            },
            other => Err(format!("--auto-compaction-mode {other}: periodic or revision is wanted")),
        }
    }

    /// Compacts until `stop`. A compaction that fails is tried again at the next look.
    pub async fn run(self, target: impl Compactable, stop: Stop) {
        match self {
            Self::Periodic(period) => periodic(period, target, stop).await,
            Self::Revision(kept) => by_revision(kept.get(), target, stop).await,
        }
    }
}

/// How often a period is looked at, and how many looks it has.
fn looks(period: Duration) -> (Duration, usize) {
    let every = period.min(HOUR) / LOOKS;
    let nanos = NonZeroU128::new(every.as_nanos()).unwrap_or(NonZeroU128::MIN);
    (every, usize::try_from(period.as_nanos() / nanos).unwrap_or(usize::MAX).saturating_add(1))
}

async fn periodic(period: Duration, target: impl Compactable, stop: Stop) {
    let (every, kept) = looks(period);
    let mut seen = VecDeque::new();
    let mut compacted = None;
    // For the first time after a whole period, then each hour or period, whichever is shorter.
    let (mut looks_since, mut looks_wanted) = (0, kept - 1);
    loop {
        let current = tokio::select! {
            () = stop.asked() => return,
            current = target.current() => current,
        };
        match current {
            Ok(revision) => seen.push_back(revision),
            // Nothing is compacted that was not seen so long ago.
            Err(status) => tracing::debug!(%status, "automatic compaction: no revision"),
        }
        if seen.len() > kept {
            seen.pop_front();
        }
        tokio::select! {
            () = stop.asked() => return,
            () = tokio::time::sleep(every) => {}
        }
        looks_since += 1;
        let Some(revision) = seen.front().copied().filter(|_| looks_since >= looks_wanted) else { continue };
        if seen.len() + 1 < kept || compacted == Some(revision) {
            continue;
        }
        if compact(&target, revision, &stop).await {
            (compacted, looks_since, looks_wanted) = (Some(revision), 0, LOOKS as usize);
        }
    }
}

async fn by_revision(kept: u64, target: impl Compactable, stop: Stop) {
    let mut compacted = None;
    loop {
        tokio::select! {
            () = stop.asked() => return,
            () = tokio::time::sleep(REVISION_EVERY) => {}
        }
        let current = tokio::select! {
            () = stop.asked() => return,
            current = target.current() => current,
        };
        let revision = match current {
            Ok(current) => current.saturating_sub(i64::try_from(kept).unwrap_or(i64::MAX)),
            Err(status) => {
                tracing::debug!(%status, "automatic compaction: no revision");
                continue;
            }
        };
        if revision > 0 && compacted != Some(revision) && compact(&target, revision, &stop).await {
            compacted = Some(revision);
        }
    }
}

/// True if it is compacted there, by whomever.
async fn compact(target: &impl Compactable, revision: i64, stop: &Stop) -> bool {
    let done = tokio::select! {
        () = stop.asked() => return false,
        done = target.compact(revision) => done,
    };
    match done {
        Ok(()) => tracing::info!(revision, "compacted automatically"),
        Err(status) if Fault::of(&status) == Some(Fault::Compacted) => {}
        Err(status) => {
            tracing::warn!(revision, %status, "automatic compaction failed, trying again");
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use parking_lot::Mutex;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::stop::Stopper;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    fn duration(text: &str) -> Result<Duration, String> {
        let minutes = text.strip_suffix('m').and_then(|text| text.parse().ok());
        minutes.map(|minutes: u64| Duration::from_secs(60 * minutes)).ok_or_else(|| format!("{text:?}"))
    }

    #[test]
    fn flags_are_read_as_etcd_reads_them() {
        let parse = |mode, retention| Policy::parse(mode, retention, duration);
        assert_eq!(parse("periodic", "2"), Ok(Some(Policy::Periodic(2 * HOUR))));
        assert_eq!(parse("periodic", "5m"), Ok(Some(Policy::Periodic(minutes(5)))));
        let kept = NonZeroU64::new(1000).map(Policy::Revision);
        assert_eq!(parse("revision", "1000"), Ok(kept));
        for mode in ["periodic", "revision"] {
            assert_eq!(parse(mode, "0"), Ok(None), "off");
        }
        for (mode, retention) in [("periodic", "often"), ("revision", "5m"), ("revision", "-1"), ("", "1")] {
            let refused = parse(mode, retention).expect_err("nonsense");
            assert!(refused.contains("is wanted"), "{refused}");
        }
    }

    #[test]
    fn a_period_has_ten_looks_and_a_long_one_ten_an_hour() {
        assert_eq!(looks(minutes(5)), (Duration::from_secs(30), 11));
        assert_eq!(looks(24 * HOUR), (minutes(6), 241));
    }

    /// One revision a minute from 1 on; remembers what was compacted when.
    #[derive(Clone)]
    struct Clock {
        began: Instant,
        fails: Arc<AtomicBool>,
        stays: Arc<AtomicI64>,
        compacted: Arc<Mutex<Vec<(u64, i64)>>>,
    }

    impl Clock {
        fn new() -> Self {
            let (fails, stays) = (Arc::default(), Arc::new(AtomicI64::new(i64::MAX)));
            Self { began: Instant::now(), fails, stays, compacted: Arc::default() }
        }

        fn minute(&self) -> u64 {
            self.began.elapsed().as_secs() / 60
        }
    }

    impl Compactable for Clock {
        async fn current(&self) -> Result<i64, Status> {
            Ok((self.minute().cast_signed() + 1).min(self.stays.load(Ordering::Relaxed)))
        }

        async fn compact(&self, revision: i64) -> Result<(), Status> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(Fault::Timeout.into());
            }
            self.compacted.lock().push((self.minute(), revision));
            Ok(())
        }
    }

    async fn run(policy: Policy, time: Duration, arrange: impl FnOnce(&Clock)) -> Vec<(u64, i64)> {
        let clock = Clock::new();
        arrange(&clock);
        let stopper = Stopper::default();
        let task = tokio::spawn(policy.run(clock.clone(), stopper.handle()));
        sleep(time).await;
        stopper.stop().await;
        task.await.expect("it ends");
        clock.compacted.lock().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_period_passes_before_anything_goes_and_a_period_is_kept() {
        let compacted = run(Policy::Periodic(minutes(10)), minutes(35), |_| {}).await;
        assert_eq!(compacted, [(10, 1), (20, 10), (30, 20)]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_long_period_an_hour_goes_at_once() {
        let compacted = run(Policy::Periodic(2 * HOUR), minutes(245), |_| {}).await;
        assert_eq!(compacted, [(120, 1), (180, 55), (240, 115)]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_is_written_nothing_is_compacted_twice() {
        let stays = |clock: &Clock| clock.stays.store(1, Ordering::Relaxed);
        assert_eq!(run(Policy::Periodic(minutes(10)), minutes(60), stays).await, [(10, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_compaction_is_tried_again_at_the_next_look() {
        let fails = |clock: &Clock| {
            clock.fails.store(true, Ordering::Relaxed);
            let fails = Arc::clone(&clock.fails);
            tokio::spawn(async move {
                sleep(Duration::from_secs(11 * 60 + 30)).await;
                fails.store(false, Ordering::Relaxed);
            });
        };
        assert_eq!(run(Policy::Periodic(minutes(10)), minutes(13), fails).await, [(12, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_of_revisions_is_kept() {
        let kept = NonZeroU64::new(7).map(Policy::Revision).expect("not zero");
        assert_eq!(run(kept, minutes(21), |_| {}).await, [(10, 4), (15, 9), (20, 14)]);
    }
}
