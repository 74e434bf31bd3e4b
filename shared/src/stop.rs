//! [`Stop`]: asked to end, and waiting for those still inside.
//!
//! One [`Stopper`] belongs to whoever starts tasks; each task holds a [`Stop`]. A task ends by dropping it.

use tokio::sync::{mpsc, watch};

/// Asks tasks to end and waits for them.
#[derive(Debug)]
pub struct Stopper {
    asked: watch::Sender<bool>,
    inside: mpsc::Sender<()>,
    left: mpsc::Receiver<()>,
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
        Self { asked: watch::Sender::new(false), inside, left }
    }
}

impl Stopper {
    /// A handle for one more task.
    pub fn handle(&self) -> Stop {
        Stop { asked: self.asked.subscribe(), _inside: self.inside.clone() }
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
}
