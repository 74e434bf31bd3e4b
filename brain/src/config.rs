//! [`Config`]: one group's store.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::budget::{self, Budget};
use kubebrain_net::intake;
use kubebrain_shared::group::GroupName;

use crate::decide::identity;
use crate::engine::Engine;
#[cfg(any(test, feature = "faults"))]
pub use crate::planted::Planted;
use crate::request::Limits;
use crate::state::lease;
pub use crate::state::metrics::Metrics;
pub use crate::state::quota::Quota;
pub use crate::state::values::ValueCache;
use crate::tenure::{Tenure, Term};

/// How a master makes sure that its answers are fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFence {
    /// By a read of the engine, shared by all that wait. No effect where no other process can write the engine.
    #[default]
    Engine,
    /// By the master lease, on the monotonic clock, while it is held; else as `Engine`. A machine whose clock stood still
    /// while another brain took over, as a paused virtual machine's does, answers from its past for what its clock says is
    /// left of the lease. Needs [`Config::tenure`].
    Lease,
    /// It trusts that whoever starts brains lets one run at a time. A brain that was asleep while another took over
    /// answers from its past until it writes.
    Trust,
}

/// One group's store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The group.
    pub group: GroupName,
    /// This process, in takeover records and member lists.
    pub name: String,
    /// Lets several clusters share one engine. Default: empty.
    pub store_prefix: Bytes,
    /// The cluster in the header of each answer; the same for all members of a cluster.
    pub cluster_id: u64,
    /// The member in the header of each answer: this process.
    pub member_id: u64,
    /// Bounds on requests.
    pub limits: Limits,
    /// Values kept in memory; shared by the groups of one engine. Larger: fewer reads of the engine. Default 256 MiB.
    pub value_cache: ValueCache,
    /// Bytes of recent events kept for watchers. Rises: slower watchers stay off the engine. Default 64 MiB.
    pub window_bytes: usize,
    /// What the groups of this store may keep; shared by them. Default: no bound.
    pub quota: Arc<Quota>,
    /// What answers of this process may take in memory; shared by its groups. Default 512 MiB.
    pub answers: Arc<Budget>,
    /// What large requests to this process may take in memory; shared by its groups. Default 256 MiB.
    pub requests: Arc<Budget>,
    /// Between two rows that say what is left of a long lease. Falls: a restart gives leases less time too much, and
    /// more is written. Default 5 min, as in etcd; at least 1 s.
    pub lease_checkpoint_interval: Duration,
    /// How answers are known to be fresh. Default: by the engine.
    pub read_fence: ReadFence,
    /// Until when this process holds the master lease, for [`ReadFence::Lease`]. Default: there is no election.
    pub tenure: Option<Tenure>,
    /// Where it counts. Default: nowhere to be seen.
    pub metrics: Metrics,
    /// Rows that were read to open or to follow, ever.
    pub loaded: Arc<AtomicU64>,
    /// The group is one of a cluster, and has nothing but what is recorded as its own until it has heard of a placement.
    /// Default: it goes by the table that it is opened with.
    pub awaits_placement: bool,
    /// What is wrong on purpose.
    #[cfg(any(test, feature = "faults"))]
    pub planted: Planted,
}

impl Config {
    /// True where a master has to ask the engine whether it still is one.
    pub(crate) fn asks(&self, engine: &dyn Engine) -> bool {
        self.read_fence != ReadFence::Trust && engine.is_shared()
    }

    /// The time as holder of the master lease that answers are given by, where they are.
    pub(crate) fn term(&self) -> Option<Term> {
        self.tenure.as_ref().filter(|_| self.read_fence == ReadFence::Lease)?.term()
    }

    /// Defaults for a group.
    pub fn new(group: GroupName, name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            group,
            cluster_id: identity::unnamed(),
            member_id: identity::member(identity::unnamed(), &name),
            name,
            store_prefix: Bytes::new(),
            limits: Limits::default(),
            value_cache: ValueCache::new(256 << 20),
            window_bytes: 64 << 20,
            quota: Quota::new(None),
            answers: Budget::new(budget::DEFAULT_BYTES),
            requests: Budget::new(intake::DEFAULT_BYTES),
            lease_checkpoint_interval: lease::CHECKPOINT_INTERVAL,
            read_fence: ReadFence::default(),
            tenure: None,
            metrics: Metrics::default(),
            loaded: Arc::default(),
            awaits_placement: false,
            #[cfg(any(test, feature = "faults"))]
            planted: Planted::default(),
        }
    }
}
