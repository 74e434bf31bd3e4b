//! What a client hears of a value that was not read.

use kubebrain_shared::fault::Fault;

use crate::engine::ReadError;
use crate::engine::error::chain;
use crate::state::group::GroupState;
use crate::state::values::ValueError;

/// What a client hears of a value that was not read.
pub(crate) fn read_fault(state: &GroupState, error: &ValueError) -> Fault {
    tracing::error!(group = %state.group, "a value was not read: {}", chain(error));
    match error {
        // Asking again gives the same.
        ValueError::Read(ReadError::Failed(_)) | ValueError::Damaged(_) => Fault::Corrupt,
        ValueError::Read(_) | ValueError::Missing { .. } => Fault::Timeout,
    }
}
