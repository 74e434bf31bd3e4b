//! What can go wrong with a log, and what an append leaves to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a record was not appended.
#[derive(Debug, Error)]
pub(in crate::engine::embedded) enum AppendError {
    /// Nothing of it was written, for want of room on the disk. A later one may be.
    #[error("the disk has no room for the log")]
    Full(#[source] io::Error),
    /// Nothing of it was written.
    #[error("no room could be made in the log")]
    Refused(#[source] io::Error),
    /// It may be there after a restart, whole.
    #[error("the log was not written")]
    Unknown(#[source] io::Error),
}

/// Why a log was not opened.
#[derive(Debug, Error)]
pub(in crate::engine::embedded) enum RecoverError {
    /// What it holds cannot come from a crash.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Damaged {
        /// The file, or the directory where one is missing.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// What the system said.
    #[error("the log cannot be read")]
    Io(#[from] io::Error),
}

/// What an append left to do for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::embedded) struct Appended {
    /// The record's number.
    pub(in crate::engine::embedded) record: u64,
    /// True once a segment: [`SegmentPool::prepare`](super::pool::SegmentPool::prepare) should be called, elsewhere, before it is full.
    pub(in crate::engine::embedded) prepare: bool,
}
