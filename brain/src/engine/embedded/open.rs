//! [`Store`]: a data directory that this process holds.
//!
//! Opening reads the tree, which is what its tables hold, and then the log. Every row has its record's *stamp* as its
//! number in the tree, and memtables become tables in the order of stamps. So what is in tables is what has a stamp
//! up to the highest that is in one, and the rest of the log is applied again, with the stamps that it had.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use lsm_tree::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, RestartIntervalPolicy,
};
use lsm_tree::{
    AbstractTree, AnyTree, Cache, CompressionType, DescriptorTable, KvSeparationOptions, SeqNo,
    SequenceNumberCounter,
};
use parking_lot::{Mutex, MutexGuard};

use crate::engine::embedded::blobs::Blobs;
use crate::engine::embedded::manifest::{self, ManifestError};
use crate::engine::embedded::moment::Moments;
use crate::engine::embedded::private;
use crate::engine::embedded::room::is_want_of_room;
use crate::engine::embedded::upkeep::Full;
use crate::engine::embedded::wal::{Log, RecoverError, Ring, Sizes};
use crate::engine::embedded::{Config, rows, staged};
use crate::engine::error::{Cause, OpenError};

/// The layout of a store. Another number is another program's: it is refused.
const FORMAT: u32 = 2;

pub(super) const LOCK: &str = "lock";
pub(super) const STORE: &str = "store";
/// Bounds of a log's segments, whatever the memtable is.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// A store that is being made. One that is found is left from a crash and holds nothing.
const UNFINISHED: &str = "store.unfinished";
/// All that is ours in a data directory.
const OURS: [&str; 4] = [LOCK, STORE, UNFINISHED, staged::UNFINISHED];
pub(super) const FORMAT_FILE: &str = "format";
pub(super) const TREE: &str = "tree";
pub(super) const LOG: &str = "wal";
/// The tree's own directory for values that are kept apart.
const BLOBS: &str = "blobs";

/// Values of this size and more are kept apart from keys and not moved when keys are merged (CPU of a write at 256 a
/// batch: 18 instead of 34 us). Most Kubernetes objects are larger.
const SEPARATE_BYTES_MIN: u32 = 1 << 10;

/// An open store. The lock outlives what it protects: fields are dropped in order.
pub(super) struct Store {
    tree: AnyTree,
    moments: Moments,
    /// Where stamps come from. The tree takes some for itself, when its set of tables changes.
    stamps: SequenceNumberCounter,
    applied: Mutex<Applied>,
    blobs: Blobs,
    ring: Arc<Ring>,
    /// The tree's directory.
    path: PathBuf,
    _lock: File,
}

/// What the tree holds. Locked from the taking of a stamp until it is published, so that no moment is published
/// between the two.
#[derive(Debug)]
pub(super) struct Applied {
    /// The last record of the log that is in the tree.
    record: u64,
    /// Bytes of the log since the memtable was begun.
    pub(super) logged: u64,
}

/// A store, and what is needed to go on with it.
pub(super) struct Opened {
    pub(super) store: Arc<Store>,
    pub(super) log: Log,
    /// Memtables that are already full.
    pub(super) full: Vec<Full>,
}

impl Applied {
    pub(super) fn record(&self) -> u64 {
        self.record
    }
}

impl Store {
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
            return Err(OpenError::Corrupt {
                directory: place.0.into(),
                source: "its rows are missing".into(),
            });
        }
        manifest::check(&path).map_err(|error| place.unreadable(error))?;
        let stamps = SequenceNumberCounter::new(1); // readers need a number above one that exists
        let blobs = Blobs::new(path.join(BLOBS));
        let tree = place.guarded(|| tree(config, &path, &stamps, &blobs))?;
        let (log, full) = place.replay(config, &tree, &stamps, &store.join(LOG))?;
        let applied = Applied { record: log.next_record() - 1, logged: tree.active_memtable().size() };
        let store = Self {
            moments: Moments::new(stamps.get()),
            tree,
            stamps,
            applied: Mutex::new(applied),
            blobs,
            ring: Arc::clone(log.ring()),
            path,
            _lock: lock,
        };
        Ok(Opened { store: Arc::new(store), log, full })
    }

    pub(super) fn tree(&self) -> &AnyTree {
        &self.tree
    }

    /// The value of a key at a moment.
    ///
    /// # Errors
    /// What the tree said, or that it gave something else than what was written.
    pub(super) fn get(&self, key: &[u8], at: SeqNo) -> Result<Option<Bytes>, Cause> {
        self.tree.get(key, at)?.map(|sealed| unseal(key, &sealed)).transpose()
    }

    pub(super) fn tree_path(&self) -> &Path {
        &self.path
    }

    pub(super) fn moments(&self) -> &Moments {
        &self.moments
    }

    pub(super) fn applied(&self) -> &Mutex<Applied> {
        &self.applied
    }

    /// The next stamp.
    pub(super) fn stamp(&self, _lock: &MutexGuard<'_, Applied>) -> u64 {
        self.stamps.next()
    }

    /// Puts a record's rows into the tree and shows them to readers. They are durable in the log.
    pub(super) fn apply(
        &self,
        applied: &mut MutexGuard<'_, Applied>,
        record: u64,
        stamp: u64,
        rows: &[rows::Row],
    ) {
        for (key, value) in rows {
            match value {
                Some(value) => self.tree.insert(&key[..], rows::seal(key, value), stamp),
                None => self.tree.remove(&key[..], stamp),
            };
        }
        applied.record = record;
        self.publish(applied);
    }

    /// Shows readers all that was applied.
    pub(super) fn publish(&self, _lock: &MutexGuard<'_, Applied>) {
        self.moments.publish(self.stamps.get());
    }

    /// Where the tree keeps large values.
    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Bytes of tables and of the log on disk.
    pub(super) fn size(&self) -> u64 {
        self.tree.disk_space() + self.ring.bytes()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What was written under a key, copied: a slice of a block would keep the whole block in memory for as long as one row
/// lives.
pub(super) fn unseal(key: &[u8], sealed: &[u8]) -> Result<Bytes, Cause> {
    match rows::unseal(key, sealed) {
        Some(value) => Ok(Bytes::copy_from_slice(value)),
        None => Err(format!("the value of {} is not what was written", key.escape_ascii()).into()),
    }
}

/// A data directory, for errors that name it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a>(pub(super) &'a Path);

impl Place<'_> {
    /// True of a directory in which a store was being made.
    pub(super) fn is_unfinished(name: &str) -> bool {
        [UNFINISHED, staged::UNFINISHED].contains(&name)
    }

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

/// The sizes of the log's segments: half a memtable each, so that a flush sets whole ones free.
fn sizes(config: &Config) -> Sizes {
    Sizes::up_to(
        (config.memtable_bytes / 2).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(4096),
    )
}

/// The tree that holds all rows. The settings are fjall's defaults, but for what is said beside them.
fn tree(
    config: &Config,
    path: &Path,
    stamps: &SequenceNumberCounter,
    blobs: &Blobs,
) -> lsm_tree::Result<AnyTree> {
    let bloom = |policy| FilterPolicyEntry::Bloom(policy);
    let filters = [
        bloom(BloomConstructionPolicy::FalsePositiveRate(0.0001)),
        bloom(BloomConstructionPolicy::BitsPerKey(10.0)),
    ];
    let compression = [CompressionType::None, CompressionType::None, CompressionType::Lz4];
    // By default only the oldest quarter of the files with stale values is rewritten: of fewer than four, none ever.
    let separation = KvSeparationOptions::default().separation_threshold(SEPARATE_BYTES_MIN).age_cutoff(1.0);
    // What the tree itself takes for visible is of no use here: see `Moments`.
    lsm_tree::Config::new(path, stamps.clone(), SequenceNumberCounter::default())
        .use_cache(Arc::new(Cache::with_capacity_bytes(config.cache_bytes)))
        .use_descriptor_table(Some(Arc::new(DescriptorTable::new(config.open_files_max))))
        .data_block_restart_interval_policy(RestartIntervalPolicy::new([10, 16]))
        .data_block_compression_policy(CompressionPolicy::new(compression))
        .filter_policy(FilterPolicy::new(filters))
        .with_kv_separation(Some(separation))
        .with_compaction_filter_factory(Some(Arc::new(blobs.clone())))
        .open()
}

/// Makes a directory and those above it. Something else in its place is "not a directory", whatever the system says.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match private::make_directories(path) {
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
