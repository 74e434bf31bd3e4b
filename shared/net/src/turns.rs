//! [`Turns`]: the turns of the task that polls a connection, for what stands between it and its socket.
//!
//! h2 and hyper read and flush several times in one turn, so that a socket cannot tell where one begins. Whoever polls the
//! connection tells it. That has to be where the connection is polled: hyper's client does it in a task of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

/// See the module. Clones are the same turns.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Turn>);

/// Only one task has to do with it, though not always on one thread.
#[derive(Debug, Default)]
struct Turn {
    /// Counted from 1.
    now: AtomicU64,
    /// The one in which a flush was put off; 0 if none is.
    put_off: AtomicU64,
}

impl Turns {
    /// Polls `connection`, each time as a turn.
    ///
    /// # Cancel safety
    /// As that of `connection`, which is left where it was.
    pub fn around<'a, F: Future>(&'a self, connection: Pin<&'a mut F>) -> Around<'a, F> {
        Around { turns: self, connection }
    }

    /// One turn.
    pub(crate) fn poll<F: Future>(&self, connection: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let now = self.now() + 1;
        self.0.now.store(now, Relaxed);
        let polled = connection.poll(cx);
        if polled.is_pending() && self.age() > 0 {
            cx.waker().wake_by_ref(); // it neither wrote nor flushed
        }
        polled
    }

    /// The number of this turn, from 1; 0 before the first one.
    pub(crate) fn now(&self) -> u64 {
        self.0.now.load(Relaxed)
    }

    /// How many turns ago the flush was put off that waits; 0 if it was in this one, or if none waits.
    pub(crate) fn age(&self) -> u64 {
        match self.0.put_off.load(Relaxed) {
            0 => 0,
            turn => self.now() - turn,
        }
    }

    /// A flush is asked for: true where it waits for the next turn.
    pub(crate) fn put_off(&self, cx: &Context<'_>) -> bool {
        if self.0.put_off.load(Relaxed) == 0 {
            self.0.put_off.store(self.now(), Relaxed);
            cx.waker().wake_by_ref();
        }
        self.age() == 0
    }

    /// No flush waits any more.
    pub(crate) fn carried_out(&self) {
        self.0.put_off.store(0, Relaxed);
    }
}

/// What [`Turns::around`] gives.
#[derive(Debug)]
pub struct Around<'a, F> {
    turns: &'a Turns,
    connection: Pin<&'a mut F>,
}

impl<F: Future> Future for Around<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.turns.poll(this.connection.as_mut(), cx)
    }
}
