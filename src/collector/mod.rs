//! [`Exports`]: what a collector is told of this process by OTLP: spans of requests, and the figures of `/metrics` from time to
//! time. Nobody waits for that: a request leaves its spans in a queue with a bound, a task sends them, and what finds no room
//! or nobody to take it is lost and counted.

#[cfg(feature = "tracing-export")]
mod export;
#[cfg(not(feature = "tracing-export"))]
#[path = "without_export.rs"]
mod export;
#[cfg(feature = "tracing-export")]
mod figures;
#[cfg(feature = "tracing-export")]
mod link;
#[cfg(feature = "tracing-export")]
mod queue;
#[cfg(feature = "tracing-export")]
mod settings;
#[cfg(feature = "tracing-export")]
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use kubebrain_net::metrics::Metrics;
use kubebrain_net::trace::Tracer;

use crate::flags::Tracing;
use export::Exporting;

/// What became of spans, or of the figures of a moment.
#[derive(Debug, Default)]
struct Fates {
    exported: AtomicU64,
    lost: AtomicU64,
}

/// What a collector is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    spans: bool,
    figures: bool,
}

/// See the module.
pub(crate) struct Exports {
    pub tracer: Tracer,
    exporting: Option<Exporting>,
    spans: Arc<Fates>,
    figures: Arc<Fates>,
}

impl Exports {
    /// Of a process that tells nobody.
    pub(crate) fn none() -> Self {
        Self { tracer: Tracer::default(), exporting: None, spans: Arc::default(), figures: Arc::default() }
    }

    /// Within a runtime: its tasks begin here. Nothing is dialled before there is something to tell.
    ///
    /// # Errors
    /// Something is wanted, and cannot be sent by these settings or this build.
    pub(crate) fn begin(flags: &Tracing, program: &str) -> Result<Self> {
        let wanted = Wanted::by(flags.enable_distributed_tracing, &said)?;
        let mut exports = Self::none();
        if wanted.spans || wanted.figures {
            let exporting = Exporting::begin(flags, program, wanted, &exports.spans)?;
            exports.tracer = exporting.tracer.clone();
            exports.exporting = Some(exporting);
        }
        Ok(exports)
    }

    /// Shows what became of spans and figures; tells of `metrics` from now on, if that is wanted.
    pub(crate) fn count_in(&self, metrics: &Metrics) {
        let counter = |name, help| metrics.counter(name, help);
        let spans = [
            counter("kubebrain_trace_spans_exported_total", "Spans that a collector has taken."),
            counter(
                "kubebrain_trace_spans_lost_total",
                "Spans that no collector has taken: it is away, or slower than requests come.",
            ),
        ];
        let figures = [
            counter("kubebrain_metrics_exported_total", "Times that a collector has taken these figures."),
            counter(
                "kubebrain_metrics_lost_total",
                "Times that no collector has taken these figures: it is away.",
            ),
        ];
        let fates = [(Arc::clone(&self.spans), spans), (Arc::clone(&self.figures), figures)];
        metrics.refresh(move || {
            for (fates, [exported, lost]) in &fates {
                for (counter, fate) in [(exported, &fates.exported), (lost, &fates.lost)] {
                    counter.inc_by(fate.load(Ordering::Relaxed).saturating_sub(counter.get()));
                }
            }
        });
        if let Some(exporting) = &self.exporting {
            exporting.tell_of(metrics, &self.figures);
        }
    }

    /// Sends what is left, for a second at most.
    pub(crate) async fn finish(&mut self) {
        if let Some(exporting) = self.exporting.take() {
            exporting.finish().await;
        }
    }
}

impl Wanted {
    /// Spans by a flag, as in etcd, unless OpenTelemetry's variables say no; figures by these alone.
    ///
    /// # Errors
    /// An exporter that is not known.
    fn by(flag: bool, said: &impl Fn(&str) -> Option<String>) -> Result<Self> {
        let exporter = |variable: &str| match said(variable).as_deref() {
            Some("otlp") => Ok(Some(true)),
            Some("none") => Ok(Some(false)),
            Some(other) => bail!("{variable}={other}: this is \"otlp\" or \"none\""),
            None => Ok(None),
        };
        let is_off = said("OTEL_SDK_DISABLED").is_some_and(|off| off.eq_ignore_ascii_case("true"));
        Ok(Self {
            spans: exporter("OTEL_TRACES_EXPORTER")?.unwrap_or(true) && flag && !is_off,
            figures: exporter("OTEL_METRICS_EXPORTER")?.unwrap_or(false) && !is_off,
        })
    }
}

/// What a variable of the environment says; an empty one says nothing, as everywhere in OpenTelemetry.
fn said(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_was_asked_for() {
        let wanted = |flag, variables: &'static [(&str, &str)]| {
            let said = |name: &str| {
                variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
            };
            Wanted::by(flag, &said).map(|Wanted { spans, figures }| (spans, figures))
        };
        for (flag, variables, told) in [
            (false, &[][..], (false, false)),
            (true, &[], (true, false)),
            (false, &[("OTEL_TRACES_EXPORTER", "otlp")], (false, false)),
            (true, &[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "otlp")], (false, true)),
            (true, &[("OTEL_METRICS_EXPORTER", "none")], (true, false)),
            (true, &[("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_SDK_DISABLED", "True")], (false, false)),
        ] {
            assert_eq!(wanted(flag, variables).expect("known"), told, "{variables:?}");
        }
        let error = wanted(false, &[("OTEL_METRICS_EXPORTER", "console")]).expect_err("nobody looks at it");
        assert_eq!(error.to_string(), "OTEL_METRICS_EXPORTER=console: this is \"otlp\" or \"none\"");
    }
}
