//! [`OpenError`]: why a group was not opened.

use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::DocumentError;
use thiserror::Error;

use crate::engine::{CommitError, ReadError, Refusal};
use crate::rows::codec::{Damaged, FORMAT};
use crate::rows::log::LogError;

/// Why a group was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The storage did not answer.
    #[error("the storage cannot be read")]
    Read(#[from] ReadError),
    /// The storage did not take the takeover.
    #[error("the storage takes no writes")]
    Commit(#[from] CommitError),
    /// It answered nonsense.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// Another master took over while this one loaded.
    #[error(
        "group {group}: brain {by:?} took over (epoch {epoch}) while this one was loading; without elections only one brain \
        of a group may run"
    )]
    Deposed {
        /// The group.
        group: GroupName,
        /// The other master's name.
        by: String,
        /// Its epoch.
        epoch: u64,
    },
    /// Another format.
    #[error(
        "the store has format {found}, this program reads format {FORMAT}: use the version that wrote it, or another store"
    )]
    Format {
        /// What the store says.
        found: u64,
    },
    /// What the group goes by is no placement.
    #[error("group {group}: what it goes by cannot be read; was the store written by a newer version?")]
    Placement {
        /// The group.
        group: GroupName,
        /// What is wrong.
        #[source]
        error: DocumentError,
    },
    /// The placement gives keys away that the store records for another group.
    #[error(
        "keys under {kind} belong to group {owner} since their first write, the placement gives them to group {group}; \
        a kind moves only while it is empty: correct the placement"
    )]
    Stranded {
        /// Whose keys.
        kind: String,
        /// The recorded owner.
        owner: GroupName,
        /// What the placement says.
        group: GroupName,
    },
}

impl OpenError {
    /// True where the same call may succeed later, for nothing but waiting.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Read(error) => matches!(error, ReadError::Unavailable(_) | ReadError::Expired),
            Self::Commit(error) => {
                matches!(
                    error,
                    CommitError::Unknown(_)
                        | CommitError::Refused(Refusal::Unavailable(_) | Refusal::NoSpace)
                )
            }
            Self::Damaged(_)
            | Self::Deposed { .. }
            | Self::Format { .. }
            | Self::Placement { .. }
            | Self::Stranded { .. } => false,
        }
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Read(error) => Self::Read(error),
            LogError::Damaged(error) => Self::Damaged(error),
        }
    }
}
