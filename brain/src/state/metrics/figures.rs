//! [`Figures`]: what a group shows of itself when a page of metrics is made.

use std::sync::Arc;

use kubebrain_net::kinds::{Counts, Kind};

use crate::engine::Engine;
use crate::state::quota::Quota;
use crate::state::values::CacheState;

/// What one group shows, as of one moment.
pub(crate) struct Figures {
    pub(crate) has_ended: bool,
    pub(crate) is_slave: bool,
    /// Of a slave: reads and watches are served.
    pub(crate) is_level: bool,
    pub(crate) committed: i64,
    /// -1 where nothing was compacted.
    pub(crate) compacted: i64,
    /// Compacted versions up to here were taken out since the start.
    pub(crate) swept: u64,
    pub(crate) keys: usize,
    pub(crate) versions: usize,
    pub(crate) leases: usize,
    /// Writes that wait for the writer.
    pub(crate) queue: u64,
    pub(crate) kinds: Vec<(Arc<Kind>, Counts)>,
    pub(crate) cache: CacheState,
    pub(crate) window_bytes: usize,
    pub(crate) watchers: i64,
    pub(crate) watchers_behind: i64,
    pub(crate) streams: i64,
    pub(crate) followers: i64,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) quota: Arc<Quota>,
}

/// Gives a group's figures; `None` once the group is gone.
pub(crate) type Look = Box<dyn Fn() -> Option<Figures> + Send + Sync>;
