//! [`Numbers`]: what one process counts, made once and handed to its parts.

use std::sync::Arc;

use kubebrain_shared::metrics::{Calls, Metrics, Observe, Side, Slow};
use kubebrain_shared::probe::ETCD_VERSION;

use crate::cli::Clients;
use crate::process::Process;

/// See the module.
pub(crate) struct Numbers {
    /// Where parts register, and `/metrics` reads.
    pub metrics: Metrics,
    clients: Arc<Calls>,
}

impl Numbers {
    pub(crate) fn new(flags: &Clients, process: &Process) -> Self {
        let metrics = Metrics::of_process();
        process.log.count_in(&metrics);
        process.connections.count_in(&metrics);
        let says = |name, help, label, value| {
            metrics.gauges(name, help, &[label]).with_label_values(&[value]).set(1);
        };
        let (cluster, _) = ETCD_VERSION.rsplit_once('.').unwrap_or((ETCD_VERSION, ""));
        let etcd = "1 for the etcd release whose behaviour clients are told of.";
        says("etcd_server_version", etcd, "server_version", ETCD_VERSION);
        says(
            "etcd_cluster_version",
            "As etcd_server_version, without its last part.",
            "cluster_version",
            cluster,
        );
        says("kubebrain_build_info", "1 for the version of kubebrain.", "version", env!("CARGO_PKG_VERSION"));
        let slow = Slow::new(flags.warning_unary_request_duration);
        let clients = Calls::new(&metrics, Side::Clients, slow);
        Self { metrics, clients }
    }

    /// Counts the calls of a listener for clients, and answers `/metrics` there.
    pub(crate) fn observe<S>(&self, service: S) -> Observe<S> {
        Observe::new(service, self.metrics.clone(), self.clients.clone())
    }

    /// Counts the calls of a listener for proxies.
    pub(crate) fn observe_peers<S>(&self, service: S, flags: &Clients) -> Observe<S> {
        let slow = Slow::new(flags.warning_unary_request_duration);
        Observe::new(service, self.metrics.clone(), Calls::new(&self.metrics, Side::Peers, slow))
    }
}
