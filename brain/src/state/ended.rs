//! [`Ended`]: why a group is not served any more.

use kubebrain_shared::group::GroupName;

use crate::rows::codec::Record;

/// Why a group's writer ended by itself. The process should end too: another master may be at work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Another master has taken over.
    #[error(
        "group {group}: brain {by:?} took over (epoch {epoch}, batch {number}), this one stops; without elections only \
        one brain of a group may run"
    )]
    Deposed {
        /// The group.
        group: GroupName,
        /// The other master's name.
        by: String,
        /// Its epoch.
        epoch: u64,
        /// Its takeover, or what stands where a batch of ours should be.
        number: u64,
    },
    /// Planted: see `Planted::unknown_is_failed`.
    #[cfg(any(test, feature = "faults"))]
    #[error("a batch was given up")]
    Failed,
    /// The storage turned a batch away or failed.
    #[error("group {group}: the storage failed: {reason}")]
    Storage {
        /// The group.
        group: GroupName,
        /// What it said.
        reason: String,
    },
    /// A task without which the group cannot be served is gone.
    #[error(
        "group {group}: {what} has panicked, which is a bug: this process cannot serve the group any more"
    )]
    Panicked {
        /// The group.
        group: GroupName,
        /// The task.
        what: &'static str,
    },
}

impl Ended {
    /// `record` stands under the number of our next batch.
    pub(crate) fn deposed(group: &GroupName, number: u64, record: &Record) -> Self {
        Self::Deposed { group: group.clone(), by: record.takeover.clone(), epoch: record.epoch, number }
    }
}
