//! Requests that several groups answer together.

pub(crate) mod delete;
pub(crate) mod merge;
pub(crate) mod range;
pub(crate) mod range_stream;

use kubebrain_shared::fault::Fault;
use tonic::Status;

use crate::call::Failure;

/// Why a request over several groups has no answer yet.
#[derive(Debug)]
pub(crate) enum Setback {
    /// Surely nothing was applied, or nothing ever is: do the whole again by the newest table.
    Again,
    /// For the client.
    Refused(Status),
}

impl From<Status> for Setback {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<Fault> for Setback {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault.into())
    }
}

impl Setback {
    /// Of a part that only reads: every failure may be tried again.
    pub(crate) fn of_read(_: Failure) -> Self {
        Self::Again
    }
}
