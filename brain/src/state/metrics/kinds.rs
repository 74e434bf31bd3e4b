//! What a page shows of each kind of keys.

use std::sync::Arc;

use kubebrain_net::kinds::{Counts, Kind};
use kubebrain_net::metrics as shared;
use prometheus::{CounterVec, IntCounterVec, IntGaugeVec};

/// By group and kind: the kinds that the placement names, and the busiest others.
pub(super) struct KindCounters {
    requests: IntCounterVec,
    writes: IntCounterVec,
    bytes: IntCounterVec,
    refused: IntCounterVec,
    queue_seconds: CounterVec,
    in_flight: IntGaugeVec,
}

impl KindCounters {
    pub(super) fn new(metrics: &shared::Metrics) -> Self {
        let labels = &["group", "kind"];
        let counters = |name: &str, help: &str| metrics.counters(name, help, labels);
        Self {
            requests: counters(
                "kubebrain_kind_requests_total",
                "Requests that were let in, reads and writes, by the kind of their keys.",
            ),
            writes: counters("kubebrain_kind_writes_total", "Those of them that may change a key."),
            bytes: counters("kubebrain_kind_put_bytes_total", "Bytes of keys and values that they put."),
            refused: counters(
                "kubebrain_kind_refused_total",
                "Requests turned away with \"too many requests\": by a limit of the placement, or as the writer's queue was full.",
            ),
            queue_seconds: metrics.real_counters(
                "kubebrain_kind_queue_seconds_total",
                "How long writes waited for the writer, together.",
                labels,
            ),
            in_flight: metrics.gauges(
                "kubebrain_kind_in_flight",
                "Requests that wait for their answer.",
                labels,
            ),
        }
    }

    pub(super) fn reset(&self) {
        [&self.requests, &self.writes, &self.bytes, &self.refused]
            .iter()
            .for_each(|counters| counters.reset());
        self.queue_seconds.reset();
        self.in_flight.reset();
    }

    pub(super) fn show(&self, group: &str, kinds: &[(Arc<Kind>, Counts)]) {
        for (kind, counts) in kinds {
            let labels = &[group, kind.name()];
            self.requests.with_label_values(labels).inc_by(counts.requests);
            self.writes.with_label_values(labels).inc_by(counts.writes);
            self.bytes.with_label_values(labels).inc_by(counts.bytes);
            self.refused.with_label_values(labels).inc_by(counts.refused);
            self.queue_seconds.with_label_values(labels).inc_by(counts.queued.as_secs_f64());
            let in_flight = i64::try_from(counts.in_flight).unwrap_or(i64::MAX);
            self.in_flight.with_label_values(labels).set(in_flight);
        }
    }
}
