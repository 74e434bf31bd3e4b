//! The way to a collector: settings, resource, client.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kubebrain_net::trace::Tracer;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Fates;
use super::queue::{self, Queue};
use crate::flags::Tracing;

/// How long the end of a process may take longer for spans that are left.
const FINISH_WITHIN: Duration = Duration::from_secs(1);
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// The task that sends.
pub(super) struct Exporting {
    ends: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what is left, for a second at most.
    pub(super) async fn finish(self) {
        let Self { ends, mut task } = self;
        let _gone = ends.send(());
        if timeout(FINISH_WITHIN, &mut task).await.is_err() {
            task.abort();
            tracing::info!("the collector of traces does not take the last spans in time: they are lost");
        }
    }
}

/// # Errors
/// An address or a protocol that is not spoken.
pub(super) fn begin(flags: &Tracing, program: &str, fates: &Arc<Fates>) -> Result<(Tracer, Exporting)> {
    if let Some(protocol) = PROTOCOLS.iter().find_map(|name| said(name)).filter(|protocol| protocol != "grpc")
    {
        bail!("OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: spans are sent by grpc alone");
    }
    let mut exporter = exporter(flags).context("--distributed-tracing-address")?;
    exporter.set_resource(&resource(flags, program));
    let (queue, receiver) = Queue::new(fates);
    let (ends, ended) = oneshot::channel();
    let task = tokio::spawn(queue::send(receiver, exporter, ended, Arc::clone(fates)));
    // Ids are no secrets and decide nothing: they only have to differ.
    let tracer = Tracer::new(queue, flags.distributed_tracing_sampling_rate, rand::random::<u64>);
    Ok((tracer, Exporting { ends, task }))
}

fn said(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn exporter(flags: &Tracing) -> Result<SpanExporter> {
    let builder = SpanExporter::builder().with_tonic();
    let address = flags.distributed_tracing_address.as_str();
    let builder = match address {
        "" if ENDPOINTS.iter().any(|name| said(name).is_some()) => builder,
        "" => builder.with_endpoint("http://localhost:4317"),
        address if address.contains("://") => builder.with_endpoint(address),
        address => builder.with_endpoint(format!("http://{address}")),
    };
    Ok(builder.build()?)
}

/// Whose spans they are; `OTEL_RESOURCE_ATTRIBUTES` adds to it.
fn resource(flags: &Tracing, program: &str) -> Resource {
    let (name, instance) = (&flags.distributed_tracing_service_name, &flags.distributed_tracing_instance_id);
    let is_named = said("OTEL_SERVICE_NAME").is_some()
        || said("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
    let mut resource = Resource::builder();
    if !name.is_empty() {
        resource = resource.with_service_name(name.clone());
    } else if !is_named {
        resource = resource.with_service_name(format!("kubebrain-{program}"));
    }
    if !instance.is_empty() {
        resource = resource.with_attribute(KeyValue::new("service.instance.id", instance.clone()));
    }
    resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}
