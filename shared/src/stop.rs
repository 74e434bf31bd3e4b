//! [`Stop`]: asked to end, and waiting for those still inside.
//!
//! One [`Stopper`] belongs to whoever starts tasks; each task holds a [`Stop`]. A task ends by dropping it. Tasks that a
//! process cannot go on without are started by [`Stopper::keep`], so that a panic of theirs is noticed.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

/// Before a task that has panicked begins anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks tasks to end and waits for them.
#[derive(Debug)]
pub struct Stopper {
    asked: watch::Sender<bool>,
    inside: mpsc::Sender<()>,
    left: mpsc::Receiver<()>,
    broken: watch::Sender<Option<&'static str>>,
}

/// A task's view: hears the wish to end; while it lives, [`Stopper::stop`] waits.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: watch::Receiver<bool>,
    _inside: mpsc::Sender<()>,
}

impl Default for Stopper {
    fn default() -> Self {
        let (inside, left) = mpsc::channel(1);
        Self { asked: watch::Sender::new(false), inside, left, broken: watch::Sender::new(None) }
    }
}

impl Stopper {
    /// A handle for one more task.
    pub fn handle(&self) -> Stop {
        Stop { asked: self.asked.subscribe(), _inside: self.inside.clone() }
    }

    /// Starts a task that must not be missed. Where it panics, [`Stopper::broken`] says so.
    pub fn keep<F>(&self, what: &'static str, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (watched, task) = (Watched { what, broken: self.broken.clone() }, task(self.handle()));
        tokio::spawn(async move {
            let _watched = watched;
            task.await;
        });
    }

    /// Returns when a kept task has panicked, with what it was; never otherwise.
    pub fn broken(&self) -> impl Future<Output = &'static str> + Send + use<> {
        let mut broken = self.broken.subscribe();
        async move {
            loop {
                if let Some(what) = *broken.borrow_and_update() {
                    return what;
                }
                if broken.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Asks, without waiting.
    pub fn ask(&self) {
        self.asked.send_replace(true);
    }

    /// Asks, and waits until every [`Stop`] is dropped.
    ///
    /// # Cancel safety
    /// A dropped call has asked; what is still inside ends by itself.
    pub async fn stop(mut self) {
        self.ask();
        drop(self.inside);
        let _gone = self.left.recv().await;
    }
}

/// Runs what ends by itself only; after a panic it is begun anew. For what keeps nothing that matters.
pub async fn again<F: Future<Output = ()>>(what: &'static str, task: impl Fn() -> F) {
    while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
        tracing::error!("{what} begins anew");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Dropped with a task.
struct Watched {
    what: &'static str,
    broken: watch::Sender<Option<&'static str>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.broken.send_replace(Some(self.what));
        }
    }
}

impl Stop {
    /// Returns when asked to end. The owner's loss counts as asked.
    ///
    /// # Cancel safety
    /// Safe: nothing is consumed.
    pub async fn asked(&self) {
        let mut asked = self.asked.clone();
        let _closed = asked.wait_for(|asked| *asked).await;
    }

    /// True once asked.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow() || self.asked.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_waits_for_the_last_task() {
        let stopper = Stopper::default();
        let stop = stopper.handle();
        let task = tokio::spawn(async move {
            stop.asked().await;
            tokio::task::yield_now().await;
            stop.is_asked()
        });
        stopper.stop().await;
        assert!(task.await.expect("the task ends"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_begins_anew_does_so_until_it_ends() {
        let runs = std::cell::Cell::new(0);
        again("a test", || async {
            runs.set(runs.get() + 1);
            assert!(runs.get() == 3, "planted");
        })
        .await;
        assert_eq!(runs.get(), 3);
    }

    #[tokio::test]
    async fn a_panic_of_a_kept_task_is_noticed_and_its_end_is_not() {
        let stopper = Stopper::default();
        let broken = stopper.broken();
        stopper.keep("one that ends", async |_stop| {});
        stopper.keep("one that breaks", async |stop| {
            stop.asked().await;
            panic!("planted");
        });
        tokio::task::yield_now().await;
        assert!(tokio::time::timeout(std::time::Duration::ZERO, stopper.broken()).await.is_err());
        stopper.stop().await;
        assert_eq!(broken.await, "one that breaks");
    }
}
