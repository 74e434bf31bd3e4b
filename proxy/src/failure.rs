//! [`Failure`]: why a request to a group has no answer. Callers do different things for each.

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// It did not leave, or was handed back: surely not applied.
    #[error("the request was not sent")]
    NotSent,
    /// The group does not own the keys, is about to lose them, or goes by another document: surely not applied.
    #[error("the group is not the owner")]
    NotOwner,
    /// It may have been applied.
    #[error("the outcome is not known")]
    Unknown,
}
