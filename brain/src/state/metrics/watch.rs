//! [`WatchMetrics`]: how many watch one group.

use prometheus::IntGauge;

/// How many watch and follow one group; `gauges` shows it.
#[derive(Debug)]
pub(crate) struct WatchMetrics {
    pub(crate) streams: IntGauge,
    pub(crate) watchers: IntGauge,
    /// Watchers that are not synced.
    pub(crate) behind: IntGauge,
    /// Slaves that follow.
    pub(crate) followers: IntGauge,
}

impl Default for WatchMetrics {
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
