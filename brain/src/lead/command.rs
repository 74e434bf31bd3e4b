//! [`Command`]: what the writer is asked to do, and what comes back.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::decide::answer::Answer;
use crate::request::Op;
use crate::state::alarm::Alarm;

/// Why a write was not done; surely not, in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// What a client is told.
    Fault(Fault),
    /// These keys belong to another group, or the placement is another one.
    NotOwner(String),
    /// The storage cannot hold what it would write; the sentence says why.
    TooLarge(String),
}

impl From<Fault> for WriteError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Why a placement was refused. The old one holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// It gives away keys that this group has, or has had since the last compaction.
    #[error(
        "group {group} has keys under {kind}, which the new placement gives to group {owner}; \
        a kind moves only while it is empty and its history is compacted"
    )]
    Stranded {
        /// This group.
        group: String,
        /// What would be stranded.
        kind: String,
        /// Who would own it.
        owner: String,
    },
    /// The storage did not say who owns what.
    #[error("group {group}: owners were not read: {reason}")]
    Storage {
        /// This group.
        group: String,
        /// What it said.
        reason: String,
    },
    /// It follows its master, whose placement counts.
    #[error("this brain is not the group's master")]
    Slave,
    /// The group is ending.
    #[error("the group has stopped")]
    Stopped,
}

/// A write that was done.
#[derive(Debug)]
pub(crate) struct Written {
    /// What to answer, values still to be filled in.
    pub answer: Answer,
    /// The header's revision.
    pub revision: Revision,
}

/// How a lease of the home group comes here.
#[derive(Clone, Copy, Debug)]
pub struct Adoption {
    /// What is left of it.
    pub remaining: Duration,
    /// Home has not recorded yet that this group holds it: no key may hang on it. What home does not list it does not
    /// have renewed, and its keys would end under a client that is told that it lives.
    pub offered: bool,
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// Its id.
    pub id: i64,
    /// Seconds to live.
    pub ttl: i64,
    /// The header's revision.
    pub revision: Revision,
}

/// A lease's seconds to live, and the groups that hold it too.
pub type Renewed = (i64, Vec<String>);

/// Where an answer goes.
pub(crate) type Reply<T, E = Fault> = oneshot::Sender<Result<T, E>>;

/// What the writer is asked to do. Where a floor is named, the group is at or above it when the answer is given.
pub(crate) enum Command {
    Write {
        op: Op,
        floor: Revision,
        part: Option<u64>,
        reply: Reply<Written, WriteError>,
    },
    Advance {
        floor: Revision,
        reply: Reply<Revision>,
    },
    Compact {
        revision: i64,
        floor: Revision,
        reply: Reply<Revision>,
    },
    Grant {
        id: i64,
        ttl: i64,
        adoption: Option<Adoption>,
        floor: Revision,
        reply: Reply<Granted>,
    },
    Revoke {
        id: i64,
        floor: Revision,
        reply: Reply<Revision>,
    },
    Share {
        id: i64,
        group: GroupName,
        reply: Reply<(i64, Duration)>,
    },
    Renew {
        id: i64,
        reply: Reply<Option<Renewed>>,
    },
    Raise {
        alarm: Alarm,
        reply: Reply<bool>,
    },
    Disarm {
        alarm: Alarm,
        reply: Reply<bool>,
    },
    /// Answered when everything that was given out before it is durable.
    Settle {
        reply: Reply<()>,
    },
    Trimmed {
        number: u64,
    },
    Prepare {
        placement: Arc<Placement>,
        reply: Reply<(), PlaceError>,
    },
    Commit {
        reply: Reply<(), PlaceError>,
    },
    Abort,
    Close {
        reply: oneshot::Sender<()>,
    },
}

impl Command {
    /// True for what etcd would call a proposal: a change, or a request that may be one.
    pub(crate) const fn proposes(&self) -> bool {
        matches!(
            self,
            Self::Write { .. }
                | Self::Compact { .. }
                | Self::Grant { .. }
                | Self::Revoke { .. }
                | Self::Share { .. }
                | Self::Renew { .. }
                | Self::Raise { .. }
                | Self::Disarm { .. }
        )
    }
}
