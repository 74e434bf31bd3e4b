//! [`Permits`]: a semaphore for which kinds wait in turns: see [`Fair`].

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::fair::Fair;
use crate::kinds::KindId;

/// See the module.
#[derive(Debug)]
pub(crate) struct Permits {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: u32,
    waiting: Fair<Waiter>,
    /// Whose turn it is, for whom not enough is free yet: nobody passes it.
    next: Option<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    units: u32,
    granted: oneshot::Sender<Permit>,
}

/// So many units, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    of: Arc<Permits>,
    units: u32,
}

/// Who waits. Whom it stood in front of goes on where it is gone.
struct Waits<'a>(&'a Arc<Permits>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.grant(&mut self.0.state.lock());
    }
}

impl Permits {
    pub(crate) fn new(units: u32) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { free: units, waiting: Fair::default(), next: None }) })
    }

    /// Waits for `units`, which must not be more than there are. `cost` is what they are worth in turns.
    ///
    /// # Cancel safety
    /// Who is dropped has nothing, and keeps nobody waiting.
    pub(crate) async fn acquire(self: &Arc<Self>, kind: KindId, units: u32, cost: u64) -> Permit {
        let waits = Waits(self);
        let granted = {
            let mut state = self.state.lock();
            if state.next.is_none() && state.waiting.is_empty() && state.free >= units {
                state.free -= units;
                std::mem::forget(waits);
                return Permit { of: self.clone(), units };
            }
            let (granted, grant) = oneshot::channel();
            state.waiting.push(kind, cost, Waiter { units, granted });
            grant
        };
        let permit = granted.await.expect("who waits is granted, or gone");
        std::mem::forget(waits);
        permit
    }

    /// Units that nobody has.
    pub(crate) fn free(&self) -> u32 {
        self.state.lock().free
    }

    fn grant(self: &Arc<Self>, state: &mut State) {
        while let Some(waiter) = state.next.take().or_else(|| state.waiting.pop()) {
            if waiter.granted.is_closed() {
                continue;
            }
            if state.free < waiter.units {
                state.next = Some(waiter);
                return;
            }
            state.free -= waiter.units;
            let permit = Permit { of: self.clone(), units: waiter.units };
            if let Err(mut unwanted) = waiter.granted.send(permit) {
                state.free += std::mem::take(&mut unwanted.units);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.units > 0 {
            let mut state = self.of.state.lock();
            state.free += self.units;
            self.of.grant(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn kinds_take_turns_and_nobody_is_passed_for_ever() {
        let permits = Permits::new(10);
        let [flood, lists] = [1, 2].map(KindId::of_number);
        let all = permits.acquire(flood, 10, 0).await;
        let first = pin!(permits.acquire(flood, 1, 100_000));
        let second = pin!(permits.acquire(flood, 1, 100_000));
        let large = pin!(permits.acquire(lists, 10, 1));
        let (mut first, mut second, mut large) = (first, second, large);
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert!(large.as_mut().now_or_never().is_none());
        drop(all);
        assert!(first.as_mut().now_or_never().is_none(), "it was the other kind's turn");
        let large = large.as_mut().now_or_never().expect("all of it");
        assert!(permits.acquire(lists, 1, 1).now_or_never().is_none(), "behind those that wait");
        drop(large);
        let first = first.as_mut().now_or_never().expect("its turn");
        assert_eq!(permits.free(), 8);
        drop((first, second.as_mut().now_or_never().expect("its turn")));
        assert_eq!(permits.free(), 10);
    }

    #[tokio::test]
    async fn who_is_gone_keeps_nobody_waiting() {
        let permits = Permits::new(1);
        let one = permits.acquire(KindId::NONE, 1, 1).await;
        {
            let mut gone = Box::pin(permits.acquire(KindId::NONE, 1, 1));
            assert!(gone.as_mut().now_or_never().is_none());
            let mut granted_and_gone = Box::pin(permits.acquire(KindId::NONE, 1, 1));
            assert!(granted_and_gone.as_mut().now_or_never().is_none());
            drop(gone);
            drop(one);
            drop(granted_and_gone);
        }
        permits.acquire(KindId::NONE, 1, 1).now_or_never().expect("it is free");

        let permits = Permits::new(2);
        let one = permits.acquire(KindId::NONE, 1, 1).await;
        let mut large = Box::pin(permits.acquire(KindId::NONE, 2, 1));
        let mut small = Box::pin(permits.acquire(KindId::NONE, 1, 1));
        assert!(large.as_mut().now_or_never().is_none() && small.as_mut().now_or_never().is_none());
        drop(large);
        small.as_mut().now_or_never().expect("nobody stands in front any more");
        drop(one);
    }
}
