//! When to end: a signal from outside, or a store that cannot go on.

use anyhow::{Result, anyhow};
use futures_util::future::{BoxFuture, select_all};
use kubebrain_brain::engine::embedded::Embedded;
use kubebrain_brain::store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that this process hears.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal wants.
pub(crate) enum Heard {
    /// End.
    Stop,
    /// Read the placement again.
    Reload,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when this process should end. Cancel safe.
    pub(crate) async fn stop(&mut self) {
        while matches!(self.next().await, Heard::Reload) {}
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::Stop,
            _ = self.interrupt.recv() => Heard::Stop,
            _ = self.hangup.recv() => Heard::Reload,
        }
    }
}

/// Returns when one of the stores has ended by itself, with the reason.
pub(crate) async fn ended(stores: &[Store]) -> anyhow::Error {
    let mut ended: Vec<_> = stores.iter().map(|store| Box::pin(store.ended())).collect();
    if ended.is_empty() {
        return std::future::pending().await;
    }
    std::future::poll_fn(|context| {
        for future in &mut ended {
            if let std::task::Poll::Ready(reason) = future.as_mut().poll(context) {
                return std::task::Poll::Ready(anyhow!("{reason}"));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Returns when one of the tasks that a process cannot do without has panicked.
pub(crate) async fn broken(tasks: Vec<BoxFuture<'static, &'static str>>) -> anyhow::Error {
    let (what, ..) = select_all(tasks).await;
    anyhow!("{what} has panicked, which is a bug: this process cannot serve any more")
}

/// Returns when the engine has stopped for good, with the reason.
pub(crate) async fn poisoned(engine: Option<&Embedded>) -> anyhow::Error {
    match engine {
        Some(engine) => anyhow!(
            "the store failed and this process stops, nothing acknowledged is lost: {}",
            engine.poisoned().await
        ),
        None => std::future::pending().await,
    }
}
