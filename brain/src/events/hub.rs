//! [`Hub`]: takes what the writer publishes, marks the watchers that want it, and holds the window they read from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kubebrain_shared::range::KeyRange;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::event::{Event, RevisionEvents};
use super::matching::Watchers;
use super::window::{Replay, Window};

/// Wakes one client stream and says which of its watchers have something to read.
#[derive(Debug, Default)]
pub struct Signal {
    notify: Notify,
    marked: Mutex<Vec<i64>>,
}

impl Signal {
    /// Waits for a mark.
    ///
    /// # Cancel safety
    /// Safe: marks stay until taken.
    pub async fn marked(&self) {
        self.notify.notified().await;
    }

    /// The watchers marked since the last call.
    pub fn take(&self) -> Vec<i64> {
        std::mem::take(&mut *self.marked.lock())
    }
}

/// A registered watcher, as the hub sees it.
#[derive(Debug)]
pub struct Registration {
    watch_id: i64,
    signal: Arc<Signal>,
    range: KeyRange,
    /// The oldest revision that it has not read; 0 while there is none.
    unread: AtomicU64,
}

/// What a read gave.
#[derive(Debug)]
pub enum Read {
    /// Events, and the revision to go on from. More may follow.
    Events(Vec<RevisionEvents>, u64),
    /// Everything up to this closed revision has been read.
    Closed(Vec<RevisionEvents>, u64),
    /// The cursor has left the window.
    Evicted,
}

#[derive(Debug)]
struct Inner {
    window: Window,
    closed: u64,
    watchers: Watchers<Registration>,
}

/// The window of recent events of a group, and the watchers of its keys.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    /// Wakes those who follow all keys, and not single watchers.
    moved: Notify,
}

impl Hub {
    /// For a group whose committed revision is `closed`. `window_bytes` rise: slower watchers stay off the engine.
    pub fn new(window_bytes: usize, closed: u64) -> Self {
        let window = Window::new(window_bytes, closed);
        let inner = Mutex::new(Inner { window, closed, watchers: Watchers::default() });
        Self { inner, moved: Notify::new() }
    }

    /// Adds whole revisions, in order, and closes everything up to `closed`.
    pub fn publish(&self, revisions: Vec<RevisionEvents>, closed: u64) {
        {
            let inner = &mut *self.inner.lock();
            debug_assert!(inner.closed <= closed);
            for revision in revisions {
                for event in revision.events.iter() {
                    inner.watchers.of(&event.key, |registration| registration.mark(revision.revision));
                }
                inner.window.push(revision);
            }
            inner.closed = closed;
        }
        self.stir();
    }

    /// Begins anew after `closed`, with an empty window. Whoever watches looks up, and finds that it is over.
    pub(crate) fn reset(&self, window_bytes: usize, closed: u64) {
        {
            let inner = &mut *self.inner.lock();
            debug_assert!(inner.closed <= closed);
            inner.window.reset(window_bytes, closed);
            inner.closed = closed;
        }
        self.wake();
    }

    /// What all kinds begin with, without the slash, from now on.
    pub(crate) fn set_prefix(&self, prefix: &Bytes) {
        self.inner.lock().window.set_prefix(prefix);
    }

    /// Every stream with a synced watcher looks up.
    pub(crate) fn wake(&self) {
        self.inner.lock().watchers.all(|registration| registration.signal.notify.notify_one());
        self.stir();
    }

    /// Whoever waits in [`Self::moved`] looks again.
    pub(crate) fn stir(&self) {
        self.moved.notify_waiters();
    }

    /// Completes when something moves. To miss nothing it is enabled before one looks.
    pub(crate) fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// What has happened from revision `cursor` on, of all keys.
    pub(crate) fn since(&self, cursor: u64, bytes_max: usize) -> Read {
        let inner = &*self.inner.lock();
        let (replay, next) = inner.window.replay(&KeyRange::ALL, cursor, bytes_max, |_, _| true);
        match replay {
            Replay::Evicted => Read::Evicted,
            Replay::Events(events) if next < inner.window.end() => Read::Events(events, next),
            Replay::Events(events) => Read::Closed(events, inner.closed),
        }
    }

    /// Everything up to here has been published.
    pub fn closed(&self) -> u64 {
        self.inner.lock().closed
    }

    /// Bytes of recent events.
    pub fn window_bytes(&self) -> usize {
        self.inner.lock().window.bytes()
    }

    /// Reads from a cursor that is not registered. Once it has read everything it is registered, under the same lock:
    /// nothing falls between.
    pub fn catch_up(
        &self,
        cursor: u64,
        bytes_max: usize,
        registration: &Arc<Registration>,
        wanted: impl FnMut(u64, &Event) -> bool,
    ) -> Read {
        let inner = &mut *self.inner.lock();
        let (replay, next) = inner.window.replay(&registration.range, cursor, bytes_max, wanted);
        let Replay::Events(events) = replay else { return Read::Evicted };
        if next < inner.window.end() {
            return Read::Events(events, next);
        }
        registration.unread.store(0, Ordering::Relaxed);
        inner.watchers.insert(&registration.range, registration.clone());
        Read::Closed(events, inner.closed)
    }

    /// Reads what a registered watcher has not. [`Read::Evicted`] also takes it out again, with the revision to go to
    /// history from in [`Registration::unread`].
    pub fn read(
        &self,
        bytes_max: usize,
        registration: &Arc<Registration>,
        wanted: impl FnMut(u64, &Event) -> bool,
    ) -> Read {
        let inner = &mut *self.inner.lock();
        let unread = registration.unread();
        if unread == 0 {
            return Read::Closed(Vec::new(), inner.closed);
        }
        let (replay, next) = inner.window.replay(&registration.range, unread, bytes_max, wanted);
        let Replay::Events(events) = replay else {
            inner.watchers.remove(&registration.range, registration);
            return Read::Evicted;
        };
        if next < inner.window.end() {
            registration.unread.store(next, Ordering::Relaxed);
            return Read::Events(events, next);
        }
        registration.unread.store(0, Ordering::Relaxed);
        Read::Closed(events, inner.closed)
    }

    /// The closed revision, if none of these watchers has anything to read.
    pub fn closed_for<'a>(
        &self,
        mut registrations: impl Iterator<Item = &'a Arc<Registration>>,
    ) -> Option<u64> {
        let inner = self.inner.lock();
        registrations.all(|registration| registration.unread() == 0).then_some(inner.closed)
    }

    /// Takes a watcher out. Harmless if it is not in.
    pub fn remove(&self, registration: &Arc<Registration>) {
        self.inner.lock().watchers.remove(&registration.range, registration);
    }
}

impl Registration {
    /// Registers nothing yet: it says how the hub will know a watcher of a stream.
    pub fn new(watch_id: i64, signal: Arc<Signal>, range: KeyRange) -> Arc<Self> {
        Arc::new(Self { watch_id, signal, range, unread: AtomicU64::new(0) })
    }

    /// The oldest revision that it has not read; 0 if there is none.
    pub fn unread(&self) -> u64 {
        self.unread.load(Ordering::Relaxed)
    }

    /// Under the hub's lock.
    fn mark(&self, revision: u64) {
        if self.unread() == 0 {
            self.unread.store(revision, Ordering::Relaxed);
            let mut marked = self.signal.marked.lock();
            marked.push(self.watch_id);
            if marked.len() == 1 {
                self.signal.notify.notify_one();
            }
        }
    }
}
