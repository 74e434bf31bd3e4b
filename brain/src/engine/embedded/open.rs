//! Opening a data directory, or making one.
//!
//! Opening reads the tree, which is what its tables hold, and then the log. Every row has its record's *stamp* as its
//! number in the tree, and memtables become tables in the order of stamps. So what is in tables is what has a stamp
//! up to the highest that is in one, and the rest of the log is applied again, with the stamps that it had.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lsm_tree::{AbstractTree, AnyTree, SequenceNumberCounter};

use super::blobs::Blobs;
use super::cause::is_want_of_room;
use super::config::Config;
use super::manifest::{self, ManifestError};
use super::place::{FORMAT_FILE, LOCK, LOG, Place, STAGED, STORE, TREE, UNFINISHED, sync_directory};
use super::private;
use super::rows;
use super::store::{Full, Store};
use super::tree::tree;
use super::wal::error::RecoverError;
use super::wal::log::Log;
use super::wal::sizes::Sizes;
use crate::engine::error::OpenError;

/// The layout of a store. Another number is another program's: it is refused.
const FORMAT: u32 = 2;
/// Bounds of a log's segments, whatever the memtable is.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// All that is ours in a data directory.
const OURS: [&str; 4] = [LOCK, STORE, UNFINISHED, STAGED];
/// The tree's own directory for values that are kept apart.
const BLOBS: &str = "blobs";

/// A store, and what is needed to go on with it.
pub(super) struct Opened {
    pub(super) store: Arc<Store>,
    pub(super) log: Log,
    /// Memtables that are already full.
    pub(super) full: Vec<Full>,
}

/// Opens or makes it.
pub(super) fn open(config: &Config) -> Result<Opened, OpenError> {
    let place = Place(&config.directory);
    let store = config.directory.join(STORE);
    make_directory(&config.directory).map_err(|source| place.io(source))?;
    private::claim(&config.directory)?;
    let lock = place.lock()?;
    private::close(&config.directory, &OURS).map_err(|source| place.io(source))?;
    if !store.try_exists().map_err(|source| place.io(source))? {
        place.make(config)?;
    }
    place.check_format(&store)?;
    let path = store.join(TREE);
    if !path.try_exists().map_err(|source| place.io(source))? {
        return Err(OpenError::Corrupt { directory: place.0.into(), source: "its rows are missing".into() });
    }
    manifest::check(&path).map_err(|error| place.unreadable(error))?;
    let stamps = SequenceNumberCounter::new(1); // readers need a number above one that exists
    let blobs = Blobs::new(path.join(BLOBS));
    let tree = place.guarded(|| tree(config, &path, &stamps, &blobs))?;
    let (log, full) = place.replay(config, &tree, &stamps, &store.join(LOG))?;
    let store = Store::new(tree, stamps, blobs, &log, path, lock);
    Ok(Opened { store: Arc::new(store), log, full })
}

impl Place<'_> {
    /// Takes the lock, and leaves this process's number for those who do not get it.
    pub(super) fn lock(self) -> Result<File, OpenError> {
        let mut options = private::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(self.0.join(LOCK)).map_err(|source| self.io(source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _unread = file.read_to_string(&mut pid);
                return Err(OpenError::InUse { directory: self.0.into(), pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(self.io(source)),
        }
        let noted = file.set_len(0).and_then(|()| file.rewind());
        match noted.and_then(|()| writeln!(file, "{}", std::process::id())) {
            // A full disk has no room for a number, and the store is served all the same.
            Err(source) if !is_want_of_room(&source) => Err(self.io(source)),
            _ => Ok(file),
        }
    }

    /// Makes an empty store: whole, or not at all.
    fn make(self, config: &Config) -> Result<(), OpenError> {
        let unfinished = self.0.join(UNFINISHED);
        let prepare = || -> io::Result<()> {
            match fs::remove_dir_all(&unfinished) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => private::make_directory(&unfinished)?,
            }
            let format = unfinished.join(FORMAT_FILE);
            let mut format = private::options().write(true).create_new(true).open(format)?;
            writeln!(format, "{FORMAT}")?;
            format.sync_all()
        };
        prepare().map_err(|source| self.io(source))?;
        let path = unfinished.join(TREE);
        let blobs = Blobs::new(path.join(BLOBS));
        drop(self.guarded(|| tree(config, &path, &SequenceNumberCounter::default(), &blobs))?);
        let finish = || -> io::Result<()> {
            sync_directory(&path)?;
            Log::create(&unfinished.join(LOG), sizes(config))?;
            sync_directory(&unfinished)
        };
        finish().map_err(|source| self.io(source))?;
        let publish = || -> io::Result<()> {
            fs::rename(&unfinished, self.0.join(STORE))?;
            sync_directory(self.0)?;
            // The data directory's own name, where we may: it may have been made by us just now.
            let _foreign = fs::canonicalize(self.0)?.parent().map(sync_directory);
            Ok(())
        };
        publish().map_err(|source| self.io(source))
    }

    /// Refuses every layout but ours.
    fn check_format(self, store: &Path) -> Result<(), OpenError> {
        let text = fs::read_to_string(store.join(FORMAT_FILE)).map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::InvalidData => OpenError::Corrupt {
                directory: self.0.into(),
                source: "its format file is missing or unreadable".into(),
            },
            _ => self.io(source),
        })?;
        match text.trim() {
            found if found == FORMAT.to_string() => Ok(()),
            found => Err(OpenError::Format {
                directory: self.0.into(),
                found: found.escape_debug().to_string(),
                expected: FORMAT,
            }),
        }
    }

    /// Applies what the log holds and tables do not.
    fn replay(
        self,
        config: &Config,
        tree: &AnyTree,
        stamps: &SequenceNumberCounter,
        log: &Path,
    ) -> Result<(Log, Vec<Full>), OpenError> {
        let persisted = tree.get_highest_persisted_seqno();
        stamps.fetch_max(persisted.map_or(0, |stamp| stamp + 1));
        let mut full = Vec::new();
        let log = Log::open(log, sizes(config), |record, bytes| {
            let not_ours = || "a record is not a list of rows".to_owned();
            config.replayed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let stamp = rows::stamp(bytes).ok_or_else(not_ours)?;
            stamps.fetch_max(stamp + 1);
            if persisted.is_some_and(|persisted| stamp <= persisted) {
                return Ok(());
            }
            rows::decode(bytes, |key, value| {
                match value {
                    Some(value) => tree.insert(key, rows::seal(key, value), stamp),
                    None => tree.remove(key, stamp),
                };
            })
            .ok_or_else(not_ours)?;
            if tree.active_memtable().size() > config.memtable_bytes {
                full.extend(tree.rotate_memtable().map(|memtable| Full { memtable, record }));
            }
            Ok(())
        });
        match log {
            Ok(log) => Ok((log, full)),
            Err(RecoverError::Io(source)) => Err(self.io(source)),
            Err(source @ RecoverError::Damaged { .. }) => {
                Err(OpenError::Corrupt { directory: self.0.into(), source: source.into() })
            }
        }
    }

    /// Runs a piece of the tree's opening. It asserts some of what it reads from disk: damage must not end the process.
    fn guarded<T>(self, open: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, OpenError> {
        match std::panic::catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(lsm_tree::Error::Io(source))) => Err(self.io(source)),
            Ok(Err(source)) => Err(OpenError::Corrupt { directory: self.0.into(), source: source.into() }),
            Err(_) => Err(OpenError::Corrupt {
                directory: self.0.into(),
                source: "its files contradict each other".into(),
            }),
        }
    }

    /// A manifest that is missing or damaged is damage; a disk that does not give it is not.
    fn unreadable(self, error: ManifestError) -> OpenError {
        match error {
            ManifestError::Read { source, .. } if source.kind() != ErrorKind::NotFound => self.io(source),
            error => OpenError::Corrupt { directory: self.0.into(), source: error.into() },
        }
    }
}

/// The sizes of the log's segments: half a memtable each, so that a flush sets whole ones free.
fn sizes(config: &Config) -> Sizes {
    Sizes::up_to(
        (config.memtable_bytes / 2).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(4096),
    )
}

/// Makes a directory and those above it. Something else in its place is "not a directory", whatever the system says.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match private::make_directories(path) {
        Err(_) if fs::metadata(path).is_ok_and(|data| !data.is_dir()) => Err(ErrorKind::NotADirectory.into()),
        made => made,
    }
}
