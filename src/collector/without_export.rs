//! In the place of the way to collectors in a program that was built without it.

use std::sync::Arc;

use anyhow::{Result, bail};
use kubebrain_net::metrics::Metrics;
use kubebrain_net::trace::Tracer;

use super::{Fates, Wanted};
use crate::flags::Tracing;

/// There is none.
pub(super) struct Exporting {
    pub(super) tracer: Tracer,
    never: std::convert::Infallible,
}

impl Exporting {
    /// # Errors
    /// Always.
    pub(super) fn begin(_: &Tracing, _: &str, wanted: Wanted, _: &Arc<Fates>) -> Result<Self> {
        let asked = if wanted.spans { "--enable-distributed-tracing" } else { "OTEL_METRICS_EXPORTER=otlp" };
        bail!("{asked}: this program was built without it; build it without --no-default-features")
    }

    pub(super) fn tell_of(&self, _: &Metrics, _: &Arc<Fates>) {
        match self.never {}
    }

    pub(super) async fn finish(self) {
        match self.never {}
    }
}
