//! [`Metrics`]: what is done on TiKV, and how long it takes.

use kubebrain_shared::metrics::{self as shared, disk_buckets};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};

/// Of one engine. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) commits: IntCounterVec,
    pub(crate) commit_seconds: HistogramVec,
    pub(crate) commit_retries: IntCounterVec,
    pub(crate) commit_regions: Histogram,
    pub(crate) read_seconds: HistogramVec,
    pub(crate) read_retries: IntCounter,
    pub(crate) rebuilds: IntCounter,
    pub(crate) waits: IntGaugeVec,
}

impl Metrics {
    /// Registers the numbers of an engine.
    pub fn new(metrics: &shared::Metrics) -> Self {
        Self {
            commits: metrics.counters(
                "kubebrain_tikv_commits_total",
                "Batches handed to TiKV, by what became of them.",
                &["outcome"],
            ),
            commit_seconds: metrics.histograms(
                "kubebrain_tikv_commit_seconds",
                "One transaction from its timestamp to its answer, by the phases it was tried in.",
                disk_buckets(),
                &["phases"],
            ),
            commit_retries: metrics.counters(
                "kubebrain_tikv_commit_retries_total",
                "Transactions that surely did nothing and were begun again, by why.",
                &["reason"],
            ),
            commit_regions: metrics.histogram(
                "kubebrain_tikv_commit_regions",
                "Regions that one transaction writes to, as far as known.",
                vec![1.0, 2.0, 3.0, 5.0, 8.0, 16.0],
            ),
            read_seconds: metrics.histograms(
                "kubebrain_tikv_read_seconds",
                "One read, its repetitions included: a timestamp, point reads, or a page of a scan.",
                disk_buckets(),
                &["read"],
            ),
            read_retries: metrics
                .counter("kubebrain_tikv_read_retries_total", "Reads that failed and were tried again."),
            rebuilds: metrics.counter(
                "kubebrain_tikv_client_rebuilds_total",
                "Times that the connections to TiKV were made anew because errors lasted.",
            ),
            waits: metrics.gauges(
                "kubebrain_tikv_waiting",
                "1 while it does not answer: the placement driver, a store.",
                &["for"],
            ),
        }
    }
}

impl Default for Metrics {
    /// Counted and shown nowhere.
    fn default() -> Self {
        Self::new(&shared::Metrics::new())
    }
}
