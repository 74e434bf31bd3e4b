//! Every error to what a client sees.

use kubebrain_shared::metadata;
use tonic::{Code, Status};

use crate::lead::command::WriteError;
use crate::state::upstream::UpstreamError;

impl From<WriteError> for Status {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fault(fault) => fault.into(),
            WriteError::Unserved(unserved) => metadata::not_owner(unserved),
            WriteError::TooLarge(why) => Status::invalid_argument(format!("kubebrain: {why}")),
        }
    }
}

/// What it means to a slave that its master answered so.
pub(super) fn lost(status: &Status) -> UpstreamError {
    match status.code() {
        Code::OutOfRange => UpstreamError::Compacted,
        _ => UpstreamError::Lost(format!("the master does not answer: {}", status.message())),
    }
}
