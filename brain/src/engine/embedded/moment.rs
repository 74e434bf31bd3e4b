//! [`Moment`]: a number below which everything is durable and whole, kept readable for as long as somebody holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lsm_tree::SeqNo;
use parking_lot::{Mutex, RwLock};

/// Rows that were written before it can be read, and merges keep them.
#[derive(Debug)]
pub(super) struct Moment {
    at: SeqNo,
    held: Arc<Held>,
}

/// Moments that are held, and how often.
type Held = Mutex<BTreeMap<SeqNo, usize>>;

/// The moment that readers get, and those that they still hold.
#[derive(Debug)]
pub(super) struct Moments {
    /// Locked to swap or copy it, never while waiting for a disk.
    published: RwLock<Arc<Moment>>,
    held: Arc<Held>,
}

impl Moment {
    fn new(at: SeqNo, held: &Arc<Held>) -> Arc<Self> {
        *held.lock().entry(at).or_default() += 1;
        Arc::new(Self { at, held: Arc::clone(held) })
    }

    /// Rows with lower numbers are of this moment.
    pub(super) fn at(&self) -> SeqNo {
        self.at
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(count) = held.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.at);
            }
        }
    }
}

impl Moments {
    pub(super) fn new(at: SeqNo) -> Self {
        let held = Arc::default();
        Self { published: RwLock::new(Moment::new(at, &held)), held }
    }

    /// What readers get from now on.
    pub(super) fn publish(&self, at: SeqNo) {
        let moment = Moment::new(at, &self.held);
        let before = std::mem::replace(&mut *self.published.write(), moment);
        debug_assert!(before.at <= at);
    }

    /// The newest one.
    pub(super) fn newest(&self) -> Arc<Moment> {
        Arc::clone(&self.published.read())
    }

    /// Of the versions of a key below this, only the newest can be read by anybody.
    pub(super) fn watermark(&self) -> SeqNo {
        self.held.lock().first_key_value().map_or(0, |(at, _)| at.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_stays_below_the_oldest_moment_that_is_held() {
        let moments = Moments::new(10);
        assert_eq!(moments.watermark(), 9);
        let (first, again) = (moments.newest(), moments.newest());
        moments.publish(20);
        let second = moments.newest();
        moments.publish(30);
        assert_eq!((first.at(), second.at()), (10, 20));
        drop(first);
        assert_eq!(moments.watermark(), 9);
        drop(again);
        assert_eq!(moments.watermark(), 19);
        moments.publish(30);
        drop(second);
        assert_eq!(moments.watermark(), 29);
    }
}
