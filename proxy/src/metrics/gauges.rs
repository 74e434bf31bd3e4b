//! [`Gauges`]: what a page shows of a proxy as it is now, from plain [`Figures`].

use std::sync::Arc;
use std::time::Duration;

use kubebrain_net::dial::State;
use kubebrain_net::kinds::Kind;
use kubebrain_net::metrics as shared;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec};

/// A proxy as it is now.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Every group was reached, and it was not stopped.
    pub(crate) ready: bool,
    /// The highest revision that was shown.
    pub(crate) floor: Revision,
    /// The number of the placement that it goes by; 0 for none.
    pub(crate) placement: u64,
    /// Requests at work.
    pub(crate) in_flight: usize,
    /// Requests that were refused, by kind.
    pub(crate) refused: Vec<(Arc<Kind>, u64)>,
    pub(crate) groups: Vec<GroupFigures>,
}

/// A group as its proxy sees it.
#[derive(Debug)]
pub(crate) struct GroupFigures {
    pub(crate) name: GroupName,
    /// A revision that it has committed.
    pub(crate) known: Revision,
    pub(crate) nodes: Vec<NodeFigures>,
}

/// A brain as its proxy sees it.
#[derive(Debug)]
pub(crate) struct NodeFigures {
    pub(crate) address: String,
    /// One of [`ROLES`].
    pub(crate) role: &'static str,
    /// It serves reads and watches.
    pub(crate) reads: bool,
    pub(crate) suspect: bool,
    /// Requests that wait for an answer to begin.
    pub(crate) in_flight: u32,
    pub(crate) watch_streams: usize,
    /// The mean until answers to reads begin; zero before the first.
    pub(crate) latency: Duration,
    /// How its connection for requests stands.
    pub(crate) bulk: State,
    /// How its connection for watch streams stands.
    pub(crate) watch: State,
}

/// What a brain can be taken for.
const ROLES: [&str; 3] = ["master", "slave", "unknown"];

/// What is asked for when a page is made.
pub(super) struct Gauges {
    ready: IntGauge,
    floor: IntGauge,
    placement: IntGauge,
    in_flight: IntGauge,
    refused: IntCounterVec,
    known: IntGaugeVec,
    connections: IntGaugeVec,
    nodes: NodeGauges,
}

/// The gauges of each brain of each group.
struct NodeGauges {
    role: IntGaugeVec,
    reads: IntGaugeVec,
    suspect: IntGaugeVec,
    in_flight: IntGaugeVec,
    streams: IntGaugeVec,
    latency: GaugeVec,
}

impl Gauges {
    /// Registers them.
    pub(super) fn new(metrics: &shared::Metrics) -> Self {
        Self {
            ready: metrics.gauge("kubebrain_proxy_ready", "1 once every group was reached, until the stop."),
            floor: metrics.gauge("kubebrain_proxy_floor_revision", "The highest revision that was shown."),
            placement: metrics.gauge(
                "kubebrain_proxy_placement_number",
                "The number of the placement that this proxy goes by; 0 before it has heard of one, and in standalone.",
            ),
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
            refused: metrics.counters(
                "kubebrain_proxy_kind_refused_total",
                "Requests that the proxy refused with \"too many requests\", since their kind has a limit or most of the places.",
                &["kind"],
            ),
            nodes: NodeGauges::new(metrics),
        }
    }

    /// Shows these figures and nothing else: a group that a placement has dropped leaves the page.
    pub(super) fn set(&self, figures: &Figures) {
        self.ready.set(figures.ready.into());
        self.floor.set(figures.floor.to_wire());
        self.placement.set(i64::try_from(figures.placement).unwrap_or(i64::MAX));
        self.in_flight.set(number(figures.in_flight));
        self.refused.reset();
        for (kind, refused) in &figures.refused {
            self.refused.with_label_values(&[kind.name()]).inc_by(*refused);
        }
        self.known.reset();
        self.connections.reset();
        self.nodes.reset();
        for group in &figures.groups {
            let name = group.name.as_str();
            self.known.with_label_values(&[name]).set(group.known.to_wire());
            for lane in ["bulk", "watch"] {
                for state in [State::Idle, State::Dialing, State::Open, State::Resting] {
                    self.connections.with_label_values(&[name, lane, label(state)]).set(0);
                }
            }
            for node in &group.nodes {
                self.connections.with_label_values(&[name, "bulk", label(node.bulk)]).inc();
                self.connections.with_label_values(&[name, "watch", label(node.watch)]).inc();
                self.nodes.set(name, node);
            }
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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

    fn set(&self, group: &str, node: &NodeFigures) {
        let labels = [group, &node.address];
        let set = |gauges: &IntGaugeVec, value: i64| gauges.with_label_values(&labels).set(value);
        for role in ROLES {
            self.role.with_label_values(&[labels[0], labels[1], role]).set((node.role == role).into());
        }
        set(&self.reads, node.reads.into());
        set(&self.suspect, node.suspect.into());
        set(&self.in_flight, node.in_flight.into());
        set(&self.streams, number(node.watch_streams));
        self.latency.with_label_values(&labels).set(node.latency.as_secs_f64());
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
