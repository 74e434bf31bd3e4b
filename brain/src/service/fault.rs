//! Every error to what a client sees.

use kubebrain_shared::metadata;
use tonic::Status;

use crate::lead::command::WriteError;

impl From<WriteError> for Status {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fault(fault) => fault.into(),
            WriteError::NotOwner(what) => metadata::not_owner(what),
            WriteError::TooLarge(why) => Status::invalid_argument(format!("kubebrain: {why}")),
        }
    }
}
