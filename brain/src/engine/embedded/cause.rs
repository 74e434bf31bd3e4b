//! What the system said, at the bottom of an error of the store.

use std::error::Error;
use std::io;

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
