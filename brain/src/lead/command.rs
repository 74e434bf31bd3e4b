//! [`Command`]: what the writer is asked to do, and what comes back.

use std::time::Duration;

use kubebrain_net::kinds::{KindId, Queued};
use kubebrain_net::trace::Span;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentId};
use kubebrain_shared::revision::Revision;
use tokio::sync::oneshot;

use crate::decide::answer::Answer;
use crate::decide::held::Unserved;
use crate::decide::repair::By;
use crate::request::Op;
use crate::rows::codec::{DecidedRow, HistoryRow};
use crate::state::alarm::Alarm;

/// Commands that wait: of one kind as many as etcd lets wait of all proposals, and some of other kinds beside them. Above it
/// clients are told to come back.
pub(crate) const COMMANDS_MAX: usize = 5000 * 8 / 7 + 1;
/// What a command costs beside the bytes that it puts: about as much as that many.
const COMMAND_BYTES: u64 = 512;

/// Why a write was not done; surely not, in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// What a client is told.
    Fault(Fault),
    /// These keys are not served here.
    Unserved(Unserved),
    /// The storage cannot hold what it would write; the sentence says why.
    TooLarge(String),
}

impl From<Unserved> for WriteError {
    fn from(unserved: Unserved) -> Self {
        Self::Unserved(unserved)
    }
}

impl From<Fault> for WriteError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// One step of a change of the placement, as the home group's master asks for it.
#[derive(Clone, Debug)]
pub enum PlaceStep {
    /// What it would answer if this were prepared. Nothing changes.
    Ask {
        /// The next document.
        next: Document,
    },
    /// Serve what is the group's by the present document and by the next one.
    Prepare {
        /// The present one, for whoever has not heard of it; `None` where there is none.
        base: Option<Document>,
        /// The next one.
        next: Document,
        /// The group has gone by a document before: one that has none has lost its data.
        known: bool,
    },
    /// Go by this document.
    Take {
        /// The document.
        document: Document,
        /// Also where the group has nothing, or something else, in place of what it had.
        accept_loss: bool,
    },
}

/// How a group stands after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Why it does not do it; empty where it does, or did.
    pub refusal: String,
    /// The document that it goes by.
    pub id: DocumentId,
    /// The number that it has adopted beyond that; 0 for none.
    pub adopted: u64,
    /// What it gives away it has answered for up to here, where it has adopted; else its revision.
    pub revision: Revision,
    /// Its compacted revision then; -1 where nothing was compacted.
    pub compacted: i64,
}

/// What the home group has decided, to be written down at once.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// All of it.
    pub row: DecidedRow,
    /// A document that has become current.
    pub entry: Option<HistoryRow>,
    /// Numbers of the history that are not kept any longer.
    pub forget: Vec<u64>,
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
        by: By,
        /// Its place in the queue; none of what brains ask themselves.
        queued: Option<Queued>,
        /// Where the request is traced: that it waits for the writer.
        span: Option<Span>,
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
    Place {
        step: PlaceStep,
        reply: Reply<Placed>,
    },
    Decide {
        decision: Box<Decision>,
        reply: Reply<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

impl Command {
    /// In whose line it waits, and what it costs there, in bytes; `None` for what nothing may hold up.
    pub(crate) fn line(&self) -> Option<(KindId, u64)> {
        match self {
            Self::Write { op, queued, .. } => {
                Some((queued.as_ref().map_or(KindId::NONE, Queued::kind), COMMAND_BYTES + op.put_bytes()))
            }
            Self::Grant { .. } | Self::Revoke { .. } | Self::Share { .. } | Self::Renew { .. } => {
                Some((KindId::NONE, COMMAND_BYTES))
            }
            _ => None,
        }
    }

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
