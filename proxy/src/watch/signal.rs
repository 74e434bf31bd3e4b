//! [`Signal`]: what a group stream says to its owner.

use kubebrain_shared::revision::Revision;

use super::answer::Answer;
use super::part::PartId;

/// What the owner of a group stream has to act on.
#[derive(Debug)]
pub(super) enum Signal {
    Events {
        part: PartId,
        answer: Answer,
        last: Revision,
    },
    /// The group's own, for one part; and what that has closed, which may be more where a slave speaks.
    Progress {
        part: PartId,
        revision: Revision,
    },
    /// Some closed revisions have risen.
    Closed,
    Compacted {
        part: PartId,
        at: Revision,
    },
    Cancelled {
        part: PartId,
        reason: String,
    },
    /// The group does not serve it any more: another one does, or will.
    Ended {
        part: PartId,
    },
}
