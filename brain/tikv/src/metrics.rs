//! [`Metrics`]: what is done on TiKV, and how long it takes.

use kubebrain_net::metrics::{self as shared, disk_buckets};
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
        let made = Self {
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
        };
        // All rows are there from the start.
        for outcome in ["done", "conflict", "refused", "unknown"] {
            made.commits.with_label_values(&[outcome]);
        }
        for phases in ["1", "2"] {
            made.commit_seconds.with_label_values(&[phases]);
        }
        for reason in ["conflict", "one_phase", "failed"] {
            made.commit_retries.with_label_values(&[reason]);
        }
        for read in ["timestamp", "get", "get_many", "scan"] {
            made.read_seconds.with_label_values(&[read]);
        }
        for peer in ["pd", "store"] {
            made.waits.with_label_values(&[peer]);
        }
        made
    }
}

impl Default for Metrics {
    /// Counted and shown nowhere.
    fn default() -> Self {
        Self::new(&shared::Metrics::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_them() {
        let document = include_str!("../../../docs/metrics.md");
        let metrics = shared::Metrics::new();
        let _registered = Metrics::new(&metrics);
        let page = metrics.page();
        let mut found = 0;
        for line in page.lines().filter_map(|line| line.strip_prefix("# HELP kubebrain_tikv_")) {
            let (name, help) = line.split_once(' ').expect("a name and a help");
            let row = document.lines().find(|row| row.starts_with(&format!("| `kubebrain_tikv_{name}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/metrics.md lacks kubebrain_tikv_{name}"));
            assert!(row.ends_with(&format!("| {help} |")), "docs/metrics.md: {name} means: {help}");
            found += 1;
        }
        assert_eq!(found, document.matches("| `kubebrain_tikv_").count(), "docs/metrics.md has others");
    }
}
