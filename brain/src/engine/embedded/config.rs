//! [`Config`]: what an embedded store is opened with.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::metrics::Metrics;

/// What an embedded store is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; made if it is missing. No default.
    pub directory: PathBuf,
    /// Memory for blocks read from disk, in bytes; filled as reads need it. Default 64 MiB:
    /// what is read often is in the store's own cache of values. With more, reads of old
    /// versions rise in speed (9 against 23 us a get where the block is there) and so does memory.
    pub cache_bytes: u64,
    /// Rows kept in memory before they are written out sorted, in bytes; an idle store holds only what it was given.
    /// Default 128 MiB. With more, bulk writes stall less and are rewritten less often; memory rises (up to three of
    /// these in a flood), and so does the log, which holds what is in memory, and thus the time to open.
    pub memtable_bytes: u64,
    /// Files of tables that are kept open. Default 900. With fewer, reads of a large store open files again and again;
    /// with more than the process has descriptors for, it waits for them.
    pub open_files_max: usize,
    /// Bytes of the log that were read to open the store, so far.
    pub replayed: Arc<AtomicU64>,
    /// Where it counts. Default: nowhere to be seen.
    pub metrics: Metrics,
}

impl Config {
    /// Defaults for a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cache_bytes: 64 << 20,
            memtable_bytes: 128 << 20,
            open_files_max: 900,
            replayed: Arc::default(),
            metrics: Metrics::default(),
        }
    }
}
