//! [`Store`]: a data directory that this process holds.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, LsmError};
use parking_lot::RwLock;

use crate::engine::embedded::{Config, Metrics};
use crate::engine::error::OpenError;

/// The layout of a store. Another number is another program's: it is refused.
const FORMAT: u32 = 1;

pub(super) const LOCK: &str = "lock";
pub(super) const STORE: &str = "store";
/// A store that is being made. One that is found is left from a crash and holds nothing.
const UNFINISHED: &str = "store.unfinished";
const FORMAT_FILE: &str = "format";
const DATABASE: &str = "db";
const ROWS: &str = "rows";

/// Values of this size and more are kept apart from keys and not moved when keys are merged (CPU of a write at 256 a
/// batch: 18 instead of 34 us). Most Kubernetes objects are larger.
const SEPARATE_BYTES_MIN: u32 = 1 << 10;

/// An open store. The lock outlives what it protects: fields are dropped in order.
pub(super) struct Store {
    /// What readers see: everything up to the last sync. Locked to swap or copy it, never while waiting for a disk.
    pub(super) published: RwLock<fjall::Snapshot>,
    pub(super) rows: Keyspace,
    pub(super) database: Database,
    pub(super) metrics: Metrics,
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens or makes it.
    pub(super) fn open(config: &Config) -> Result<Self, OpenError> {
        let place = Place(&config.directory);
        let store = config.directory.join(STORE);
        make_directory(&config.directory).map_err(|source| place.io(source))?;
        let lock = place.lock()?;
        if !store.try_exists().map_err(|source| place.io(source))? {
            place.make(config)?;
        }
        place.check_format(&store)?;
        let path = store.join(DATABASE);
        let database = place.guarded(|| builder(config, &path).open())?;
        if !database.keyspace_exists(ROWS) {
            return Err(OpenError::Corrupt {
                directory: place.0.into(),
                source: "its rows are missing".into(),
            });
        }
        let rows = place.guarded(|| rows(&database, config))?;
        let (published, metrics) = (RwLock::new(database.snapshot()), config.metrics.clone());
        Ok(Self { published, rows, database, metrics, path, _lock: lock })
    }

    /// Fails once any of fjall's writes has failed, in the background too. Writes nothing that is not written anyway.
    pub(super) fn health(&self) -> fjall::Result<()> {
        self.database.persist(fjall::PersistMode::Buffer)
    }

    /// Bytes of tables and journals on disk. Journals are made sparse, so their blocks are counted.
    pub(super) fn size(&self) -> u64 {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let journals = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "jnl"));
        let blocks = journals.filter_map(|entry| entry.metadata().ok()).map(|data| data.blocks());
        self.rows.disk_space() + blocks.sum::<u64>() * 512 // st_blocks is in units of 512, on any file system
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A data directory, for errors that name it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a>(pub(super) &'a Path);

impl Place<'_> {
    /// Takes the lock, and leaves this process's number for those who do not get it.
    pub(super) fn lock(self) -> Result<File, OpenError> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
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
        noted.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(|source| self.io(source))?;
        Ok(file)
    }

    /// Makes an empty store: whole, or not at all.
    fn make(self, config: &Config) -> Result<(), OpenError> {
        let unfinished = self.0.join(UNFINISHED);
        let prepare = || -> io::Result<()> {
            match fs::remove_dir_all(&unfinished) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => fs::create_dir(&unfinished)?,
            }
            let mut format = File::create_new(unfinished.join(FORMAT_FILE))?;
            writeln!(format, "{FORMAT}")?;
            format.sync_all()
        };
        prepare().map_err(|source| self.io(source))?;
        self.guarded(|| {
            let database = builder(config, &unfinished.join(DATABASE)).open()?;
            rows(&database, config)?;
            database.persist(fjall::PersistMode::SyncAll)
        })?;
        let publish = || -> io::Result<()> {
            sync_directory(&unfinished)?;
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

    /// Runs a piece of fjall's opening. It asserts some of what it reads from disk: damage must not end the process.
    fn guarded<T>(self, open: impl FnOnce() -> fjall::Result<T>) -> Result<T, OpenError> {
        match std::panic::catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(fjall::Error::Io(source) | fjall::Error::Storage(LsmError::Io(source)))) => {
                Err(self.io(source))
            }
            Ok(Err(fjall::Error::Locked)) => Err(OpenError::InUse { directory: self.0.into(), pid: None }),
            Ok(Err(source)) => Err(OpenError::Corrupt { directory: self.0.into(), source: source.into() }),
            Err(_) => Err(OpenError::Corrupt {
                directory: self.0.into(),
                source: "its files contradict each other".into(),
            }),
        }
    }

    /// Names what the system said.
    pub(super) fn io(self, source: io::Error) -> OpenError {
        let directory = self.0.into();
        match source.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                OpenError::ReadOnly { directory, source }
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => OpenError::NoSpace { directory, source },
            ErrorKind::NotADirectory => OpenError::NotADirectory { directory },
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                OpenError::Corrupt { directory, source: source.into() }
            }
            _ => OpenError::Io { directory, source },
        }
    }
}

/// fjall with our settings. The journal is synced by each batch, and so not by itself.
fn builder(config: &Config, path: &Path) -> fjall::DatabaseBuilder<Database> {
    // A journal lives until its memtable is written out. Below twice that, fjall would write out memtables that have
    // just begun, to be rid of a journal that is about to go anyway; 64 MiB is the least it takes.
    let journals = (config.memtable_bytes * 3).max(64 << 20);
    Database::builder(path)
        .cache_size(config.cache_bytes)
        .manual_journal_persist(true)
        .max_journaling_size(journals)
}

/// The one tree that holds all rows.
fn rows(database: &Database, config: &Config) -> fjall::Result<Keyspace> {
    // By default only the oldest quarter of the files with stale values is rewritten: of fewer than four, none ever.
    let separation = KvSeparationOptions::default().separation_threshold(SEPARATE_BYTES_MIN).age_cutoff(1.0);
    database.keyspace(ROWS, || {
        KeyspaceCreateOptions::default()
            .manual_journal_persist(true)
            .max_memtable_size(config.memtable_bytes)
            .with_kv_separation(Some(separation))
    })
}

/// Makes a directory and those above it. Something else in its place is "not a directory", whatever the system says.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir_all(path) {
        Err(_) if fs::metadata(path).is_ok_and(|data| !data.is_dir()) => Err(ErrorKind::NotADirectory.into()),
        made => made,
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
