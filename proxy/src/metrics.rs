//! [`Metrics`]: what a proxy counts. Groups are the only open set of labels: those that a placement has named.

mod gauges;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kubebrain_net::metrics::{self as shared, disk_buckets};
use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use gauges::Gauges;
pub(crate) use gauges::{Figures, GroupFigures, NodeFigures};

/// Gives what a page shows, as of now; nothing once the proxy is gone.
type Source = Arc<dyn Fn() -> Option<Figures> + Send + Sync>;

/// What one proxy counts. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) all: Arc<Counted>,
    /// Asked whenever a page is made.
    source: Arc<Mutex<Option<Source>>>,
}

pub(crate) struct Counted {
    pub(crate) retries: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) merged_bytes: Histogram,
    pub(crate) streams: IntGauge,
    pub(crate) watchers: IntGauge,
    pub(crate) upstream_watches: IntGauge,
    upstream: IntCounterVec,
    upstream_seconds: HistogramVec,
    reads: IntCounterVec,
    parts: IntCounterVec,
    part_bytes: IntCounterVec,
    second_tries: IntCounterVec,
    breaker_opens: IntCounterVec,
}

/// The counters of requests to one group.
pub(crate) struct GroupCounters {
    reads: [IntCounter; READ_AT.len()],
    outcomes: [IntCounter; OUTCOMES.len()],
    seconds: Histogram,
    parts: IntCounter,
    part_bytes: IntCounter,
    pub(crate) second_tries: IntCounter,
}

/// What a node is known to be when it is asked for a read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadAt {
    Slave,
    Master,
    Unknown,
}

/// The labels of [`ReadAt`], in its order.
const READ_AT: [&str; 3] = ["slave", "master", "unknown"];

/// What came of a request to a group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// An answer.
    Answered,
    /// An error that the group gave.
    Failed,
    NotSent,
    NotOwner,
    Unknown,
}

/// The labels of [`Outcome`], in its order.
const OUTCOMES: [&str; 5] = ["answered", "failed", "not_sent", "not_owner", "unknown"];

impl Metrics {
    /// Registers the numbers of a proxy.
    pub fn new(metrics: &shared::Metrics) -> Self {
        let counted = Counted {
            retries: metrics.counter("kubebrain_proxy_retries_total", "Requests to groups tried again."),
            refused: metrics.counter(
                "kubebrain_proxy_refused_total",
                "Requests answered \"too many requests\" because so many are at work.",
            ),
            merged_bytes: metrics.histogram(
                "kubebrain_proxy_merged_range_bytes",
                "Bytes of ranges put together from several groups.",
                prometheus::exponential_buckets(1024.0, 4.0, 9).expect("a growing factor"),
            ),
            streams: metrics.gauge("kubebrain_proxy_watch_streams", "Watch streams of clients."),
            watchers: metrics.gauge("kubebrain_proxy_watchers", "Watchers of clients."),
            upstream_watches: metrics.gauge(
                "kubebrain_proxy_upstream_watch_streams",
                "Watch streams to groups, open or to be opened again.",
            ),
            upstream: metrics.counters(
                "kubebrain_proxy_upstream_requests_total",
                "Requests to groups, by what came back: an answer, an error of the group's (failed), or why neither.",
                &["group", "outcome"],
            ),
            upstream_seconds: metrics.histograms(
                "kubebrain_proxy_upstream_seconds",
                "From sending a request to a group until its answer begins.",
                disk_buckets(),
                &["group"],
            ),
            reads: metrics.counters(
                "kubebrain_proxy_reads_total",
                "Ranges sent to brains, by what the brain is; one that is sent again counts again.",
                &["group", "role"],
            ),
            parts: metrics.counters(
                "kubebrain_proxy_fanout_parts_total",
                "Parts of large ranges that were read from several brains of a group at once.",
                &["group"],
            ),
            part_bytes: metrics.counters(
                "kubebrain_proxy_fanout_bytes_total",
                "Bytes of the rows in such parts.",
                &["group"],
            ),
            second_tries: metrics.counters(
                "kubebrain_proxy_fanout_second_tries_total",
                "Such parts that another brain was asked for, since one had failed or was late.",
                &["group"],
            ),
            breaker_opens: metrics.counters(
                "kubebrain_proxy_breaker_opens_total",
                "How often a brain was left to rest after failures in a row.",
                &["group", "node"],
            ),
        };
        let source = Arc::<Mutex<Option<Source>>>::default();
        let (gauges, asked) = (Gauges::new(metrics), Arc::clone(&source));
        metrics.refresh(move || {
            let source = asked.lock().clone();
            let figures = source.and_then(|source| source());
            figures.into_iter().for_each(|figures| gauges.set(&figures));
        });
        Self { all: Arc::new(counted), source }
    }

    /// Whom a page asks from now on for what it shows.
    pub(crate) fn show(&self, figures: impl Fn() -> Option<Figures> + Send + Sync + 'static) {
        *self.source.lock() = Some(Arc::new(figures));
    }

    /// For a group that a placement names.
    pub(crate) fn of_group(&self, group: &GroupName) -> GroupCounters {
        let name = group.as_str();
        GroupCounters {
            reads: READ_AT.map(|role| self.all.reads.with_label_values(&[name, role])),
            outcomes: OUTCOMES.map(|outcome| self.all.upstream.with_label_values(&[name, outcome])),
            seconds: self.all.upstream_seconds.with_label_values(&[name]),
            parts: self.all.parts.with_label_values(&[name]),
            part_bytes: self.all.part_bytes.with_label_values(&[name]),
            second_tries: self.all.second_tries.with_label_values(&[name]),
        }
    }

    /// For one of a group's nodes.
    pub(crate) fn breaker_opens(&self, group: &GroupName, node: &str) -> IntCounter {
        self.all.breaker_opens.with_label_values(&[group.as_str(), node])
    }
}

impl GroupCounters {
    /// A range goes to a node that is known to be this.
    pub(crate) fn read_at(&self, node: ReadAt) {
        self.reads[node as usize].inc();
    }

    /// A part of a large range has come.
    pub(crate) fn part(&self, bytes: usize) {
        self.parts.inc();
        self.part_bytes.inc_by(bytes as u64);
    }

    /// What came of a request, and how long after it was sent.
    pub(crate) fn sent(&self, took: Duration, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

impl Default for Metrics {
    /// Counted and shown nowhere.
    fn default() -> Self {
        Self::new(&shared::Metrics::new())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl fmt::Debug for GroupCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupCounters")
    }
}
