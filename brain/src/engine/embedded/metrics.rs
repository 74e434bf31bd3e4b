//! [`Metrics`]: how long the disk takes, under etcd's names.

use kubebrain_net::metrics::{self as shared, disk_buckets};
use prometheus::Histogram;

/// Of one store. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Writing a record of the log until it is durable.
    pub(super) sync: Histogram,
    /// The whole round: until readers see it.
    pub(super) commit: Histogram,
}

impl Metrics {
    /// Registers the numbers of a store.
    pub fn new(metrics: &shared::Metrics) -> Self {
        Self {
            sync: metrics.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "Writing one record of the write-ahead log and syncing it to the disk.",
                disk_buckets(),
            ),
            commit: metrics.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "One commit of the storage, from its record in the log until readers see it.",
                disk_buckets(),
            ),
        }
    }
}

impl Default for Metrics {
    /// Counted and shown nowhere.
    fn default() -> Self {
        Self::new(&shared::Metrics::new())
    }
}
