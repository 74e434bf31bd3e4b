//! [`Metrics`]: what the groups of a process count, and the groups that are open.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use kubebrain_net::metrics as shared;
use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;

use super::counters::{Counted, GroupMetrics};
use super::figures::Look;
use super::gauges::Gauges;

/// The numbers of all groups of a process. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    counted: Arc<Counted>,
    groups: Arc<Mutex<Groups>>,
}

/// The groups that are open, by name: one that is opened again takes its own place.
#[derive(Default)]
struct Groups {
    /// A group is not kept open by being looked at.
    open: BTreeMap<GroupName, Look>,
    takeovers: HashMap<GroupName, u64>,
}

impl Metrics {
    /// Registers the numbers of a process's groups.
    pub fn new(metrics: &shared::Metrics) -> Self {
        let counted = Arc::new(Counted::new(metrics));
        let groups = Arc::<Mutex<Groups>>::default();
        let (gauges, looked) = (Gauges::new(metrics), groups.clone());
        metrics.refresh(move || {
            let Groups { open, takeovers } = &mut *looked.lock();
            let mut figures = Vec::with_capacity(open.len());
            open.retain(|group, look| {
                let found = look();
                let is_open = found.is_some();
                figures.extend(found.map(|found| (group.clone(), found)));
                is_open
            });
            gauges.look(&figures, takeovers.values().max().copied().unwrap_or(0));
        });
        Self { counted, groups }
    }

    /// The counters of a group that opens.
    pub(crate) fn of(&self, group: &GroupName) -> GroupMetrics {
        self.counted.of(group)
    }

    /// A group is open and shows what `look` gives, or what was a slave is its master now: `leads`.
    pub(crate) fn opened(&self, group: &GroupName, leads: bool, look: Look) {
        let groups = &mut *self.groups.lock();
        if leads {
            *groups.takeovers.entry(group.clone()).or_default() += 1;
        }
        groups.open.insert(group.clone(), look);
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
