//! A data directory is for its owner alone: directories have the mode 700 and files 600, whatever they were made under.
//!
//! Secrets are in it, in the log and in every table. What is made here is made so; the process's umask does the same for
//! the tree's own files. What an older program, a copy or a backup has left open is closed when the store is opened.
//!
//! * A directory that has something in it, and nothing of ours, is somebody else's: it is refused before anything in it
//!   is touched.
//! * A directory that is not this user's to close, such as a mount that belongs to root, will do as long as not every
//!   user can write in it: the files in it are closed all the same.
//! * Links inside it are not followed.

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::place::{FORMAT_FILE, LOCK, LOG, Place, STORE, TREE};
use crate::engine::error::OpenError;

/// At the root of a volume's file system; nobody's data.
const VOLUME: &str = "lost+found";

const DIRECTORY: u32 = 0o700;
const FILE: u32 = 0o600;
/// What others may do, by a mode.
const OTHERS: u32 = 0o077;
/// Every user may write.
const WORLD_WRITES: u32 = 0o002;
/// Set-id and sticky bits: they let nobody in, and are the owner's business.
const SPECIAL: u32 = 0o7000;

/// Makes a directory, and those above it that are missing.
pub(super) fn make_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)
}

/// Makes one directory.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY).create(path)
}

/// How files are made.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE);
    options
}

/// True of what a volume has of itself.
pub(super) fn is_the_volumes(name: &std::ffi::OsStr) -> bool {
    name == VOLUME
}

/// Makes sure that a data directory may be used, and closes it. Nothing in it is touched.
///
/// # Errors
/// [`OpenError::Foreign`], [`OpenError::Exposed`], or what the system said.
pub(super) fn claim(directory: &Path) -> Result<(), OpenError> {
    let io = |source| Place(directory).io(source);
    if let Some(found) = foreign(directory).map_err(io)? {
        return Err(OpenError::Foreign { directory: directory.into(), found });
    }
    let mode = fs::metadata(directory).map_err(io)?.mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let closed = Permissions::from_mode(mode & SPECIAL | DIRECTORY);
    match fs::set_permissions(directory, closed) {
        Ok(()) => {
            tracing::warn!(
                directory = %directory.display(), was = %octal(mode),
                "the data directory was open to other users: its mode is 700 now"
            );
            Ok(())
        }
        Err(error) if !is_not_ours(&error) => Err(io(error)),
        Err(_) if mode & WORLD_WRITES != 0 => {
            Err(OpenError::Exposed { directory: directory.into(), mode: mode & !SPECIAL & 0o777 })
        }
        Err(error) => {
            tracing::warn!(
                directory = %directory.display(), mode = %octal(mode), %error,
                "the data directory is open to other users and not this user's to close: the files in it can be read by \
                 this user alone; give this user the directory, or name one below it"
            );
            Ok(())
        }
    }
}

/// Closes what is stored in a data directory, which this process has the lock of.
///
/// # Errors
/// What the system said when asked what there is. What cannot be closed is told to the log.
pub(super) fn close(directory: &Path, names: &[&str]) -> io::Result<()> {
    let mut walk = Walk::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if names.iter().any(|name| entry.file_name() == *name) {
            walk.close(&entry)?;
        }
    }
    let Walk { closed, open } = walk;
    if closed > 0 {
        tracing::warn!(
            directory = %directory.display(), closed,
            "files and directories of the store could be read by other users of this machine: they are this user's alone \
             now; change the secrets in it if those users are not to be trusted"
        );
    }
    if let Some((path, error)) = open {
        tracing::warn!(
            path = %path.display(), %error,
            "a file of the store can be read by other users, and is not this user's to close: give this user the directory \
             and all that is in it"
        );
    }
    Ok(())
}

/// What was found open.
#[derive(Default)]
struct Walk {
    /// How many were closed.
    closed: usize,
    /// The first one that was not.
    open: Option<(PathBuf, io::Error)>,
}

impl Walk {
    /// The entry, and what is below it.
    fn close(&mut self, entry: &DirEntry) -> io::Result<()> {
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            metadata => metadata?, // of the link, not of what it leads to
        };
        let wanted = match (metadata.is_dir(), metadata.is_file()) {
            (true, _) => metadata.mode() & SPECIAL | DIRECTORY,
            (_, true) => FILE,
            _ => return Ok(()),
        };
        let path = entry.path();
        if metadata.mode() & OTHERS != 0 {
            match chmod(&path, wanted) {
                Ok(()) => self.closed += 1,
                Err(error) => {
                    self.open.get_or_insert((path.clone(), error));
                }
            }
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                self.close(&entry?)?;
            }
        }
        Ok(())
    }
}

/// Changes a mode, and never that of what a link leads to.
fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    file.set_permissions(Permissions::from_mode(mode))
}

/// Something in a directory that has nothing of ours; `None` where there is, or where it is as good as empty.
fn foreign(directory: &Path) -> io::Result<Option<String>> {
    let mut foreign = None;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let is_made_by_us = name.to_str().is_some_and(Place::is_unfinished) && kind.is_dir();
        if is_made_by_us || name == STORE && is_store(&entry.path()) {
            return Ok(None);
        }
        let is_nothing =
            is_the_volumes(&name) || name == LOCK && kind.is_file() || name == STORE && kind.is_dir();
        if !is_nothing {
            foreign.get_or_insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(foreign)
}

/// True of a store's directory, whatever it lacks.
fn is_store(path: &Path) -> bool {
    [FORMAT_FILE, TREE, LOG].iter().any(|part| path.join(part).exists())
}

/// True if the system says that another user has to do it, or that it cannot be done there.
fn is_not_ours(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}

/// As `chmod` takes it.
fn octal(mode: u32) -> String {
    format!("{:o}", mode & 0o7777)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    }

    #[test]
    fn what_was_left_open_is_closed_and_links_are_not_followed() {
        let place = tempfile::tempdir().expect("a directory");
        let (directory, outside) = (place.path().join("data"), place.path().join("outside"));
        let tables = directory.join("store/tree/tables");
        fs::create_dir_all(&tables).expect("directories");
        fs::write(tables.join("7"), "a secret").expect("a file");
        fs::write(directory.join("notes"), "not ours").expect("a file");
        fs::write(&outside, "not ours").expect("a file");
        symlink(&outside, directory.join("store/link")).expect("a link");
        for path in [&directory, &tables] {
            set(path, 0o2755);
        }
        for path in [&tables.join("7"), &outside, &directory.join("notes")] {
            set(path, 0o644);
        }
        claim(&directory).expect("ours");
        close(&directory, &[STORE]).expect("closes");
        assert_eq!((mode(&directory), mode(&tables)), (0o2700, 0o2700));
        assert_eq!(mode(&directory.join("store")), 0o700);
        assert_eq!(mode(&tables.join("7")), 0o600);
        assert_eq!((mode(&outside), mode(&directory.join("notes"))), (0o644, 0o644), "not ours");
    }

    #[test]
    fn a_directory_with_something_in_it_and_nothing_of_ours_is_somebody_elses() {
        type Fill = fn(&Path);
        let cases: [(&str, Fill, Option<&str>); 9] = [
            ("empty", |_| {}, None),
            ("a volume", |at| fs::create_dir(at.join("lost+found")).expect("a directory"), None),
            ("a lock alone", |at| fs::write(at.join("lock"), "1").expect("a file"), None),
            ("another's lock", |at| fs::create_dir(at.join("lock")).expect("a directory"), Some("lock")),
            ("a file", |at| fs::write(at.join("passwd"), "").expect("a file"), Some("passwd")),
            ("a store", |at| fs::create_dir_all(at.join("store/wal")).expect("a directory"), None),
            (
                "a store, and more",
                |at| {
                    fs::create_dir_all(at.join("store/tree")).expect("a directory");
                    fs::write(at.join("a note"), "").expect("a file");
                },
                None,
            ),
            (
                "another's store, and more",
                |at| {
                    fs::create_dir_all(at.join("store/apples")).expect("a directory");
                    fs::write(at.join("a note"), "").expect("a file");
                },
                Some("a note"),
            ),
            (
                "one that was being made",
                |at| {
                    fs::create_dir_all(at.join("store.unfinished")).expect("a directory");
                    fs::write(at.join("a note"), "").expect("a file");
                },
                None,
            ),
        ];
        for (name, fill, expected) in cases {
            let place = tempfile::tempdir().expect("a directory");
            fill(place.path());
            set(place.path(), 0o755);
            let claimed = claim(place.path());
            match expected {
                None => {
                    claimed.unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert_eq!(mode(place.path()), 0o700, "{name}");
                }
                Some(expected) => {
                    let error = claimed.expect_err(name);
                    assert!(
                        matches!(&error, OpenError::Foreign { found, .. } if found == expected),
                        "{name}: {error:?}"
                    );
                    assert_eq!(mode(place.path()), 0o755, "{name}: untouched");
                }
            }
        }
    }
}
