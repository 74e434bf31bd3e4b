//! Numbers for monitoring: a registry handed down, the page that shows it, and the observation of gRPC calls.
//!
//! ```text
//! parts ──counter, gauge, histogram──▶ Metrics ──page──▶ GET /metrics
//! parts ──refresh: what is read only when somebody looks──▶ ┘
//! ```
//!
//! Invariants: there is no global registry, so a process may hold several stores and a test several programs. A name
//! is made once per registry. Labels come from closed sets: groups, methods of the protocol, outcomes; never keys,
//! never what a client sends, but for the names of kinds, of which there is a bound.

mod call;
mod frames;
mod method;
mod observe;
mod side;
mod slow;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, Response, header};
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tonic::body::Body;

use crate::gzip;
use crate::held::Held;
pub use call::Calls;
pub use observe::{Inbound, Observe};
pub use side::Side;
pub use slow::Slow;

/// The text format of Prometheus, as every scraper takes it.
const CONTENT_TYPE: http::HeaderValue =
    http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

type Refresh = Box<dyn Fn() + Send + Sync>;

/// See the module. Clones share one registry.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    registry: Registry,
    /// Held while a page is made: two of them do not refresh under each other.
    refreshes: Mutex<Vec<Refresh>>,
}

/// From 1 ms, doubled 13 times, to 8 s: etcd's own buckets for what waits for a disk.
pub fn disk_buckets() -> Vec<f64> {
    prometheus::exponential_buckets(0.001, 2.0, 14).expect("a positive start and a growing factor")
}

/// One of those that a gauge counts, until it is dropped.
#[derive(Debug)]
pub struct One(IntGauge);

impl One {
    /// One more.
    pub fn of(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry with the numbers of this process: processor time, memory, descriptors, threads, start.
    pub fn of_process() -> Self {
        let metrics = Self::default();
        #[cfg(target_os = "linux")]
        metrics.register(prometheus::process_collector::ProcessCollector::for_self());
        metrics
    }

    /// # Panics
    /// If the name is taken: names are literals, and a test makes every program's registry.
    fn register(&self, collector: impl Collector + 'static) {
        self.inner.registry.register(Box::new(collector)).expect("a name is registered once");
    }

    fn made<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("names and labels are legal literals");
        self.register(made.clone());
        made
    }

    /// A number that only grows.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.made(IntCounter::new(name, help))
    }

    /// As [`Self::counter`], one for each set of labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.made(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// As [`Self::counters`], with fractions.
    pub fn real_counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.made(CounterVec::new(Opts::new(name, help), labels))
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.made(IntGauge::new(name, help))
    }

    /// As [`Self::gauge`], with a fraction.
    pub fn real_gauge(&self, name: &str, help: &str) -> Gauge {
        self.made(Gauge::new(name, help))
    }

    /// As [`Self::real_gauge`], one for each set of labels.
    pub fn real_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.made(GaugeVec::new(Opts::new(name, help), labels))
    }

    /// As [`Self::gauge`], one for each set of labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.made(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// How values are spread.
    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.made(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }

    /// As [`Self::histogram`], one for each set of labels.
    pub fn histograms(&self, name: &str, help: &str, buckets: Vec<f64>, labels: &[&str]) -> HistogramVec {
        self.made(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }

    /// Whom bounds hold back; once for each registry.
    pub fn held(&self) -> Held {
        let help = "How often a bound held a client back or turned it away, by the bound.";
        Held::new(&self.counters("kubebrain_held_back_total", help, &["bound"]))
    }

    /// Called before each page: sets what nobody keeps up to date otherwise. It must be quick and not wait.
    pub fn refresh(&self, refresh: impl Fn() + Send + Sync + 'static) {
        self.inner.refreshes.lock().push(Box::new(refresh));
    }

    /// Everything, as it is now.
    pub fn families(&self) -> Vec<MetricFamily> {
        let refreshes = self.inner.refreshes.lock();
        refreshes.iter().for_each(|refresh| refresh());
        self.inner.registry.gather()
    }

    /// Everything, in the text format of Prometheus.
    pub fn page(&self) -> String {
        let families = self.families();
        let mut page = String::with_capacity(128 << 10);
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut page) {
            tracing::error!("a metric cannot be written: {error}");
        }
        page
    }

    /// The page as an answer to a plain HTTP request for `/metrics`, by whatever method, as etcd answers it.
    pub fn answer(&self, asked: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(());
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        gzip::page(asked, response, self.page())
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
