//! [`TopologyChanges`]: a request that nobody took may find somebody after one of them.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Between two tries of one request, however often something changes.
const PAUSE_MIN: Duration = Duration::from_millis(3);

/// A pause, as a future of its own.
pub(crate) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Counts the changes in who is master, who reads and who is suspect, and new tables; of all groups of a proxy, because
/// they are rare.
#[derive(Debug, Default)]
pub(crate) struct TopologyChanges {
    count: AtomicU64,
    told: Notify,
    news: Notify,
    /// Groups whose brains should be asked what they go by.
    asked: Mutex<BTreeSet<GroupName>>,
}

impl TopologyChanges {
    /// A brain goes by another placement than before, by its own words: whoever learns should look.
    pub(crate) fn placement_told(&self) {
        self.news.notify_one();
    }

    /// A group may go by another placement, or soon will: it does not own what it was asked for, or says so beside an answer.
    pub(crate) fn ask(&self, group: &GroupName) {
        let mut asked = self.asked.lock();
        if !asked.contains(group) {
            asked.insert(group.clone());
        }
        drop(asked);
        self.news.notify_one();
    }

    /// Returns after one of the two, with the groups that should be asked. For one who learns.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn news(&self) -> BTreeSet<GroupName> {
        self.news.notified().await;
        std::mem::take(&mut *self.asked.lock())
    }

    /// How many there were. Asked before a try, so that none is missed after it.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Something has changed: whoever waits is woken.
    pub(crate) fn announce(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Returns once there are more than `seen`.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn after(&self, seen: u64) {
        loop {
            // made before the look, so that it hears of whatever comes after it
            let told = self.told.notified();
            if self.count() != seen {
                return;
            }
            told.await;
        }
    }

    /// As [`TopologyChanges::pause`], for whatever comes from now on; a future of its own.
    pub(crate) fn rest(self: &Arc<Self>, pause: Duration) -> Rest {
        let (changes, seen) = (Arc::clone(self), self.count());
        Box::pin(async move {
            changes.pause(seen, pause).await;
        })
    }

    /// Waits for `pause`, or until there are more than `seen`, but for some milliseconds at least. True if there are.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn pause(&self, seen: u64, pause: Duration) -> bool {
        let now = Instant::now();
        sleep_until(now + PAUSE_MIN.min(pause)).await;
        timeout_at(now + pause, self.after(seen)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_with_a_change_that_came_after_the_last_look() {
        let changes = Arc::new(TopologyChanges::default());
        let long = Duration::from_secs(9);
        let began = Instant::now();
        let seen = changes.count();
        changes.announce(); // between the look and the pause
        assert!(changes.pause(seen, long).await);
        assert!(began.elapsed() < Duration::from_millis(5), "{:?}", began.elapsed());
        let (told, teller) = (Arc::clone(&changes), tokio::time::sleep(Duration::from_secs(1)));
        tokio::spawn(async move {
            teller.await;
            told.announce();
        });
        assert!(changes.pause(changes.count(), long).await);
        assert!(began.elapsed() < Duration::from_millis(1010), "{:?}", began.elapsed());
        assert!(!changes.pause(changes.count(), long).await, "no news");
        assert!(began.elapsed() >= Duration::from_secs(10));
    }
}
