//! [`Exporting`]: the tasks that send.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use kubebrain_net::metrics::Metrics;
use kubebrain_net::trace::Tracer;
use opentelemetry_sdk::Resource;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::figures::{self, Telling};
use super::link::{Figures, Spans};
use super::queue::{self, Queue};
use super::settings::{self, Signal, Way};
use super::{Fates, Wanted, said};
use crate::flags::Tracing;

/// How long the end of a process may take longer for what is left to be told.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Exporting {
    pub(super) tracer: Tracer,
    resource: Resource,
    /// How figures are sent, and how often.
    figures: Option<(Figures, Duration)>,
    tasks: Mutex<Vec<Sending>>,
}

struct Sending {
    ends: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// # Errors
    /// What cannot be sent.
    pub(super) fn begin(flags: &Tracing, program: &str, wanted: Wanted, spans: &Arc<Fates>) -> Result<Self> {
        let address = &flags.distributed_tracing_address;
        let way = |signal| Way::of(signal, address, &said);
        let resource = settings::resource(flags, program, &said)?;
        let traces = wanted.spans.then(|| way(Signal::Traces)).transpose()?;
        let figures = match wanted.figures {
            true => Some((Figures::new(way(Signal::Metrics)?)?, settings::interval(&said)?)),
            false => None,
        };
        let mut exporting = Self { tracer: Tracer::default(), resource, figures, tasks: Mutex::default() };
        if let Some(way) = traces {
            let link = Spans::new(way, &exporting.resource)?;
            let (queue, receiver) = Queue::new(spans);
            // Ids are no secrets and decide nothing: they only have to differ.
            let rate = flags.distributed_tracing_sampling_rate;
            exporting.tracer = Tracer::new(queue, rate, rand::random::<u64>);
            let fates = Arc::clone(spans);
            exporting.keep(|ended| queue::send(receiver, link, ended, fates));
        }
        Ok(exporting)
    }

    /// Tells of these figures from now on, if that is wanted.
    pub(super) fn tell_of(&self, metrics: &Metrics, fates: &Arc<Fates>) {
        let Some((link, interval)) = self.figures.clone() else { return };
        let telling = Telling { metrics: metrics.clone(), resource: self.resource.clone(), interval };
        let fates = Arc::clone(fates);
        self.keep(|ended| figures::send(telling, link, ended, fates));
    }

    fn keep<F: Future<Output = ()> + Send + 'static>(&self, sends: impl FnOnce(oneshot::Receiver<()>) -> F) {
        let (ends, ended) = oneshot::channel();
        self.tasks.lock().push(Sending { ends, task: tokio::spawn(sends(ended)) });
    }

    /// Sends what is left, for a second at most.
    pub(super) async fn finish(self) {
        join_all(self.tasks.into_inner().into_iter().map(Sending::finish)).await;
    }
}

impl Sending {
    async fn finish(self) {
        let Self { ends, mut task } = self;
        let _gone = ends.send(());
        if timeout(FINISH_WITHIN, &mut task).await.is_err() {
            task.abort();
            tracing::info!("the collector does not take what is left in time: it is lost");
        }
    }
}
