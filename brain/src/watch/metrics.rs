//! [`Metrics`]: how many watch one group.

use prometheus::IntGauge;

/// Of one group; shown by `mvcc::metrics`.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) streams: IntGauge,
    pub(crate) watchers: IntGauge,
    /// Watchers that are not synced.
    pub(crate) behind: IntGauge,
    /// Slaves that follow.
    pub(crate) followers: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let gauge = |name| IntGauge::new(name, name).expect("a legal name");
        Self {
            streams: gauge("streams"),
            watchers: gauge("watchers"),
            behind: gauge("behind"),
            followers: gauge("followers"),
        }
    }
}
