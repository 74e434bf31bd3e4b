//! [`Queue`]: spans that have ended, until the one task that sends them comes to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kubebrain_net::trace::{Ended, Sink};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::link::{LinkError, Spans};
use super::settings::Way;
use super::{Fates, spans};

/// Spans that wait, as the OpenTelemetry SDKs have it.
const QUEUED_MAX: usize = 2048;
/// Of one message.
const BATCH_MAX: usize = 512;
/// More spans are waited for so long, once there is one.
const GATHER: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Queue {
    spans: mpsc::Sender<Ended>,
    fates: Arc<Fates>,
}

impl Queue {
    pub(super) fn new(fates: &Arc<Fates>) -> (Self, mpsc::Receiver<Ended>) {
        let (spans, receiver) = mpsc::channel(QUEUED_MAX);
        (Self { spans, fates: Arc::clone(fates) }, receiver)
    }
}

impl Sink for Queue {
    fn take(&self, span: Ended) {
        if self.spans.try_send(span).is_err() {
            self.fates.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends until `ended`, and then what is left.
pub(super) async fn send(
    mut queue: mpsc::Receiver<Ended>,
    link: Spans,
    mut ended: oneshot::Receiver<()>,
    fates: Arc<Fates>,
) {
    let mut teller = Teller::new("spans", "traces", &link.way, fates);
    let mut is_ending = false;
    loop {
        let mut batch = Vec::new();
        if !is_ending {
            is_ending = gather(&mut queue, &mut batch, &mut ended).await;
        }
        while batch.len() < BATCH_MAX
            && let Ok(span) = queue.try_recv()
        {
            batch.push(span);
        }
        if batch.is_empty() {
            if is_ending || queue.is_closed() {
                return;
            }
            continue;
        }
        let count = batch.len() as u64;
        let spans = batch.into_iter().map(spans::span).collect();
        teller.tell(&link.send(spans).await, count);
    }
}

/// Waits for spans, and a while for more of them. True once it ends.
async fn gather(
    spans: &mut mpsc::Receiver<Ended>,
    batch: &mut Vec<Ended>,
    ended: &mut oneshot::Receiver<()>,
) -> bool {
    tokio::select! { biased;
        _ = &mut *ended => return true,
        _ = spans.recv_many(batch, BATCH_MAX) => {}
    }
    let enough = sleep(GATHER);
    tokio::pin!(enough);
    while batch.len() < BATCH_MAX && !spans.is_closed() {
        let room = BATCH_MAX - batch.len();
        tokio::select! { biased;
            _ = &mut *ended => return true,
            () = &mut enough => break,
            _ = spans.recv_many(batch, room) => {}
        }
    }
    false
}

/// Counts what became of it, and says once that nobody takes it, and once that somebody does again.
pub(super) struct Teller {
    what: &'static str,
    signal: &'static str,
    place: String,
    fates: Arc<Fates>,
    is_away: bool,
}

impl Teller {
    pub(super) fn new(what: &'static str, signal: &'static str, way: &Way, fates: Arc<Fates>) -> Self {
        Self { what, signal, place: way.place(), fates, is_away: false }
    }

    pub(super) fn tell(&mut self, outcome: &Result<(), LinkError>, count: u64) {
        let Self { what, signal, place, fates, is_away } = self;
        match outcome {
            Ok(()) => {
                fates.exported.fetch_add(count, Ordering::Relaxed);
                if std::mem::take(is_away) {
                    let lost = fates.lost.load(Ordering::Relaxed);
                    tracing::info!(lost, "the collector of {signal} takes {what} again");
                }
            }
            Err(error) => {
                fates.lost.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(is_away, true) {
                    tracing::warn!(
                        "the collector of {signal} takes no {what}, they are lost until it does: {place}: {error}"
                    );
                }
            }
        }
    }
}
