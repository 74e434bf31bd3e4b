//! [`Numbers`]: what one process counts, made once and handed to its parts.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use kubebrain_net::gateway::Gateway;
use kubebrain_net::gzip::Gzip;
use kubebrain_net::held::Held;
use kubebrain_net::locks::Locks;
use kubebrain_net::metrics::{Calls, Inbound, Metrics, Observe, Side, Slow};
use kubebrain_net::probe::ETCD_VERSION;
use kubebrain_net::trace::Tracer;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::flags::Clients;
use crate::process::Process;

/// What gRPC may add to the largest request, as in etcd.
const GRPC_BYTES: usize = 512 << 10;

/// See the module.
pub(crate) struct Numbers {
    /// Where parts register, and `/metrics` reads.
    pub metrics: Metrics,
    /// Whom listeners and budgets hold back.
    pub held: Held,
    /// Who is told of requests that are traced.
    pub tracer: Tracer,
    gzip: Gzip,
    clients: Arc<Calls>,
    /// Of a request, bytes.
    message_bytes_max: usize,
    has_gateway: bool,
}

impl Numbers {
    pub(crate) fn new(flags: &Clients, process: &Process) -> Self {
        let metrics = Metrics::of_process();
        process.log.count_in(&metrics);
        process.connections.count_in(&metrics);
        process.exports.count_in(&metrics);
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
        let tracer = process.exports.tracer.clone();
        let clients = Calls::new(&metrics, Side::Clients, slow, tracer.clone());
        let held = metrics.held();
        let message_bytes_max = flags.max_request_bytes + GRPC_BYTES;
        let gzip = Gzip::new(message_bytes_max, held.clone());
        let has_gateway = flags.serving.enable_grpc_gateway;
        Self { metrics, held, tracer, gzip, clients, message_bytes_max, has_gateway }
    }

    /// What clients find on a listener, over `service`: locks and elections, JSON over HTTP, `/metrics`; counted.
    pub(crate) fn for_clients<S>(&self, service: S) -> Gateway<Observe<Locks<S>>>
    where
        S: Service<Request<Inbound>, Response = Response<Body>, Error = Infallible, Future: Send>,
        S: Clone + Send + Sync + 'static,
    {
        let service = Locks::new(service, self.message_bytes_max, self.held.clone());
        let service = Observe::new(service, self.metrics.clone(), self.clients.clone(), self.gzip.clone());
        match self.has_gateway {
            true => Gateway::new(service, self.message_bytes_max),
            false => Gateway::none(service),
        }
    }

    /// Counts the calls of a listener for proxies.
    pub(crate) fn observe_peers<S>(&self, service: S, flags: &Clients) -> Observe<S> {
        let slow = Slow::new(flags.warning_unary_request_duration);
        let calls = Calls::new(&self.metrics, Side::Peers, slow, self.tracer.clone());
        Observe::new(service, self.metrics.clone(), calls, self.gzip.clone())
    }
}
