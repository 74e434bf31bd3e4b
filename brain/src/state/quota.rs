//! [`Quota`]: a bound on what the groups of one process keep in their store.
//!
//! What counts is the keys and values of all rows that compaction has not taken away, not the disk: so it falls by
//! deletion and compaction alone, and no defragmentation is needed to write again. A write is judged before its batch,
//! on what was given out so far: each group passes the bound at most by the keys' overhead of one write.
//!
//! Invariant: `used` is the sum of all living shares, each of which is the sum of its group's index and of what is on
//! its way there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// One for each store; shared by the groups in it.
#[derive(Debug)]
pub struct Quota {
    bytes_max: Option<u64>,
    /// Tells this store from others; by chance, for as long as the process lives.
    store: u64,
    used: AtomicU64,
    /// Groups with a "no space" alarm: it stands for the store, so it holds for all of them.
    alarmed: AtomicUsize,
}

impl Quota {
    /// At most so many bytes; `None` is no bound.
    pub fn new(bytes_max: Option<u64>) -> Arc<Self> {
        let (used, alarmed) = (AtomicU64::new(0), AtomicUsize::new(0));
        Arc::new(Self { bytes_max, store: rand::random(), used, alarmed })
    }

    /// A number that the groups of one store have in common, and no others.
    pub const fn store(&self) -> u64 {
        self.store
    }

    /// The bound.
    pub const fn bytes_max(&self) -> Option<u64> {
        self.bytes_max
    }

    /// Bytes of uncompacted rows, of all groups.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A group's part; given back when it is dropped.
    pub fn share(self: &Arc<Self>, bytes: u64) -> Share {
        let share = Share {
            quota: Arc::clone(self),
            own: AtomicU64::new(0),
            alarmed: AtomicBool::new(false),
            full: AtomicBool::new(false),
        };
        share.add(bytes);
        share
    }
}

/// What one group has of a [`Quota`].
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    own: AtomicU64,
    alarmed: AtomicBool,
    full: AtomicBool,
}

impl Share {
    /// The whole.
    pub const fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.own.fetch_add(bytes, Ordering::Relaxed);
        self.quota.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What it has is another thing now.
    pub(crate) fn reset(&self, bytes: u64) {
        let before = self.own.swap(bytes, Ordering::Relaxed);
        self.quota.used.fetch_add(bytes, Ordering::Relaxed);
        self.quota.used.fetch_sub(before, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        let before = self.own.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "no more goes than came");
        self.quota.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// True if `bytes` more would pass the bound.
    pub(crate) fn exceeded_by(&self, bytes: u64) -> bool {
        self.quota.bytes_max.is_some_and(|max| self.quota.used().saturating_add(bytes) > max)
    }

    /// This group has, or no longer has, a "no space" alarm.
    pub(crate) fn set_alarmed(&self, alarmed: bool) {
        match (self.alarmed.swap(alarmed, Ordering::Relaxed), alarmed) {
            (false, true) => drop(self.quota.alarmed.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.quota.alarmed.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// The engine refuses a batch for want of space, or takes batches again.
    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// True while the engine takes nothing: then even a refusal would wait, if it waited for what is on its way.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// True while nothing may be added: an alarm of any group of the store, or the engine's own refusal.
    pub(crate) fn is_closed(&self) -> bool {
        self.quota.alarmed.load(Ordering::Relaxed) > 0 || self.is_full()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_alarmed(false);
        let own = *self.own.get_mut();
        self.quota.used.fetch_sub(own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_are_given_back() {
        let quota = Quota::new(Some(100));
        let (one, other) = (quota.share(40), quota.share(50));
        assert_eq!(quota.used(), 90);
        assert!(!one.exceeded_by(10) && one.exceeded_by(11));
        other.give_back(20);
        assert!(!one.exceeded_by(30) && one.exceeded_by(31));
        other.set_alarmed(true);
        other.set_alarmed(true);
        assert!(one.is_closed(), "an alarm holds for the store");
        drop(other);
        assert!(!one.is_closed() && quota.used() == 40);
        assert!(!Quota::new(None).share(u64::MAX / 2).exceeded_by(u64::MAX));
    }
}
