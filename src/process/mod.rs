//! [`Process`]: what a program shares with all that runs in its process, and the lines of its life.
//!
//! ```text
//! "kubebrain standalone starts" ─▶ "opening ..." ─▶ "ready" ─▶ "stopping" ─▶ "stopped"
//! ```
//!
//! The service manager hears of the same moments.

mod banner;
mod descriptors;
mod place;
mod systemd;
pub(crate) mod umask;

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use kubebrain_net::connections::Connections;
use kubebrain_net::probe::ETCD_VERSION;
use tokio::time::Instant;
use tracing::field::{DisplayValue, display};

use crate::collector::Exports;
use crate::log::Log;
use descriptors::Descriptors;
pub(crate) use place::Place;
use systemd::Systemd;

/// See the module.
pub(crate) struct Process {
    pub log: Log,
    pub systemd: Systemd,
    pub descriptors: Descriptors,
    /// Those of all its listeners.
    pub connections: Connections,
    pub exports: Exports,
    began: Instant,
    has_begun: AtomicBool,
}

/// A program that has said that it starts, and not yet that it is ready.
pub(crate) struct Starting {
    program: &'static str,
    place: Place,
}

impl Process {
    /// # Errors
    /// It may open too few files.
    pub(crate) fn new(log: Log, exports: Exports) -> Result<Self> {
        let descriptors = Descriptors::of_process()?;
        Ok(Self {
            log,
            systemd: Systemd::of_environment(),
            descriptors,
            connections: descriptors.connections(),
            exports,
            began: Instant::now(),
            has_begun: AtomicBool::new(false),
        })
    }

    /// What starts where, and which version of it.
    pub(crate) fn starts(&self, program: &'static str, place: Place) -> Starting {
        self.has_begun.store(true, Ordering::Relaxed);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            etcd = ETCD_VERSION,
            clients = listed(&place.clients),
            probes = listed(&place.probes),
            peers = listed(&place.peers),
            data = (!place.data.is_empty()).then_some(&place.data),
            groups = listed(&place.groups),
            pid = std::process::id(),
            "kubebrain {program} starts"
        );
        self.systemd.status("starting");
        Starting { program, place }
    }

    /// Clients are served; `what` says as what.
    pub(crate) fn ready(&self, starting: Starting, what: &str) {
        let Starting { program, place } = starting;
        let took = self.began.elapsed();
        tracing::info!(clients = listed(&place.clients), ?took, "ready: {what}");
        self.systemd.status(&format!("ready: {what}, serving {}", place.clients.join(" ")));
        self.systemd.ready();
        banner::print(&format!("kubebrain {program}, {what}"), &place);
    }

    /// The end has begun, for this reason.
    pub(crate) fn stopping(&self, outcome: &Result<()>) {
        match outcome {
            Ok(()) => tracing::info!("stopping: a signal asks for it; requests in flight end first"),
            Err(error) => tracing::error!("stopping: {error:#}"),
        }
        self.systemd.status("stopping");
        self.systemd.stopping();
    }

    /// The last line.
    pub(crate) fn stopped(&self, outcome: &Result<()>) {
        match outcome {
            _ if !self.has_begun.load(Ordering::Relaxed) => {}
            Ok(()) => tracing::info!("stopped"),
            Err(error) => tracing::error!("stopped by an error: {error:#}"),
        }
        match outcome {
            Ok(()) => self.systemd.finish("stopped"),
            Err(error) => self.systemd.finish(&format!("failed: {error:#}")),
        }
    }
}

/// With commas between; nothing where there is none.
fn listed(items: &[String]) -> Option<DisplayValue<String>> {
    (!items.is_empty()).then(|| display(items.join(",")))
}
