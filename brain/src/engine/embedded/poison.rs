//! The end of an engine: after the first failed write nothing is written again.

use tokio::sync::watch;

use crate::engine::error::{Cause, Poison, chain};

/// Why a round was not written.
pub(super) enum WriteError {
    /// Nothing reached the disk for want of room there, nor will. Another write may.
    NoSpace,
    /// Nothing reached the disk, nor will.
    Refused(Cause),
    /// Some of it may be there after a restart.
    Unknown(Cause),
}

/// Stops an engine for good; gives the reason, which is the first one there was.
pub(super) fn poison(
    place: &watch::Sender<Option<Poison>>,
    what: &str,
    cause: &(dyn std::error::Error + 'static),
) -> Poison {
    let reason = Poison::new(format_args!("{what}: {}", chain(cause)));
    place.send_if_modified(|poison| {
        let first = poison.is_none();
        if first {
            tracing::error!(%reason, "the store takes no more writes, the process must end");
            *poison = Some(reason.clone());
        }
        first
    });
    place.borrow().clone().unwrap_or(reason)
}
