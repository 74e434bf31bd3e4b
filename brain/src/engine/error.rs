//! What can go wrong, told apart by what a caller does next.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use thiserror::Error;

/// The cause of an error, from whatever lies below.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why a read gave nothing. Reads change nothing, so all may be asked again.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The storage does not answer now: the same read may succeed later, also here.
    #[error("storage does not answer, try again")]
    Unavailable(#[source] Cause),
    /// The snapshot is older than what the storage keeps: take a new one.
    #[error("snapshot has expired, take a new one")]
    Expired,
    /// Stored data cannot be read here, now or later: another copy or a person must help.
    #[error("stored data cannot be read, check the disk and restore this store from a copy")]
    Failed(#[source] Cause),
}

/// Why a commit was not answered with success.
#[derive(Debug, Error)]
pub enum CommitError {
    /// A condition did not hold. Nothing was written, nor will be.
    #[error("a condition on key {} does not hold, read it again", key.escape_ascii())]
    Conflict {
        /// The key of the first condition that failed.
        key: Bytes,
    },
    /// The batch was turned away. Nothing was written, nor will be.
    #[error("batch was refused")]
    Refused(#[source] Refusal),
    /// It may have been written, now or a little later, whole or not at all: read back to learn which.
    #[error("outcome of the batch is not known, read back to learn it")]
    Unknown(#[source] Cause),
}

/// Why a batch was turned away before anything was written.
#[derive(Debug, Error)]
pub enum Refusal {
    /// A key is empty or too long.
    #[error("key of {bytes} bytes, 1 to {max} can be stored")]
    Key {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A value is too long.
    #[error("value of {bytes} bytes, at most {max} can be stored")]
    Value {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The batch is larger than the engine takes at once: split it.
    #[error("batch of {bytes} bytes, at most {max} are taken at once: split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// No room for it: free some first.
    #[error("no space left, free some or compact")]
    NoSpace,
    /// The storage does not take writes now; another try may succeed.
    #[error("storage takes no writes now, try again")]
    Unavailable(#[source] Cause),
    /// The engine has stopped, for good in this process.
    #[error("engine has stopped, start the process again: {0}")]
    Stopped(Poison),
}

/// Why an engine stopped for good: a write or sync failed, and a later one that succeeds would prove nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison(std::sync::Arc<str>);

/// Why a data directory was not opened. Nothing in it was changed that a later open would trip over.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it, or a snapshot of an engine that was closed in this one.
    #[error("data directory {} is in use by {}: stop it or choose another directory",
        directory.display(), Holder(*pid))]
    InUse {
        /// The data directory.
        directory: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// It cannot be written.
    #[error("data directory {} cannot be written: give this user write access or mount it writable",
        directory.display())]
    ReadOnly {
        /// The data directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path leads to something else.
    #[error("data directory {} is not a directory: remove it or choose another path", directory.display())]
    NotADirectory {
        /// The path.
        directory: PathBuf,
    },
    /// It is somebody else's.
    #[error("data directory {} has {found} in it and nothing of this program: name an empty directory, or one that is \
        not there yet", directory.display())]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// Every user can write in it, and this one may not change that.
    #[error("data directory {} can be written by every user (mode {mode:o}), and this user may not change that: let its \
        owner give it the mode 700 and this user, or name a directory below it", directory.display())]
    Exposed {
        /// The directory.
        directory: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The disk is full.
    #[error("no space left for data directory {}: free some or grow the disk", directory.display())]
    NoSpace {
        /// The data directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a program with another layout.
    #[error("data directory {} has format {found}, this program reads format {expected}: use the version that \
        wrote it, or another directory", directory.display())]
    Format {
        /// The data directory.
        directory: PathBuf,
        /// What the directory says.
        found: String,
        /// What this program reads and writes.
        expected: u32,
    },
    /// What is stored does not make sense.
    #[error("data directory {} is damaged: keep a copy of it and restore from a backup", directory.display())]
    Corrupt {
        /// The data directory.
        directory: PathBuf,
        /// What was found.
        source: Cause,
    },
    /// Anything else that the system said.
    #[error("data directory {} cannot be opened: see the cause", directory.display())]
    Io {
        /// The data directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Poison {
    /// From a sentence for people.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string().into())
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Poison {}

/// A process in a message.
struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}
