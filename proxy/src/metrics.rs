//! [`Metrics`]: what a proxy counts. Groups are the only open set of labels: those that a placement has named.

use std::fmt;
use std::sync::{Arc, Weak};

use kubebrain_net::dial::State;
use kubebrain_shared::group::GroupName;
use kubebrain_net::metrics::{self as shared, disk_buckets};
use parking_lot::Mutex;
use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::time::Instant;

use crate::call::{Answer, Failure};
use crate::core::Core;
use crate::group::{GroupView, Place, Role};

/// Of one proxy. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) all: Arc<Counted>,
    /// Whom a page looks at.
    core: Arc<Mutex<Weak<Core>>>,
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
    breaker_opens: IntCounterVec,
}

/// Requests to one group.
pub(crate) struct Upstream {
    reads: [IntCounter; READ_AT.len()],
    outcomes: [IntCounter; OUTCOMES.len()],
    seconds: Histogram,
}

/// As what a node is asked for a read.
const READ_AT: [&str; 3] = ["slave", "master", "unknown"];

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
            breaker_opens: metrics.counters(
                "kubebrain_proxy_breaker_opens_total",
                "How often a brain was left to rest after failures in a row.",
                &["group", "node"],
            ),
        };
        let core = Arc::<Mutex<Weak<Core>>>::default();
        let (gauges, looked) = (Gauges::new(metrics), core.clone());
        metrics.refresh(move || {
            let core = looked.lock().upgrade();
            core.into_iter().for_each(|core| gauges.look(&core));
        });
        Self { all: Arc::new(counted), core }
    }

    /// Whom a page looks at from now on.
    pub(crate) fn look_at(&self, core: &Arc<Core>) {
        *self.core.lock() = Arc::downgrade(core);
    }

    /// For a group that a placement names.
    pub(crate) fn upstream(&self, group: &GroupName) -> Upstream {
        let name = group.as_str();
        Upstream {
            reads: READ_AT.map(|role| self.all.reads.with_label_values(&[name, role])),
            outcomes: OUTCOMES.map(|outcome| self.all.upstream.with_label_values(&[name, outcome])),
            seconds: self.all.upstream_seconds.with_label_values(&[name]),
        }
    }
}

impl Metrics {
    /// For one of its nodes.
    pub(crate) fn breaker_opens(&self, group: &GroupName, node: &str) -> IntCounter {
        self.all.breaker_opens.with_label_values(&[group.as_str(), node])
    }
}

impl Upstream {
    /// A range goes to a node.
    pub(crate) fn read_at(&self, place: Place) {
        let [slave, master, unknown] = &self.reads;
        match place {
            Place::Reader => slave.inc(),
            Place::Master => master.inc(),
            Place::Untold | Place::Idle | Place::Broken | Place::Silent | Place::Foreign => unknown.inc(),
        }
    }

    /// What came of a request that was sent at `began`.
    pub(crate) fn sent(&self, began: Instant, outcome: &Result<Answer, Failure>) {
        let place = match outcome {
            Ok(answer) if answer.error.is_none() => 0,
            Ok(_) => 1,
            Err(Failure::NotSent) => 2,
            Err(Failure::NotOwner) => 3,
            Err(Failure::Unknown) => 4,
        };
        self.outcomes[place].inc();
        self.seconds.observe(began.elapsed().as_secs_f64());
    }
}

/// What is read when a page is made.
struct Gauges {
    ready: IntGauge,
    floor: IntGauge,
    in_flight: IntGauge,
    known: IntGaugeVec,
    connections: IntGaugeVec,
    nodes: NodeGauges,
}

/// Of each brain of each group.
struct NodeGauges {
    role: IntGaugeVec,
    reads: IntGaugeVec,
    suspect: IntGaugeVec,
    in_flight: IntGaugeVec,
    streams: IntGaugeVec,
    latency: GaugeVec,
}

impl Gauges {
    fn new(metrics: &shared::Metrics) -> Self {
        Self {
            ready: metrics.gauge("kubebrain_proxy_ready", "1 once every group was reached, until the stop."),
            floor: metrics.gauge("kubebrain_proxy_floor_revision", "The highest revision that was shown."),
            in_flight: metrics.gauge(
                "kubebrain_proxy_requests_in_flight",
                "Requests at work; a stream is until it begins.",
            ),
            known: metrics.gauges(
                "kubebrain_proxy_group_revision",
                "The revision that a group is known to have committed.",
                &["group"],
            ),
            connections: metrics.gauges(
                "kubebrain_proxy_connections",
                "Connections to brains: not needed yet (idle), dialing, open, or resting after a failed dial.",
                &["group", "lane", "state"],
            ),
            nodes: NodeGauges::new(metrics),
        }
    }

    fn look(&self, core: &Core) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.ready.set((*core.ready().borrow()).into());
        self.floor.set(core.floor.get().to_wire());
        self.in_flight.set(number(core.config.in_flight_max - core.in_flight.available_permits()));
        self.known.reset();
        self.connections.reset();
        self.nodes.reset();
        for group in core.table().groups() {
            let name = group.name().as_str();
            self.known.with_label_values(&[name]).set(group.known().to_wire());
            for lane in ["bulk", "watch"] {
                for state in [State::Idle, State::Dialing, State::Open, State::Resting] {
                    self.connections.with_label_values(&[name, lane, label(state)]).set(0);
                }
            }
            for (bulk, watch) in group.connections() {
                self.connections.with_label_values(&[name, "bulk", label(bulk)]).inc();
                self.connections.with_label_values(&[name, "watch", label(watch)]).inc();
            }
            self.nodes.look(&group.view(false));
        }
    }
}

impl NodeGauges {
    fn new(metrics: &shared::Metrics) -> Self {
        let labels = ["group", "node"];
        Self {
            role: metrics.gauges(
                "kubebrain_proxy_node_role",
                "1 for what a brain is taken for: master, slave, or unknown where it does not say or is not heard.",
                &["group", "node", "role"],
            ),
            reads: metrics.gauges(
                "kubebrain_proxy_node_reads",
                "1 where a brain is known to serve reads and watches.",
                &labels,
            ),
            suspect: metrics.gauges(
                "kubebrain_proxy_node_suspect",
                "1 where nothing is heard of a brain: others are asked.",
                &labels,
            ),
            in_flight: metrics.gauges(
                "kubebrain_proxy_node_requests_in_flight",
                "Requests at a brain that wait for an answer to begin.",
                &labels,
            ),
            streams: metrics.gauges(
                "kubebrain_proxy_node_watch_streams",
                "Watch streams at a brain.",
                &labels,
            ),
            latency: metrics.real_gauges(
                "kubebrain_proxy_node_latency_seconds",
                "Until a brain's answers to reads begin, decayed mean; by it reads are spread.",
                &labels,
            ),
        }
    }

    fn reset(&self) {
        for gauges in [&self.role, &self.reads, &self.suspect, &self.in_flight, &self.streams] {
            gauges.reset();
        }
        self.latency.reset();
    }

    fn look(&self, group: &GroupView) {
        for node in &group.nodes {
            let labels = [group.name.as_str(), &node.address];
            let set = |gauges: &IntGaugeVec, value: i64| gauges.with_label_values(&labels).set(value);
            for role in [Role::Master, Role::Slave, Role::Unknown] {
                let labels = [labels[0], labels[1], role.as_str()];
                self.role.with_label_values(&labels).set((node.role == role).into());
            }
            set(&self.reads, node.reads.into());
            set(&self.suspect, node.suspect.into());
            set(&self.in_flight, node.in_flight.into());
            set(&self.streams, i64::try_from(node.watch_streams).unwrap_or(i64::MAX));
            let latency = node.latency.unwrap_or_default().as_secs_f64();
            self.latency.with_label_values(&labels).set(latency);
        }
    }
}

const fn label(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Dialing => "dialing",
        State::Open => "open",
        State::Resting => "resting",
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

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstream")
    }
}
