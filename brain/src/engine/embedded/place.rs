//! [`Place`]: a data directory, what lies in it under which name, and what the system says of it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::cause::is_want_of_room;
use crate::engine::error::OpenError;

pub(super) const LOCK: &str = "lock";

pub(super) const STORE: &str = "store";
/// A store that is being made. One that is found is left from a crash and holds nothing.
pub(super) const UNFINISHED: &str = "store.unfinished";
/// The same, of one that is filled from a snapshot.
pub(super) const STAGED: &str = "restore.unfinished";
pub(super) const FORMAT_FILE: &str = "format";
pub(super) const TREE: &str = "tree";
pub(super) const LOG: &str = "wal";

/// A data directory, for errors that name it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a>(pub(super) &'a Path);

impl Place<'_> {
    /// True of a directory in which a store was being made.
    pub(super) fn is_unfinished(name: &str) -> bool {
        [UNFINISHED, STAGED].contains(&name)
    }

    /// Names what the system said.
    pub(super) fn io(self, source: io::Error) -> OpenError {
        let directory = self.0.into();
        match source.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                OpenError::ReadOnly { directory, source }
            }
            _ if is_want_of_room(&source) => OpenError::NoSpace { directory, source },
            ErrorKind::NotADirectory => OpenError::NotADirectory { directory },
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                OpenError::Corrupt { directory, source: source.into() }
            }
            _ => OpenError::Io { directory, source },
        }
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_has_a_name() {
        type Expected = fn(&OpenError) -> bool;
        let cases: [(ErrorKind, Expected); 6] = [
            (ErrorKind::ReadOnlyFilesystem, |error| matches!(error, OpenError::ReadOnly { .. })),
            (ErrorKind::PermissionDenied, |error| matches!(error, OpenError::ReadOnly { .. })),
            (ErrorKind::StorageFull, |error| matches!(error, OpenError::NoSpace { .. })),
            (ErrorKind::QuotaExceeded, |error| matches!(error, OpenError::NoSpace { .. })),
            (ErrorKind::NotADirectory, |error| matches!(error, OpenError::NotADirectory { .. })),
            (ErrorKind::TimedOut, |error| matches!(error, OpenError::Io { .. })),
        ];
        for (kind, expected) in cases {
            let error = Place(Path::new("/data")).io(kind.into());
            assert!(expected(&error), "{kind}: {error:?}");
            assert!(error.to_string().contains("/data"), "{error}");
        }
    }
}
