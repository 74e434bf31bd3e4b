//! [`Traces`]: the spans of this process on their way to a collector. Nobody waits for that: a request leaves its spans in a
//! queue with a bound, a task sends them, and what finds no room or nobody to take it is lost and counted.

#[cfg(feature = "tracing-export")]
mod export;
#[cfg(not(feature = "tracing-export"))]
#[path = "without_export.rs"]
mod export;
#[cfg(feature = "tracing-export")]
mod queue;
#[cfg(feature = "tracing-export")]
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use kubebrain_net::metrics::Metrics;
use kubebrain_net::trace::Tracer;

use crate::flags::Tracing;
use export::Exporting;

/// What became of spans.
#[derive(Debug, Default)]
struct Fates {
    exported: AtomicU64,
    lost: AtomicU64,
}

/// See the module.
pub(crate) struct Traces {
    pub tracer: Tracer,
    exporting: Option<Exporting>,
    fates: Arc<Fates>,
}

impl Traces {
    /// Of a process that tells nobody.
    pub(crate) fn none() -> Self {
        Self { tracer: Tracer::default(), exporting: None, fates: Arc::default() }
    }

    /// Within a runtime: its task begins here. Nothing is dialled before there is a span.
    ///
    /// # Errors
    /// Spans are wanted, and cannot be sent by these settings or this build.
    pub(crate) fn begin(flags: &Tracing, program: &str) -> Result<Self> {
        if !flags.enable_distributed_tracing {
            return Ok(Self::none());
        }
        let fates = Arc::<Fates>::default();
        let (tracer, exporting) = export::begin(flags, program, &fates)?;
        Ok(Self { tracer, exporting: Some(exporting), fates })
    }

    /// Shows what became of spans.
    pub(crate) fn count_in(&self, metrics: &Metrics) {
        let exported =
            metrics.counter("kubebrain_trace_spans_exported_total", "Spans that a collector has taken.");
        let lost = metrics.counter(
            "kubebrain_trace_spans_lost_total",
            "Spans that no collector has taken: it is away, or slower than requests come.",
        );
        let fates = Arc::clone(&self.fates);
        metrics.refresh(move || {
            for (counter, fate) in [(&exported, &fates.exported), (&lost, &fates.lost)] {
                counter.inc_by(fate.load(Ordering::Relaxed).saturating_sub(counter.get()));
            }
        });
    }

    /// Sends what is left, for a second at most.
    pub(crate) async fn finish(&mut self) {
        if let Some(exporting) = self.exporting.take() {
            exporting.finish().await;
        }
    }
}
