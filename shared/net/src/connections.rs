//! [`Connections`]: how many a process takes at once, so that descriptors are left for its store and for what it connects
//! to itself.
//!
//! ```text
//! descriptors ─┬─ kept back: files, connections to others
//!              └─ places ─┬─ clients, at most all but the last few
//!                         └─ peers and probes, all
//! ```
//!
//! A listener takes a place first and accepts then: whoever finds none waits in the kernel's queue, is served as soon as
//! somebody leaves, and costs nothing meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::{Metrics, One};

/// Places that clients do not get, where there are so many: probes, monitoring and peers are few.
const KEPT_FOR_OTHERS: usize = 16;
/// After all were taken it counts as over when one in so many is free again: at the edge each connection that ends lets
/// one in, and none of that is news.
const OVER_AT: usize = 16;
/// Between two lines that all are taken: clients that come and go at the bound are not news each time.
const REPEAT: Duration = Duration::from_secs(60);

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Whoever uses the store.
    Clients,
    /// Proxies, brains, probes, monitoring.
    Others,
}

/// See the module. Clones share the places. Default: as many as come.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    places: Option<Arc<Places>>,
}

#[derive(Debug)]
struct Places {
    max: usize,
    all: Arc<Semaphore>,
    of_clients: Arc<Semaphore>,
    is_full: AtomicBool,
    told: Mutex<Told>,
    numbers: Mutex<Option<Numbers>>,
}

/// What stands in the log.
#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// That it is over does not stand there yet.
    is_open: bool,
}

impl Told {
    /// True if it is time to say that all are taken.
    fn begins(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= REPEAT);
        if is_due {
            self.last = Some(Instant::now());
            self.is_open = true;
        }
        is_due
    }

    /// True if it is to be said that it is over.
    fn ends(&mut self) -> bool {
        std::mem::take(&mut self.is_open)
    }
}

#[derive(Debug)]
struct Numbers {
    open: IntGauge,
    held_back: IntCounter,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Option<Arc<Places>>,
    _of_clients: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,
    _counted: Option<One>,
}

impl Connections {
    /// At most so many, of all listeners together.
    pub fn at_most(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let kept = KEPT_FOR_OTHERS.min(max / 4);
        Self {
            places: Some(Arc::new(Places {
                max,
                all: Arc::new(Semaphore::new(max)),
                of_clients: Arc::new(Semaphore::new(max - kept)),
                is_full: AtomicBool::new(false),
                told: Mutex::default(),
                numbers: Mutex::default(),
            })),
        }
    }

    /// Shows them.
    pub fn count_in(&self, metrics: &Metrics) {
        let open = metrics.gauge("kubebrain_connections", "Connections that were accepted and are open.");
        let max = metrics.gauge(
            "kubebrain_connections_max",
            "Connections that are accepted at once: what the limit of open files leaves. 0: no limit.",
        );
        let held_back = metrics.counter(
            "kubebrain_connections_held_back_total",
            "Times that a listener stopped accepting because every connection that may be open was.",
        );
        if let Some(places) = &self.places {
            max.set(i64::try_from(places.max).unwrap_or(i64::MAX));
            *places.numbers.lock() = Some(Numbers { open, held_back });
        }
    }

    /// Waits for a place.
    ///
    /// # Cancel safety
    /// Safe: a dropped call has taken none, but goes to the end of the queue.
    pub async fn place(&self, party: Party) -> Place {
        let Some(places) = &self.places else {
            return Place { places: None, _of_clients: None, all: None, _counted: None };
        };
        let of_clients = match party {
            Party::Clients => places.take(&places.of_clients).await,
            Party::Others => None,
        };
        let all = places.take(&places.all).await;
        Place { places: Some(places.clone()), _of_clients: of_clients, all, _counted: None }
    }
}

impl Place {
    /// Somebody is there.
    #[must_use]
    pub fn taken(mut self) -> Self {
        let numbers = self.places.as_ref().map(|places| places.numbers.lock());
        self._counted = numbers.and_then(|numbers| numbers.as_ref().map(|numbers| One::of(&numbers.open)));
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.all.take());
        if let Some(places) = &self.places {
            places.look();
        }
    }
}

impl Places {
    /// A permit, and a line in the log if there is none now.
    async fn take(&self, from: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = from.clone().try_acquire_owned() {
            return Some(permit);
        }
        if let Some(numbers) = &*self.numbers.lock() {
            numbers.held_back.inc();
        }
        if !self.is_full.swap(true, Ordering::AcqRel) && self.told.lock().begins() {
            tracing::warn!(
                connections = self.max,
                "no more connections are accepted until some end: the others are served, new clients wait. The limit \
                 of open files decides how many there can be: raise it (LimitNOFILE=, ulimit -Hn), or look for a \
                 client that leaves connections open"
            );
        }
        from.clone().acquire_owned().await.ok()
    }

    /// Whether it is over.
    fn look(&self) {
        let free = self.all.available_permits().min(self.of_clients.available_permits());
        let is_over = free > self.max / OVER_AT && self.is_full.swap(false, Ordering::AcqRel);
        if is_over && self.told.lock().ends() {
            tracing::info!(connections = self.max - free, "connections are accepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn is_there(connections: &Connections, party: Party) -> Option<Place> {
        timeout(Duration::from_millis(1), connections.place(party)).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_gets_the_next_one_and_the_last_ones_are_not_for_clients() {
        let metrics = Metrics::new();
        let connections = Connections::at_most(8);
        connections.count_in(&metrics);
        let mut taken = Vec::new();
        while let Some(place) = is_there(&connections, Party::Clients).await {
            taken.push(place.taken());
        }
        assert_eq!(taken.len(), 6);
        let probes =
            [is_there(&connections, Party::Others).await, is_there(&connections, Party::Others).await];
        assert!(probes.iter().all(Option::is_some), "they were kept");
        assert!(is_there(&connections, Party::Others).await.is_none(), "all are taken");
        drop(probes);
        let page = metrics.page();
        for line in [
            "kubebrain_connections 6",
            "kubebrain_connections_max 8",
            "kubebrain_connections_held_back_total 2",
        ] {
            assert!(page.contains(line), "{line}:\n{page}");
        }
        let waits = connections.place(Party::Clients);
        taken.pop();
        assert!(timeout(Duration::from_millis(1), waits).await.is_ok(), "somebody has left");
    }

    #[tokio::test]
    async fn without_a_limit_there_is_always_one() {
        let connections = Connections::default();
        let many: Vec<_> =
            futures_util::future::join_all((0..10_000).map(|_| connections.place(Party::Clients))).await;
        assert_eq!(many.len(), 10_000);
    }
}
