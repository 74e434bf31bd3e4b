//! What the system said, at the bottom of an error of the store.

use std::error::Error;
use std::io::{self, ErrorKind};

/// The system's errors among an error and its causes, outermost first. The tree's own error keeps its one to itself.
pub(super) fn system_errors<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a io::Error> {
    let causes = |error: &&'a (dyn Error + 'static)| (*error).source();
    std::iter::successors(Some(error), causes).filter_map(|error| {
        match error.downcast_ref::<lsm_tree::Error>() {
            Some(lsm_tree::Error::Io(error)) => Some(error),
            _ => error.downcast_ref::<io::Error>(),
        }
    })
}

/// True if the system says that there is no room, or no more for this user.
pub(super) fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// As [`is_want_of_room`], of the error or one of its causes.
pub(super) fn was_want_of_room(error: &(dyn Error + 'static)) -> bool {
    system_errors(error).any(is_want_of_room)
}
